// Package cache keeps on the host what commands brought along, in case another command
// brings the same: within a number of bytes, what was used last the longest.
//
// Contents are blobs (package proto/blob), hashed as they come. What an earlier life of
// agentd left is hashed once before it is used. A blob that was used within the last ten
// minutes is not thrown away whatever the bound says, since an attempt is about to be
// started with it; once it is, its directory has the content under a name of its own.
package cache

import (
	"cmp"
	"errors"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/agentplane/agentplane/proto/blob"
)

// freshFor is how long a blob stays in any case after it was used.
const freshFor = 10 * time.Minute

// Cache is a directory of blobs. Its methods may be called at once; one process uses it.
type Cache struct {
	dir *blob.Dir
	max func() int64

	mu    sync.Mutex // guards what follows; not held during I/O
	held  map[blob.Ref]*entry
	bytes int64
}

type entry struct {
	used     time.Time
	verified bool // in this life
}

// Open makes the directory when it is missing, and removes what a crash has left. max is
// asked for the bound each time.
func Open(path string, max func() int64) (*Cache, error) {
	dir, all, err := blob.OpenDir(path)
	if err != nil {
		return nil, err
	}
	c := &Cache{dir: dir, max: max, held: map[blob.Ref]*entry{}}
	for _, b := range all {
		c.held[b.Ref] = &entry{used: b.Used}
		c.bytes += b.Size
	}
	return c, nil
}

// Path is where the blob lies when Has says so.
func (c *Cache) Path(r blob.Ref) string { return c.dir.Path(r) }

// Has says whether the blob is here, whole; then it stays for a while. It reads nothing: of
// what an earlier life left it knows after Verify.
func (c *Cache) Has(r blob.Ref) bool {
	c.mu.Lock()
	e := c.held[r]
	found := e != nil && e.verified
	if found {
		e.used = time.Now()
	}
	c.mu.Unlock()
	return found && c.dir.Touch(r) == nil // or somebody has removed it
}

// Verify says whether the blob is here, whole, and reads it to know. What is spoilt is
// removed.
func (c *Cache) Verify(r blob.Ref) bool {
	c.mu.Lock()
	e := c.held[r]
	c.mu.Unlock()
	if e == nil {
		return false
	}
	err := c.dir.Verify(r)
	if err != nil {
		_ = c.drop(r) // it is gotten anew
		return false
	}
	c.mu.Lock()
	e.verified, e.used = true, time.Now()
	c.mu.Unlock()
	return true
}

// Put keeps a blob, of which next gives the bytes and at the end io.EOF. An error that wraps
// blob.ErrMismatch says that another content came.
func (c *Cache) Put(r blob.Ref, next func() ([]byte, error)) error {
	if err := c.evict(c.max()-r.Size, freshFor); err != nil {
		return err
	}
	if err := c.dir.Put(r, next); err != nil {
		if errors.Is(err, syscall.ENOSPC) {
			err = errors.Join(err, c.evict(0, time.Minute)) // the next try may find room
		}
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.held[r] == nil {
		c.bytes += r.Size
	}
	c.held[r] = &entry{used: time.Now(), verified: true}
	return nil
}

// evict throws away what was not used for so long, the oldest first, until what is left has
// at most so many bytes.
func (c *Cache) evict(most int64, fresh time.Duration) error {
	for _, r := range c.surplus(most, fresh) {
		if err := c.drop(r); err != nil {
			return err
		}
	}
	return nil
}

func (c *Cache) surplus(most int64, fresh time.Duration) (gone []blob.Ref) {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := make([]blob.Ref, 0, len(c.held))
	for r := range c.held {
		all = append(all, r)
	}
	slices.SortFunc(all, func(a, b blob.Ref) int {
		return cmp.Or(c.held[a].used.Compare(c.held[b].used), cmp.Compare(a.Sum, b.Sum))
	})
	left := c.bytes
	for _, r := range all {
		if left <= most || time.Since(c.held[r].used) < fresh {
			break
		}
		gone, left = append(gone, r), left-r.Size
	}
	return gone
}

func (c *Cache) drop(r blob.Ref) error {
	c.mu.Lock()
	if c.held[r] != nil {
		delete(c.held, r)
		c.bytes -= r.Size
	}
	c.mu.Unlock()
	return c.dir.Remove(r)
}

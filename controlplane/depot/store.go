package depot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"time"

	"github.com/agentplane/agentplane/controlplane/consensus"
	"github.com/agentplane/agentplane/proto/blob"
)

var (
	// ErrFull says that the store, or its disk, has no room.
	ErrFull = errors.New("there is no room for it on this node")
	// ErrAbsent says that the store does not have a blob, or has it spoilt.
	ErrAbsent = errors.New("the blob is not on this node")
)

// StoreOptions configure a Store.
type StoreOptions struct {
	// Dir is made with mode 0700 when missing; one process uses it.
	Dir string
	// MaxBytes bounds the files; 2 GiB. It is above what rows may name together, since
	// uploads that came to nothing stay for a while.
	MaxBytes int64
	// ReserveBytes is the free space below which nothing is taken.
	ReserveBytes int64
	// FreeBytes answers the free space; of Dir when nil.
	FreeBytes func() (uint64, error)
}

// Store has blobs on this node's disk. Its methods may be called at once.
type Store struct {
	o   StoreOptions
	dir *blob.Dir

	mu     sync.Mutex // guards what follows; not held during I/O
	held   map[blob.Ref]time.Time
	bytes  int64 // of held
	coming int64 // of what is being put
}

// OpenStore takes the directory, and removes what a crash has left of uploads.
func OpenStore(o StoreOptions) (*Store, error) {
	if o.MaxBytes == 0 {
		o.MaxBytes = 2 << 30
	}
	if o.FreeBytes == nil {
		o.FreeBytes = func() (uint64, error) { return consensus.FreeBytes(o.Dir) }
	}
	dir, all, err := blob.OpenDir(o.Dir)
	if err != nil {
		return nil, err
	}
	s := &Store{o: o, dir: dir, held: make(map[blob.Ref]time.Time)}
	for _, b := range all {
		s.held[b.Ref] = time.Now() // of this life: wall clocks move
		s.bytes += b.Size
	}
	return s, nil
}

// Has says whether the blob is here; then it stays for a while, row or not.
func (s *Store) Has(r blob.Ref) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, found := s.held[r]
	if found {
		s.held[r] = time.Now()
	}
	return found
}

// Put keeps a blob, of which next gives the bytes and at the end io.EOF, durably. What is
// here already, whole, is not asked for. ErrFull and blob.ErrMismatch say what else it may be.
func (s *Store) Put(ctx context.Context, r blob.Ref, next func() ([]byte, error)) error {
	if s.Has(r) {
		if s.dir.Verify(r) == nil {
			return nil
		}
		if err := s.Remove(r); err != nil {
			return err
		}
	}
	if err := s.reserve(r); err != nil {
		return err
	}
	err := s.dir.Put(r, func() ([]byte, error) {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return next()
	})
	s.mu.Lock()
	defer s.mu.Unlock()
	s.coming -= r.Size
	if err != nil {
		return err
	}
	if _, twice := s.held[r]; !twice {
		s.bytes += r.Size
	}
	s.held[r] = time.Now()
	return nil
}

func (s *Store) reserve(r blob.Ref) error {
	free, err := s.o.FreeBytes()
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.bytes+s.coming+r.Size > s.o.MaxBytes:
		return fmt.Errorf("%w: its files have %d bytes, at most %d are kept", ErrFull, s.bytes+s.coming, s.o.MaxBytes)
	case int64(min(free, 1<<62))-s.coming-r.Size < s.o.ReserveBytes:
		return fmt.Errorf("%w: its disk has %d bytes left, of which %d are reserved", ErrFull, free, s.o.ReserveBytes)
	}
	s.coming += r.Size
	return nil
}

// Send gives a blob in parts, each good until send returns. A spoilt one is removed when
// that turns out, and is ErrAbsent as one that is not here.
func (s *Store) Send(r blob.Ref, send func([]byte) error) error {
	err := s.dir.Send(r, send)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, blob.ErrMismatch):
		if rerr := s.Remove(r); rerr != nil {
			return rerr
		}
		return fmt.Errorf("%w: %w", ErrAbsent, err)
	}
	return err
}

// Remove forgets a blob.
func (s *Store) Remove(r blob.Ref) error {
	s.mu.Lock()
	if _, found := s.held[r]; found {
		delete(s.held, r)
		s.bytes -= r.Size
	}
	s.mu.Unlock()
	return s.dir.Remove(r)
}

// settled lists what was neither put nor asked for, for so long.
func (s *Store) settled(since time.Duration) []blob.Ref {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []blob.Ref
	for r, at := range s.held {
		if time.Since(at) >= since {
			all = append(all, r)
		}
	}
	return all
}

// Stats answers how many blobs there are and how large they are together.
func (s *Store) Stats() (n int, bytes int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.held), s.bytes
}

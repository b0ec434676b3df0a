package output

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sync/semaphore"

	"github.com/agentplane/agentplane/controlplane/consensus"
	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
)

const (
	attemptsDir = "attempts"

	// queueBytes bounds what waits to be appended, queueLength how many appends do, and
	// batchBytes what shares an fsync.
	queueBytes  = 32 << 20
	queueLength = 1024
	batchBytes  = 4 << 20
	blockBytes  = 4 << 10 // of a file system
	// maxFileBytes is above all that an attempt's file may be.
	maxFileBytes = 4 << 30
	// activeFor is how long output is not thrown away to make room after it was written.
	activeFor = 10 * time.Minute
)

// ErrClosed says that the store takes nothing any more.
var ErrClosed = errors.New("the output store is closed")

// StoreOptions configure a Store. Zero values give the defaults.
type StoreOptions struct {
	// Dir is made with mode 0700 when missing; one process uses it.
	Dir string
	// MaxBytes bounds the store; 10 GiB. MaxAttemptBytes bounds one attempt; 64 MiB.
	MaxBytes, MaxAttemptBytes int64
	// MaxAttempts bounds how many attempts there is output of; 64 Ki.
	MaxAttempts int
	// ReserveBytes is the free space below which nothing is kept; 1 GiB. Negative is
	// none.
	ReserveBytes int64
	// WalBytes is how large the wal grows before a checkpoint; 32 MiB.
	WalBytes int64
	// FreeBytes answers the free space; of Dir when nil.
	FreeBytes func() (uint64, error)
	Logger    hclog.Logger
}

func (o StoreOptions) withDefaults() StoreOptions {
	for _, d := range []struct {
		v *int64
		n int64
	}{{&o.MaxBytes, 10 << 30}, {&o.MaxAttemptBytes, 64 << 20}, {&o.ReserveBytes, 1 << 30}, {&o.WalBytes, 32 << 20}} {
		if *d.v == 0 {
			*d.v = d.n
		}
	}
	if o.MaxAttempts == 0 {
		o.MaxAttempts = 64 << 10
	}
	if o.Logger == nil {
		o.Logger = hclog.NewNullLogger()
	}
	if o.FreeBytes == nil {
		dir := o.Dir
		o.FreeBytes = func() (uint64, error) { return consensus.FreeBytes(dir) }
	}
	return o
}

// Held is what the store has of an attempt.
type Held struct {
	Ends Ends
	// Totals is there when the output has ended.
	Totals *agentplanev1.OutputTotals
	// Refused says why no more of it is kept; empty when it is.
	Refused string
}

// Store keeps output on this node's disk; see the package comment. Its methods may be
// called at once.
type Store struct {
	o      StoreOptions
	wal    *wal // the appender's
	queue  chan *op
	room   *semaphore.Weighted // for the bytes in queue
	closed chan struct{}       // closed when Run has ended

	mu      sync.Mutex // guards what follows; not held during I/O
	entries map[Key]*entry
	total   int64                          // what entries cost
	subs    map[Key]map[*subscription]bool // who wants to hear of a key
	dropped map[string]uint64              // bytes not kept, by reason
}

// entry is what is known of an attempt's file.
type entry struct {
	size    int64 // of what may be read
	totals  *agentplanev1.OutputTotals
	touched time.Time // when it was written last in this life
	capped  string    // why nothing more is kept

	// The appender's: where the next write goes, and what the file says up to there once
	// loaded.
	next   int64
	loaded bool
	state  state
}

// op is an append, or a removal, that waits for the appender.
type op struct {
	key    Key
	chunks []*agentplanev1.OutputChunk
	last   bool
	ends   *Ends // with last: how long the output is, where that is known; not sealed elsewhere
	full   bool  // nothing of the quota is held back for the tail
	remove bool
	weight int64
	lost   uint64        // bytes that were not kept
	done   chan struct{} // closed when held and err stand
	held   Held
	err    error
}

// OpenStore takes the directory and repairs what a crash has left. The caller runs the
// store, which also closes it.
func OpenStore(o StoreOptions) (*Store, error) {
	o = o.withDefaults()
	s := &Store{
		o: o, queue: make(chan *op, queueLength), room: semaphore.NewWeighted(queueBytes), closed: make(chan struct{}),
		entries: make(map[Key]*entry), subs: make(map[Key]map[*subscription]bool), dropped: make(map[string]uint64),
	}
	if err := s.open(); err != nil {
		return nil, fmt.Errorf("open output store in %q: %w", o.Dir, err)
	}
	return s, nil
}

func (s *Store) open() (err error) {
	if err := os.MkdirAll(filepath.Join(s.o.Dir, attemptsDir), 0o700); err != nil {
		return err
	}
	if s.wal, err = openWal(s.o.Dir, s.path); err != nil {
		return err
	}
	files, err := os.ReadDir(filepath.Join(s.o.Dir, attemptsDir))
	if err != nil {
		return err
	}
	for _, f := range files {
		k, ok := parseKey(f.Name())
		if !ok {
			continue
		}
		st, err := f.Info()
		if err != nil {
			return err
		}
		if st.Size() == 0 { // made by a start that died before it wrote
			if err := removeFile(s.path(k)); err != nil {
				return err
			}
			continue
		}
		s.entries[k] = &entry{size: st.Size(), next: st.Size()}
		s.total += cost(st.Size())
	}
	return nil
}

func (s *Store) path(k Key) string { return filepath.Join(s.o.Dir, attemptsDir, k.String()) }

// cost is what a file of the size takes on the disk.
func cost(size int64) int64 { return (size + blockBytes - 1) / blockBytes * blockBytes }

// Append appends chunks to an attempt's output, and with last seals it, durably. What is
// there already is passed over. A hole before a chunk is a *HoleError; Held then says
// where to go on. Held.Refused says that the store keeps no more of it. Output that is
// sealed takes nothing more, which is no error.
func (s *Store) Append(ctx context.Context, k Key, chunks []*agentplanev1.OutputChunk, last bool) (Held, error) {
	o, err := s.submit(ctx, &op{key: k, chunks: chunks, last: last})
	if err != nil {
		return Held{}, err
	}
	return s.wait(ctx, o)
}

// AppendTail is Append for the last bytes of output above its quota: room is held back
// for them.
func (s *Store) AppendTail(ctx context.Context, k Key, chunks []*agentplanev1.OutputChunk) (Held, error) {
	o, err := s.submit(ctx, &op{key: k, chunks: chunks, full: true})
	if err != nil {
		return Held{}, err
	}
	return s.wait(ctx, o)
}

// AppendCopy is Append for what another node has, of its whole quota. With ends that is all,
// and the copy is sealed if it came to be so long: one of which this store has refused a
// part is none.
func (s *Store) AppendCopy(ctx context.Context, k Key, chunks []*agentplanev1.OutputChunk, ends *Ends) (Held, error) {
	o, err := s.submit(ctx, copied(k, chunks, ends))
	if err != nil {
		return Held{}, err
	}
	return s.wait(ctx, o)
}

func copied(k Key, chunks []*agentplanev1.OutputChunk, ends *Ends) *op {
	return &op{key: k, chunks: chunks, last: ends != nil, ends: ends, full: true}
}

// TailBytes is how much room is held back for the last bytes of an attempt's output.
func (s *Store) TailBytes() int64 { return min(1<<20, s.o.MaxAttemptBytes/4) }

// Remove forgets an attempt's output.
func (s *Store) Remove(ctx context.Context, k Key) error {
	o, err := s.submit(ctx, &op{key: k, remove: true})
	if err != nil {
		return err
	}
	_, err = s.wait(ctx, o)
	return err
}

// submit queues an op; whoever submits for one key one after the other is served in that
// order.
func (s *Store) submit(ctx context.Context, o *op) (*op, error) {
	if err := o.key.valid(); err != nil {
		return nil, err
	}
	for _, c := range o.chunks {
		o.weight += int64(len(c.GetData())) + 64
	}
	if o.weight > maxAppendBytes+maxAppendBytes/2 {
		return nil, fmt.Errorf("append of %d bytes is above the maximum %d", o.weight, maxAppendBytes)
	}
	o.done = make(chan struct{})
	if err := s.room.Acquire(ctx, o.weight); err != nil {
		return nil, err
	}
	select {
	case s.queue <- o:
		return o, nil
	case <-s.closed:
		s.room.Release(o.weight)
		return nil, ErrClosed
	case <-ctx.Done():
		s.room.Release(o.weight)
		return nil, ctx.Err()
	}
}

func (s *Store) wait(ctx context.Context, o *op) (Held, error) {
	select {
	case <-o.done:
		return o.held, o.err
	case <-s.closed:
		select {
		case <-o.done:
			return o.held, o.err
		default:
			return Held{}, ErrClosed
		}
	case <-ctx.Done():
		return Held{}, ctx.Err()
	}
}

// Held says what the store has of an attempt; false when there is nothing. It reads the
// attempt's file when that was not read in this life.
func (s *Store) Held(ctx context.Context, k Key) (Held, bool, error) {
	s.mu.Lock()
	_, found := s.entries[k]
	s.mu.Unlock()
	if !found {
		return Held{}, false, nil
	}
	h, err := s.Append(ctx, k, nil, false)
	return h, err == nil, err
}

// has says whether there is anything of an attempt, and whether it is known to be sealed.
func (s *Store) has(k Key) (found, sealed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.entries[k]
	return e != nil, e != nil && e.totals != nil
}

// Keys lists the attempts of which there is output, in no order.
func (s *Store) Keys() []Key {
	s.mu.Lock()
	defer s.mu.Unlock()
	keys := make([]Key, 0, len(s.entries))
	for k := range s.entries {
		keys = append(keys, k)
	}
	return keys
}

// Stats is what the store holds, and what it has not kept since it was opened.
type Stats struct {
	Attempts int
	Bytes    int64
	Dropped  map[string]uint64 // bytes, by reason; those that an agent had already left out not counted
}

// Stats answers it.
func (s *Store) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := Stats{Attempts: len(s.entries), Bytes: s.total, Dropped: make(map[string]uint64)}
	for r, n := range s.dropped {
		st.Dropped[r] = n
	}
	return st
}

func removeFile(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

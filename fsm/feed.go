package fsm

import (
	"context"
	"fmt"
	"math"
	"sort"
	"sync"

	"google.golang.org/protobuf/proto"
)

// Cursor is a place in the feed: just after the change that it names.
type Cursor struct {
	Incarnation uint32
	Index       uint64
	Ordinal     uint32
}

// Less says whether c lies before d.
func (c Cursor) Less(d Cursor) bool {
	switch {
	case c.Incarnation != d.Incarnation:
		return c.Incarnation < d.Incarnation
	case c.Index != d.Index:
		return c.Index < d.Index
	default:
		return c.Ordinal < d.Ordinal
	}
}

func (c Cursor) String() string { return fmt.Sprintf("%d/%d/%d", c.Incarnation, c.Index, c.Ordinal) }

// endOf is the cursor after all changes of the entry at index.
func endOf(incarnation uint32, index uint64) Cursor {
	return Cursor{Incarnation: incarnation, Index: index, Ordinal: math.MaxUint32}
}

// Change says that a row was put or deleted.
type Change struct {
	Cursor Cursor
	Table  Table
	Key    string
	// Row is the row as it stands after the change; nil when it was deleted. It is
	// never changed.
	Row proto.Message
}

// CompactedError says that the feed no longer holds what follows a cursor. The
// reader lists again.
type CompactedError struct {
	Cursor Cursor // that was asked for
	Floor  Cursor // up to which changes are gone
}

func (e *CompactedError) Error() string {
	return fmt.Sprintf("feed is compacted at %v, which is after cursor %v: list again", e.Floor, e.Cursor)
}

// feed is a bounded ring of changes. Guarded by its mutex; woken is closed and
// made new each time something is appended.
type feed struct {
	maxChanges int
	maxBytes   int

	mu      sync.Mutex
	floor   Cursor // everything up to it is gone
	changes []Change
	sizes   []int
	bytes   int
	woken   chan struct{}
}

func newFeed(maxChanges, maxBytes int) *feed {
	return &feed{maxChanges: maxChanges, maxBytes: maxBytes, woken: make(chan struct{})}
}

// append adds the changes of one entry and drops the oldest above the bounds. It
// never blocks on a reader.
func (f *feed) append(changes []Change, sizes []int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.changes = append(f.changes, changes...)
	f.sizes = append(f.sizes, sizes...)
	for _, n := range sizes {
		f.bytes += n
	}
	drop := 0
	for len(f.changes)-drop > f.maxChanges || (f.bytes > f.maxBytes && drop < len(f.changes)) {
		f.bytes -= f.sizes[drop]
		f.floor = f.changes[drop].Cursor
		drop++
	}
	if drop > 0 {
		clear(f.changes[:drop]) // let go of the rows; append moves the rest down when it grows
		f.changes, f.sizes = f.changes[drop:], f.sizes[drop:]
	}
	f.wakeLocked()
}

// reset empties the ring: everything up to floor is gone.
func (f *feed) reset(floor Cursor) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.changes, f.sizes, f.bytes, f.floor = nil, nil, 0, floor
	f.wakeLocked()
}

func (f *feed) wakeLocked() {
	close(f.woken)
	f.woken = make(chan struct{})
}

// after returns up to limit changes that follow the cursor; when there are none, a
// channel that is closed when there may be.
func (f *feed) after(c Cursor, limit int) ([]Change, <-chan struct{}, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if c.Less(f.floor) {
		return nil, nil, &CompactedError{Cursor: c, Floor: f.floor}
	}
	i := sort.Search(len(f.changes), func(i int) bool { return c.Less(f.changes[i].Cursor) })
	if i == len(f.changes) {
		return nil, f.woken, nil
	}
	n := min(limit, len(f.changes)-i)
	return append([]Change(nil), f.changes[i:i+n]...), nil, nil
}

// maxRead bounds what one call of Changes returns.
const maxRead = 4096

// Changes returns the changes that follow the cursor, at least one and at most
// 4096, in order; the last one's Cursor is where to go on. It waits while there
// are none. The error is a *CompactedError when some are gone, else the context's.
func (m *Machine) Changes(ctx context.Context, after Cursor) ([]Change, error) {
	for {
		changes, woken, err := m.feed.after(after, maxRead)
		if err != nil || len(changes) > 0 {
			return changes, err
		}
		select {
		case <-woken:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

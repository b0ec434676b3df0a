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

// feed is a bounded ring of changes.
type feed struct {
	maxChanges int
	maxBytes   int

	mu    sync.Mutex // guards what follows
	floor Cursor     // everything up to it is gone
	ring  []retained // grows up to maxChanges
	head  int        // the oldest change's place in ring
	count int
	bytes int
	woken chan struct{} // closed at the next append; nil while nobody waits
}

// retained is a change with the bytes that it counts for.
type retained struct {
	Change
	bytes int
}

func newFeed(maxChanges, maxBytes int) *feed {
	return &feed{maxChanges: maxChanges, maxBytes: maxBytes}
}

// append adds the changes of one entry and drops the oldest above the bounds. It
// never blocks on a reader.
func (f *feed) append(changes []retained) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range changes {
		if f.count == f.maxChanges {
			f.dropLocked()
		}
		if f.count == len(f.ring) {
			f.growLocked()
		}
		*f.atLocked(f.count) = c
		f.count++
		f.bytes += c.bytes
	}
	for f.bytes > f.maxBytes && f.count > 0 {
		f.dropLocked()
	}
	f.wakeLocked()
}

// atLocked is the i-th change, counted from the oldest.
func (f *feed) atLocked(i int) *retained { return &f.ring[(f.head+i)%len(f.ring)] }

// dropLocked lets go of the oldest change.
func (f *feed) dropLocked() {
	oldest := f.atLocked(0)
	f.floor = oldest.Cursor
	f.bytes -= oldest.bytes
	*oldest = retained{}
	f.head = (f.head + 1) % len(f.ring)
	f.count--
}

func (f *feed) growLocked() {
	larger := make([]retained, min(max(2*len(f.ring), 256), f.maxChanges))
	for i := range f.count {
		larger[i] = *f.atLocked(i)
	}
	f.ring, f.head = larger, 0
}

// reset empties the ring: everything up to floor is gone.
func (f *feed) reset(floor Cursor) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ring, f.head, f.count, f.bytes, f.floor = nil, 0, 0, 0, floor
	f.wakeLocked()
}

func (f *feed) wakeLocked() {
	if f.woken != nil {
		close(f.woken)
		f.woken = nil
	}
}

// after returns, of up to limit changes that follow the cursor, those in the tables,
// and the cursor behind all that it looked at; when there is nothing to look at, a
// channel that is closed when there may be.
func (f *feed) after(c Cursor, limit int, in tableSet) ([]Change, Cursor, <-chan struct{}, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if c.Less(f.floor) {
		return nil, c, nil, &CompactedError{Cursor: c, Floor: f.floor}
	}
	begin := sort.Search(f.count, func(i int) bool { return c.Less(f.atLocked(i).Cursor) })
	if begin == f.count {
		if f.woken == nil {
			f.woken = make(chan struct{})
		}
		return nil, c, f.woken, nil
	}
	end := min(begin+limit, f.count)
	meant := 0
	for i := begin; i < end; i++ {
		if in.has(f.atLocked(i).Table) {
			meant++
		}
	}
	next := f.atLocked(end - 1).Cursor
	if meant == 0 {
		return nil, next, nil, nil
	}
	changes := make([]Change, 0, meant)
	for i := begin; i < end; i++ {
		if r := f.atLocked(i); in.has(r.Table) {
			changes = append(changes, r.Change)
		}
	}
	return changes, next, nil, nil
}

// tableSet has a bit for each table.
type tableSet uint64

const allTables = ^tableSet(0)

func setOf(tables []Table) (s tableSet) {
	for _, t := range tables {
		s |= 1 << t
	}
	return s
}

func (s tableSet) has(t Table) bool { return s&(1<<t) != 0 }

// maxRead bounds what one call of Changes returns.
const maxRead = 4096

// Changes returns the changes that follow the cursor, at least one and at most
// 4096, in order; the last one's Cursor is where to go on. It waits while there
// are none. The error is a *CompactedError when some are gone, else the context's.
func (m *Machine) Changes(ctx context.Context, after Cursor) ([]Change, error) {
	changes, _, err := m.changesIn(ctx, after, allTables)
	return changes, err
}

// ChangesIn is Changes for whom only some tables matter. Where to go on is the cursor
// that it returns, which lies behind the last change when others follow it.
func (m *Machine) ChangesIn(ctx context.Context, after Cursor, tables ...Table) ([]Change, Cursor, error) {
	return m.changesIn(ctx, after, setOf(tables))
}

func (m *Machine) changesIn(ctx context.Context, after Cursor, in tableSet) ([]Change, Cursor, error) {
	for {
		changes, next, woken, err := m.feed.after(after, maxRead, in)
		if err != nil || len(changes) > 0 {
			return changes, next, err
		}
		if after = next; woken == nil {
			continue // all that it looked at was in other tables
		}
		select {
		case <-woken:
		case <-ctx.Done():
			return nil, after, ctx.Err()
		}
	}
}

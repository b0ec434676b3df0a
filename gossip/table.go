package gossip

import (
	"bytes"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
)

const (
	goneRetention = time.Hour // how long a dead or left member is shown
	maxGone       = 256       // and how many of them
)

// observed is one row of memberlist's table, copied.
type observed struct {
	id, addr string
	meta     []byte
	state    State
}

// table is the pool's view of all members. Every change raises its version and
// marks the row with it, so a reader that remembers one version finds all that
// changed since, and nothing is ever queued.
type table struct {
	logger hclog.Logger

	mu      sync.Mutex // guards what follows; never held while calling out, but to the logger
	rows    map[string]*row
	version uint64
	changed chan struct{} // closed and replaced with each new version
}

type row struct {
	Member
	meta    []byte // as received
	version uint64
}

func newTable(logger hclog.Logger) *table {
	return &table{logger: logger, rows: make(map[string]*row), changed: make(chan struct{})}
}

// update makes the table agree with what memberlist shows.
func (t *table) update(seen []observed, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	next := t.version + 1
	present := make(map[string]bool, len(seen))
	for _, o := range seen {
		present[o.id] = true
		t.observeLocked(o, next, now)
	}
	for id, r := range t.rows {
		if !present[id] && !r.State.Gone() {
			// Memberlist drops only the gone, so the death fell between two looks.
			t.enterLocked(r, StateDead, now)
			r.version = next
		}
	}
	t.forgetLocked(now)
	for _, r := range t.rows {
		if r.version == next {
			t.version = next
			close(t.changed)
			t.changed = make(chan struct{})
			return
		}
	}
}

func (t *table) observeLocked(o observed, version uint64, now time.Time) {
	r, known := t.rows[o.id]
	if !known {
		r = &row{Member: Member{ID: o.id}}
		t.rows[o.id] = r
	}
	if r.State != o.state {
		t.enterLocked(r, o.state, now)
		r.version = version
	}
	if r.Addr != o.addr {
		r.Addr = o.addr
		r.version = version
	}
	if !known || !bytes.Equal(r.meta, o.meta) {
		r.meta = o.meta
		r.version = version
		if err := r.Meta.UnmarshalBinary(o.meta); err != nil {
			t.logger.Warn("member's metadata is not readable", "node_id", o.id, "err", err)
		}
	}
}

func (t *table) enterLocked(r *row, s State, now time.Time) {
	if r.State == 0 {
		t.logger.Info("member seen", "node_id", r.ID, "state", s)
	} else {
		t.logger.Info("member changed", "node_id", r.ID, "state", s, "was", r.State, "after", now.Sub(r.Since).Round(time.Millisecond))
	}
	r.State, r.Since = s, now
}

// forgetLocked drops the members that are gone for long, and the eldest of the
// gone when they are too many.
func (t *table) forgetLocked(now time.Time) {
	var gone []*row
	for id, r := range t.rows {
		switch {
		case !r.State.Gone():
		case now.Sub(r.Since) > goneRetention:
			delete(t.rows, id)
		default:
			gone = append(gone, r)
		}
	}
	if len(gone) <= maxGone {
		return
	}
	slices.SortFunc(gone, func(a, b *row) int {
		if c := a.Since.Compare(b.Since); c != 0 {
			return c
		}
		return strings.Compare(a.ID, b.ID)
	})
	for _, r := range gone[:len(gone)-maxGone] {
		delete(t.rows, r.ID)
	}
}

// since returns the members that changed after version, by id, the version they
// stand for, and a channel that is closed at the next change. Version 0 returns
// all.
func (t *table) since(version uint64) ([]Member, uint64, <-chan struct{}) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if version == t.version {
		return nil, t.version, t.changed
	}
	var out []Member
	for _, r := range t.rows {
		if r.version > version {
			out = append(out, r.Member)
		}
	}
	slices.SortFunc(out, func(a, b Member) int { return strings.Compare(a.ID, b.ID) })
	return out, t.version, t.changed
}

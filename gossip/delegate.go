package gossip

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/memberlist"
)

const maxMembers = 256 // known to memberlist at once, the lately dead included

// delegate is what memberlist calls. Memberlist holds its lock meanwhile, so
// nothing here blocks or calls back.
type delegate struct {
	meta    atomic.Pointer[[]byte] // encoded, of this node
	wake    chan struct{}          // capacity 1; the delegate sends, Pool.Run receives
	refused atomic.Uint64          // members

	forget time.Duration // memberlist forgets the dead after about as long

	mu    sync.Mutex           // guards what follows
	known map[string]time.Time // when it was accepted or died; zero while it is alive
	moved map[string]string    // where a known member says it is, while its old address blocks that
}

func newDelegate(meta []byte, forget time.Duration) *delegate {
	d := &delegate{wake: make(chan struct{}, 1), forget: forget, known: make(map[string]time.Time), moved: make(map[string]string)}
	d.meta.Store(&meta)
	return d
}

// NodeMeta returns what this node says of itself.
func (d *delegate) NodeMeta(limit int) []byte {
	if m := *d.meta.Load(); len(m) <= limit {
		return m
	}
	return nil // cannot be: SetMeta and Open check the size
}

// NotifyAlive keeps out what would harm memberlist or this node: names that are
// no node ids, metadata too large for a packet, members past the bound, and
// protocol versions with which every later exchange of the cluster would fail.
func (d *delegate) NotifyAlive(n *memberlist.Node) error {
	err := d.admit(n)
	if err != nil {
		d.refused.Add(1)
	}
	return err
}

func (d *delegate) admit(n *memberlist.Node) error {
	const spoken = memberlist.ProtocolVersion2Compatible
	switch {
	case !validID(n.Name):
		return fmt.Errorf("%q is not a node id", n.Name)
	case len(n.Meta) > memberlist.MetaMaxSize:
		return fmt.Errorf("metadata of %d bytes is above the maximum %d", len(n.Meta), memberlist.MetaMaxSize)
	case len(n.Addr) != 4 && len(n.Addr) != 16:
		return fmt.Errorf("address of %d bytes", len(n.Addr))
	case n.PCur != spoken || n.PMin > spoken || n.PMax < spoken || n.DMin|n.DMax|n.DCur != 0:
		return fmt.Errorf("protocol version %d (%d to %d), want %d", n.PCur, n.PMin, n.PMax, spoken)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, ok := d.known[n.Name]; ok {
		return nil
	}
	now := time.Now()
	if len(d.known) >= maxMembers {
		for id, at := range d.known {
			if !at.IsZero() && now.Sub(at) > d.forget {
				delete(d.known, id)
				delete(d.moved, id)
			}
		}
	}
	if len(d.known) >= maxMembers {
		return fmt.Errorf("%d members are known, which is the maximum", len(d.known))
	}
	d.known[n.Name] = now
	return nil
}

// NotifyJoin marks a member alive.
func (d *delegate) NotifyJoin(n *memberlist.Node) { d.mark(n.Name, time.Time{}) }

// NotifyLeave marks a member dead or left.
func (d *delegate) NotifyLeave(n *memberlist.Node) { d.mark(n.Name, time.Now()) }

// NotifyConflict remembers where a member came back before its death there was
// known. Memberlist drops the notice, and the member, which was answered, does
// not repeat it: the rejoiner calls there once the old place is dead.
func (d *delegate) NotifyConflict(_, other *memberlist.Node) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, ok := d.known[other.Name]; ok {
		d.moved[other.Name] = other.Address()
	}
}

// movedTo returns where the member was seen that is dead at its old address.
func (d *delegate) movedTo(id string) (string, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	addr, ok := d.moved[id]
	return addr, ok
}

// NotifyUpdate wakes the pool.
func (d *delegate) NotifyUpdate(*memberlist.Node) { d.poke() }

func (d *delegate) mark(id string, at time.Time) {
	d.mu.Lock()
	d.known[id] = at
	if at.IsZero() {
		delete(d.moved, id)
	}
	d.mu.Unlock()
	d.poke()
}

func (d *delegate) poke() {
	select {
	case d.wake <- struct{}{}:
	default: // a look is due already
	}
}

// The pool sends no messages and no state of its own.

// NotifyMsg drops what only a stranger with a key would send.
func (d *delegate) NotifyMsg([]byte) {}

// GetBroadcasts has none.
func (d *delegate) GetBroadcasts(int, int) [][]byte { return nil }

// LocalState has none.
func (d *delegate) LocalState(bool) []byte { return nil }

// MergeRemoteState drops it.
func (d *delegate) MergeRemoteState([]byte, bool) {}

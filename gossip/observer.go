package gossip

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"slices"
	"time"

	"github.com/hashicorp/memberlist"
)

// observer reads the table of this node's memberlist, with the states that its
// callbacks do not tell (see the package comment). It is not safe for concurrent
// use.
type observer struct {
	list      *memberlist.Memberlist
	merge     observerMerge
	transport *observerTransport
}

// errSeen refuses the merge once the table has been copied.
var errSeen = errors.New("seen")

// newObserver makes the observer of the memberlist behind g. The keyring is
// shared, so that both always speak with the same keys.
func newObserver(g *guard, label string, keyring *memberlist.Keyring, timeout time.Duration) (*observer, error) {
	o := &observer{transport: &observerTransport{guard: g}}
	c := memberlist.DefaultLANConfig()
	c.Name = " observer" // no node id has a space
	c.Label = label
	c.Keyring = keyring
	c.EnableCompression = false
	c.Transport = o.transport
	c.TCPTimeout = timeout
	c.Logger = log.New(io.Discard, "", 0) // what fails is returned by look
	c.Merge = &o.merge
	c.ProbeInterval, c.PushPullInterval, c.GossipInterval = 0, 0, 0 // no timers
	c.QueueCheckInterval = time.Hour
	list, err := memberlist.Create(c)
	if err != nil {
		return nil, fmt.Errorf("create observer: %w", err)
	}
	o.list = list
	// Who has left before anybody knew it is in nobody's table.
	if err := list.Leave(time.Second); err != nil {
		_ = list.Shutdown()
		return nil, fmt.Errorf("create observer: %w", err)
	}
	return o, nil
}

// look returns a copy of the table.
func (o *observer) look() ([]observed, error) {
	o.merge.seen = nil
	o.transport.handled = nil
	_, err := o.list.Join([]string{"127.0.0.1:1"}) // the transport dials its own node whatever the address
	if o.transport.handled != nil {
		// Memberlist refuses streams when 128 of its handlers have not yet ended.
		<-o.transport.handled
	}
	if o.merge.seen == nil {
		return nil, fmt.Errorf("look at the members: %w", plain(err))
	}
	return o.merge.seen, nil
}

func (o *observer) close() { _ = o.list.Shutdown() }

// observerMerge is called inside look, by the same goroutine.
type observerMerge struct{ seen []observed }

// NotifyMerge copies the table.
func (m *observerMerge) NotifyMerge(nodes []*memberlist.Node) error {
	seen := make([]observed, 0, len(nodes))
	for _, n := range nodes {
		seen = append(seen, observed{id: n.Name, addr: n.Address(), meta: slices.Clone(n.Meta), state: stateOf(n.State)})
	}
	m.seen = seen
	return errSeen
}

// observerTransport reaches this node's own memberlist and nothing else.
type observerTransport struct {
	guard   *guard
	handled <-chan struct{} // closed when memberlist has done with the last stream; used inside look only
}

func (t *observerTransport) FinalAdvertiseAddr(string, int) (net.IP, int, error) {
	return net.IPv4(127, 0, 0, 1), 1, nil
}

func (t *observerTransport) DialTimeout(_ string, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	c, handled, err := t.guard.dialSelf(ctx)
	if err != nil {
		return nil, err
	}
	t.handled = handled
	return c, nil
}

func (t *observerTransport) DialAddressTimeout(_ memberlist.Address, timeout time.Duration) (net.Conn, error) {
	return t.DialTimeout("", timeout)
}

func (t *observerTransport) WriteTo([]byte, string) (time.Time, error) { return time.Now(), nil }

func (t *observerTransport) WriteToAddress([]byte, memberlist.Address) (time.Time, error) {
	return time.Now(), nil
}

func (t *observerTransport) PacketCh() <-chan *memberlist.Packet { return nil }
func (t *observerTransport) StreamCh() <-chan net.Conn           { return nil }
func (t *observerTransport) Shutdown() error                     { return nil }

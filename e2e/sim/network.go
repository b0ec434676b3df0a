package sim

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"
)

const (
	// resend is how long a lost segment delays what it carries and all behind it.
	resend = 200 * time.Millisecond
	// knock is how long a connection that was not answered waits to try again.
	knock = time.Second
	// A segment takes between these when nothing is wrong.
	usualLeast, usualMost = 100 * time.Microsecond, time.Millisecond
	// backlog is how many connections may wait to be accepted.
	backlog = 128
)

// Network carries TCP between hosts named by their IP address. Its faults are those
// of a network below TCP: they delay, they never lose what a connection carries. It is
// safe for concurrent use.
type Network struct {
	mu       sync.Mutex // guards all, and the connections; never held while waiting
	rng      *rand.Rand
	minDelay time.Duration
	maxDelay time.Duration
	loss     float64
	cut      map[link]bool
	refused  map[link]bool // no connection is made
	paused   map[string]bool
	places   map[string]*Place
	// What follows counts what faults have done, so that those without traffic are known.
	held    map[link]uint64   // segments and calls that a cut has held up
	kept    map[string]uint64 // those that stood still because a host did
	lost    uint64
	delayed uint64 // longer than it ever takes without a fault
}

// link is one direction between two hosts.
type link struct{ from, to string }

// NewNetwork makes a network whose delays and losses follow seed.
func NewNetwork(seed uint64) *Network {
	return &Network{
		rng:      rand.New(rand.NewPCG(seed, 0x746370)),
		minDelay: usualLeast, maxDelay: usualMost,
		cut: make(map[link]bool), refused: make(map[link]bool), paused: make(map[string]bool), places: make(map[string]*Place),
		held: make(map[link]uint64), kept: make(map[string]uint64),
	}
}

// Place is one life of a process on a host.
type Place struct {
	net       *Network
	ip        string
	dead      bool // guarded by net.mu
	gone      chan struct{}
	port      uint16
	listeners map[string]*listener
	conns     map[*conn]struct{}
}

// Attach begins a life on the host, which has no other.
func (n *Network) Attach(ip string) *Place {
	p := &Place{net: n, ip: ip, port: 40000, gone: make(chan struct{}), listeners: make(map[string]*listener), conns: make(map[*conn]struct{})}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.places[ip] = p
	return p
}

// Detach ends a life as SIGKILL does: the kernel resets its connections.
func (p *Place) Detach() {
	p.net.mu.Lock()
	defer p.net.mu.Unlock()
	if p.dead {
		return
	}
	p.dead = true
	close(p.gone)
	if p.net.places[p.ip] == p {
		delete(p.net.places, p.ip)
	}
	for _, l := range p.listeners {
		l.closeLocked()
	}
	for c := range p.conns {
		c.sendLocked(segment{reset: true})
		c.endLocked(syscall.ECONNRESET)
	}
}

// SetDelay makes every segment take between lo and hi.
func (n *Network) SetDelay(lo, hi time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.minDelay, n.maxDelay = lo, max(lo, hi)
}

// SetLoss makes each segment be lost, and sent again, with probability p.
func (n *Network) SetLoss(p float64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.loss = p
}

// Cut holds up what from sends to to, or no longer does.
func (n *Network) Cut(from, to string, cut bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if cut {
		n.cut[link{from, to}] = true
		return
	}
	delete(n.cut, link{from, to})
	n.kickLocked()
}

// Refuse answers connections from one host to another with a reset, as a firewall that
// rejects does, or no longer does.
func (n *Network) Refuse(from, to string, refuse bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if refuse {
		n.refused[link{from, to}] = true
	} else {
		delete(n.refused, link{from, to})
	}
}

// Reset breaks every connection between two hosts at both ends at once, as something
// between them does that has forgotten about them. What is on its way is lost. It
// answers how many there were.
func (n *Network) Reset(a, b string) (broken int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	p := n.places[a]
	if p == nil {
		return 0
	}
	for c := range p.conns {
		if c.peer.place.ip == b {
			c.endLocked(syscall.ECONNRESET)
			c.peer.endLocked(syscall.ECONNRESET)
			broken++
		}
	}
	return broken
}

// Pause stops a process, as SIGSTOP does, as far as others can see: what it sends
// and is sent stands still until it goes on.
func (n *Network) Pause(ip string, paused bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if paused {
		n.paused[ip] = true
		return
	}
	delete(n.paused, ip)
	n.kickLocked()
}

// Heal ends every fault of the network and every pause.
func (n *Network) Heal() {
	n.mu.Lock()
	defer n.mu.Unlock()
	clear(n.cut)
	clear(n.refused)
	clear(n.paused)
	n.loss, n.minDelay, n.maxDelay = 0, usualLeast, usualMost
	n.kickLocked()
}

// Held counts what cuts from one host to another have held up: segments, and calls for a
// connection.
func (n *Network) Held(from, to string) uint64 {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.held[link{from, to}]
}

// Kept counts what pauses of a host have kept from others, or from it.
func (n *Network) Kept(ip string) uint64 {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.kept[ip]
}

// Worsened counts the segments that were lost, and those that took longer than usual.
func (n *Network) Worsened() (lost, delayed uint64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.lost, n.delayed
}

// kickLocked sends on what stood still.
func (n *Network) kickLocked() {
	for _, p := range n.places {
		for c := range p.conns {
			if c.still {
				c.still = false
				c.armLocked(n.delayLocked())
			}
		}
	}
}

func (n *Network) delayLocked() time.Duration {
	d := n.minDelay
	if spread := n.maxDelay - n.minDelay; spread > 0 {
		d += time.Duration(n.rng.Int64N(int64(spread)))
	}
	if d > usualMost {
		n.delayed++
	}
	for again := resend; n.loss > 0 && n.rng.Float64() < n.loss && again < 10*time.Second; again *= 2 {
		d += again
		n.lost++
	}
	return d
}

// openLocked says whether the link carries a segment; if not, whatever holds it up has done
// so once more.
func (n *Network) openLocked(l link) bool {
	cut := n.cutLocked(l)
	from, to := n.pausedLocked(l.from), n.pausedLocked(l.to)
	return !cut && !from && !to
}

// cutLocked says whether a cut holds something up.
func (n *Network) cutLocked(l link) bool {
	if n.cut[l] {
		n.held[l]++
	}
	return n.cut[l]
}

// pausedLocked says whether something stands still since the host does.
func (n *Network) pausedLocked(ip string) bool {
	if n.paused[ip] {
		n.kept[ip]++
	}
	return n.paused[ip]
}

// Listen binds an address of the host.
func (p *Place) Listen(_, address string) (net.Listener, error) {
	at, err := netip.ParseAddrPort(address)
	if err != nil || at.Addr().String() != p.ip {
		return nil, fmt.Errorf("listen on %q: it is no address of host %s", address, p.ip)
	}
	p.net.mu.Lock()
	defer p.net.mu.Unlock()
	if p.dead || p.listeners[address] != nil {
		return nil, &net.OpError{Op: "listen", Net: "tcp", Addr: net.TCPAddrFromAddrPort(at), Err: syscall.EADDRINUSE}
	}
	l := &listener{place: p, addr: net.TCPAddrFromAddrPort(at), conns: make(chan *conn, backlog), closed: make(chan struct{})}
	p.listeners[address] = l
	return l, nil
}

// Dial connects to an address of another host.
func (p *Place) Dial(ctx context.Context, _, address string) (net.Conn, error) {
	fail := func(err error) (net.Conn, error) {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: fmt.Errorf("%s: %w", address, err)}
	}
	at, err := netip.ParseAddrPort(address)
	if err != nil {
		return fail(err)
	}
	for {
		c, wait, err := p.knock(at)
		if err != nil {
			return fail(err)
		}
		t := time.NewTimer(wait)
		select {
		case <-t.C:
			if c != nil {
				return c, nil
			}
		case <-p.gone:
			t.Stop()
			return fail(net.ErrClosed)
		case <-ctx.Done():
			t.Stop()
			if c != nil {
				_ = c.Close()
			}
			return fail(ctx.Err())
		}
	}
}

// knock tries to connect. Without a connection and an error it is to be tried again
// after the wait; a connection is there after it.
func (p *Place) knock(at netip.AddrPort) (*conn, time.Duration, error) {
	n := p.net
	to := at.Addr().String()
	n.mu.Lock()
	defer n.mu.Unlock()
	switch target := n.places[to]; {
	case p.dead:
		return nil, 0, net.ErrClosed
	case n.pausedLocked(p.ip), n.cutLocked(link{p.ip, to}), n.cutLocked(link{to, p.ip}):
		return nil, knock, nil
	case target == nil || n.refused[link{p.ip, to}]:
		return nil, 0, syscall.ECONNREFUSED
	default:
		l := target.listeners[at.String()]
		if l == nil || len(l.conns) == cap(l.conns) {
			return nil, 0, syscall.ECONNREFUSED
		}
		p.port++
		near := netip.AddrPortFrom(netip.MustParseAddr(p.ip), p.port)
		a, b := newConn(p, near, at), newConn(target, at, near)
		a.peer, b.peer = b, a
		p.conns[a], target.conns[b] = struct{}{}, struct{}{}
		l.conns <- b
		return a, n.delayLocked() + n.delayLocked(), nil
	}
}

// listener accepts at one address.
type listener struct {
	place  *Place
	addr   net.Addr
	conns  chan *conn // sent to under place.net.mu, never blocking
	closed chan struct{}
	over   bool // guarded by place.net.mu
}

// Accept is net.Listener's.
func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Close is net.Listener's.
func (l *listener) Close() error {
	l.place.net.mu.Lock()
	defer l.place.net.mu.Unlock()
	l.closeLocked()
	return nil
}

func (l *listener) closeLocked() {
	if l.over {
		return
	}
	l.over = true
	close(l.closed)
	delete(l.place.listeners, l.addr.String())
	for {
		select {
		case c := <-l.conns:
			c.sendLocked(segment{reset: true})
			c.endLocked(net.ErrClosed)
		default:
			return
		}
	}
}

// Addr is net.Listener's.
func (l *listener) Addr() net.Addr { return l.addr }

// deaf is a listener to which nobody comes.
type deaf struct {
	once   sync.Once
	closed chan struct{}
}

func newDeaf() *deaf { return &deaf{closed: make(chan struct{})} }

func (d *deaf) Accept() (net.Conn, error) {
	<-d.closed
	return nil, net.ErrClosed
}

func (d *deaf) Close() error {
	d.once.Do(func() { close(d.closed) })
	return nil
}

func (d *deaf) Addr() net.Addr { return &net.UnixAddr{Name: "nobody", Net: "unix"} }

package gossiptest

import (
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
)

// DefaultLatency is how long a packet takes on a new network.
const DefaultLatency = time.Millisecond

// Network connects transports. All methods may be called at once.
type Network struct {
	mu         sync.Mutex // guards what follows; never held while blocking
	transports map[netip.AddrPort]*Transport
	cut        map[link]bool
	streams    map[*stream]struct{}
	loss       float64
	least      time.Duration // that a packet takes
	most       time.Duration
	rng        *rand.Rand
	delivered  uint64
	dropped    uint64
	held       map[link]uint64    // packets and streams that a cut has stopped
	lost       uint64             // packets, by chance
	newest     map[link]time.Time // the latest arrival of those under way
	overtaken  uint64             // packets that arrive before one that was sent earlier
}

// link is one direction between two hosts.
type link struct{ from, to netip.AddrPort }

// NewNetwork returns a network whose random losses follow seed.
func NewNetwork(seed uint64) *Network {
	return &Network{
		transports: make(map[netip.AddrPort]*Transport),
		cut:        make(map[link]bool),
		streams:    make(map[*stream]struct{}),
		held:       make(map[link]uint64),
		newest:     make(map[link]time.Time),
		least:      DefaultLatency,
		most:       DefaultLatency,
		rng:        rand.New(rand.NewPCG(seed, seed)),
	}
}

// NewTransport puts a host at addr, which is IP:port and must be free. It
// panics when it is not; shutting the transport down frees it.
func (n *Network) NewTransport(addr string) *Transport {
	at := netip.MustParseAddrPort(addr)
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.transports[at] != nil {
		panic(fmt.Sprintf("gossiptest: address %s is in use", addr))
	}
	t := &Transport{
		network: n,
		addr:    at,
		packets: make(chan *memberlist.Packet, 1024),
		streams: make(chan net.Conn, 64),
		down:    make(chan struct{}),
	}
	n.transports[at] = t
	return t
}

// SetLoss makes each packet vanish with probability p.
func (n *Network) SetLoss(p float64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.loss = p
}

// SetLatency makes each packet take between least and most, so that they overtake each other
// where these differ.
func (n *Network) SetLatency(least, most time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.least, n.most = least, max(least, most)
}

// Cut stops everything that goes from one address to another, packets that are
// under way included. The way back stays open, but no stream can live on it.
func (n *Network) Cut(from, to string) {
	l := link{netip.MustParseAddrPort(from), netip.MustParseAddrPort(to)}
	n.mu.Lock()
	n.cut[l] = true
	var crossing []*stream
	for s := range n.streams {
		if s.crosses(l) {
			crossing = append(crossing, s)
		}
	}
	n.mu.Unlock()
	for _, s := range crossing {
		s.reset()
	}
}

// Partition cuts all links, both ways, between the two groups.
func (n *Network) Partition(a, b []string) {
	for _, x := range a {
		for _, y := range b {
			n.Cut(x, y)
			n.Cut(y, x)
		}
	}
}

// Heal mends every cut.
func (n *Network) Heal() {
	n.mu.Lock()
	defer n.mu.Unlock()
	clear(n.cut)
}

// Counts returns how many packets arrived and how many were lost, so that a test
// of losses can prove that there were some.
func (n *Network) Counts() (delivered, dropped uint64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.delivered, n.dropped
}

// Held returns how many packets from one address to another, and streams between them, a cut
// has stopped.
func (n *Network) Held(from, to string) uint64 {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.held[link{netip.MustParseAddrPort(from), netip.MustParseAddrPort(to)}]
}

// Lost returns how many packets were lost by chance, as SetLoss asks for.
func (n *Network) Lost() uint64 {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.lost
}

// Overtaken returns how many packets were sent later than one that arrives after them.
func (n *Network) Overtaken() uint64 {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.overtaken
}

// send takes b and lets it arrive after the latency, or not.
func (n *Network) send(l link, b []byte) {
	n.mu.Lock()
	lost := n.loss > 0 && n.rng.Float64() < n.loss
	if lost {
		n.lost++
		n.dropped++
	}
	latency := n.least + time.Duration(n.rng.Int64N(int64(n.most-n.least)+1))
	if at := time.Now().Add(latency); !lost && at.Before(n.newest[l]) {
		n.overtaken++
	} else if !lost {
		n.newest[l] = at
	}
	n.mu.Unlock()
	if !lost {
		time.AfterFunc(latency, func() { n.arrive(l, b) })
	}
}

func (n *Network) arrive(l link, b []byte) {
	p := &memberlist.Packet{Buf: b, From: net.UDPAddrFromAddrPort(l.from), Timestamp: time.Now()}
	n.mu.Lock()
	defer n.mu.Unlock()
	if to := n.transports[l.to]; to != nil && !n.cutLocked(l) {
		select {
		case to.packets <- p:
			n.delivered++
			return
		default: // its queue is full, as a socket's buffer would be
		}
	}
	n.dropped++
}

// connect sets a stream up, or says whether it is refused or unanswered.
func (n *Network) connect(l link) (_ net.Conn, refused bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.cutLocked(l) || n.cutLocked(link{l.to, l.from}) {
		return nil, false
	}
	to := n.transports[l.to]
	if to == nil {
		return nil, true
	}
	near, far := newStream(n, l)
	select {
	case to.streams <- far:
		n.streams[near], n.streams[far] = struct{}{}, struct{}{}
		return near, false
	default: // its backlog is full
		return nil, true
	}
}

// cutLocked says whether a cut stops something, which it has done then.
func (n *Network) cutLocked(l link) bool {
	if n.cut[l] {
		n.held[l]++
	}
	return n.cut[l]
}

func (n *Network) forget(s *stream) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.streams, s)
}

// remove frees the address of t and returns the streams that were open at it.
func (n *Network) remove(t *Transport) []*stream {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.transports[t.addr] == t {
		delete(n.transports, t.addr)
	}
	var open []*stream
	for s := range n.streams {
		if s.local == t.addr {
			open = append(open, s)
		}
	}
	return open
}

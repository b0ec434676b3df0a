package consensustest

import (
	"cmp"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

var (
	errRefused = errors.New("connection refused")
	errReset   = errors.New("connection reset by peer")
	errTimeout = errors.New("i/o timeout")
)

// Network carries messages between nodes named by address. It is safe for concurrent
// use. Its zero faults are a small random delay.
type Network struct {
	mu       sync.Mutex // guards all; never held across anything that waits
	rng      *rand.Rand
	minDelay time.Duration
	maxDelay time.Duration
	loss     float64
	timeout  time.Duration
	nodes    map[raft.ServerAddress]*endpoint
	cut      map[link]bool
	paused   map[raft.ServerAddress]bool
	refused  map[raft.ServerAddress]bool
	held     []message
	serial   uint64
	arrival  map[link]time.Time // of the last message, to keep order
	gone     func(who, dead raft.ServerAddress)
}

type link struct{ from, to raft.ServerAddress }

type message struct {
	link
	serial  uint64 // messages of one link arrive in this order
	deliver func()
}

// endpoint is one life of a node on the network.
type endpoint struct {
	addr   raft.ServerAddress
	closed chan struct{}
	once   sync.Once
	raft   *Transport
	peer   peerServer
}

func (e *endpoint) close() { e.once.Do(func() { close(e.closed) }) }

// NewNetwork makes a network whose faults follow seed. gone is told when who sees a
// connection of dead reset or refused; it may be nil.
func NewNetwork(seed uint64, gone func(who, dead raft.ServerAddress)) *Network {
	return &Network{
		rng:      rand.New(rand.NewPCG(seed, 0x6e6574)),
		minDelay: 50 * time.Microsecond,
		maxDelay: 500 * time.Microsecond,
		timeout:  2 * time.Second,
		nodes:    make(map[raft.ServerAddress]*endpoint),
		cut:      make(map[link]bool),
		paused:   make(map[raft.ServerAddress]bool),
		refused:  make(map[raft.ServerAddress]bool),
		arrival:  make(map[link]time.Time),
		gone:     gone,
	}
}

// SetDelay makes every message take between lo and hi.
func (n *Network) SetDelay(lo, hi time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.minDelay, n.maxDelay = lo, max(lo, hi)
}

// SetLoss loses each message with probability p.
func (n *Network) SetLoss(p float64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.loss = p
}

// Cut drops what from sends to to, or no longer does.
func (n *Network) Cut(from, to raft.ServerAddress, cut bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if cut {
		n.cut[link{from, to}] = true
	} else {
		delete(n.cut, link{from, to})
	}
}

// Refuse has whoever calls addr, and whomever addr calls, refuse: at once, where behind a cut
// nobody answers.
func (n *Network) Refuse(addr raft.ServerAddress) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.refused[addr] = true
}

// Heal ends cuts, refusals and loss. Pauses stay.
func (n *Network) Heal() {
	n.mu.Lock()
	defer n.mu.Unlock()
	clear(n.cut)
	clear(n.refused)
	n.loss = 0
}

// Pause holds everything that addr sends or is sent, until Resume delivers it.
func (n *Network) Pause(addr raft.ServerAddress) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.paused[addr] = true
}

// Resume delivers what was held, in its order.
func (n *Network) Resume(addr raft.ServerAddress) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.paused, addr)
	held := n.held
	n.held = nil
	slices.SortFunc(held, func(a, b message) int { return cmp.Compare(a.serial, b.serial) })
	for _, m := range held {
		n.sendLocked(m)
	}
}

// attach begins a life of addr, and detach ends it: connections are reset.
func (n *Network) attach(addr raft.ServerAddress) *endpoint {
	e := &endpoint{addr: addr, closed: make(chan struct{})}
	e.raft = newTransport(n, e)
	n.mu.Lock()
	defer n.mu.Unlock()
	n.nodes[addr] = e
	return e
}

func (n *Network) detach(e *endpoint) {
	n.mu.Lock()
	if n.nodes[e.addr] == e {
		delete(n.nodes, e.addr)
	}
	var others []raft.ServerAddress
	for addr := range n.nodes {
		if !n.cut[link{e.addr, addr}] && !n.paused[e.addr] {
			others = append(others, addr)
		}
	}
	n.mu.Unlock()
	e.close()
	for _, who := range others {
		n.send(e.addr, who, func() { n.tellGone(who, e.addr) })
	}
}

func (n *Network) tellGone(who, dead raft.ServerAddress) {
	if n.gone != nil {
		n.gone(who, dead)
	}
}

// send delivers a message after a delay and behind those sent before, unless it is
// lost or held.
func (n *Network) send(from, to raft.ServerAddress, deliver func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.serial++
	n.sendLocked(message{link{from, to}, n.serial, deliver})
}

func (n *Network) sendLocked(m message) {
	l := m.link
	if n.paused[l.from] || n.paused[l.to] {
		n.held = append(n.held, m)
		return
	}
	if n.cut[l] || n.loss > 0 && n.rng.Float64() < n.loss {
		return
	}
	delay := n.minDelay
	if spread := n.maxDelay - n.minDelay; spread > 0 {
		delay += time.Duration(n.rng.Int64N(int64(spread)))
	}
	at := time.Now().Add(delay)
	if last := n.arrival[l]; !at.After(last) {
		at = last.Add(time.Nanosecond)
	}
	n.arrival[l] = at
	time.AfterFunc(time.Until(at), func() { n.arrive(m) })
}

// arrive looks again: the link may have been cut or the node paused on the way.
func (n *Network) arrive(m message) {
	n.mu.Lock()
	if n.paused[m.from] || n.paused[m.to] {
		n.held = append(n.held, m)
		n.mu.Unlock()
		return
	}
	cut := n.cut[m.link]
	n.mu.Unlock()
	if !cut {
		m.deliver()
	}
}

// reach is whom from finds at the address to, nil when it is refused.
func (n *Network) reach(from, to raft.ServerAddress) *endpoint {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.refused[from] || n.refused[to] {
		return nil
	}
	return n.nodes[to]
}

type result struct {
	value any
	err   error
}

// call sends a request and waits for its reply. serve runs at the target and may
// wait; done ends the wait of the caller early.
func (n *Network) call(from *endpoint, to raft.ServerAddress, timeout time.Duration, done <-chan struct{}, serve func(*endpoint) (any, error)) (any, error) {
	if timeout == 0 {
		timeout = n.timeout
	}
	reply := make(chan result, 1)
	answer := func(r result) {
		n.send(to, from.addr, func() {
			if errors.Is(r.err, errRefused) || errors.Is(r.err, errReset) {
				n.tellGone(from.addr, to)
			}
			reply <- r
		})
	}
	n.send(from.addr, to, func() {
		target := n.reach(from.addr, to)
		if target == nil {
			answer(result{err: errRefused})
			return
		}
		v, err := serve(target)
		select {
		case <-target.closed:
			v, err = nil, errReset
		default:
		}
		answer(result{v, err})
	})
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	select {
	case r := <-reply:
		if r.err != nil {
			return nil, fmt.Errorf("call %s: %w", to, r.err)
		}
		return r.value, nil
	case <-from.closed:
		return nil, errReset
	case <-done:
		return nil, errTimeout
	case <-timer.C:
		return nil, fmt.Errorf("call %s: %w", to, errTimeout)
	}
}

// Join begins a life of addr outside a Cluster and answers its transport, whose Close
// ends it.
func (n *Network) Join(addr raft.ServerAddress) *Transport { return n.attach(addr).raft }

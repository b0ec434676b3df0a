package gossip

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/agentplane/agentplane/gossip/gossiptest"
	"github.com/hashicorp/go-hclog"
)

var (
	key1 = bytes.Repeat([]byte{1}, KeyBytes)
	key2 = bytes.Repeat([]byte{2}, KeyBytes)
	key3 = bytes.Repeat([]byte{3}, KeyBytes)
)

// settle is how long memberlist's goroutines may outlive Close.
const settle = 4*500*time.Millisecond + 100*time.Millisecond

// cluster makes pools on a network in memory, inside a bubble.
type cluster struct {
	t   *testing.T
	net *gossiptest.Network
}

func newCluster(t *testing.T, seed uint64) *cluster {
	// Cleanups run last in, first out, inside the bubble. A goroutine that is left
	// after this sleep fails the test: time stands still when the test has returned.
	t.Cleanup(func() { time.Sleep(settle) })
	if raceEnabled {
		// Go 1.26 uses one context of the race detector for all timers of a bubble,
		// also when two threads run some at once (the bubble's own loop, and a receive
		// from a ticker that has elapsed, as memberlist's does when a probe takes
		// longer than its interval). The detector then crashes. One thread keeps it
		// alive; it judges by happens-before, and so finds no less.
		threads := runtime.GOMAXPROCS(1)
		t.Cleanup(func() { runtime.GOMAXPROCS(threads) })
	}
	return &cluster{t: t, net: gossiptest.NewNetwork(seed)}
}

// node is a running pool.
type node struct {
	*Pool
	addr string
	stop func()
	log  *syncBuffer
}

func nodeID(i int) string   { return fmt.Sprintf("n%d", i) }
func nodeAddr(i int) string { return fmt.Sprintf("10.0.0.%d:7461", i) }

// options are those of node i, which knows node 1.
func (c *cluster) options(i int) Options {
	return Options{
		NodeID:    nodeID(i),
		Label:     "cluster-a",
		Keys:      [][]byte{key1},
		Meta:      Meta{Name: "host-" + nodeID(i), APIAddr: fmt.Sprintf("10.0.0.%d:7460", i), Version: "1.2.3", FeatureLevel: 7, Incarnation: 1},
		Peers:     func() []string { return []string{nodeAddr(1)} },
		Transport: nil,
	}
}

// start opens node i with its options changed by change, and runs it.
func (c *cluster) start(i int, change ...func(*Options)) *node {
	c.t.Helper()
	return c.startAt(i, nodeAddr(i), change...)
}

func (c *cluster) startAt(i int, addr string, change ...func(*Options)) *node {
	c.t.Helper()
	o := c.options(i)
	o.Transport = c.net.NewTransport(addr)
	n := &node{addr: addr, log: &syncBuffer{}}
	o.Logger = hclog.New(&hclog.LoggerOptions{Output: n.log, Level: hclog.Debug, DisableTime: true})
	for _, f := range change {
		f(&o)
	}
	p, err := Open(o)
	if err != nil {
		c.t.Fatalf("Open(%s): %v", o.NodeID, err)
	}
	n.Pool = p
	ctx, cancel := context.WithCancel(c.t.Context())
	ran := make(chan error, 1)
	go func() { ran <- p.Run(ctx) }()
	n.stop = sync.OnceFunc(func() {
		if err := p.Close(); err != nil {
			c.t.Errorf("Close(%s): %v", o.NodeID, err)
		}
		cancel()
		if err := <-ran; err != nil && !errors.Is(err, context.Canceled) && !errors.Is(err, ErrClosed) { // ErrClosed: it had not begun
			c.t.Errorf("Run(%s) = %v", o.NodeID, err)
		}
	})
	c.t.Cleanup(n.stop)
	return n
}

// startN starts nodes 1 to n and waits until all see all.
func (c *cluster) startN(n int) []*node {
	c.t.Helper()
	var nodes []*node
	for i := range n {
		nodes = append(nodes, c.start(i+1))
	}
	c.within(30*time.Second, "all see all alive", func() bool { return allSee(nodes, StateAlive, ids(n)...) })
	return nodes
}

func ids(n int) []string {
	var out []string
	for i := range n {
		out = append(out, nodeID(i+1))
	}
	return out
}

// within waits in virtual time until ok, and returns how long that took.
func (c *cluster) within(limit time.Duration, what string, ok func() bool) time.Duration {
	c.t.Helper()
	begin := time.Now()
	for !ok() {
		if time.Since(begin) > limit {
			c.t.Fatalf("not within %v: %s", limit, what)
		}
		time.Sleep(10 * time.Millisecond)
	}
	return time.Since(begin)
}

func (n *node) member(id string) Member {
	for _, m := range n.Members() {
		if m.ID == id {
			return m
		}
	}
	return Member{}
}

// allSee says whether each of nodes sees each of ids in state.
func allSee(nodes []*node, state State, ids ...string) bool {
	for _, n := range nodes {
		for _, id := range ids {
			if n.member(id).State != state {
				return false
			}
		}
	}
	return true
}

// history collects the states in which a node sees a member.
type history struct {
	mu     sync.Mutex
	states []State
}

func (c *cluster) record(n *node, id string) *history {
	h := &history{}
	ctx, cancel := context.WithCancel(c.t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for members := range n.Watch(ctx) {
			for _, m := range members {
				h.mu.Lock()
				if m.ID == id && (len(h.states) == 0 || h.states[len(h.states)-1] != m.State) {
					h.states = append(h.states, m.State)
				}
				h.mu.Unlock()
			}
		}
	}()
	c.t.Cleanup(func() { cancel(); <-done })
	return h
}

func (h *history) all() []State {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.states)
}

// syncBuffer is a log that a test may read while it is written.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

var _ io.Writer = (*syncBuffer)(nil)

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

package consensustest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/agentplane/agentplane/controlplane/consensus"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

// Options says what a Cluster is made of.
type Options struct {
	Nodes int // voters; 3
	// NewMachine makes the state of a node that starts. NewLedger
	NewMachine func(node int) consensus.Machine
	Seed       uint64
	// Host changes the options of a node before it opens; it may be nil.
	Host func(node int, o *consensus.Options)
	// OnFatal is told when a node gives itself up; the node is then killed. A nil
	// OnFatal fails the test.
	OnFatal func(node int, err error)
}

// Cluster is a set of hosts. Its methods are safe for concurrent use within the
// bubble, and name nodes by number from 0.
type Cluster struct {
	T   testing.TB
	Net *Network

	opts  Options
	nodes []*node

	mu  sync.Mutex // guards rng and what is in the nodes; never held while waiting
	rng *rand.Rand
	wg  sync.WaitGroup // hosts that are being closed
}

type node struct {
	id      raft.ServerID
	addr    raft.ServerAddress
	disk    *MemDisk
	machine consensus.Machine
	host    *consensus.Host // nil while dead
	end     *endpoint
	stop    func() // ends Run, and returns when the host has closed
	life    int
}

// New starts a cluster of voters: the first node bootstraps, the others are added and
// promoted. It is closed in a cleanup.
func New(t testing.TB, o Options) *Cluster {
	t.Helper()
	c := newCluster(t, o)
	t.Cleanup(c.Close)
	c.Start(0)
	if err := c.Host(0).Bootstrap(); err != nil {
		t.Fatalf("bootstrap: %v", err)
	}
	c.WaitLeader()
	for i := 1; i < c.opts.Nodes; i++ {
		c.Start(i)
		c.Join(i)
	}
	return c
}

func newCluster(t testing.TB, o Options) *Cluster {
	if o.Nodes == 0 {
		o.Nodes = 3
	}
	if o.NewMachine == nil {
		o.NewMachine = func(int) consensus.Machine { return NewLedger() }
	}
	c := &Cluster{T: t, opts: o, rng: rand.New(rand.NewPCG(o.Seed, 0x636c75))}
	c.Net = NewNetwork(o.Seed, c.peerGone)
	for range o.Nodes {
		c.grow()
	}
	return c
}

// grow adds a node that has never run and answers its number.
func (c *Cluster) grow() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	i := len(c.nodes)
	c.nodes = append(c.nodes, &node{
		id:   raft.ServerID(fmt.Sprintf("node-%d", i)),
		addr: raft.ServerAddress(fmt.Sprintf("addr-%d", i)),
		disk: NewMemDisk(c.opts.Seed<<8 | uint64(i)),
	})
	return i
}

// Add starts a new node with an empty disk, not yet in the configuration.
func (c *Cluster) Add() int {
	i := c.grow()
	c.Start(i)
	return i
}

// Join adds the node as a non-voter and promotes it once it has caught up.
func (c *Cluster) Join(i int) {
	c.T.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	c.onLeader(ctx, "add node", func(h *consensus.Host) error { return h.AddNonvoter(ctx, c.ID(i), c.Addr(i), 0) })
	if err := c.Machine(i).WaitPublished(ctx, c.Host(c.WaitLeader()).Stats().CommitIndex); err != nil {
		c.T.Fatalf("node %d does not catch up: %v", i, err)
	}
	c.onLeader(ctx, "promote node", func(h *consensus.Host) error { return h.Promote(ctx, c.ID(i), 0) })
}

func (c *Cluster) onLeader(ctx context.Context, what string, f func(*consensus.Host) error) {
	c.T.Helper()
	for {
		l := c.WaitLeader()
		err := errors.New("it was killed")
		if h := c.Host(l); h != nil {
			err = f(h)
		}
		if err == nil {
			return
		}
		if ctx.Err() != nil {
			c.T.Fatalf("%s: %v", what, err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// peerGone tells the host of who that a connection of dead broke.
func (c *Cluster) peerGone(who, dead raft.ServerAddress) {
	c.mu.Lock()
	var h *consensus.Host
	var id raft.ServerID
	for _, n := range c.nodes {
		if n.addr == who {
			h = n.host
		}
		if n.addr == dead {
			id = n.id
		}
	}
	c.mu.Unlock()
	if h != nil {
		h.PeerGone(id)
	}
}

// Start opens the host of a node that does not run and begins its Run.
func (c *Cluster) Start(i int) {
	c.T.Helper()
	if err := c.TryStart(i); err != nil {
		c.T.Fatalf("start node %d: %v", i, err)
	}
}

// TryStart is Start for tests that expect a refusal.
func (c *Cluster) TryStart(i int) error {
	machine := c.opts.NewMachine(i)
	c.mu.Lock()
	n := c.nodes[i]
	if n.host != nil {
		c.mu.Unlock()
		return fmt.Errorf("node %d runs already", i)
	}
	n.life++
	life := n.life
	disk := n.disk
	c.mu.Unlock()

	end := c.Net.attach(n.addr)
	o := consensus.Options{
		NodeID:    n.id,
		Disk:      disk.Disk(),
		Transport: end.raft,
		Machine:   machine,
		Peers:     &peers{c.Net, end},
		FreeBytes: func() (uint64, error) { return 1 << 40, nil },
	}
	c.wg.Add(1)
	o.Fatal = func(err error) {
		if c.opts.OnFatal != nil {
			c.opts.OnFatal(i, err)
		} else {
			c.T.Errorf("node %d gave up: %v", i, err)
		}
		go c.kill(i, life, false)
	}
	if c.opts.Host != nil {
		c.opts.Host(i, &o)
	}
	h, err := consensus.Open(o)
	if err != nil {
		c.Net.detach(end)
		c.wg.Done()
		return err
	}
	c.Net.servePeer(end, h)
	ctx, cancel := context.WithCancel(context.Background())
	ran := make(chan struct{})
	go func() {
		defer close(ran)
		_ = h.Run(ctx)
	}()
	c.mu.Lock()
	defer c.mu.Unlock()
	n.machine, n.host, n.end = machine, h, end
	n.stop = func() {
		defer c.wg.Done()
		cancel()
		disk.Unhang()
		<-ran
		if err := h.Close(); err != nil {
			c.T.Logf("close node %d: %v", i, err)
		}
	}
	return nil
}

// Kill ends a node as SIGKILL does. The disk keeps what was written.
func (c *Cluster) Kill(i int) { c.kill(i, 0, false) }

// PowerCut ends a node as a loss of power does.
func (c *Cluster) PowerCut(i int) { c.kill(i, 0, true) }

// kill ends the given life of the node, 0 = any, if it still runs.
func (c *Cluster) kill(i, life int, power bool) {
	c.mu.Lock()
	n := c.nodes[i]
	if n.host == nil || life != 0 && n.life != life {
		c.mu.Unlock()
		return
	}
	n.host = nil
	end, stop := n.end, n.stop
	n.disk = n.disk.Image(power)
	c.mu.Unlock()
	c.Net.detach(end)
	go stop()
}

// Stop ends a node as SIGTERM does, and returns when it has closed.
func (c *Cluster) Stop(i int) {
	c.mu.Lock()
	n := c.nodes[i]
	stop := n.stop
	alive := n.host != nil
	n.host = nil
	c.mu.Unlock()
	if alive {
		stop()
	}
}

// Restart starts a node that was killed or stopped.
func (c *Cluster) Restart(i int) {
	c.T.Helper()
	c.Start(i)
}

// Pause holds all traffic of a node until Resume.
func (c *Cluster) Pause(i int) { c.Net.Pause(c.Addr(i)) }

// Resume delivers what Pause held.
func (c *Cluster) Resume(i int) { c.Net.Resume(c.Addr(i)) }

// Partition lets nodes talk only within their group; a node in no group is alone.
func (c *Cluster) Partition(groups ...[]int) {
	group := make(map[int]int)
	for g, members := range groups {
		for _, i := range members {
			group[i] = g + 1
		}
	}
	for i := range c.nodes {
		for j := range c.nodes {
			if i != j {
				c.Net.Cut(c.Addr(i), c.Addr(j), group[i] != group[j] || group[i] == 0)
			}
		}
	}
}

// Heal ends partitions, cuts and loss, and resumes every paused node.
func (c *Cluster) Heal() {
	c.Net.Heal()
	for i := range c.nodes {
		c.Resume(i)
	}
}

// Close stops every node and waits for those that were killed.
func (c *Cluster) Close() {
	c.Heal()
	for i := range c.nodes {
		c.kill(i, 0, false)
	}
	c.wg.Wait()
}

// ID is the node's id.
func (c *Cluster) ID(i int) raft.ServerID { return c.nodes[i].id }

// Addr is the node's address.
func (c *Cluster) Addr(i int) raft.ServerAddress { return c.nodes[i].addr }

// Host is the node's host, nil while it does not run. What it answers after a Kill
// must not be believed; Propose and Read see to that.
func (c *Cluster) Host(i int) *consensus.Host {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.nodes[i].host
}

// Machine is the state of the node's newest life.
func (c *Cluster) Machine(i int) consensus.Machine {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.nodes[i].machine
}

// Disk is the node's disk; Kill replaces it by its image.
func (c *Cluster) Disk(i int) *MemDisk {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.nodes[i].disk
}

// Size is the number of nodes, running or not.
func (c *Cluster) Size() int { return len(c.nodes) }

// Leader is a node in office, or -1. After a partition there may be two for a moment;
// the one with the higher term is answered.
func (c *Cluster) Leader() int {
	leader, term := -1, uint64(0)
	for i := range c.nodes {
		if h := c.Host(i); h != nil {
			if o, ok := h.InOffice(); ok && o.Term > term {
				leader, term = i, o.Term
			}
		}
	}
	return leader
}

// WaitLeader waits for a node in office, at most a minute.
func (c *Cluster) WaitLeader() int {
	c.T.Helper()
	for range 60_000 {
		if l := c.Leader(); l >= 0 {
			return l
		}
		time.Sleep(time.Millisecond)
	}
	c.T.Fatalf("no leader within a minute")
	return -1
}

// Propose proposes through any node until ctx ends or something is known: it tries
// again when nothing happened, and only then.
func (c *Cluster) Propose(ctx context.Context, muts ...*raftlogv1.Mutation) ([]*raftlogv1.Outcome, error) {
	i := c.Leader()
	for {
		if i < 0 {
			c.mu.Lock()
			i = c.rng.IntN(len(c.nodes))
			c.mu.Unlock()
		}
		outcomes, err := c.ProposeOn(ctx, i, muts...)
		switch {
		case err == nil, errors.Is(err, consensus.ErrUnknown), errors.Is(err, consensus.ErrTooLarge):
			return outcomes, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(5 * time.Millisecond):
		}
		i = c.Leader()
	}
}

// ProposeOn proposes through node i. When the node was killed meanwhile the outcome
// is unknown, whatever it said.
func (c *Cluster) ProposeOn(ctx context.Context, i int, muts ...*raftlogv1.Mutation) ([]*raftlogv1.Outcome, error) {
	h := c.Host(i)
	if h == nil {
		return nil, consensus.ErrShutdown
	}
	outcomes, err := h.Propose(ctx, muts...)
	if c.Host(i) != h {
		return nil, fmt.Errorf("%w: node %d was killed", consensus.ErrUnknown, i)
	}
	return outcomes, err
}

// Read makes the state of node i fit for a linearizable read: it asks whom node i
// takes for the leader for an index, over the network, and waits until the node's own
// state has published it.
func (c *Cluster) Read(ctx context.Context, i int) (consensus.Machine, error) {
	c.mu.Lock()
	h, m, end := c.nodes[i].host, c.nodes[i].machine, c.nodes[i].end
	c.mu.Unlock()
	if h == nil {
		return nil, consensus.ErrShutdown
	}
	id, addr, known := h.Leader()
	if !known {
		return nil, consensus.ErrNotLeader
	}
	var index uint64
	var err error
	if id == c.ID(i) {
		index, err = h.ReadIndex(ctx)
	} else {
		var v any
		v, err = c.Net.call(end, addr, 0, ctx.Done(), func(e *endpoint) (any, error) {
			s, ok := c.Net.peerOf(e).(interface {
				ReadIndex(context.Context) (uint64, error)
			})
			if !ok {
				return nil, errRefused
			}
			return s.ReadIndex(ctx)
		})
		if err == nil {
			index = v.(uint64)
		}
	}
	if err == nil {
		err = m.WaitPublished(ctx, index)
	}
	if err == nil && c.Host(i) != h {
		err = consensus.ErrShutdown
	}
	return m, err
}

// WaitAgree waits until every running node's state has published everything that was
// acknowledged before the call, at most a minute.
func (c *Cluster) WaitAgree() {
	c.T.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var index uint64
	for {
		var err error
		if h := c.Host(c.WaitLeader()); h != nil {
			if index, err = h.ReadIndex(ctx); err == nil {
				break
			}
		}
		if ctx.Err() != nil {
			c.T.Fatalf("no read index within a minute: %v", err)
		}
		time.Sleep(10 * time.Millisecond)
	}
	for i := range c.nodes {
		if c.Host(i) == nil {
			continue
		}
		if err := c.Machine(i).WaitPublished(ctx, index); err != nil {
			c.T.Fatalf("node %d: %v", i, err)
		}
	}
}

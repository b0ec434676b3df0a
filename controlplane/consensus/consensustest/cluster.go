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
	judge *judge

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
	c := &Cluster{T: t, opts: o, judge: newJudge(t), rng: rand.New(rand.NewPCG(o.Seed, 0x636c75))}
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
	disk := NewMemDisk(c.opts.Seed<<8 | uint64(i))
	disk.stored = func(l *raft.Log) { c.judge.stored(i, l) }
	c.nodes = append(c.nodes, &node{
		id:   raft.ServerID(fmt.Sprintf("node-%d", i)),
		addr: raft.ServerAddress(fmt.Sprintf("addr-%d", i)),
		disk: disk,
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

// Refuse puts node i behind a firewall that resets every connection of it and refuses new ones,
// those of clients, too, until Heal.
func (c *Cluster) Refuse(i int) { c.Net.Refuse(c.Addr(i)) }

// Heal ends partitions, cuts, firewalls and loss, and resumes every paused node.
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

package consensus_test

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/agentplane/agentplane/controlplane/consensus/consensustest"
)

// What follows are faults of several steps, which one after the other by chance would hardly come
// together. A step that does not succeed ends the fault.

// refuse puts node i, or the one with slow timers, once it leads, behind a firewall that refuses,
// for a while that such a leader outlasts.
//
// Who sends is told at once, and tries again after ever longer waits: those of heartbeats end at
// half a heartbeat timeout, those of entries are a second by then. So, when the firewall has gone,
// the old leader most likely hears heartbeats of the new one before an entry goes either way,
// which ends its leadership; and clients come back to it meanwhile (heartbeat_test.go).
func refuse(c *consensustest.Cluster, rng *rand.Rand, i, slow int) {
	mend(c)
	if slow < c.Size() && handOver(context.Background(), c, slow) {
		i = slow
	}
	c.Refuse(i)
	time.Sleep(time.Duration(1000+rng.IntN(700)) * time.Millisecond)
	c.Heal()
}

// tearVote cuts the power of a node behind one of the writes with which it votes in a new term, and
// has a node for which it voted before ask for its vote in that term, with a log that ends before
// its own (vote_test.go). It says whether it came to that.
//
// All vote for "stale". Then "torn" is down while "next" is elected, so that it has voted for
// nobody since; and "stale" sees nothing of what the two write after that, for less than the time
// after which it would stand for election. "next" hands over to "torn", which loses its power as
// it votes for itself, and comes back. And "stale" hears again: a TimeoutNow first, which was
// long on its way. raft asks neither of whom it is nor of which term, and asks for votes at once,
// where a node that stands for election by itself asks before whether it would get them.
func tearVote(c *consensustest.Cluster, rng *rand.Rand) bool {
	mend(c)
	nodes := rng.Perm(c.Size())
	stale, torn, next := nodes[0], nodes[1], nodes[2]
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	if !handOver(ctx, c, stale) {
		return false
	}
	c.Kill(torn)
	if !handOver(ctx, c, next) {
		return false
	}
	c.Restart(torn)
	c.Partition(slices.DeleteFunc(slices.Clone(nodes), func(n int) bool { return n == stale }))
	time.Sleep(time.Duration(20+rng.IntN(80)) * time.Millisecond)

	var writes atomic.Int32
	last := int32(1 + rng.IntN(2)) // of the term, and of the vote
	disk := c.Disk(torn)
	disk.OnWrite(func(_ int, what string) {
		if what == "stable agentplane.vote" && writes.Add(1) == last {
			c.PowerCut(torn)
			cancel()
		}
	})
	handOver(ctx, c, torn)
	disk.OnWrite(nil)
	if c.Host(torn) != nil {
		return false
	}
	c.Restart(torn)
	c.Heal()
	late := c.Net.Join("late")
	defer late.Close()
	header := raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(c.ID(next)), Addr: []byte(c.Addr(next))}
	return late.TimeoutNow(c.ID(stale), c.Addr(stale), &raft.TimeoutNowRequest{RPCHeader: header}, &raft.TimeoutNowResponse{}) == nil
}

// mend heals the network and starts who is dead.
func mend(c *consensustest.Cluster) {
	c.Heal()
	for n := range c.Size() {
		if c.Host(n) == nil {
			c.Restart(n)
		}
	}
}

// handOver has the node lead, within two seconds, and says whether it does. It is handed to once
// it follows closely: transfers to a node that lags get stuck in raft (raft#696).
func handOver(ctx context.Context, c *consensustest.Cluster, to int) bool {
	const closely = 4 // entries
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	for handed := false; ctx.Err() == nil; time.Sleep(time.Millisecond) {
		l := c.Leader()
		if l == to {
			return true
		}
		if l < 0 || handed {
			continue
		}
		from, next := c.Host(l), c.Host(to)
		if from != nil && next != nil && next.Stats().LastIndex+closely >= from.Stats().LastIndex {
			handed = true
			if from.Transfer(ctx, c.ID(to)) != nil {
				return false
			}
		}
	}
	return false
}

package consensus_test

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/agentplane/agentplane/controlplane/consensus"
	"github.com/agentplane/agentplane/controlplane/consensus/consensustest"
)

// outage kills or silences the leader and measures until another is in office.
func outage(t *testing.T, nodes int, seed uint64, strike func(*consensustest.Cluster, int)) (d time.Duration) {
	synctest.Test(t, func(t *testing.T) {
		c := consensustest.New(t, consensustest.Options{Nodes: nodes, Seed: seed})
		put(t, c, "x")
		c.WaitAgree()
		time.Sleep(time.Duration(seed) * 17 * time.Millisecond)
		old := c.WaitLeader()
		start := time.Now()
		strike(c, old)
		for {
			if l := c.Leader(); l >= 0 && l != old {
				break
			}
			time.Sleep(100 * time.Microsecond)
		}
		d = time.Since(start)
	})
	return d
}

func TestDeadProcessIsReplacedAtOnce(t *testing.T) {
	var dead, dead5, silent []time.Duration
	for seed := range uint64(15) {
		dead5 = append(dead5, outage(t, 5, seed, func(c *consensustest.Cluster, l int) { c.Kill(l) }))
		dead = append(dead, outage(t, 3, seed, func(c *consensustest.Cluster, l int) { c.Kill(l) }))
		silent = append(silent, outage(t, 3, seed, func(c *consensustest.Cluster, l int) { c.Partition([]int{l}, []int{(l + 1) % 3, (l + 2) % 3}) }))
	}
	slices.Sort(dead)
	slices.Sort(dead5)
	slices.Sort(silent)
	t.Logf("dead of five: median %s, worst %s", dead5[7], dead5[14])
	t.Logf("dead: median %s, worst %s; silent: median %s, worst %s", dead[7], dead[14], silent[7], silent[14])
	// Taking office waits 100 ms for the clocks of those that may still answer.
	if dead[7] > 150*time.Millisecond || dead[14] > 400*time.Millisecond {
		t.Errorf("a dead leader is replaced after %s (median), %s (worst)", dead[7], dead[14])
	}
	if dead5[7] > 150*time.Millisecond || dead5[14] > 800*time.Millisecond {
		t.Errorf("a dead leader of five is replaced after %s (median), %s (worst)", dead5[7], dead5[14])
	}
	if silent[7] < 250*time.Millisecond {
		t.Errorf("a silent leader is replaced after %s, before raft's timers: the comparison is void", silent[7])
	}
}

func TestVoterThatHearsTheLeaderKeepsIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := consensustest.New(t, consensustest.Options{Nodes: 3, Seed: 1})
		put(t, c, "x")
		l := c.WaitLeader()
		term := c.Host(l).Stats().Term
		for i := range 50 { // a follower's connections break again and again
			c.Host((l + 1) % 3).PeerGone(c.ID(l))
			if i%2 == 0 {
				c.Host((l + 2) % 3).PeerGone(c.ID(l)) // both: but the leader speaks again at once
				time.Sleep(20 * time.Millisecond)
			}
			time.Sleep(3 * time.Millisecond)
		}
		r := c.Host((l + 2) % 3).LostLeader(consensus.LostQuery{From: c.ID((l + 1) % 3), Leader: c.ID(l), Term: term, LastIndex: 1 << 40, LastTerm: term})
		if r.Lost {
			t.Error("a voter that hears the leader answered that it is lost")
		}
		time.Sleep(time.Second)
		if got := c.Host(l).Stats().Term; got > term+1 {
			t.Errorf("false alarms moved the term from %d to %d", term, got)
		}
	})
}

func TestNonVoterNeverDeposesALeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := consensustest.New(t, consensustest.Options{Nodes: 3, Seed: 2})
		l := c.WaitLeader()
		n := c.Add()
		if err := c.Host(l).AddNonvoter(t.Context(), c.ID(n), c.Addr(n), 0); err != nil {
			t.Fatal(err)
		}
		put(t, c, "x")
		c.WaitAgree()
		term := c.Host(l).Stats().Term
		// The non-voter alone is cut off from the leader, and so notices a loss.
		c.Net.Cut(c.Addr(l), c.Addr(n), true)
		time.Sleep(50 * time.Millisecond)
		for range 20 {
			c.Host(n).PeerGone(c.ID(l))
			time.Sleep(10 * time.Millisecond)
		}
		if got := c.Host(l).Stats().Term; got != term || c.Leader() != l {
			t.Errorf("a non-voter moved the term from %d to %d", term, got)
		}
		q := consensus.LostQuery{From: c.ID(0), Leader: c.ID(l), Term: term, LastIndex: 1 << 40, LastTerm: term}
		if c.Host(n).LostLeader(q).Lost {
			t.Error("a non-voter's word counts for the loss of a leader")
		}
	})
}

func TestTransferHandsOverAndWritingGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := consensustest.New(t, consensustest.Options{Nodes: 3, Seed: 3})
		for i := range 10 {
			l := c.WaitLeader()
			put(t, c, "x")
			to := (l + 1 + i%2) % 3
			if err := c.Host(l).Transfer(t.Context(), c.ID(to)); err != nil {
				t.Fatalf("transfer %d: %v", i, err)
			}
			if got := c.WaitLeader(); got != to {
				t.Errorf("after the transfer to node %d, node %d leads", to, got)
			}
		}
		if err := c.Host((c.Leader()+1)%3).Transfer(t.Context(), ""); err == nil {
			t.Error("a follower transferred leadership")
		}
	})
}

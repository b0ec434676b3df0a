package consensus_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"github.com/agentplane/agentplane/controlplane/consensus"
	"github.com/agentplane/agentplane/controlplane/consensus/consensustest"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

func put(t *testing.T, c *consensustest.Cluster, key string) *raftlogv1.Outcome {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	out, err := c.Propose(ctx, consensustest.Put(key, "v"))
	if err != nil {
		t.Fatalf("propose %q: %v", key, err)
	}
	if out[0].GetCode() != raftlogv1.Code_CODE_OK {
		t.Fatalf("propose %q: outcome %v", key, out[0])
	}
	return out[0]
}

func records(c *consensustest.Cluster, i int) []consensustest.Record {
	return c.Machine(i).(*consensustest.Ledger).Records()
}

func TestClusterAgreesAcrossTheLeadersDeath(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := consensustest.New(t, consensustest.Options{Nodes: 3, Seed: 1})
		for i := range 10 {
			put(t, c, fmt.Sprint("before-", i))
		}
		old := c.Leader()
		c.Kill(old)
		for i := range 10 {
			put(t, c, fmt.Sprint("after-", i))
		}
		c.Restart(old)
		c.WaitAgree()
		for i := range c.Size() {
			if got := len(records(c, i)); got != 20 {
				t.Errorf("node %d has %d records, want 20", i, got)
			}
		}
	})
}

func TestProposalsSayWhatHappened(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := consensustest.New(t, consensustest.Options{Nodes: 3, Seed: 2})
		l := c.WaitLeader()
		put(t, c, "a")
		follower := (l + 1) % 3
		_, err := c.Host(follower).Propose(t.Context(), consensustest.Put("b", ""))
		var nl *consensus.NotLeaderError
		if !errors.As(err, &nl) || nl.LeaderID != c.ID(l) || nl.LeaderAddress != c.Addr(l) {
			t.Errorf("propose on a follower = %v, want ErrNotLeader that names %s", err, c.ID(l))
		}
		if _, err := c.Host(follower).ReadIndex(t.Context()); !errors.As(err, &nl) || nl.LeaderID != c.ID(l) {
			t.Errorf("read index on a follower = %v, want ErrNotLeader that names %s", err, c.ID(l))
		}
		if id, addr, known := c.Host(follower).Leader(); id != c.ID(l) || addr != c.Addr(l) || !known {
			t.Errorf("Leader = %s %s %v, want %s", id, addr, known, c.ID(l))
		}
		// A leader without its majority has written the entry: nobody knows.
		h := c.Host(l)
		c.Partition([]int{l}, []int{follower, 3 - l - follower})
		if _, err := h.Propose(t.Context(), consensustest.Put("c", "")); !errors.Is(err, consensus.ErrUnknown) {
			t.Errorf("propose without a majority = %v, want ErrUnknown", err)
		}
		if _, err := h.ReadIndex(t.Context()); !errors.Is(err, consensus.ErrNotLeader) && !errors.Is(err, consensus.ErrNoQuorum) {
			t.Errorf("read index without a majority = %v, want a refusal", err)
		}
		if _, err := h.Propose(t.Context(), consensustest.Put("d", "")); !errors.Is(err, consensus.ErrNotLeader) || errors.Is(err, consensus.ErrUnknown) {
			t.Errorf("propose after the lease = %v, want ErrNotLeader", err)
		}
		c.Heal()
		put(t, c, "e")
		c.WaitAgree()
		c.Stop(l)
		if _, err := h.Propose(t.Context(), consensustest.Put("f", "")); !errors.Is(err, consensus.ErrShutdown) {
			t.Errorf("propose on a closed host = %v, want ErrShutdown", err)
		}
		if _, err := h.ReadIndex(t.Context()); !errors.Is(err, consensus.ErrShutdown) && !errors.Is(err, consensus.ErrNotLeader) {
			t.Errorf("read index on a closed host = %v, want a refusal", err)
		}
	})
}

func TestNodeThatWonIsNotLeaderBeforeItsTakeOfficeHasApplied(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := consensustest.New(t, consensustest.Options{Nodes: 3, Seed: 3})
		put(t, c, "a")
		l := c.WaitLeader()
		// The winner's answers take long, so that taking office does.
		c.Net.SetDelay(30*time.Millisecond, 30*time.Millisecond)
		to := (l + 1) % 3
		h := c.Host(to)
		go func() { _ = c.Host(l).Transfer(t.Context(), c.ID(to)) }()
		for h.Raft().State() != raft.Leader {
			time.Sleep(time.Millisecond)
		}
		var nl *consensus.NotLeaderError
		if _, err := h.Propose(t.Context(), consensustest.Put("b", "")); !errors.As(err, &nl) || !nl.TakingOffice {
			t.Errorf("propose while taking office = %v, want ErrNotLeader that says so", err)
		}
		if _, _, known := h.Leader(); known {
			t.Error("the winner calls itself leader before it is in office")
		}
		if _, err := h.ReadIndex(t.Context()); !errors.Is(err, consensus.ErrNotLeader) {
			t.Errorf("read index while taking office = %v, want ErrNotLeader", err)
		}
		if got := c.WaitLeader(); got != to {
			t.Errorf("node %d leads, want %d", got, to)
		}
		put(t, c, "c")
	})
}

func TestBootstrapIsRefusedWhereStateIs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := consensustest.New(t, consensustest.Options{Nodes: 1})
		if err := c.Host(0).Bootstrap(); !errors.Is(err, consensus.ErrHasState) {
			t.Errorf("second Bootstrap = %v, want ErrHasState", err)
		}
		put(t, c, "a")
		c.Kill(0)
		c.Restart(0)
		if err := c.Host(0).Bootstrap(); !errors.Is(err, consensus.ErrHasState) {
			t.Errorf("Bootstrap after a restart = %v, want ErrHasState", err)
		}
		put(t, c, "b")
		if got := len(records(c, 0)); got != 2 {
			t.Errorf("%d records after the restart, want 2", got)
		}
	})
}

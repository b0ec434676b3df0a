package consensus_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

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

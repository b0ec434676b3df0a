package consensus

import (
	"context"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
)

// UseVerifyLeader puts hashicorp/raft's own check in place of the read round.
func (h *Host) UseVerifyLeader() {
	h.confirm = func(context.Context) (uint64, error) {
		c := h.raft.CommitIndex()
		if err := h.raft.VerifyLeader().Error(); err != nil {
			return 0, h.notLeader()
		}
		return c, nil
	}
}

// Raft is the raft below the host.
func (h *Host) Raft() *raft.Raft { return h.raft }

// NewVoteStoreForTest is the guard of votes around inner.
func NewVoteStoreForTest(inner raft.StableStore) raft.StableStore {
	return newVoteStore(inner, newWatch(0, func(error) {}))
}

func (o Options) raftConfigForTest() *raft.Config {
	o.Logger = hclog.NewNullLogger()
	return o.raftConfig(make(chan bool, 1))
}

// OpenSnapshots opens the sealed snapshots of a raft directory.
func OpenSnapshots(dir string, retain int, logger hclog.Logger) (raft.SnapshotStore, error) {
	return openSnapshots(dir, retain, logger)
}

package consensus

import (
	"context"

	"github.com/hashicorp/raft"

	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

// Machine is the replicated state, as consensus needs it. Its Apply and the
// elements of what ApplyBatch returns are []*raftlogv1.Outcome, one for each
// mutation of the entry (nothing for a configuration entry).
type Machine interface {
	raft.BatchingFSM

	// Published is the index of the last entry whose effect readers see, and who
	// leads by that state. Configuration entries advance the index too. The office
	// is not changed afterwards and is nil before the first one.
	Published() (index uint64, office *raftlogv1.Office)
	// WaitPublished returns once Published answers index or more, or ctx ends.
	WaitPublished(ctx context.Context, index uint64) error
	// Now is the cluster's time in the published state, Unix nanoseconds.
	Now() int64
}

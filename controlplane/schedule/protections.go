//go:build !agentplane_mutants

package schedule

import raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"

// settledTo is the instant up to which slots are settled: by the state, which holds what every
// leader before this one has fired (I8).
func settledTo(s *raftlogv1.Schedule) int64 { return s.GetLastSlot() }

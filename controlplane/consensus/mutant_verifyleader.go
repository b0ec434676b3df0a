//go:build agentplane_mutant_verifyleader

package consensus

import "context"

// confirmation puts hashicorp/raft's own check in place of the read round: replies that
// waited in a socket while the process was stopped count for it.
func (h *Host) confirmation() func(context.Context) (uint64, error) {
	return func(context.Context) (uint64, error) {
		c := h.raft.CommitIndex()
		if err := h.raft.VerifyLeader().Error(); err != nil {
			return 0, h.notLeader()
		}
		return c, nil
	}
}

//go:build !agentplane_mutants

package dispatch

import (
	"iter"

	"github.com/agentplane/agentplane/fsm"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

// deliversOldClaims says that what was claimed in an earlier session, here or on another
// node, is delivered in this one when the agent has not answered for it (I3).
const deliversOldClaims = true

// heedsPauses says that nothing is claimed of a command that is paused (I6).
const heedsPauses = true

// claimable is what a session may claim: never what an earlier one has claimed (I2).
func (s *session) claimable(v *fsm.View) iter.Seq[*raftlogv1.Invocation] {
	return v.Work(s.ordinal, raftlogv1.AttemptState_ATTEMPT_STATE_RELEASED)
}

//go:build agentplane_mutants

package dispatch

import (
	"iter"
	"os"
	"slices"
	"strings"

	"github.com/agentplane/agentplane/fsm"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

// mutates says that the mutant with the name is asked for (see e2e/doc.go), alone or, with a
// comma between, with another one.
func mutates(name string) bool { return slices.Contains(strings.Split(os.Getenv("MUTANT"), ","), name) }

// The mutant: a claim of an earlier session is nobody's to deliver.
var deliversOldClaims = !mutates("oldclaim")

// The mutant: what is paused is claimed all the same.
var heedsPauses = !mutates("heedless")

// The mutant: a session claims anew what an earlier one has claimed.
func (s *session) claimable(v *fsm.View) iter.Seq[*raftlogv1.Invocation] {
	return func(yield func(*raftlogv1.Invocation) bool) {
		for i := range v.Work(s.ordinal, raftlogv1.AttemptState_ATTEMPT_STATE_RELEASED) {
			if !yield(i) {
				return
			}
		}
		if !mutates("reclaim") {
			return
		}
		for i := range v.Work(s.ordinal, raftlogv1.AttemptState_ATTEMPT_STATE_CLAIMED) {
			if i.GetSessionEpoch() < s.epoch && !yield(i) {
				return
			}
		}
	}
}

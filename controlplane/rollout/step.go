package rollout

import (
	"time"

	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

// inState is how many invocations of the command are in the state.
func inState(c *raftlogv1.Command, state raftlogv1.AttemptState) uint32 {
	for _, n := range c.GetCounts() { // a handful
		if n.GetState() == state {
			return n.GetCount()
		}
	}
	return 0
}

// Next answers how many further invocations of a command are to be released, as part
// of which wave. There is one wave, and everything belongs to it.
func Next(c *raftlogv1.Command) (release, wave uint32) {
	return inState(c, raftlogv1.AttemptState_ATTEMPT_STATE_PENDING), 1
}

// Step is what a command needs now. At most one of Release and Expire is above zero;
// when both are zero, Wait says after how long by the cluster's time to look again, 0
// = not before the command changes.
type Step struct {
	Release, Wave uint32
	Expire        uint32
	Wait          time.Duration
}

// NextStep decides on the command's row at the cluster's time now (Unix ns).
func NextStep(c *raftlogv1.Command, now int64) Step {
	pending := inState(c, raftlogv1.AttemptState_ATTEMPT_STATE_PENDING)
	unclaimed := pending + inState(c, raftlogv1.AttemptState_ATTEMPT_STATE_RELEASED)
	if unclaimed == 0 || c.GetState() == raftlogv1.CommandState_COMMAND_STATE_DONE {
		return Step{}
	}
	if now >= c.GetNotAfter() {
		return Step{Expire: unclaimed}
	}
	s := Step{Wait: time.Duration(c.GetNotAfter() - now)}
	if pending == 0 || c.GetState() != raftlogv1.CommandState_COMMAND_STATE_ACTIVE {
		return s
	}
	if now < c.GetNotBefore() {
		s.Wait = min(s.Wait, time.Duration(c.GetNotBefore()-now))
		return s
	}
	if release, wave := Next(c); release > 0 {
		return Step{Release: release, Wave: wave}
	}
	return s
}

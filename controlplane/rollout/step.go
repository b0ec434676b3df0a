package rollout

import (
	"time"

	"github.com/agentplane/agentplane/fsm"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
	"github.com/agentplane/agentplane/proto/wave"
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

// Next answers how many further invocations of a command without a rollout are to be
// released, as part of which wave. There is one wave, and everything belongs to it.
func Next(c *raftlogv1.Command) (release, wave uint32) {
	return inState(c, raftlogv1.AttemptState_ATTEMPT_STATE_PENDING), 1
}

// Step is what a command needs now. At most one of Release, Advance and Expire is above
// zero; when all are zero, Wait says after how long by the cluster's time to look again,
// 0 = not before the command changes.
type Step struct {
	Release, Wave uint32
	// Advance is how many rows the next step of a rollout moves, about. Whole says that it
	// cannot be taken in pieces.
	Advance uint32
	Whole   bool
	Expire  uint32
	Wait    time.Duration
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
	if pending == 0 || c.GetState() != raftlogv1.CommandState_COMMAND_STATE_ACTIVE || c.GetPause() != nil {
		return s
	}
	if now < c.GetNotBefore() {
		s.Wait = min(s.Wait, time.Duration(c.GetNotBefore()-now))
		return s
	}
	if c.GetRollout() != nil {
		return nextWave(c, now, s)
	}
	if release, wave := Next(c); release > 0 {
		return Step{Release: release, Wave: wave}
	}
	return s
}

// nextWave is NextStep of a command with a rollout; otherwise is what it needs when
// nothing of that is due.
func nextWave(c *raftlogv1.Command, now int64, otherwise Step) Step {
	switch step := fsm.WaveState(c).Next(now); step.Kind {
	case wave.Release:
		return Step{Advance: step.Release}
	case wave.Gate:
		r := c.GetRollout()
		if at := r.GetWaves()[c.GetWave()-1]; r.GetGateProbe() && at.GetProbeId() == "" && r.GetOpened() < c.GetWave() {
			return Step{Advance: at.GetEnd(), Whole: true} // a probe on all of them, at most
		}
		return Step{Advance: max(1, step.Release)}
	default:
		if step.Wait > 0 {
			otherwise.Wait = min(otherwise.Wait, step.Wait)
		}
		return otherwise
	}
}

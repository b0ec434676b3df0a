package fsm

import (
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
	"github.com/agentplane/agentplane/proto/wave"
)

// Reasons of a pause or an abort, beside those of package wave.
const (
	byOperators = "operator"
	gateHealth  = "gate_health"
	gateProbe   = "gate_probe"
)

// pauseCommand has nothing of the command released or claimed any more. What runs goes
// on, and what waits still expires.
func (tx *tx) pauseCommand(m *raftlogv1.PauseCommand) *raftlogv1.Outcome {
	c, refusal := tx.commandItself(m.GetCommandId())
	switch {
	case refusal != nil:
		return refusal
	case c.GetPause() != nil:
		return stands(c.GetPause().GetNumber())
	}
	if refusal := stopped(c); refusal != nil {
		return refusal
	}
	tx.editCommand(c.GetId()).Pause = &raftlogv1.Pause{Number: tx.number(), At: tx.now(), By: clip(m.GetPausedBy(), MaxReasonBytes), Reason: byOperators}
	return granted(tx.number())
}

// resumeCommand ends the pause that is named. One that failures made is forgiven them;
// one that a gate made opens that gate.
func (tx *tx) resumeCommand(m *raftlogv1.ResumeCommand) *raftlogv1.Outcome {
	c, refusal := tx.commandItself(m.GetCommandId())
	switch {
	case refusal != nil:
		return refusal
	case m.GetExpectedPause() != 0 && m.GetExpectedPause() == c.GetResumedPause():
		return stands(c.GetResumedNumber())
	case c.GetPause() == nil:
		return refuse(raftlogv1.Code_CODE_REFUSED, "not_paused", "command %q is not paused", c.GetId())
	case c.GetPause().GetNumber() != m.GetExpectedPause():
		return refuse(raftlogv1.Code_CODE_STALE, "pause_moved", "command %q is paused by another pause by now: %s", c.GetId(), c.GetPause().GetReason())
	case c.GetState() != raftlogv1.CommandState_COMMAND_STATE_ACTIVE:
		return refuse(raftlogv1.Code_CODE_REFUSED, "not_active", "command %q is done or canceled", c.GetId())
	}
	e := tx.editCommand(c.GetId())
	switch e.GetPause().GetReason() {
	case wave.MaxFailures, wave.Strict:
		e.Rollout.Forgiven = Failures(e)
	case gateHealth, gateProbe:
		e.Rollout.Opened = e.GetWave()
		e.Rollout.Waves[e.GetWave()-1].OpenedBy = clip(m.GetResumedBy(), MaxReasonBytes)
	}
	e.ResumedPause, e.ResumedNumber, e.ResumedBy = e.GetPause().GetNumber(), tx.number(), clip(m.GetResumedBy(), MaxReasonBytes)
	e.Pause = nil
	tx.touchReleased(c.GetId())
	if probe := tx.openProbe(c); probe != nil {
		tx.touchReleased(probe.GetId())
	}
	return granted(tx.number())
}

// touchReleased puts what may be claimed again, so that the nodes whose agents it is for
// hear of it: they follow invocations, not commands.
func (tx *tx) touchReleased(commandID string) {
	for _, i := range collect(tx.openInvocations(commandID, raftlogv1.AttemptState_ATTEMPT_STATE_RELEASED)) {
		put(tx, TableInvocations, tx.invocations, i)
	}
}

// abortCommand makes sure that what is not claimed never starts. Unlike a cancel it
// leaves what is claimed alone.
func (tx *tx) abortCommand(m *raftlogv1.AbortCommand) *raftlogv1.Outcome {
	c, refusal := tx.commandItself(m.GetCommandId())
	switch {
	case refusal != nil:
		return refusal
	case c.GetAbort() != nil, c.GetState() != raftlogv1.CommandState_COMMAND_STATE_ACTIVE:
		return stands(c.GetAbort().GetNumber())
	}
	o := granted(tx.number())
	o.Count = tx.abort(c, clip(m.GetAbortedBy(), MaxReasonBytes), byOperators, "")
	if probe := tx.openProbe(c); probe != nil {
		tx.abort(probe, clip(m.GetAbortedBy(), MaxReasonBytes), byOperators, "")
	}
	return o
}

func (tx *tx) abort(c *raftlogv1.Command, by, reason, detail string) (ended uint32) {
	e := tx.editCommand(c.GetId())
	e.Abort = &raftlogv1.Abort{Number: tx.number(), At: tx.now(), By: by, Reason: reason, Detail: detail}
	e.Pause = nil
	for _, i := range collect(where(tx.invocations.withPrefix(c.GetId()+"."), unclaimed)) {
		tx.move(i, raftlogv1.AttemptState_ATTEMPT_STATE_CANCELED, "aborted", nil)
		ended++
	}
	return ended
}

// breach stops a command by itself, as it was told to.
func (tx *tx) breach(c *raftlogv1.Command, reason, detail string) {
	detail = clip(detail, MaxDetailBytes)
	if c.GetRollout().GetOnBreach() == raftlogv1.OnBreach_ON_BREACH_ABORT {
		tx.abort(c, "", reason, detail)
		return
	}
	tx.editCommand(c.GetId()).Pause = &raftlogv1.Pause{Number: tx.number(), At: tx.now(), Reason: reason, Detail: detail}
}

// paused says that nothing of the command may be claimed; a probe stands still with the
// command whose wave it probes.
func (t *tables) paused(c *raftlogv1.Command) bool {
	if c.GetParentId() == "" {
		return c.GetPause() != nil
	}
	parent, _ := t.commands.get(c.GetParentId())
	return stopped(parent) != nil
}

// commandItself answers a command that is no probe: a probe has no brake of its own.
func (tx *tx) commandItself(id string) (*raftlogv1.Command, *raftlogv1.Outcome) {
	switch c, found := tx.commands.get(id); {
	case !found:
		return nil, refuse(raftlogv1.Code_CODE_NOT_FOUND, "no_command", "there is no command %q", id)
	case c.GetParentId() != "":
		return nil, refuse(raftlogv1.Code_CODE_REFUSED, "is_probe", "command %q probes a wave of command %q and stops and goes with it", id, c.GetParentId())
	default:
		return c, nil
	}
}

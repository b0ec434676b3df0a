package fsm

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
	"github.com/agentplane/agentplane/proto/wave"
)

// maxNamed bounds how many agents a reason names.
const maxNamed = 5

// WaveState is how far the rollout of a command is, which must have one.
func WaveState(c *raftlogv1.Command) wave.State {
	r := c.GetRollout()
	s := wave.State{
		Wave: int(c.GetWave()), Waiting: r.GetWaiting(), Limited: r.GetLimited(), Max: r.GetMaxFailures(), Strict: r.GetStrict(),
		Soak:    time.Duration(r.GetSoak()),
		Stopped: c.GetState() != raftlogv1.CommandState_COMMAND_STATE_ACTIVE || c.GetPause() != nil || c.GetAbort() != nil,
	}
	for _, w := range r.GetWaves() {
		s.Ends = append(s.Ends, w.GetEnd())
	}
	for _, n := range c.GetCounts() {
		switch n.GetState() {
		case raftlogv1.AttemptState_ATTEMPT_STATE_PENDING:
			s.Pending = n.GetCount()
		case raftlogv1.AttemptState_ATTEMPT_STATE_RELEASED:
			s.Released = n.GetCount()
		case raftlogv1.AttemptState_ATTEMPT_STATE_CLAIMED, raftlogv1.AttemptState_ATTEMPT_STATE_RUNNING:
			s.Running += n.GetCount()
		}
	}
	s.Failures = Failures(c) - min(r.GetForgiven(), Failures(c))
	if c.GetWave() > 0 {
		w := r.GetWaves()[c.GetWave()-1]
		s.Settled, s.Probing = w.GetSettledAt(), w.GetProbeId() != "" && !w.GetProbed()
	}
	return s
}

// Failures is how many invocations of the command have failed: FAILED, TIMED_OUT and
// LOST (DESIGN section 9).
func Failures(c *raftlogv1.Command) (n uint32) {
	for _, of := range c.GetCounts() {
		switch of.GetState() {
		case raftlogv1.AttemptState_ATTEMPT_STATE_FAILED, raftlogv1.AttemptState_ATTEMPT_STATE_TIMED_OUT, raftlogv1.AttemptState_ATTEMPT_STATE_LOST:
			n += of.GetCount()
		}
	}
	return n
}

// waveEnd is the last rank of the waves so far.
func waveEnd(c *raftlogv1.Command) uint32 {
	if c.GetWave() == 0 || c.GetRollout() == nil {
		return 0
	}
	return c.GetRollout().GetWaves()[c.GetWave()-1].GetEnd()
}

// advanceRollout takes the next step of a rollout, when it is due and its gates are
// open. A gate that stays shut is a breach, which is an outcome that has changed
// something.
func (tx *tx) advanceRollout(m *raftlogv1.AdvanceRollout) *raftlogv1.Outcome {
	c, found := tx.commands.get(m.GetCommandId())
	switch {
	case !found:
		return refuse(raftlogv1.Code_CODE_NOT_FOUND, "no_command", "there is no command %q", m.GetCommandId())
	case c.GetRollout() == nil:
		return refuse(raftlogv1.Code_CODE_REFUSED, "no_waves", "command %q has no waves", c.GetId())
	case c.GetWave() != m.GetExpectedWave() || c.GetReleased() != m.GetExpectedReleased():
		return refuse(raftlogv1.Code_CODE_STALE, "wave_moved", "command %q is at wave %d with %d released, not at %d with %d",
			c.GetId(), c.GetWave(), c.GetReleased(), m.GetExpectedWave(), m.GetExpectedReleased())
	}
	if refusal := stopped(c); refusal != nil {
		return refusal
	}
	switch step := WaveState(c).Next(tx.now()); {
	case tx.now() >= c.GetNotAfter():
		return refuse(raftlogv1.Code_CODE_REFUSED, "expired", "command %q expired at %s", c.GetId(), stamp(c.GetNotAfter()))
	case tx.now() < c.GetNotBefore():
		return refuse(raftlogv1.Code_CODE_REFUSED, "not_yet", "command %q begins at %s", c.GetId(), stamp(c.GetNotBefore()))
	case step.Kind == wave.Release:
		return tx.releaseWave(c, step, m.GetMax())
	case step.Kind == wave.Gate:
		if o := tx.askGates(c); o != nil {
			return o
		}
		return tx.releaseWave(c, step, m.GetMax())
	default:
		return refuse(raftlogv1.Code_CODE_REFUSED, "not_due", "nothing of command %q is due in wave %d", c.GetId(), c.GetWave())
	}
}

// stopped refuses to go on with a command.
func stopped(c *raftlogv1.Command) *raftlogv1.Outcome {
	switch {
	case c.GetState() != raftlogv1.CommandState_COMMAND_STATE_ACTIVE:
		return refuse(raftlogv1.Code_CODE_REFUSED, "not_active", "command %q is done or canceled", c.GetId())
	case c.GetAbort() != nil:
		return refuse(raftlogv1.Code_CODE_REFUSED, "not_active", "command %q was aborted", c.GetId())
	case c.GetPause() != nil:
		return refuse(raftlogv1.Code_CODE_REFUSED, "paused", "command %q is paused", c.GetId())
	}
	return nil
}

// releaseWave lets up to most PENDING targets of the wave be claimed, in their order. Who
// cannot be reached by now is skipped, so that nobody waits for whom nobody asked to
// wait.
func (tx *tx) releaseWave(c *raftlogv1.Command, step wave.Step, most uint32) *raftlogv1.Outcome {
	e := tx.editCommand(c.GetId())
	if w := e.Rollout.Waves[step.Wave-1]; w.GetReleasedAt() == 0 {
		w.ReleasedAt, w.ReleasedIndex = tx.now(), tx.index
	}
	e.Wave = uint32(step.Wave)
	rows := collect(where(tx.openInvocations(c.GetId(), raftlogv1.AttemptState_ATTEMPT_STATE_PENDING), func(i *raftlogv1.Invocation) bool {
		return i.GetRank() <= waveEnd(e)
	}))
	e.Rollout.Waiting = uint32(len(rows))
	slices.SortFunc(rows, func(a, b *raftlogv1.Invocation) int { return cmp.Compare(a.GetRank(), b.GetRank()) })
	o, released := ok(), uint32(0)
	for _, i := range rows {
		a, _ := tx.agents.get(i.GetAgentId())
		switch {
		case i.GetHeld():
			continue
		case o.Count >= most || released >= step.Release:
			return o
		case !c.GetQueueOffline() && !tx.reachable(a):
			tx.move(i, raftlogv1.AttemptState_ATTEMPT_STATE_SKIPPED, ReasonOffline, nil)
		default:
			tx.move(i, raftlogv1.AttemptState_ATTEMPT_STATE_RELEASED, "", nil)
			released++
			e.Released++
		}
		o.Count++
	}
	return o
}

// skipReleased skips what of rollouts and probes the agent has not claimed, now that it
// cannot be reached: a wave would wait for it until the command expires.
func (tx *tx) skipReleased(a *raftlogv1.Agent) {
	for _, i := range collect(tx.work.in(a.GetOrdinal(), raftlogv1.AttemptState_ATTEMPT_STATE_RELEASED)) {
		c, _ := tx.commands.get(i.GetCommandId())
		if !c.GetQueueOffline() && (c.GetRollout() != nil || c.GetParentId() != "") {
			tx.move(i, raftlogv1.AttemptState_ATTEMPT_STATE_SKIPPED, ReasonOffline, nil)
		}
	}
}

func (tx *tx) skipReleasedOn(agentID string) {
	if a, found := tx.agents.get(agentID); found {
		tx.skipReleased(a)
	}
}

// judgeRollout sees what the counts of an edited row mean.
func (tx *tx) judgeRollout(c *raftlogv1.Command) {
	r := c.GetRollout()
	r.Forgiven = min(r.GetForgiven(), Failures(c)) // late evidence takes failures back
	s := WaveState(c)
	byOperator := c.GetPause().GetReason() == byOperators
	if why := s.Breach(); judgesAtOnce && why != "" && (!s.Stopped || byOperator) {
		text := "%d failed, and %d may"
		if why == wave.Strict {
			text += ": nothing more can be released"
		}
		tx.breach(c, why, fmt.Sprintf(text, s.Failures, s.Max))
		s = WaveState(c)
	}
	if c.GetWave() == 0 {
		return
	}
	if w := r.GetWaves()[c.GetWave()-1]; s.Over() && w.GetSettledAt() == 0 {
		w.SettledAt = tx.now()
	}
}

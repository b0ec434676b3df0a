package fsm

import (
	"slices"
	"unicode/utf8"

	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

// move takes an invocation to a further state, notes the step, and keeps counts
// and queues. Every change of an invocation's state goes through here. edit, when
// not nil, fills further fields of the new row.
func (tx *tx) move(i *raftlogv1.Invocation, to raftlogv1.AttemptState, reason string, edit func(*raftlogv1.Invocation, *raftlogv1.Transition)) *raftlogv1.Invocation {
	row := clone(i)
	from := i.GetState()
	row.State, row.Reason = to, reason
	step := &raftlogv1.Transition{State: to, Index: tx.index, At: tx.now(), Attempt: i.GetAttempt(), Reason: reason}
	if edit != nil {
		edit(row, step)
	}
	row.Transitions = append(row.Transitions, step)
	c := tx.editCommand(row.GetCommandId())
	if to == raftlogv1.AttemptState_ATTEMPT_STATE_LOST && tx.mayTryAgain(c, row) {
		again := &raftlogv1.Transition{
			State: raftlogv1.AttemptState_ATTEMPT_STATE_RELEASED, Index: tx.index, At: tx.now(), Attempt: row.GetAttempt() + 1, Reason: "idempotent",
		}
		row.Attempt, row.State, row.Reason, row.Fence, row.SessionEpoch, row.NodeId = again.Attempt, again.State, "", 0, 0, ""
		row.Result, row.Detail, row.CancelTooLate, row.Undo = nil, "", false, nil // they were of the attempt before
		row.Transitions = append(row.Transitions, again)
	}
	count(c, from, row.GetState())
	if from == raftlogv1.AttemptState_ATTEMPT_STATE_PENDING && c.GetRollout() != nil && row.GetRank() <= waveEnd(c) {
		c.Rollout.Waiting--
	}
	put(tx, TableInvocations, tx.invocations, row)
	if from >= raftlogv1.AttemptState_ATTEMPT_STATE_CLAIMED && row.GetState() != raftlogv1.AttemptState_ATTEMPT_STATE_RUNNING {
		tx.freePlaces(row.GetId())
	}
	return row
}

// mayTryAgain says that a LOST attempt is followed by another one.
func (tx *tx) mayTryAgain(c *raftlogv1.Command, i *raftlogv1.Invocation) bool {
	a, enrolled := tx.agents.get(i.GetAgentId())
	if c.GetRollout() != nil && !c.GetQueueOffline() && enrolled && !tx.reachable(a) {
		return false // a wave waits for nobody who is away
	}
	return c.GetDelivery() == raftlogv1.Delivery_DELIVERY_IDEMPOTENT && i.GetAttempt() < c.GetMaxAttempts() &&
		c.GetState() == raftlogv1.CommandState_COMMAND_STATE_ACTIVE && c.GetAbort() == nil && tx.now() < c.GetNotAfter() && enrolled && !i.GetSuperseded()
}

// claimAttempt grants the permission to start once. The same session asking again
// gets the same fence.
func (tx *tx) claimAttempt(m *raftlogv1.ClaimAttempt) *raftlogv1.Outcome {
	key, _ := invocationKey(m.GetInvocationId())
	i, found := tx.invocations.get(key)
	if !found || i.GetAgentId() != m.GetAgentId() {
		return refuse(raftlogv1.Code_CODE_NOT_FOUND, "no_invocation", "there is no invocation %q on agent %q", m.GetInvocationId(), m.GetAgentId())
	}
	if refusal := tx.currentSession(m.GetAgentId(), m.GetSessionEpoch()); refusal != nil {
		return refusal
	}
	if _, refusal := tx.registered(m.GetNodeId()); refusal != nil {
		return refusal
	}
	s, _ := tx.sessions.get(m.GetAgentId())
	a, _ := tx.agents.get(m.GetAgentId())
	c, _ := tx.commands.get(i.GetCommandId())
	switch {
	case i.GetAttempt() != m.GetAttempt():
		return refuse(raftlogv1.Code_CODE_STALE, "attempt", "invocation %q is at attempt %d, not %d", i.GetId(), i.GetAttempt(), m.GetAttempt())
	case i.GetState() == raftlogv1.AttemptState_ATTEMPT_STATE_CLAIMED && i.GetSessionEpoch() == m.GetSessionEpoch():
		return stands(i.GetFence())
	case i.GetState() != raftlogv1.AttemptState_ATTEMPT_STATE_RELEASED && (claimsOnce || i.GetState() != raftlogv1.AttemptState_ATTEMPT_STATE_CLAIMED):
		return refuse(raftlogv1.Code_CODE_STALE, "state", "invocation %q is %s, not RELEASED", i.GetId(), word(i.GetState()))
	case i.GetHeld():
		return refuse(raftlogv1.Code_CODE_REFUSED, "held", "invocation %q is held", i.GetId())
	case cancelMeansNever && c.GetState() != raftlogv1.CommandState_COMMAND_STATE_ACTIVE:
		return refuse(raftlogv1.Code_CODE_REFUSED, "canceled", "command %q was canceled", c.GetId())
	case pauseStops && tx.paused(c):
		return refuse(raftlogv1.Code_CODE_REFUSED, "paused", "command %q is paused", c.GetId())
	case tx.now() >= c.GetNotAfter():
		return refuse(raftlogv1.Code_CODE_REFUSED, "expired", "command %q expired at %s", c.GetId(), stamp(c.GetNotAfter()))
	case tx.now() < c.GetNotBefore():
		return refuse(raftlogv1.Code_CODE_REFUSED, "not_yet", "command %q begins at %s", c.GetId(), stamp(c.GetNotBefore()))
	case tx.now() < StartsAt(c, i):
		return refuse(raftlogv1.Code_CODE_REFUSED, "not_yet", "invocation %q begins at %s, within the splay of its command", i.GetId(), stamp(StartsAt(c, i)))
	case s.GetState() != raftlogv1.SessionState_SESSION_STATE_READY:
		return refuse(raftlogv1.Code_CODE_REFUSED, "not_ready", "session %d of agent %q is not ready", s.GetEpoch(), a.GetId())
	case s.GetNodeId() != m.GetNodeId():
		return refuse(raftlogv1.Code_CODE_REFUSED, "other_node", "the session of agent %q is on node %q", a.GetId(), s.GetNodeId())
	case a.GetQuarantine() != raftlogv1.Quarantine_QUARANTINE_UNSPECIFIED:
		return refuse(raftlogv1.Code_CODE_REFUSED, quarantineWord(a.GetQuarantine()), "agent %q is quarantined", a.GetId())
	case tx.running(a.GetOrdinal()) >= s.GetSlots():
		return refuse(raftlogv1.Code_CODE_EXHAUSTED, "slots", "all %d slots of agent %q are taken", s.GetSlots(), a.GetId())
	}
	if refusal := tx.hostLocked(i, c); refusal != nil {
		return refusal
	}
	needs, refusal := tx.placesFor(a, c)
	if refusal != nil {
		return refusal
	}
	row := tx.move(i, raftlogv1.AttemptState_ATTEMPT_STATE_CLAIMED, "", func(row *raftlogv1.Invocation, step *raftlogv1.Transition) {
		row.Fence, row.SessionEpoch, row.NodeId = tx.number(), s.GetEpoch(), m.GetNodeId()
		step.Fence, step.SessionEpoch, step.NodeId = row.Fence, row.SessionEpoch, row.NodeId
	})
	tx.takePlaces(needs, row, c)
	if s.GetLastClaimEpoch() != s.GetEpoch() {
		row := clone(s)
		row.LastClaimEpoch = s.GetEpoch()
		put(tx, TableSessions, tx.sessions, row)
	}
	return granted(tx.number())
}

// running counts the agent's claimed and running attempts, which are few.
func (tx *tx) running(ordinal uint32) uint32 {
	n := uint32(0)
	for range tx.work.in(ordinal, raftlogv1.AttemptState_ATTEMPT_STATE_CLAIMED, raftlogv1.AttemptState_ATTEMPT_STATE_RUNNING) {
		n++
	}
	return n
}

// reportAttempt takes what the agent's journal says. A report that changes nothing
// is answered as done, so that the agent may stop repeating it.
func (tx *tx) reportAttempt(m *raftlogv1.ReportAttempt) *raftlogv1.Outcome {
	key, _ := invocationKey(m.GetInvocationId())
	i, found := tx.invocations.get(key)
	if !found || i.GetAgentId() != m.GetAgentId() {
		return refuse(raftlogv1.Code_CODE_NOT_FOUND, "no_invocation", "there is no invocation %q on agent %q", m.GetInvocationId(), m.GetAgentId())
	}
	if refusal := tx.holderSession(m.GetAgentId(), m.GetSessionEpoch(), m.GetNodeId()); refusal != nil {
		return refusal
	}
	state := m.GetState()
	switch {
	case !reportable(state):
		return refuse(raftlogv1.Code_CODE_INVALID, "state", "an agent cannot report %s", word(state))
	case !bounded(m.GetResult()):
		return refuse(raftlogv1.Code_CODE_INVALID, "output", "the head and tail of the output are above %d bytes", MaxOutputBytes)
	case !boundedSteps(m.GetResult().GetSteps()):
		return refuse(raftlogv1.Code_CODE_INVALID, "steps", "more than %d steps are told of, or their words are above %d bytes", MaxSteps, MaxStepBytes)
	}
	switch {
	case m.GetAttempt() > 0 && m.GetAttempt() < i.GetAttempt():
		tx.reported(m.GetAgentId(), m.GetResult().GetJournalSeq())
		return stands(0) // that attempt was given up and another one stands
	case m.GetAttempt() != i.GetAttempt() || m.GetFence() != i.GetFence():
		return refuse(raftlogv1.Code_CODE_STALE, "fence", "invocation %q is at attempt %d with fence %d, not at %d with %d",
			i.GetId(), i.GetAttempt(), i.GetFence(), m.GetAttempt(), m.GetFence())
	case open(i) && i.GetFence() == 0:
		return refuse(raftlogv1.Code_CODE_STALE, "not_claimed", "invocation %q is %s at attempt %d: nobody may have started it", i.GetId(), word(i.GetState()), i.GetAttempt())
	}
	tx.reported(m.GetAgentId(), m.GetResult().GetJournalSeq())
	c, _ := tx.commands.get(i.GetCommandId())
	undo := i.GetUndo()
	if UndoMoves(c, i, m.GetUndo()) {
		undo = tx.undoTold(undo, m.GetUndo())
	}
	switch {
	case undo != i.GetUndo() && UndoAlone(i, state):
		tx.reportUndo(i, m, undo)
		return granted(i.GetFence())
	case Further(i, m):
		row := clone(i)
		row.Result = m.GetResult()
		if undo == nil { // else the reason says how that stands
			row.Reason, row.Detail = clip(m.GetReason(), MaxReasonBytes), clip(m.GetDetail(), MaxDetailBytes)
		}
		put(tx, TableInvocations, tx.invocations, row)
		return granted(i.GetFence())
	case i.GetState() > raftlogv1.AttemptState_ATTEMPT_STATE_LOST || i.GetState() >= state:
		return stands(i.GetFence()) // also RUNNING after LOST: its end will supersede it
	}
	reason := clip(m.GetReason(), MaxReasonBytes)
	if word := undoWord(undo); word != "" && state == raftlogv1.AttemptState_ATTEMPT_STATE_RUNNING {
		reason = word
	}
	late := i.GetState() == raftlogv1.AttemptState_ATTEMPT_STATE_LOST
	tx.move(i, state, reason, func(row *raftlogv1.Invocation, step *raftlogv1.Transition) {
		row.Detail, row.Late, row.CancelTooLate, row.Undo = clip(m.GetDetail(), MaxDetailBytes), late, m.GetCancelTooLate(), undo
		if m.GetResult() != nil {
			row.Result = m.GetResult()
		}
		step.Fence, step.SessionEpoch, step.NodeId = m.GetFence(), m.GetSessionEpoch(), m.GetNodeId()
	})
	return granted(i.GetFence())
}

// reportable says that an agent may report the state. States are listed, since a
// number from the gaps between them decodes too.
func reportable(s raftlogv1.AttemptState) bool {
	switch s {
	case raftlogv1.AttemptState_ATTEMPT_STATE_RUNNING, raftlogv1.AttemptState_ATTEMPT_STATE_LOST,
		raftlogv1.AttemptState_ATTEMPT_STATE_SUCCEEDED, raftlogv1.AttemptState_ATTEMPT_STATE_FAILED,
		raftlogv1.AttemptState_ATTEMPT_STATE_TIMED_OUT, raftlogv1.AttemptState_ATTEMPT_STATE_CANCELED,
		raftlogv1.AttemptState_ATTEMPT_STATE_REJECTED:
		return true
	default:
		return false
	}
}

// Further says that a report tells more of the steps of an attempt that runs than its row
// does. Each can do so three times: it has begun, its program has ended and something is
// waited for that has a word (a reboot), it has ended. An attempt without steps can say the
// second.
func Further(i *raftlogv1.Invocation, m *raftlogv1.ReportAttempt) bool {
	const running = raftlogv1.AttemptState_ATTEMPT_STATE_RUNNING
	return i.GetState() == running && m.GetState() == running && i.GetAttempt() == m.GetAttempt() && i.GetFence() == m.GetFence() &&
		told(m.GetResult().GetSteps(), m.GetReason()) > told(i.GetResult().GetSteps(), i.GetReason())
}

func told(steps []*raftlogv1.StepResult, reason string) (n int) {
	if len(steps) == 0 && reason != "" {
		return 1
	}
	for _, s := range steps {
		switch n++; {
		case s.GetState() > raftlogv1.AttemptState_ATTEMPT_STATE_RUNNING:
			n += 2
		case s.GetReason() != "":
			n++
		}
	}
	return n
}

// Bounds of what one report leaves in the state. Output and steps above their bounds are
// refused; words above theirs are cut, since the result beside them must not be lost.
const (
	MaxOutputBytes = 16 << 10 // the heads and tails of one result together
	MaxReasonBytes = 256
	MaxDetailBytes = 1024
	MaxSteps       = 32
	MaxStepBytes   = 64 // the name of a step, and its reason
)

func boundedSteps(steps []*raftlogv1.StepResult) bool {
	return len(steps) <= MaxSteps && !slices.ContainsFunc(steps, func(s *raftlogv1.StepResult) bool {
		return len(s.GetName()) > MaxStepBytes || len(s.GetReason()) > MaxStepBytes
	})
}

// clip cuts s to at most n bytes, between two characters.
func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

func bounded(r *raftlogv1.Result) bool {
	n := 0
	for _, o := range []*raftlogv1.Output{r.GetStdout(), r.GetStderr()} {
		n += len(o.GetHead()) + len(o.GetTail())
	}
	return n <= MaxOutputBytes
}

// reported keeps the highest record of its journal that the agent has shown.
func (tx *tx) reported(agentID string, seq uint64) {
	s, _ := tx.sessions.get(agentID)
	if seq <= s.GetJournal().GetSeq() {
		return
	}
	row := clone(s)
	row.Journal.Seq = seq
	put(tx, TableSessions, tx.sessions, row)
}

// loseAttempt says that nobody knows what became of an attempt. It is refused when
// anything it was decided on has moved.
func (tx *tx) loseAttempt(m *raftlogv1.LoseAttempt) *raftlogv1.Outcome {
	key, _ := invocationKey(m.GetKey().GetInvocationId())
	i, found := tx.invocations.get(key)
	if !found {
		return refuse(raftlogv1.Code_CODE_NOT_FOUND, "no_invocation", "there is no invocation %q", m.GetKey().GetInvocationId())
	}
	s, _ := tx.sessions.get(i.GetAgentId())
	switch {
	case m.GetKey().GetAttempt() > 0 && m.GetKey().GetAttempt() < i.GetAttempt():
		return stands(0) // it was given up and another one stands
	case i.GetState() == raftlogv1.AttemptState_ATTEMPT_STATE_LOST:
		return stands(i.GetFence())
	case i.GetState() < raftlogv1.AttemptState_ATTEMPT_STATE_CLAIMED || i.GetState() > raftlogv1.AttemptState_ATTEMPT_STATE_LOST,
		i.GetState() != m.GetExpectedState(), i.GetFence() != m.GetExpectedFence(), i.GetAttempt() != m.GetKey().GetAttempt():
		return refuse(raftlogv1.Code_CODE_STALE, "state", "invocation %q is %s at attempt %d with fence %d", i.GetId(), word(i.GetState()), i.GetAttempt(), i.GetFence())
	case s.GetEpoch() != m.GetExpectedSessionEpoch():
		return refuse(raftlogv1.Code_CODE_STALE, "epoch_moved", "agent %q has opened session %d since", i.GetAgentId(), s.GetEpoch())
	case m.GetNodeId() != "" && m.GetNodeId() != s.GetNodeId():
		return refuse(raftlogv1.Code_CODE_REFUSED, "other_node", "the session of agent %q is on node %q, not on %q", i.GetAgentId(), s.GetNodeId(), m.GetNodeId())
	}
	tx.move(i, raftlogv1.AttemptState_ATTEMPT_STATE_LOST, clip(m.GetReason(), MaxReasonBytes), func(row *raftlogv1.Invocation, step *raftlogv1.Transition) {
		row.Detail = clip(m.GetDetail(), MaxDetailBytes)
		step.Fence, step.SessionEpoch = i.GetFence(), s.GetEpoch()
	})
	return granted(i.GetFence())
}

// Since is from when on the attempt at hand is in its state, in the cluster's time; 0 when
// no step says so. That a program has ended and waits for its confirmation, or is undone,
// is a part of RUNNING: it begins nothing anew.
func Since(i *raftlogv1.Invocation) (at int64) {
	for _, step := range slices.Backward(i.GetTransitions()) {
		if step.GetState() != i.GetState() || step.GetAttempt() != i.GetAttempt() {
			break
		}
		at = step.GetAt()
	}
	return at
}

// word is the short name of a state.
func word(s raftlogv1.AttemptState) string {
	const prefix = "ATTEMPT_STATE_"
	if name := s.String(); len(name) > len(prefix) {
		return name[len(prefix):]
	}
	return s.String()
}

package fsm

import (
	"time"

	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

// Bounds of the time in which what a program did may be confirmed.
const (
	MinWithin = 10 * time.Second
	MaxWithin = 24 * time.Hour
)

// Reasons of RUNNING, of an attempt whose program has ended.
const (
	reasonArmed   = "armed"
	reasonRearmed = "rearmed"
	reasonUndoing = "undoing"
)

// UndoMoves says that what an agent tells of the undo of its attempt is ahead of what the
// row has. Phases only grow; while it waits, the wait may begin anew once.
func UndoMoves(c *raftlogv1.Command, i *raftlogv1.Invocation, told *raftlogv1.Undo) bool {
	have := i.GetUndo()
	switch {
	case c.GetUndo() == nil || told == nil || !undoPhase(told.GetPhase()):
		return false
	case told.GetPhase() != have.GetPhase():
		return told.GetPhase() > have.GetPhase()
	default:
		return told.GetPhase() == raftlogv1.UndoPhase_UNDO_PHASE_ARMED && told.GetUntil() > have.GetUntil() && !have.GetAgain()
	}
}

// UndoAlone says that what an agent tells of the undo of its attempt, which it tells to be in
// the state, moves nothing else: the attempt is in that state, or it is LOST and the agent
// says that it is not over.
func UndoAlone(i *raftlogv1.Invocation, state raftlogv1.AttemptState) bool {
	const running, lost = raftlogv1.AttemptState_ATTEMPT_STATE_RUNNING, raftlogv1.AttemptState_ATTEMPT_STATE_LOST
	return i.GetState() == state && state <= lost || i.GetState() == lost && state == running
}

// undoPhase says that an agent may tell of the phase. They are listed, since a number from
// the gaps between them decodes too.
func undoPhase(p raftlogv1.UndoPhase) bool {
	switch p {
	case raftlogv1.UndoPhase_UNDO_PHASE_ARMED, raftlogv1.UndoPhase_UNDO_PHASE_CONFIRMED,
		raftlogv1.UndoPhase_UNDO_PHASE_RUNNING, raftlogv1.UndoPhase_UNDO_PHASE_DONE:
		return true
	default:
		return false
	}
}

// undoTold is the row's undo with what the agent tells, which is ahead; the state's own
// part stays.
func (tx *tx) undoTold(have, told *raftlogv1.Undo) *raftlogv1.Undo {
	u := &raftlogv1.Undo{
		Phase: told.GetPhase(), Until: told.GetUntil(), Cause: clip(told.GetCause(), MaxReasonBytes),
		ArmedIndex: have.GetArmedIndex(), Again: have.GetAgain(),
		ConfirmIndex: have.GetConfirmIndex(), ConfirmedAt: have.GetConfirmedAt(), ConfirmedBy: have.GetConfirmedBy(),
	}
	switch u.Phase {
	case raftlogv1.UndoPhase_UNDO_PHASE_ARMED:
		u.Again = have.GetPhase() == u.Phase
		if !u.Again {
			u.ArmedIndex = tx.index
		}
	case raftlogv1.UndoPhase_UNDO_PHASE_DONE:
		if reportable(told.GetState()) {
			u.State = told.GetState()
		}
		u.ExitCode, u.Signal = told.GetExitCode(), told.GetSignal()
		u.Reason, u.Detail = clip(told.GetReason(), MaxReasonBytes), clip(told.GetDetail(), MaxDetailBytes)
		u.StartedAt, u.EndedAt = told.GetStartedAt(), told.GetEndedAt()
	case raftlogv1.UndoPhase_UNDO_PHASE_CONFIRMED:
		u.Detail = clip(told.GetDetail(), MaxDetailBytes)
	}
	return u
}

// reportUndo takes what an agent tells of the undo of an attempt whose state stays as it
// is. While the attempt runs, that it waits and that it is undone are steps of its proof;
// beside LOST they are noted.
func (tx *tx) reportUndo(i *raftlogv1.Invocation, m *raftlogv1.ReportAttempt, undo *raftlogv1.Undo) {
	row := clone(i)
	row.Undo = undo
	if Further(i, m) {
		row.Result = m.GetResult()
	}
	running := i.GetState() == raftlogv1.AttemptState_ATTEMPT_STATE_RUNNING
	if running {
		row.Detail = clip(m.GetDetail(), MaxDetailBytes) // what it waited for before is over
	}
	switch {
	case !running && m.GetState() == raftlogv1.AttemptState_ATTEMPT_STATE_RUNNING: // why it is LOST stays
	case !running:
		row.Detail = clip(m.GetDetail(), MaxDetailBytes)
	case undoWord(undo) == "":
		row.Reason = "" // its end follows
	default:
		row.Reason = undoWord(undo)
		row.Transitions = append(row.Transitions, &raftlogv1.Transition{
			State: i.GetState(), Index: tx.index, At: tx.now(), Attempt: i.GetAttempt(), Fence: m.GetFence(),
			NodeId: m.GetNodeId(), SessionEpoch: m.GetSessionEpoch(), Reason: row.Reason,
		})
	}
	put(tx, TableInvocations, tx.invocations, row)
	tx.editCommand(i.GetCommandId()) // whoever looks at commands alone sees that something moved
}

// undoWord is the reason of a RUNNING attempt whose program has ended; "" of any other.
func undoWord(u *raftlogv1.Undo) string {
	switch {
	case u.GetPhase() == raftlogv1.UndoPhase_UNDO_PHASE_RUNNING:
		return reasonUndoing
	case u.GetPhase() != raftlogv1.UndoPhase_UNDO_PHASE_ARMED:
		return ""
	case u.GetAgain():
		return reasonRearmed
	default:
		return reasonArmed
	}
}

// confirmCommand confirms what waits for it and has been seen to. What is to be canceled is
// not: its agent may have begun to undo it. Whether it came in time only the agent can say,
// whose journal decides.
func (tx *tx) confirmCommand(m *raftlogv1.ConfirmCommand) *raftlogv1.Outcome {
	c, refusal := tx.commandItself(m.GetCommandId())
	switch {
	case refusal != nil:
		return refusal
	case c.GetUndo() == nil:
		return refuse(raftlogv1.Code_CODE_REFUSED, "no_undo", "command %q has no undo: there is nothing to confirm", c.GetId())
	case c.GetUndo().GetBy() == raftlogv1.ConfirmBy_CONFIRM_BY_CONTACT:
		return refuse(raftlogv1.Code_CODE_REFUSED, "by_contact", "command %q is confirmed by contact: each agent that still reaches the cluster confirms it itself", c.GetId())
	case m.GetUpToIndex() == 0:
		return refuse(raftlogv1.Code_CODE_INVALID, "up_to", "the confirmation does not say up to which index it was seen what waits")
	}
	named := make(map[string]bool)
	for _, id := range m.GetInvocationIds() {
		named[id] = true
		key, _ := invocationKey(id)
		if i, found := tx.invocations.get(key); !found || i.GetCommandId() != c.GetId() {
			return refuse(raftlogv1.Code_CODE_NOT_FOUND, "no_invocation", "command %q has no invocation %.200q", c.GetId(), id)
		}
	}
	o, before, asked := granted(tx.index), uint64(0), false
	for _, i := range collect(tx.invocations.withPrefix(c.GetId() + ".")) {
		u := i.GetUndo()
		if len(named) > 0 && !named[i.GetId()] {
			continue
		}
		if u.GetConfirmIndex() != 0 && u.GetArmedIndex() <= m.GetUpToIndex() {
			before = max(before, u.GetConfirmIndex())
		}
		if !waitsForConfirmation(i) || u.GetArmedIndex() > m.GetUpToIndex() {
			continue
		}
		if i.GetCancelIndex() != 0 {
			asked = true
			continue
		}
		row := clone(i)
		row.Undo.ConfirmIndex, row.Undo.ConfirmedAt, row.Undo.ConfirmedBy = tx.index, tx.now(), clip(m.GetConfirmedBy(), MaxReasonBytes)
		put(tx, TableInvocations, tx.invocations, row)
		o.Count++
	}
	switch {
	case o.Count > 0:
		tx.editCommand(c.GetId())
		return o
	case before != 0:
		return stands(before)
	case asked:
		return refuse(raftlogv1.Code_CODE_REFUSED, "cancel_asked", "command %q was canceled before it was confirmed: what waits is undone", c.GetId())
	case done(c):
		return refuse(raftlogv1.Code_CODE_REFUSED, "confirm_done", "command %q is done: nothing of it waits for a confirmation any more", c.GetId())
	default:
		return refuse(raftlogv1.Code_CODE_REFUSED, "not_armed", "nothing of command %q that was seen waits for a confirmation", c.GetId())
	}
}

// waitsForConfirmation says that the program of the invocation has succeeded and waits for a confirmation
// that has not been given. What is LOST waits too, for all that is known: its agent may come
// back in time.
func waitsForConfirmation(i *raftlogv1.Invocation) bool {
	return (i.GetState() == raftlogv1.AttemptState_ATTEMPT_STATE_RUNNING || i.GetState() == raftlogv1.AttemptState_ATTEMPT_STATE_LOST) &&
		i.GetUndo().GetPhase() == raftlogv1.UndoPhase_UNDO_PHASE_ARMED && i.GetUndo().GetConfirmIndex() == 0
}

// checkUndo says what is wrong with the undo of a submission.
func checkUndo(m *raftlogv1.SubmitCommand) *raftlogv1.Outcome {
	u := m.GetUndo()
	if u == nil {
		return nil
	}
	switch within := time.Duration(u.GetWithin()); {
	case within < MinWithin || within > MaxWithin:
		return refuse(raftlogv1.Code_CODE_INVALID, "undo_within", "the time for a confirmation, %v, is not between %v and %v", within, MinWithin, MaxWithin)
	case u.GetBy() < raftlogv1.ConfirmBy_CONFIRM_BY_UNSPECIFIED || u.GetBy() > raftlogv1.ConfirmBy_CONFIRM_BY_CONTACT:
		return refuse(raftlogv1.Code_CODE_INVALID, "undo_by", "what confirms the command, %d, is none of operator, contact", u.GetBy())
	case m.GetDelivery() == raftlogv1.Delivery_DELIVERY_IDEMPOTENT:
		return refuse(raftlogv1.Code_CODE_INVALID, "undo_delivery", "a command with an undo is started once: class idempotent is not for it")
	}
	return nil
}

package fsm

import (
	"slices"
	"time"

	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

// twinUndo is what the slow twin knows of the undo of an attempt.
type twinUndo struct {
	phase          raftlogv1.UndoPhase
	until          int64
	again          bool
	armed, confirm uint64
}

func undoOf(i *raftlogv1.Invocation) twinUndo {
	u := i.GetUndo()
	return twinUndo{phase: u.GetPhase(), until: u.GetUntil(), again: u.GetAgain(), armed: u.GetArmedIndex(), confirm: u.GetConfirmIndex()}
}

// undoAhead says that what is told is ahead of what is known.
func (w *twin) undoAhead(a *twinAttempt, told *raftlogv1.Undo) bool {
	phases := []raftlogv1.UndoPhase{10, 20, 30, 40}
	known, said := slices.Index(phases, a.undo.phase), slices.Index(phases, told.GetPhase())
	if w.commands[a.command].undo == nil || said < 0 {
		return false
	}
	return said > known || said == 0 && known == 0 && told.GetUntil() > a.undo.until && !a.undo.again
}

func (w *twin) tellUndo(a *twinAttempt, told *raftlogv1.Undo) {
	if !w.undoAhead(a, told) {
		return
	}
	again := a.undo.phase == raftlogv1.UndoPhase_UNDO_PHASE_ARMED
	if told.GetPhase() == raftlogv1.UndoPhase_UNDO_PHASE_ARMED {
		a.undo.again = again
		if !again {
			a.undo.armed = w.index
		}
	}
	a.undo.phase, a.undo.until = told.GetPhase(), told.GetUntil()
}

func (w *twin) confirm(m *raftlogv1.ConfirmCommand) raftlogv1.Code {
	c, found := w.commands[m.GetCommandId()]
	switch {
	case !found:
		return raftlogv1.Code_CODE_NOT_FOUND
	case c.parent != "" || c.undo == nil || c.undo.GetBy() == raftlogv1.ConfirmBy_CONFIRM_BY_CONTACT:
		return raftlogv1.Code_CODE_REFUSED
	case m.GetUpToIndex() == 0:
		return raftlogv1.Code_CODE_INVALID
	}
	for _, id := range m.GetInvocationIds() {
		if a := w.find(id); a == nil || a.command != m.GetCommandId() {
			return raftlogv1.Code_CODE_NOT_FOUND
		}
	}
	any := false
	for _, a := range w.of(m.GetCommandId()) {
		if a.undo.armed > m.GetUpToIndex() || len(m.GetInvocationIds()) > 0 && !slices.Contains(m.GetInvocationIds(), a.id) {
			continue
		}
		if (a.state == running || a.state == lost) && a.undo.phase == raftlogv1.UndoPhase_UNDO_PHASE_ARMED && a.undo.confirm == 0 && !a.asked {
			a.undo.confirm = w.index
		}
		any = any || a.undo.confirm != 0
	}
	if !any {
		return raftlogv1.Code_CODE_REFUSED
	}
	return raftlogv1.Code_CODE_OK
}

// undoPlan draws an undo for a submission.
func (g *gen) undoPlan(m *raftlogv1.SubmitCommand) *raftlogv1.UndoPlan {
	if !g.rarely(3) || m.GetDelivery() == raftlogv1.Delivery_DELIVERY_IDEMPOTENT && !g.rarely(10) {
		return nil
	}
	return &raftlogv1.UndoPlan{
		Within: int64(g.pick(0, 10, 10, 10, 10, 10, 10, 10, 3600, 3600, 86401)) * int64(time.Second), By: raftlogv1.ConfirmBy(g.pick(0, 1, 1, 1, 1, 1, 2, 3)),
	}
}

// undo draws what is told of the undo of an attempt.
func (g *gen) undo() *raftlogv1.Undo {
	if g.rarely(2) {
		return nil
	}
	return &raftlogv1.Undo{
		Phase: raftlogv1.UndoPhase(g.pick(0, 5, 10, 10, 10, 10, 10, 20, 30, 40)), Until: int64(g.pick(0, 1, 2, 3)), Cause: "not_confirmed",
		State: raftlogv1.AttemptState(g.pick(0, 60, 61, 45)), Reason: "exit", Detail: "it ended", ExitCode: 3,
		ArmedIndex: 7, Again: true, ConfirmIndex: 8, ConfirmedBy: "an agent that lies",
	}
}

// undoMutation draws what moves the undo of an attempt, if there is one to move.
func (g *gen) undoMutation() *raftlogv1.Mutation {
	if g.rarely(3) {
		return g.confirm()
	}
	m := g.report()
	r := m.GetReportAttempt()
	i, found := g.m.View().Invocation(r.GetInvocationId())
	c, _ := g.m.View().Command(i.GetCommandId())
	if !found || c.GetUndo() == nil {
		return g.workMutation()
	}
	s, _ := g.m.View().Session(i.GetAgentId())
	r.Attempt, r.Fence, r.SessionEpoch, r.NodeId, r.Result = i.GetAttempt(), i.GetFence(), s.GetEpoch(), s.GetNodeId(), nil
	r.State = raftlogv1.AttemptState(g.pick(40, 40, 40, 40, 40, 50, 60, 61))
	r.Undo = &raftlogv1.Undo{Phase: raftlogv1.UndoPhase(g.pick(10, 10, 10, 10, 10, 20, 30, 40)), Until: int64(g.pick(1, 2, 3)), State: 60}
	return m
}

// confirm draws a confirmation, of all that waits or of one.
func (g *gen) confirm() *raftlogv1.Mutation {
	i := g.invocation(raftlogv1.AttemptState_ATTEMPT_STATE_RUNNING)
	for row := range g.m.tables.invocations.all() {
		if waitsForConfirmation(row) || row.GetUndo() != nil && !waitsForConfirmation(i) && g.rarely(2) {
			i = row
		}
	}
	m := &raftlogv1.ConfirmCommand{CommandId: i.GetCommandId(), UpToIndex: g.near(i.GetUndo().GetArmedIndex()), ConfirmedBy: "ann"}
	switch {
	case g.rarely(4):
		m.InvocationIds = []string{i.GetId()}
	case g.rarely(10):
		m.InvocationIds = []string{i.GetId(), g.invocation(raftlogv1.AttemptState_ATTEMPT_STATE_RUNNING).GetId(), "x"}
	case g.rarely(10):
		m.CommandId = g.command()
	}
	return &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_ConfirmCommand{ConfirmCommand: m}}
}

// undoVerb reads undo=armed until=40s cause=failed and what belongs to them.
func undoVerb(c *call) *raftlogv1.Undo {
	phases := map[string]raftlogv1.UndoPhase{
		"armed": raftlogv1.UndoPhase_UNDO_PHASE_ARMED, "confirmed": raftlogv1.UndoPhase_UNDO_PHASE_CONFIRMED,
		"running": raftlogv1.UndoPhase_UNDO_PHASE_RUNNING, "done": raftlogv1.UndoPhase_UNDO_PHASE_DONE,
	}
	word := c.text("undo", "")
	u := &raftlogv1.Undo{Phase: phases[word], Cause: c.text("cause", "")}
	if d := c.duration("until", 0); d != 0 {
		u.Until = storyBegin.Add(d).UnixNano()
	}
	if n := c.int("undo-exit", 99); word == "done" && n != 99 {
		u.State, u.Reason, u.ExitCode = raftlogv1.AttemptState_ATTEMPT_STATE_SUCCEEDED, "exit", int32(n)
		if n != 0 {
			u.State = raftlogv1.AttemptState_ATTEMPT_STATE_FAILED
		}
	}
	if word == "" {
		return nil
	}
	return u
}

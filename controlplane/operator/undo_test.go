package operator

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/agentplane/agentplane/fsm"
	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

// undoOf gives a spec an undo, and changes it.
func undoOf(change func(*agentplanev1.UndoSpec)) func(*world, *agentplanev1.CommandSpec) {
	return func(_ *world, s *agentplanev1.CommandSpec) {
		s.Undo = &agentplanev1.UndoSpec{Argv: []string{"restore"}, Within: int64(time.Minute)}
		if change != nil {
			change(s.Undo)
		}
	}
}

// tellUndo reports what an agent tells of the undo of its attempt.
func (w *world) tellUndo(commandID, agentID string, state raftlogv1.AttemptState, u *raftlogv1.Undo) {
	w.t.Helper()
	a, _ := w.m.View().Agent(agentID)
	s, _ := w.m.View().Session(agentID)
	i, _ := w.m.View().Invocation(fsm.InvocationID(commandID, a.GetOrdinal()))
	w.must(&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_ReportAttempt{ReportAttempt: &raftlogv1.ReportAttempt{
		InvocationId: i.GetId(), Attempt: 1, Fence: i.GetFence(), AgentId: agentID, SessionEpoch: s.GetEpoch(), NodeId: "n1", State: state, Undo: u,
		Result: &raftlogv1.Result{StartedAt: 1},
	}}})
}

// undos shows an invocation as the API answers it.
func (w *world) undos(id string) map[string]*agentplanev1.Invocation {
	w.t.Helper()
	r, err := w.Commands.GetCommand(w.t.Context(), &agentplanev1.GetCommandRequest{Id: id, WithInvocations: true})
	if err != nil {
		w.t.Fatal(err)
	}
	all := map[string]*agentplanev1.Invocation{}
	for _, i := range r.GetCommand().GetInvocations() {
		all[i.GetAgentId()] = i
	}
	return all
}

func TestConfirmCommandConfirmsWhatWasSeenToWait(t *testing.T) {
	w := fleetWorld(t)
	spec := w.spec("")
	spec.Agents, spec.RunTimeout = []string{"a1", "a3", "a4"}, int64(2*time.Minute)
	undoOf(func(u *agentplanev1.UndoSpec) { u.RunTimeout = int64(time.Second) })(w, spec)
	cmd := w.submit(spec)
	id, ctx := cmd.GetId(), t.Context()
	if u := cmd.GetUndo(); u.GetBy() != agentplanev1.ConfirmBy_CONFIRM_BY_OPERATOR || u.GetWithin() != int64(time.Minute) {
		t.Errorf("the command is undone when %v", u)
	}
	// Whoever asks about an attempt past its time has to allow for all of it.
	if row, _ := w.m.View().Command(id); row.GetRunTimeout() != int64(2*time.Minute+2*time.Minute+betweenSteps+time.Second+time.Second) {
		t.Errorf("run timeout %v", time.Duration(row.GetRunTimeout()))
	}
	confirm := func(upTo uint64, agents ...string) (*agentplanev1.ConfirmCommandResponse, error) {
		return w.Commands.ConfirmCommand(ctx, &agentplanev1.ConfirmCommandRequest{Id: id, UpTo: upTo, Agents: agents})
	}
	armed := func() *raftlogv1.Undo {
		return &raftlogv1.Undo{Phase: raftlogv1.UndoPhase_UNDO_PHASE_ARMED, Until: w.m.Now() + int64(time.Minute)}
	}
	_, err := confirm(1)
	wantRefusal(t, err, codes.FailedPrecondition, "not_armed")
	for _, agent := range []string{"a1", "a3", "a4"} {
		w.run(id, agent, raftlogv1.AttemptState_ATTEMPT_STATE_RUNNING, nil)
	}
	w.tellUndo(id, "a1", raftlogv1.AttemptState_ATTEMPT_STATE_RUNNING, armed())
	seen := w.undos(id)["a1"].GetUndo().GetArmedIndex()
	w.tellUndo(id, "a3", raftlogv1.AttemptState_ATTEMPT_STATE_RUNNING, armed())
	_, err = confirm(0)
	wantRefusal(t, err, codes.InvalidArgument, "up_to")
	_, err = confirm(seen, "nobody")
	wantRefusal(t, err, codes.NotFound, "no_invocation")
	_, err = confirm(seen, make([]string, maxConfirmed+1)...)
	wantRefusal(t, err, codes.InvalidArgument, "too_many")
	for n := range 2 { // the second time its answer was lost, and something came to wait since
		r, err := confirm(seen)
		if err != nil || r.GetConfirmed() != uint32(1-n) {
			t.Fatalf("confirmed %v: %v", r, err)
		}
	}
	all := w.undos(id)
	if u := all["a1"].GetUndo(); u.GetConfirmedBy() != "alice" || u.GetConfirmedIndex() == 0 || u.GetConfirmTooLate() {
		t.Errorf("a1: %v", u)
	}
	if u := all["a3"].GetUndo(); u.GetConfirmedIndex() != 0 || all["a3"].GetReason() != "armed" {
		t.Errorf("what was not seen is confirmed: %v", all["a3"])
	}
	if r, err := confirm(w.m.View().Index(), "a3"); err != nil || r.GetConfirmed() != 1 {
		t.Errorf("confirmed %v: %v", r, err)
	}
	// The agent alone says what became of it.
	w.tellUndo(id, "a1", raftlogv1.AttemptState_ATTEMPT_STATE_SUCCEEDED, &raftlogv1.Undo{Phase: raftlogv1.UndoPhase_UNDO_PHASE_CONFIRMED})
	w.tellUndo(id, "a3", raftlogv1.AttemptState_ATTEMPT_STATE_FAILED, &raftlogv1.Undo{
		Phase: raftlogv1.UndoPhase_UNDO_PHASE_DONE, Cause: "not_confirmed", State: raftlogv1.AttemptState_ATTEMPT_STATE_SUCCEEDED,
	})
	all = w.undos(id)
	if all["a1"].GetUndo().GetConfirmTooLate() || !all["a3"].GetUndo().GetConfirmTooLate() {
		t.Errorf("too late: %v, %v", all["a1"].GetUndo(), all["a3"].GetUndo())
	}
	w.run(id, "a4", raftlogv1.AttemptState_ATTEMPT_STATE_SUCCEEDED, nil)
	if r, err := confirm(w.m.View().Index()); err != nil || r.GetConfirmed() != 0 {
		t.Errorf("confirmed again: %v, %v", r, err)
	}
	_, err = confirm(w.m.View().Index(), "a4")
	wantRefusal(t, err, codes.FailedPrecondition, "confirm_done")
	_, err = w.Commands.ConfirmCommand(ctx, &agentplanev1.ConfirmCommandRequest{Id: w.submit(w.spec("all")).GetId(), UpTo: 1})
	wantRefusal(t, err, codes.FailedPrecondition, "no_undo")
	_, err = w.Commands.ConfirmCommand(ctx, &agentplanev1.ConfirmCommandRequest{Id: "x", UpTo: 1})
	wantRefusal(t, err, codes.NotFound, "no_command")
	spec = w.spec("all")
	undoOf(func(u *agentplanev1.UndoSpec) { u.By = agentplanev1.ConfirmBy_CONFIRM_BY_CONTACT })(w, spec)
	_, err = w.Commands.ConfirmCommand(ctx, &agentplanev1.ConfirmCommandRequest{Id: w.submit(spec).GetId(), UpTo: 1})
	wantRefusal(t, err, codes.FailedPrecondition, "by_contact")
}

func TestProofTellsOfTheUndo(t *testing.T) {
	w := fleetWorld(t)
	spec := w.spec("all")
	undoOf(nil)(w, spec)
	id := w.submit(spec).GetId()
	steps := func(agent string) (lines []string) {
		r, err := w.Commands.Why(t.Context(), &agentplanev1.WhyRequest{CommandId: id, Agent: agent})
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range r.GetTransitions() {
			lines = append(lines, fmt.Sprintf("%s by %s", s.GetWhat(), s.GetBy()))
		}
		return lines
	}
	// Of a program that ends at once the agent's first word is that it waits.
	a, _ := w.m.View().Agent("a1")
	s, _ := w.m.View().Session("a1")
	w.must(&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_ClaimAttempt{ClaimAttempt: &raftlogv1.ClaimAttempt{
		InvocationId: fsm.InvocationID(id, a.GetOrdinal()), Attempt: 1, AgentId: "a1", SessionEpoch: s.GetEpoch(), NodeId: "n1",
	}}})
	w.tellUndo(id, "a1", raftlogv1.AttemptState_ATTEMPT_STATE_RUNNING, &raftlogv1.Undo{Phase: raftlogv1.UndoPhase_UNDO_PHASE_ARMED, Until: 1})
	if _, err := w.Commands.ConfirmCommand(t.Context(), &agentplanev1.ConfirmCommandRequest{Id: id, UpTo: w.m.View().Index()}); err != nil {
		t.Fatal(err)
	}
	w.tellUndo(id, "a1", raftlogv1.AttemptState_ATTEMPT_STATE_RUNNING, &raftlogv1.Undo{Phase: raftlogv1.UndoPhase_UNDO_PHASE_RUNNING, Cause: "not_confirmed"})
	w.tellUndo(id, "a1", raftlogv1.AttemptState_ATTEMPT_STATE_FAILED, &raftlogv1.Undo{Phase: raftlogv1.UndoPhase_UNDO_PHASE_DONE, Cause: "not_confirmed"})
	want := []string{
		"submitted by operator alice", "released by cluster", "claimed by node n1", "started by agent a1", "armed by agent a1",
		"confirmed by operator alice", "undo_started by agent a1", "result by agent a1",
	}
	if got := steps("a1"); !slices.Equal(got, want) {
		t.Errorf("steps %q\nwant %q", got, want)
	}
}

package operator

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

// A plan says what would hold the command back: what it takes of each host, and the
// places of locks and budgets, with who is in the way.
func TestPlanSaysWhatHoldsItBack(t *testing.T) {
	w := fleetWorld(t)
	w.createLock(&agentplanev1.CreateLockRequest{Name: "deploy", Limit: 1, PerLabel: "env"})
	w.createLock(&agentplanev1.CreateLockRequest{Name: "tests", Limit: 3, Selector: `label.env == "test"`})
	w.createLock(&agentplanev1.CreateLockRequest{Name: "others", Limit: 1, Selector: `label.env == "other"`})
	if _, err := w.Locks.AcquireLock(t.Context(), &agentplanev1.AcquireLockRequest{Name: "deploy", LeaseId: leaseA, Agent: "a1", Ttl: int64(time.Minute)}); err != nil {
		t.Fatal(err)
	}
	spec := w.spec("all")
	spec.Locks, spec.FleetLocks, spec.Exclusive, spec.Splay = []string{"apt"}, []string{"deploy"}, true, int64(time.Minute)
	p, err := w.Commands.Plan(t.Context(), &agentplanev1.PlanRequest{Envelope: envelope(t, spec)})
	if err != nil {
		t.Fatal(err)
	}
	if strings.Join(p.GetLocks(), " ") != "apt" || !p.GetExclusive() || p.GetSplay() != int64(time.Minute) {
		t.Errorf("locks %q, exclusive %v, splay %v", p.GetLocks(), p.GetExclusive(), time.Duration(p.GetSplay()))
	}
	var got []string
	for _, l := range p.GetFleetLocks() {
		got = append(got, fmt.Sprintf("%s/%s budget=%v %d/%d for %d, %v", l.GetName(), l.GetGroup(), l.GetBudget(), l.GetHeld(), l.GetLimit(), l.GetTargets(), l.GetWaits() != ""))
	}
	want := "deploy/prod budget=false 1/1 for 1, true; deploy/test budget=false 0/1 for 2, false; tests/ budget=true 0/3 for 2, false"
	if strings.Join(got, "; ") != want {
		t.Errorf("it holds %q, want %q", strings.Join(got, "; "), want)
	}
	spec.FleetLocks = []string{"none"}
	_, err = w.Commands.Plan(t.Context(), &agentplanev1.PlanRequest{Envelope: envelope(t, spec)})
	wantRefusal(t, err, codes.NotFound, "no_lock")
}

// Who may look and not submit is told so, beside the plan.
func TestPlanSaysWhoMayNotSubmit(t *testing.T) {
	role := ""
	w := newWorld(t, func(o *Options) {
		o.Allowed = func(_ context.Context, permission string) (string, bool) {
			return role, role == "operator" || role == "runner" && permission == "templates.run"
		}
	})
	w.agent("a1", "web-1", true)
	undone := w.spec("all")
	undone.Undo = &agentplanev1.UndoSpec{Argv: []string{"true"}, Within: int64(time.Minute), By: agentplanev1.ConfirmBy_CONFIRM_BY_CONTACT}
	for _, c := range []struct {
		role string
		spec *agentplanev1.CommandSpec
		note string
	}{
		{"operator", w.spec("all"), ""},
		{"runner", w.spec("all"), `you may not run this: operator "alice" has role runner, which runs templates alone`},
		{"runner", undone, `you may not run this: operator "alice" has role runner, which runs templates alone, and the command says undo`},
		{"viewer", undone, `you may not run this: operator "alice" has role viewer, which runs nothing`},
	} {
		role = c.role
		p, err := w.Commands.Plan(t.Context(), &agentplanev1.PlanRequest{Envelope: envelope(t, c.spec)})
		if err != nil || strings.Join(p.GetNotes(), "; ") != c.note || len(p.GetWaves()) != 1 {
			t.Errorf("%s: %v, %v; want the note %q", c.role, p, err, c.note)
		}
		if undo := p.GetUndo(); (c.spec.GetUndo() != nil) != (undo != nil) || undo.GetWithin() != c.spec.GetUndo().GetWithin() || undo.GetBy() != c.spec.GetUndo().GetBy() {
			t.Errorf("%s: the plan's undo is %v, want that of %v", c.role, undo, c.spec.GetUndo())
		}
	}
}

func TestPlanOfARerun(t *testing.T) {
	w := fleetWorld(t)
	first := w.submit(w.spec("all")).GetId()
	w.run(first, "a1", raftlogv1.AttemptState_ATTEMPT_STATE_FAILED, &raftlogv1.Result{ExitCode: 1})
	w.run(first, "a3", raftlogv1.AttemptState_ATTEMPT_STATE_FAILED, &raftlogv1.Result{ExitCode: 1})
	w.must(&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_RemoveAgent{RemoveAgent: &raftlogv1.RemoveAgent{AgentId: "a3"}}})
	spec := w.spec("")
	spec.RerunOf, spec.RerunStates = first, []agentplanev1.AttemptState{agentplanev1.AttemptState_ATTEMPT_STATE_FAILED}
	p, err := w.Commands.Plan(t.Context(), &agentplanev1.PlanRequest{Envelope: envelope(t, spec)})
	if err != nil || len(p.GetWaves()) != 1 || len(p.GetWaves()[0].GetTargets()) != 1 || p.GetWaves()[0].GetTargets()[0].GetAgentName() != "web-1" {
		t.Fatalf("%v, %v", p, err)
	}
	if len(p.GetSkipped()) != 1 || p.GetSkipped()[0].GetReason() != "agent_removed" {
		t.Errorf("skipped is %v, want the agent that was removed", p.GetSkipped())
	}
}

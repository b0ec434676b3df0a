package operator

import (
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

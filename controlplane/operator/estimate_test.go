package operator

import (
	"strings"
	"testing"
	"time"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

func TestQuantileIsAValueThatWasSeen(t *testing.T) {
	ten := []time.Duration{1, 2, 3, 4, 5, 6, 7, 8, 9, 10}
	for _, c := range []struct {
		of   []time.Duration
		q    float64
		want time.Duration
	}{
		{nil, 0.5, 0}, {ten[:1], 0.5, 1}, {ten[:1], 0.9, 1}, {ten[:2], 0.5, 1}, {ten[:3], 0.5, 2}, {ten, 0.5, 5}, {ten, 0.9, 9}, {ten[:9], 0.9, 9},
	} {
		if got := quantile(c.of, c.q); got != c.want {
			t.Errorf("quantile(%v, %v) = %d, want %d", c.of, c.q, got, c.want)
		}
	}
}

func TestEstimateIsOfTheSameProgramAlone(t *testing.T) {
	w := fleetWorld(t)
	ran := func(state raftlogv1.AttemptState, begun, ended int64, argv ...string) {
		t.Helper()
		spec := w.spec(`id == "a1"`)
		spec.Argv = argv
		id := w.submit(spec).GetId()
		w.run(id, "a1", state, &raftlogv1.Result{StartedAt: begun, EndedAt: ended})
	}
	const (
		succeeded = raftlogv1.AttemptState_ATTEMPT_STATE_SUCCEEDED
		failed    = raftlogv1.AttemptState_ATTEMPT_STATE_FAILED
		canceled  = raftlogv1.AttemptState_ATTEMPT_STATE_CANCELED
	)
	spec := w.spec("all")
	if e := EstimateOf(w.m.View(), spec); e != (Estimate{}) {
		t.Errorf("of a program that never ran: %+v", e)
	}
	sec := int64(time.Second)
	ran(succeeded, sec, 2*sec, spec.GetArgv()...)
	ran(failed, sec, 4*sec, spec.GetArgv()...)
	ran(succeeded, sec, 11*sec, spec.GetArgv()...)
	ran(succeeded, sec, 99*sec, "another")
	ran(canceled, sec, 99*sec, spec.GetArgv()...)         // was ended by somebody
	ran(succeeded, 5*sec, sec, spec.GetArgv()...)         // whose clock was set back
	ran(succeeded, sec, 365*86400*sec, spec.GetArgv()...) // and forward
	ran(succeeded, 0, 0, spec.GetArgv()...)               // says nothing
	want := Estimate{Runs: 3, Median: 3 * time.Second, P90: 10 * time.Second, Succeeded: 2}
	if got := EstimateOf(w.m.View(), spec); got != want {
		t.Errorf("EstimateOf = %+v, want %+v", got, want)
	}
	p, err := w.Commands.Plan(t.Context(), &agentplanev1.PlanRequest{Envelope: envelope(t, spec)})
	if err != nil || p.GetEstimate().GetRuns() != 3 || p.GetEstimate().GetMedian() != int64(want.Median) || p.GetEstimate().GetP90() != int64(want.P90) {
		t.Errorf("the plan says %v, %v", p.GetEstimate(), err)
	}
}

// Two long lines that are cut alike for listings are two programs.
func TestEstimateIsNotMisledByTheSummary(t *testing.T) {
	w := fleetWorld(t)
	long := strings.Repeat("x", 300)
	spec := w.spec(`id == "a1"`)
	spec.Argv = []string{long + "1"}
	id := w.submit(spec).GetId()
	w.run(id, "a1", raftlogv1.AttemptState_ATTEMPT_STATE_SUCCEEDED, &raftlogv1.Result{StartedAt: 1, EndedAt: 2})
	other := w.spec("all")
	other.Argv = []string{long + "2"}
	if summary(other) != summary(spec) {
		t.Fatal("the summaries differ")
	}
	if e := EstimateOf(w.m.View(), other); e.Runs != 0 {
		t.Errorf("%+v, want none", e)
	}
	if e := EstimateOf(w.m.View(), spec); e.Runs != 1 {
		t.Errorf("%+v, want one", e)
	}
}

package operator

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/agentplane/agentplane/fsm"
	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
	"github.com/agentplane/agentplane/proto/wave"
)

// rolloutOf gives a spec a rollout of two waves, and changes it.
func rolloutOf(change func(*agentplanev1.RolloutSpec)) func(*world, *agentplanev1.CommandSpec) {
	return func(_ *world, s *agentplanev1.CommandSpec) {
		s.Rollout = &agentplanev1.RolloutSpec{Waves: []*agentplanev1.WaveSpec{{Count: 1}}}
		if change != nil {
			change(s.Rollout)
		}
	}
}

func withLabel(name, value string) *agentplanev1.WaveSpec {
	return &agentplanev1.WaveSpec{Label: &agentplanev1.Label{Name: name, Value: value}}
}

// mixedWorld has hosts that differ, one that is offline, one in quarantine and one whose
// queue is full.
func mixedWorld(t testing.TB) *world {
	w := newWorld(t, func(o *Options) { o.QueueMax = 3 })
	for n, x := range []struct{ os, version, role string }{
		{"linux", "1.0", "web"},
		{"linux", "1.0", "web"},
		{"linux", "1.1", "web"},
		{"bsd", "1.1", "db"},
		{"linux", "1.0", "db"},
		{"plan9", "2.0", "odd"},
		{"plan9", "2.0", "odd"},
		{"plan9", "2.0", "odd"},
	} {
		id := fmt.Sprintf("a%d", n+1)
		w.agent(id, "host-"+fmt.Sprint(n+1), true, label("role", x.role), label("ring", []string{"late", "early"}[n%2]))
		s, _ := w.m.View().Session(id)
		w.must(&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_ReportFacts{ReportFacts: &raftlogv1.ReportFacts{
			AgentId: id, SessionEpoch: s.GetEpoch(), NodeId: "n1", Facts: []*raftlogv1.Label{label("os", x.os)}, Version: x.version,
		}}})
	}
	for range 3 {
		spec := w.spec("")
		spec.Agents = []string{"a8"}
		w.submit(spec)
	}
	w.endSession("a6", true)
	for _, seq := range []uint64{5, 1} { // its journal goes back
		s, _ := w.m.View().Session("a7")
		w.apply(w.epoch, &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_OpenSession{OpenSession: &raftlogv1.OpenSession{
			AgentId: "a7", NodeId: "n1", SeenEpoch: s.GetEpoch(), StreamId: fmt.Append(nil, seq), StartId: []byte("start"), Slots: 4,
			Journal: &raftlogv1.Journal{Id: []byte("journal-a7"), Seq: seq}, PreviousEpoch: s.GetEpoch(),
		}}})
	}
	return w
}

// waves are the names of the agents by wave, in their order.
func (w *world) waves(id string) string {
	c, _ := w.m.View().Command(id)
	var all []*raftlogv1.Invocation
	for i := range w.m.View().Invocations(id) {
		if i.GetRank() > 0 {
			all = append(all, i)
		}
	}
	slices.SortFunc(all, func(a, b *raftlogv1.Invocation) int { return int(a.GetRank()) - int(b.GetRank()) })
	parts := make([]string, len(c.GetRollout().GetWaves()))
	for _, i := range all {
		n := invocationRow(w.m.View(), i, false).GetWave() - 1
		parts[n] += " " + i.GetAgentId()
	}
	return strings.TrimSpace(strings.Join(parts, " |"))
}

func TestSubmitLaysWaves(t *testing.T) {
	for _, c := range []struct {
		name  string
		edit  func(*agentplanev1.RolloutSpec)
		waves string
		note  string
	}{
		{"by number", nil, "a1 | a2 a3 a4 a5", ""},
		{"shares are of those that are not skipped", func(r *agentplanev1.RolloutSpec) { r.Waves[0] = &agentplanev1.WaveSpec{BasisPoints: 2500} }, "a1 a2 | a3 a4 a5", ""},
		{"by label", func(r *agentplanev1.RolloutSpec) {
			r.Waves = []*agentplanev1.WaveSpec{withLabel("ring", "early"), withLabel("role", "db"), withLabel("role", "odd")}
		}, "a2 a4 | a5 | | a1 a3", ""},
		{"a label and a share", func(r *agentplanev1.RolloutSpec) {
			r.Waves = []*agentplanev1.WaveSpec{{Count: 1}, withLabel("ring", "early"), {BasisPoints: 8000}}
		}, "a1 | a2 a4 | a3 | a5", ""},
		{"ordered by label", func(r *agentplanev1.RolloutSpec) { r.Order = "label:role"; r.Waves[0].Count = 2 }, "a4 a5 | a1 a2 a3", ""},
		{"coverage with room for all that differ", func(r *agentplanev1.RolloutSpec) { r.Order = "coverage"; r.Waves[0].Count = 4 }, "a1 a3 a4 a5 | a2", ""},
		{"coverage without", func(r *agentplanev1.RolloutSpec) { r.Order = "coverage"; r.Waves[0].Count = 2 }, "a1 a4 | a3 a5 a2", "the first wave (2) holds 2 of the 4 combinations"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := mixedWorld(t)
			spec := w.spec("all")
			rolloutOf(c.edit)(w, spec)
			r, err := w.Commands.Submit(t.Context(), &agentplanev1.SubmitRequest{Envelope: envelope(t, spec)})
			if err != nil {
				t.Fatal(err)
			}
			if got := w.waves(spec.CommandId); got != c.waves {
				t.Errorf("waves %q, want %q", got, c.waves)
			}
			if notes := strings.Join(r.GetNotes(), "; "); (c.note == "") != (notes == "") || !strings.Contains(notes, c.note) {
				t.Errorf("notes %q, want %q", notes, c.note)
			}
		})
	}
}

func TestRandomOrderIsDrawn(t *testing.T) {
	seen := make(map[string]bool)
	for range 20 {
		w := mixedWorld(t)
		spec := w.spec("all")
		rolloutOf(func(r *agentplanev1.RolloutSpec) { r.Order = "random" })(w, spec)
		w.submit(spec)
		seen[w.waves(spec.CommandId)] = true
	}
	if len(seen) < 5 {
		t.Errorf("20 draws gave %v", seen)
	}
}

// TestPlanIsWhatSubmitDoes compares the two, on one state.
func TestPlanIsWhatSubmitDoes(t *testing.T) {
	for name, edit := range map[string]func(*world, *agentplanev1.CommandSpec){
		"plain": func(*world, *agentplanev1.CommandSpec) {},
		"in waves": rolloutOf(func(r *agentplanev1.RolloutSpec) {
			r.Order, r.MaxFailures = "coverage", &agentplanev1.FailureLimit{BasisPoints: 5000}
		}),
		"queued": func(w *world, s *agentplanev1.CommandSpec) {
			rolloutOf(func(r *agentplanev1.RolloutSpec) { r.Order = "label:ring" })(w, s)
			s.QueueOffline = true
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := mixedWorld(t)
			spec := w.spec("all")
			edit(w, spec)
			before := w.m.View().Index()
			p, err := w.Commands.Plan(t.Context(), &agentplanev1.PlanRequest{Envelope: envelope(t, spec)})
			if err != nil {
				t.Fatal(err)
			}
			if w.m.View().Index() != before {
				t.Fatal("a plan has changed the state")
			}
			var planned []string
			for _, wv := range p.GetWaves() {
				part := ""
				for _, a := range wv.GetTargets() {
					part += " " + a.GetAgentId()
				}
				planned = append(planned, part)
			}
			w.submit(spec)
			if spec.GetRollout() != nil {
				if got, want := strings.TrimSpace(strings.Join(planned, " |")), w.waves(spec.CommandId); got != want {
					t.Errorf("planned %q, came to %q", got, want)
				}
			}
			skipped := make(map[string]bool)
			for i := range w.m.View().Invocations(spec.CommandId) {
				if i.GetState() == raftlogv1.AttemptState_ATTEMPT_STATE_SKIPPED {
					skipped[i.GetAgentId()] = true
				}
			}
			for _, a := range p.GetSkipped() {
				if !skipped[a.GetAgentId()] {
					t.Errorf("%v was to be skipped and is not", a)
				}
				delete(skipped, a.GetAgentId())
			}
			if len(skipped) > 0 {
				t.Errorf("%v were skipped, and the plan said nothing", skipped)
			}
			why := fmt.Sprint(p.GetSkipped(), p.GetWaits())
			for _, reason := range []string{"offline", "quarantined(journal_behind)", "queue_full"} {
				if !strings.Contains(why, reason) {
					t.Errorf("%q is not among the reasons: %s", reason, why)
				}
			}
			c, _ := w.m.View().Command(spec.CommandId)
			if p.MaxFailures != nil && p.GetMaxFailures() != c.GetRollout().GetMaxFailures() || (p.MaxFailures != nil) != c.GetRollout().GetLimited() {
				t.Errorf("planned max failures %v, came to %v", p.MaxFailures, c.GetRollout())
			}
			_, err = w.Commands.Plan(t.Context(), &agentplanev1.PlanRequest{Envelope: envelope(t, spec)})
			wantRefusal(t, err, codes.AlreadyExists, "command_exists")
		})
	}
}

func TestPauseResumeAbort(t *testing.T) {
	w := mixedWorld(t)
	spec := w.spec("all")
	rolloutOf(func(r *agentplanev1.RolloutSpec) {
		r.Waves[0].Count, r.MaxFailures, r.Soak = 2, &agentplanev1.FailureLimit{}, int64(time.Minute)
	})(w, spec)
	id := w.submit(spec).GetId()
	ctx := t.Context()
	w.run(id, "a1", raftlogv1.AttemptState_ATTEMPT_STATE_FAILED, nil)
	r, err := w.Commands.GetCommand(ctx, &agentplanev1.GetCommandRequest{Id: id})
	if err != nil {
		t.Fatal(err)
	}
	stop, row := r.GetCommand().GetPaused(), r.GetCommand().GetRollout()
	if stop.GetReason() != wave.MaxFailures || stop.GetBy() != "" || stop.GetDetail() != "1 failed, and 0 may" || row.GetFailures() != 1 || row.MaxFailures == nil ||
		row.GetWave() != 1 || row.GetWaves()[1].GetTargets() != 3 || row.GetWaves()[0].GetShare() != "2" {
		t.Fatalf("command %v", r.GetCommand())
	}
	_, err = w.Commands.ResumeCommand(ctx, &agentplanev1.ResumeCommandRequest{Id: id, Pause: 1})
	wantRefusal(t, err, codes.Aborted, "pause_moved")
	again, err := w.Commands.PauseCommand(ctx, &agentplanev1.PauseCommandRequest{Id: id})
	if err != nil || again.GetCommand().GetPaused().GetNumber() != stop.GetNumber() {
		t.Fatalf("paused again: %v, %v", again, err)
	}
	for range 2 { // the second time its answer was lost
		resumed, err := w.Commands.ResumeCommand(ctx, &agentplanev1.ResumeCommandRequest{Id: id, Pause: stop.GetNumber()})
		if err != nil || resumed.GetCommand().GetPaused() != nil || resumed.GetCommand().GetRollout().GetForgiven() != 1 {
			t.Fatalf("resumed: %v, %v", resumed, err)
		}
	}
	w.run(id, "a2", raftlogv1.AttemptState_ATTEMPT_STATE_SUCCEEDED, nil)
	r, _ = w.Commands.GetCommand(ctx, &agentplanev1.GetCommandRequest{Id: id})
	if soaked := r.GetCommand().GetRollout().GetSoakedAt(); soaked != w.m.Now()+int64(time.Minute) {
		t.Errorf("the soak ends at %d: %v", soaked, r.GetCommand())
	}
	for range 2 {
		aborted, err := w.Commands.AbortCommand(ctx, &agentplanev1.AbortCommandRequest{Id: id})
		if err != nil || aborted.GetCommand().GetAborted().GetBy() != "alice" || aborted.GetCommand().GetCounts()["canceled"] != 3 {
			t.Fatalf("aborted: %v, %v", aborted, err)
		}
	}
	_, err = w.Commands.PauseCommand(ctx, &agentplanev1.PauseCommandRequest{Id: id})
	wantRefusal(t, err, codes.FailedPrecondition, "not_active")
	_, err = w.Commands.AbortCommand(ctx, &agentplanev1.AbortCommandRequest{Id: "x"})
	wantRefusal(t, err, codes.NotFound, "no_command")
}

// A strict command whose failures are a share can be run again where it failed: of few
// targets the share is none, and one at a time is as strict as it gets.
func TestStrictRerunOfFewRunsOneAtATime(t *testing.T) {
	w := fleetWorld(t)
	strict := func(s *agentplanev1.CommandSpec) *agentplanev1.CommandSpec {
		s.Rollout = &agentplanev1.RolloutSpec{Strict: true, MaxFailures: &agentplanev1.FailureLimit{BasisPoints: 4000}}
		return s
	}
	first := w.submit(strict(w.spec("all"))).GetId()
	w.run(first, "a1", raftlogv1.AttemptState_ATTEMPT_STATE_FAILED, &raftlogv1.Result{ExitCode: 1})
	again := strict(w.spec(""))
	again.RerunOf, again.RerunStates = first, []agentplanev1.AttemptState{agentplanev1.AttemptState_ATTEMPT_STATE_FAILED}
	p, err := w.Commands.Plan(t.Context(), &agentplanev1.PlanRequest{Envelope: envelope(t, again)})
	if err != nil || p.GetMaxFailures() != 1 {
		t.Fatalf("%v, %v", p, err)
	}
	r, err := w.Commands.Submit(t.Context(), &agentplanev1.SubmitRequest{Envelope: envelope(t, again)})
	if err != nil || r.GetCommand().GetRollout().GetMaxFailures() != 1 || r.GetCommand().GetCounts()["released"] != 1 {
		t.Fatalf("%v, %v", r, err)
	}
	if said := strings.Join(r.GetNotes(), " "); !strings.Contains(said, "40% of 1 targets is less than one failure") {
		t.Errorf("it says %q", said)
	}
	// Asked for anew it is refused: whoever does that can say another limit.
	alone := strict(w.spec(`id == "a1"`))
	_, err = w.Commands.Submit(t.Context(), &agentplanev1.SubmitRequest{Envelope: envelope(t, alone)})
	wantRefusal(t, err, codes.InvalidArgument, "strict")
}

// A probe that has failed stays so when somebody lets the command go on, and who did.
func TestWavesSayHowTheirProbesEnded(t *testing.T) {
	w := mixedWorld(t)
	spec := w.spec("all")
	rolloutOf(func(r *agentplanev1.RolloutSpec) { r.Probe = &agentplanev1.ProbeSpec{Argv: []string{"true"}} })(w, spec)
	id := w.submit(spec).GetId()
	w.run(id, "a1", raftlogv1.AttemptState_ATTEMPT_STATE_SUCCEEDED, nil)
	w.must(&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_AdvanceRollout{AdvanceRollout: &raftlogv1.AdvanceRollout{CommandId: id, ExpectedWave: 1, ExpectedReleased: 1, Max: 9}}})
	first := func() (*agentplanev1.Command, *agentplanev1.Wave) {
		t.Helper()
		r, err := w.Commands.GetCommand(t.Context(), &agentplanev1.GetCommandRequest{Id: id})
		if err != nil {
			t.Fatal(err)
		}
		return r.GetCommand(), r.GetCommand().GetRollout().GetWaves()[0]
	}
	if _, wv := first(); wv.GetProbed() || wv.GetProbeFailed() || wv.GetOpenedBy() != "" {
		t.Errorf("while it runs: %v", wv)
	}
	w.run(wave.ProbeID(id, 1), "a1", raftlogv1.AttemptState_ATTEMPT_STATE_FAILED, &raftlogv1.Result{ExitCode: 1})
	c, wv := first()
	if !wv.GetProbeFailed() || wv.GetOpenedBy() != "" || c.GetPaused() == nil {
		t.Errorf("when it has failed: %v", c)
	}
	if _, err := w.Commands.ResumeCommand(t.Context(), &agentplanev1.ResumeCommandRequest{Id: id, Pause: c.GetPaused().GetNumber()}); err != nil {
		t.Fatal(err)
	}
	if _, wv := first(); !wv.GetProbeFailed() || wv.GetOpenedBy() != "alice" {
		t.Errorf("when it goes on all the same: %v", wv)
	}
}

func TestListShowsProbesWithTheirCommand(t *testing.T) {
	w := mixedWorld(t)
	spec := w.spec("all")
	rolloutOf(func(r *agentplanev1.RolloutSpec) {
		r.Probe = &agentplanev1.ProbeSpec{Argv: []string{"test", "-e", "/x y"}}
	})(w, spec)
	id := w.submit(spec).GetId()
	w.run(id, "a1", raftlogv1.AttemptState_ATTEMPT_STATE_SUCCEEDED, nil)
	w.must(&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_AdvanceRollout{AdvanceRollout: &raftlogv1.AdvanceRollout{CommandId: id, ExpectedWave: 1, ExpectedReleased: 1, Max: 9}}})
	newer := w.submit(w.spec("all")).GetId()
	probe := wave.ProbeID(id, 1)
	r, err := w.Commands.ListCommands(t.Context(), &agentplanev1.ListCommandsRequest{Limit: 2})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, c := range r.GetCommands() {
		got = append(got, c.GetId())
	}
	if !slices.Equal(got, []string{newer, id, probe}) || !r.GetMore() {
		t.Fatalf("listed %v, want %v", got, []string{newer, id, probe})
	}
	if p := r.GetCommands()[2]; p.GetParentId() != id || p.GetParentWave() != 1 || p.GetSummary() != "test -e '/x y'" || p.GetTargets() != 1 {
		t.Errorf("probe %v", p)
	}
	next, err := w.Commands.ListCommands(t.Context(), &agentplanev1.ListCommandsRequest{Before: probe})
	if err != nil || len(next.GetCommands()) != 3 { // those that fill a queue
		t.Fatalf("behind the probe: %v, %v", next, err)
	}
	_, err = w.Commands.PauseCommand(t.Context(), &agentplanev1.PauseCommandRequest{Id: probe})
	wantRefusal(t, err, codes.FailedPrecondition, "is_probe")
	if stored, found := w.m.View().Envelope(probe); !found || string(stored) != string(envelope(t, spec)) {
		t.Error("the probe has another envelope than its command")
	}
	if _, found := w.m.View().Invocation(fsm.InvocationID(probe, 1)); !found {
		t.Error("nobody is probed")
	}
}

package operator

import (
	"context"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/agentplane/agentplane/fsm"
	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
	"github.com/agentplane/agentplane/proto/wave"
)

// putRequest asks for a schedule as agentctl does.
func (w *world) putRequest(name string, edit func(*agentplanev1.ScheduleSpec)) *agentplanev1.PutScheduleRequest {
	req := &agentplanev1.PutScheduleRequest{Name: name, Id: w.spec("all").GetCommandId(), Spec: &agentplanev1.ScheduleSpec{
		Command: &agentplanev1.CommandSpec{Selector: "all", Argv: []string{"uptime", "-p"}, RunTimeout: int64(time.Minute)},
		Cron:    "0 3 * * *", TimeZone: "Europe/Vienna",
	}}
	if edit != nil {
		edit(req.Spec)
	}
	return req
}

func (w *world) putSchedule(name string, edit func(*agentplanev1.ScheduleSpec)) *agentplanev1.Schedule {
	w.t.Helper()
	r, err := w.Schedules.PutSchedule(w.t.Context(), w.putRequest(name, edit))
	if err != nil {
		w.t.Fatal(err)
	}
	return r.GetSchedule()
}

func TestScheduleIsMadeOnceAndChangedByItsVersion(t *testing.T) {
	w := fleetWorld(t)
	made := w.putSchedule("nightly", nil)
	if made.GetState() != "active" || made.GetSummary() != "uptime -p" || made.GetCreatedBy() != "alice" || made.GetSpec().GetTtl() != int64(defaultScheduledTTL) ||
		made.GetSpec().GetOverlap() != agentplanev1.Overlap_OVERLAP_SKIP || !time.Unix(0, made.GetNextAt()).Equal(time.Date(2026, 11, 21, 2, 0, 0, 0, time.UTC)) {
		t.Fatalf("made %v", made)
	}
	again, err := w.Schedules.PutSchedule(t.Context(), w.putRequest("nightly", nil))
	if err != nil || !again.GetRepeated() || again.GetSchedule().GetVersion() != made.GetVersion() {
		t.Fatalf("again: %v, %v", again, err)
	}
	other := w.putRequest("nightly", func(s *agentplanev1.ScheduleSpec) { s.Cron = "0 4 * * *" })
	_, err = w.Schedules.PutSchedule(t.Context(), other)
	wantRefusal(t, err, codes.AlreadyExists, "schedule_exists")
	other.ExpectedVersion = made.GetVersion() + 1
	_, err = w.Schedules.PutSchedule(t.Context(), other)
	wantRefusal(t, err, codes.Aborted, "schedule_moved")
	other.ExpectedVersion = made.GetVersion()
	r, err := w.Schedules.PutSchedule(t.Context(), other)
	if err != nil || r.GetSchedule().GetSpec().GetCron() != "0 4 * * *" || r.GetSchedule().GetChangedBy() != "alice" {
		t.Fatalf("changed: %v, %v", r, err)
	}
	next, err := w.Schedules.NextSlots(t.Context(), &agentplanev1.NextSlotsRequest{Name: "nightly", Count: 3})
	if err != nil || len(next.GetSlots()) != 3 || !time.Unix(0, next.GetSlots()[2]).Equal(time.Date(2026, 11, 23, 3, 0, 0, 0, time.UTC)) {
		t.Fatalf("next: %v, %v", next, err)
	}
	for range 2 {
		if p, err := w.Schedules.PauseSchedule(t.Context(), &agentplanev1.PauseScheduleRequest{Name: "nightly"}); err != nil || p.GetSchedule().GetState() != "paused" || p.GetSchedule().GetNextAt() != 0 {
			t.Fatalf("paused: %v, %v", p, err)
		}
	}
	for range 2 {
		if p, err := w.Schedules.ResumeSchedule(t.Context(), &agentplanev1.ResumeScheduleRequest{Name: "nightly"}); err != nil || p.GetSchedule().GetState() != "active" || p.GetSchedule().GetNextAt() == 0 {
			t.Fatalf("resumed: %v, %v", p, err)
		}
	}
	if l, err := w.Schedules.ListSchedules(t.Context(), &agentplanev1.ListSchedulesRequest{}); err != nil || len(l.GetSchedules()) != 1 || l.GetSchedules()[0].GetSpec().GetCommand() != nil {
		t.Fatalf("listed: %v, %v", l, err)
	}
	if _, err := w.Schedules.DeleteSchedule(t.Context(), &agentplanev1.DeleteScheduleRequest{Name: "nightly"}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Schedules.DeleteSchedule(t.Context(), &agentplanev1.DeleteScheduleRequest{Name: "nightly"}); err != nil {
		t.Errorf("sent again: %v", err)
	}
	_, err = w.Schedules.GetSchedule(t.Context(), &agentplanev1.GetScheduleRequest{Name: "nightly"})
	wantRefusal(t, err, codes.NotFound, "no_schedule")
}

// What says nothing waits as long as a command of agentctl that says nothing.
func TestScheduleTakesTheDefaultOfACommand(t *testing.T) {
	for name, c := range map[string]struct {
		waves []*agentplanev1.WaveSpec
		want  time.Duration
	}{
		"all at once":   {nil, 5 * time.Minute},
		"one wave":      {[]*agentplanev1.WaveSpec{{BasisPoints: wave.Whole}}, 5 * time.Minute},
		"several waves": {[]*agentplanev1.WaveSpec{{Count: 1}}, 24 * time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			made := fleetWorld(t).putSchedule("nightly", func(s *agentplanev1.ScheduleSpec) {
				if c.waves != nil {
					s.Command.Rollout = &agentplanev1.RolloutSpec{Waves: c.waves}
				}
			})
			if got := time.Duration(made.GetSpec().GetTtl()); got != c.want {
				t.Errorf("its commands may wait for %v, want %v", got, c.want)
			}
		})
	}
}

func TestScheduleRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		edit   func(*agentplanev1.ScheduleSpec)
		reason string
	}{
		"nothing asked":            {func(s *agentplanev1.ScheduleSpec) { s.Command = nil }, "no_program"},
		"no program":               {func(s *agentplanev1.ScheduleSpec) { s.Command.Argv = nil }, "no_program"},
		"nobody meant":             {func(s *agentplanev1.ScheduleSpec) { s.Command.Selector = "" }, "no_target"},
		"a selector with a slip":   {func(s *agentplanev1.ScheduleSpec) { s.Command.Selector = "label.env = 1" }, "bad_selector"},
		"a time of its own":        {func(s *agentplanev1.ScheduleSpec) { s.Command.NotAfter = 1 }, "bad_schedule"},
		"an id of its own":         {func(s *agentplanev1.ScheduleSpec) { s.Command.CommandId = "x" }, "bad_schedule"},
		"no time":                  {func(s *agentplanev1.ScheduleSpec) { s.Cron = "" }, "time"},
		"two times":                {func(s *agentplanev1.ScheduleSpec) { s.At = 1 }, "time"},
		"four fields":              {func(s *agentplanev1.ScheduleSpec) { s.Cron = "0 3 * *" }, "time"},
		"an unknown zone":          {func(s *agentplanev1.ScheduleSpec) { s.TimeZone = "Moon/Tycho" }, "time"},
		"a month to start":         {func(s *agentplanev1.ScheduleSpec) { s.Ttl = int64(31 * 24 * time.Hour) }, "ttl"},
		"a splay of two days":      {func(s *agentplanev1.ScheduleSpec) { s.Command.Splay = int64(48 * time.Hour) }, "splay"},
		"an overlap of the future": {func(s *agentplanev1.ScheduleSpec) { s.Overlap = 9 }, "overlap"},
		"too much": {func(s *agentplanev1.ScheduleSpec) {
			s.Command.Argv = []string{strings.Repeat("x", fsm.MaxScheduleBytes)}
		}, "too_large"},
	} {
		t.Run(name, func(t *testing.T) {
			w := fleetWorld(t)
			_, err := w.Schedules.PutSchedule(t.Context(), w.putRequest("s", c.edit))
			wantRefusal(t, err, codes.InvalidArgument, c.reason)
		})
	}
	w := fleetWorld(t)
	_, err := w.Schedules.PutSchedule(t.Context(), w.putRequest("Nightly Backup", nil))
	wantRefusal(t, err, codes.InvalidArgument, "name")
	_, err = w.Schedules.PutSchedule(t.Context(), w.putRequest("past", func(s *agentplanev1.ScheduleSpec) { s.Cron, s.At = "", w.now.Add(-time.Minute).UnixNano() }))
	wantRefusal(t, err, codes.FailedPrecondition, "past")
	for name, call := range map[string]func(context.Context) error{
		"get": func(ctx context.Context) error {
			_, err := w.Schedules.GetSchedule(ctx, &agentplanev1.GetScheduleRequest{Name: "x"})
			return err
		},
		"pause": func(ctx context.Context) error {
			_, err := w.Schedules.PauseSchedule(ctx, &agentplanev1.PauseScheduleRequest{Name: "x"})
			return err
		},
		"resume": func(ctx context.Context) error {
			_, err := w.Schedules.ResumeSchedule(ctx, &agentplanev1.ResumeScheduleRequest{Name: "x"})
			return err
		},
		"run": func(ctx context.Context) error {
			_, err := w.Schedules.RunSchedule(ctx, &agentplanev1.RunScheduleRequest{Name: "x"})
			return err
		},
		"next": func(ctx context.Context) error {
			_, err := w.Schedules.NextSlots(ctx, &agentplanev1.NextSlotsRequest{Name: "x"})
			return err
		},
	} {
		t.Run(name, func(t *testing.T) { wantRefusal(t, call(t.Context()), codes.NotFound, "no_schedule") })
	}
}

// What a firing proposes is what its operator would have submitted at that moment.
func TestFiringIsASubmissionOfTheMoment(t *testing.T) {
	w := fleetWorld(t)
	w.putSchedule("nightly", func(s *agentplanev1.ScheduleSpec) {
		s.Command.Selector, s.Command.Splay, s.Command.QueueOffline, s.Ttl = `label.env == "prod"`, int64(time.Hour), true, int64(10*time.Minute)
	})
	w.agent("a5", "web-5", true, label("env", "prod")) // comes later, and is meant
	row, _ := w.m.View().Schedule("nightly")
	id, now := w.spec("all").GetCommandId(), w.now.UnixNano()
	m, _, err := w.Schedules.PlanScheduled(w.m.View(), row, id, now)
	if err != nil {
		t.Fatal(err)
	}
	sub, err := decodeSubmission(m.GetEnvelope())
	if err != nil {
		t.Fatal(err)
	}
	want := w.spec(`label.env == "prod"`)
	want.KillGrace, want.Delivery = 0, 0
	want.CommandId, want.NotAfter, want.Argv, want.RunTimeout, want.Splay, want.QueueOffline = id, now+int64(70*time.Minute), []string{"uptime", "-p"}, int64(time.Minute), int64(time.Hour), true
	if !proto.Equal(sub.spec, want) {
		t.Errorf("spec %v, want %v", sub.spec, want)
	}
	if len(m.GetAgentOrdinals()) != 3 || m.GetSubmittedBy() != "schedule nightly" || m.GetSplay() != int64(time.Hour) || string(m.GetDigest()) != string(sub.digest) || m.GetRelease() != 3 {
		t.Errorf("submission %v", m)
	}
	w.putSchedule("nobody", func(s *agentplanev1.ScheduleSpec) { s.Command.Selector = `label.env == "moon"` })
	row, _ = w.m.View().Schedule("nobody")
	_, _, err = w.Schedules.PlanScheduled(w.m.View(), row, id, now)
	wantRefusal(t, err, codes.NotFound, fsm.NoTargets)
}

// Agents that a schedule names and that were removed since keep it from nothing, as long
// as one of them is left.
func TestFiringLeavesOutAgentsThatAreGone(t *testing.T) {
	w := fleetWorld(t)
	w.putSchedule("nightly", func(s *agentplanev1.ScheduleSpec) {
		s.Command.Selector, s.Command.Agents = "", []string{"a1", "web-2", "a3"}
	})
	row, _ := w.m.View().Schedule("nightly")
	remove := func(id string) {
		w.must(&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_RemoveAgent{RemoveAgent: &raftlogv1.RemoveAgent{AgentId: id}}})
	}
	remove("a2")
	remove("a3")
	m, gone, err := w.Schedules.PlanScheduled(w.m.View(), row, w.spec("all").GetCommandId(), w.now.UnixNano())
	if err != nil || len(m.GetAgentOrdinals()) != 1 || strings.Join(gone, " ") != "web-2 a3" {
		t.Fatalf("%v without %q, %v", m, gone, err)
	}
	if sub, err := decodeSubmission(m.GetEnvelope()); err != nil || strings.Join(sub.spec.GetAgents(), " ") != "a1" {
		t.Errorf("the command names %v, %v", sub, err)
	}
	r, err := w.Schedules.RunSchedule(t.Context(), &agentplanev1.RunScheduleRequest{Name: "nightly", CommandId: w.spec("all").GetCommandId()})
	if err != nil || r.GetCommand().GetTargets() != 1 || len(r.GetNotes()) != 1 || !strings.Contains(r.GetNotes()[0], "web-2, a3") {
		t.Errorf("by hand: %v, %v", r, err)
	}
	remove("a1")
	_, _, err = w.Schedules.PlanScheduled(w.m.View(), row, w.spec("all").GetCommandId(), w.now.UnixNano())
	wantRefusal(t, err, codes.NotFound, fsm.NoTargets)
}

func TestRunByHandIsDoneOnce(t *testing.T) {
	w := fleetWorld(t)
	w.putSchedule("nightly", nil)
	req := &agentplanev1.RunScheduleRequest{Name: "nightly", CommandId: w.spec("all").GetCommandId()}
	w.set(func() { w.afterErr = context.DeadlineExceeded })
	_, err := w.Schedules.RunSchedule(t.Context(), req)
	wantRefusal(t, err, codes.Unavailable, "timed_out")
	w.set(func() { w.afterErr = nil })
	w.pass(time.Second)
	r, err := w.Schedules.RunSchedule(t.Context(), req)
	if err != nil || !r.GetRepeated() || r.GetCommand().GetSchedule() != "nightly" || r.GetCommand().GetSubmittedBy() != "alice" {
		t.Fatalf("again: %v, %v", r, err)
	}
	got, err := w.Schedules.GetSchedule(t.Context(), &agentplanev1.GetScheduleRequest{Name: "nightly"})
	if f := got.GetSchedule().GetFirings(); err != nil || len(f) != 1 || f[0].GetRunBy() != "alice" || f[0].GetCommandState() != "ACTIVE" || f[0].GetCounts()["released"] != 3 {
		t.Fatalf("firings %v, %v", f, err)
	}
	_, err = w.Commands.Submit(t.Context(), &agentplanev1.SubmitRequest{Envelope: envelope(t, w.spec("all"))})
	if err != nil {
		t.Fatal(err)
	}
	spec := w.spec("all")
	w.submit(spec)
	_, err = w.Schedules.RunSchedule(t.Context(), &agentplanev1.RunScheduleRequest{Name: "nightly", CommandId: spec.GetCommandId()})
	wantRefusal(t, err, codes.AlreadyExists, "command_exists")
}

func TestSplayIsShown(t *testing.T) {
	w := fleetWorld(t)
	spec := w.spec(`name == "web-1"`)
	spec.Splay = int64(10 * time.Minute)
	_, err := w.Commands.Submit(t.Context(), &agentplanev1.SubmitRequest{Envelope: envelope(t, spec)})
	wantRefusal(t, err, codes.InvalidArgument, "splay") // it would expire within it
	spec.NotAfter += spec.Splay
	cmd := w.submit(spec)
	r, err := w.Commands.GetCommand(t.Context(), &agentplanev1.GetCommandRequest{Id: cmd.GetId(), WithInvocations: true})
	if err != nil {
		t.Fatal(err)
	}
	a, _ := w.m.View().Agent("a1")
	want := r.GetCommand().GetSubmittedAt() + fsm.Delay(cmd.GetId(), "a1", spec.Splay)
	if i := r.GetCommand().GetInvocations()[0]; i.GetStartsAt() != want || r.GetCommand().GetSplay() != spec.Splay {
		t.Errorf("starts at %d, want %d: %v", i.GetStartsAt(), want, i)
	}
	claim := &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_ClaimAttempt{ClaimAttempt: &raftlogv1.ClaimAttempt{
		InvocationId: fsm.InvocationID(cmd.GetId(), a.GetOrdinal()), Attempt: 1, AgentId: "a1", SessionEpoch: w.sessionEpoch("a1"), NodeId: "n1",
	}}}
	if o := w.apply(w.epoch, claim)[0]; o.GetReason() != "not_yet" {
		t.Errorf("an early claim: %v", o)
	}
	w.pass(time.Duration(want - w.m.Now()))
	w.must(claim)
}

func (w *world) sessionEpoch(agent string) uint64 {
	s, _ := w.m.View().Session(agent)
	return s.GetEpoch()
}

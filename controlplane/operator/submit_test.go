package operator

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/agentplane/agentplane/controlplane/consensus"
	"github.com/agentplane/agentplane/fsm"
	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
	"github.com/agentplane/agentplane/proto/wave"
)

func fleetWorld(t testing.TB, edit ...func(*Options)) *world {
	w := newWorld(t, edit...)
	w.agent("a1", "web-1", true, label("env", "prod"))
	w.agent("a2", "web-2", false, label("env", "prod"))
	w.agent("a3", "twin", true, label("env", "test"))
	w.agent("a4", "twin", true, label("env", "test"))
	return w
}

func TestSubmitFreezesWhoIsMeant(t *testing.T) {
	for _, c := range []struct {
		name string
		edit func(*agentplanev1.CommandSpec)
		want map[string]string // agent: state(reason)
	}{
		{"by label, the offline one is skipped", func(s *agentplanev1.CommandSpec) { s.Selector = `label.env == "prod"` }, map[string]string{"a1": "RELEASED", "a2": "SKIPPED offline"}},
		{"by label, offline ones wait", func(s *agentplanev1.CommandSpec) { s.Selector = `label.env == "prod"`; s.QueueOffline = true }, map[string]string{"a1": "RELEASED", "a2": "RELEASED"}},
		{"by health", func(s *agentplanev1.CommandSpec) { s.Selector = `health == "ONLINE" && name startsWith "web"` }, map[string]string{"a1": "RELEASED"}},
		{"by id and name, one of them twice", func(s *agentplanev1.CommandSpec) { s.Selector = ""; s.Agents = []string{"web-1", "a3", "a1"} }, map[string]string{"a1": "RELEASED", "a3": "RELEASED"}},
		{"all", func(s *agentplanev1.CommandSpec) {}, map[string]string{"a1": "RELEASED", "a2": "SKIPPED offline", "a3": "RELEASED", "a4": "RELEASED"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := fleetWorld(t)
			spec := w.spec("all")
			c.edit(spec)
			cmd := w.submit(spec)
			got := map[string]string{}
			for i := range w.m.View().Invocations(cmd.GetId()) {
				got[i.GetAgentId()] = strings.TrimSpace(agentplanev1.AttemptState(i.GetState()).ShortName() + " " + i.GetReason())
			}
			if fmt.Sprint(got) != fmt.Sprint(c.want) {
				t.Fatalf("targets %v, want %v", got, c.want)
			}
			stored, _ := w.m.View().Envelope(cmd.GetId())
			if !bytes.Equal(stored, envelope(t, spec)) {
				t.Fatal("the envelope is not stored as it came")
			}
			if cmd.GetSubmittedBy() != "alice" || cmd.GetSummary() != "uptime -p" || cmd.GetNotAfter() != spec.NotAfter || cmd.GetTargets() != uint32(len(c.want)) {
				t.Fatalf("command %v", cmd)
			}
		})
	}
}

func TestSubmitRefuses(t *testing.T) {
	minute := int64(time.Minute)
	for _, c := range []struct {
		name   string
		edit   func(*world, *agentplanev1.CommandSpec)
		code   codes.Code
		reason string
	}{
		{"another cluster", func(_ *world, s *agentplanev1.CommandSpec) { s.ClusterId = "c2" }, codes.FailedPrecondition, "wrong_cluster"},
		{"another incarnation", func(_ *world, s *agentplanev1.CommandSpec) { s.Incarnation.Number = 2 }, codes.FailedPrecondition, "other_incarnation"},
		{"the same incarnation number with another id", func(_ *world, s *agentplanev1.CommandSpec) { s.Incarnation.Id = []byte("fedcba9876543210") }, codes.FailedPrecondition, "other_incarnation"},
		{"no incarnation", func(_ *world, s *agentplanev1.CommandSpec) { s.Incarnation = nil }, codes.FailedPrecondition, "other_incarnation"},
		{"neither selector nor agents", func(_ *world, s *agentplanev1.CommandSpec) { s.Selector = "" }, codes.InvalidArgument, "no_target"},
		{"selector and agents", func(_ *world, s *agentplanev1.CommandSpec) { s.Agents = []string{"a1"} }, codes.InvalidArgument, "two_targets"},
		{"too many agents", func(_ *world, s *agentplanev1.CommandSpec) {
			s.Selector, s.Agents = "", make([]string, fsm.MaxTargets+1)
		}, codes.InvalidArgument, "too_many"},
		{"neither program nor script", func(_ *world, s *agentplanev1.CommandSpec) { s.Argv = nil }, codes.InvalidArgument, "no_program"},
		{"program and script", func(_ *world, s *agentplanev1.CommandSpec) { s.Script = []byte("true") }, codes.InvalidArgument, "two_programs"},
		{"a program without a name", func(_ *world, s *agentplanev1.CommandSpec) { s.Argv = []string{""} }, codes.InvalidArgument, "argv"},
		{"a zero byte", func(_ *world, s *agentplanev1.CommandSpec) { s.Argv = []string{"a", "b\x00c"} }, codes.InvalidArgument, "argv"},
		{"too many arguments", func(_ *world, s *agentplanev1.CommandSpec) { s.Argv = slices.Repeat([]string{"a"}, MaxArgs+1) }, codes.InvalidArgument, "argv"},
		{"an argument that the kernel would refuse", func(_ *world, s *agentplanev1.CommandSpec) {
			s.Argv = []string{"a", strings.Repeat("b", MaxArgBytes+1)}
		}, codes.InvalidArgument, "argv"},
		{"an envelope that is too large", func(_ *world, s *agentplanev1.CommandSpec) {
			s.Argv, s.Script = nil, make([]byte, MaxEnvelopeBytes)
		}, codes.InvalidArgument, "bad_envelope"},
		{"a negative run timeout", func(_ *world, s *agentplanev1.CommandSpec) { s.RunTimeout = -1 }, codes.InvalidArgument, "run_timeout"},
		{"a run timeout of a year", func(_ *world, s *agentplanev1.CommandSpec) { s.RunTimeout = int64(365 * 24 * time.Hour) }, codes.InvalidArgument, "run_timeout"},
		{"a negative kill grace", func(_ *world, s *agentplanev1.CommandSpec) { s.KillGrace = -1 }, codes.InvalidArgument, "kill_grace"},
		{"a kill grace of a day", func(_ *world, s *agentplanev1.CommandSpec) { s.KillGrace = int64(24 * time.Hour) }, codes.InvalidArgument, "kill_grace"},
		{"no end", func(_ *world, s *agentplanev1.CommandSpec) { s.NotAfter = 0 }, codes.InvalidArgument, "no_end"},
		{"an end in a year", func(w *world, s *agentplanev1.CommandSpec) { s.NotAfter = w.now.AddDate(1, 0, 0).UnixNano() }, codes.InvalidArgument, "not_after"},
		{"the largest end there is", func(w *world, s *agentplanev1.CommandSpec) { s.NotAfter = 1<<63 - 1 }, codes.InvalidArgument, "not_after"},
		{"an end that is over", func(w *world, s *agentplanev1.CommandSpec) { s.NotAfter = w.now.UnixNano() - minute }, codes.FailedPrecondition, "expired"},
		{"a lock without a name", func(w *world, s *agentplanev1.CommandSpec) { s.Locks = []string{""} }, codes.InvalidArgument, "lock_name"},
		{"a priority above the highest", func(w *world, s *agentplanev1.CommandSpec) { s.Priority = proto.Uint32(101) }, codes.InvalidArgument, "priority"},
		{"a key to supersede that is none", func(w *world, s *agentplanev1.CommandSpec) { s.Supersede = "a b" }, codes.InvalidArgument, "supersede"},
		{"too many locks", func(w *world, s *agentplanev1.CommandSpec) { s.Locks = make([]string, 9) }, codes.InvalidArgument, "locks"},
		{"a beginning behind the end", func(w *world, s *agentplanev1.CommandSpec) { s.NotBefore = s.NotAfter }, codes.InvalidArgument, "not_before"},
		{"a delivery class of the future", func(_ *world, s *agentplanev1.CommandSpec) { s.Delivery = 9 }, codes.InvalidArgument, "delivery"},
		{"a sandbox profile", func(_ *world, s *agentplanev1.CommandSpec) { s.Profile = "strict" }, codes.InvalidArgument, "profile"},
		{"a trace parent with a line break", func(_ *world, s *agentplanev1.CommandSpec) { s.Traceparent = "00-a\nLD_PRELOAD=x" }, codes.InvalidArgument, "traceparent"},
		{"an id that is no UUIDv7", func(_ *world, s *agentplanev1.CommandSpec) { s.CommandId = "cmd-1" }, codes.InvalidArgument, "id"},
		{"an id of the future", func(w *world, s *agentplanev1.CommandSpec) {
			w.now = w.now.Add(time.Hour)
			ahead := w.spec("all").CommandId
			w.now = w.now.Add(-time.Hour)
			s.CommandId = ahead
		}, codes.InvalidArgument, "id_ahead"},
		{"an undo without a program", undoOf(func(u *agentplanev1.UndoSpec) { u.Argv = nil }), codes.InvalidArgument, "no_undo_program"},
		{"an undo with two", undoOf(func(u *agentplanev1.UndoSpec) { u.Script = []byte("x") }), codes.InvalidArgument, "two_undos"},
		{"an undo without a name", undoOf(func(u *agentplanev1.UndoSpec) { u.Argv = []string{""} }), codes.InvalidArgument, "undo"},
		{"an undo with a zero byte", undoOf(func(u *agentplanev1.UndoSpec) { u.Argv = []string{"x", "\x00"} }), codes.InvalidArgument, "argv"},
		{"an undo that waits for nobody", undoOf(func(u *agentplanev1.UndoSpec) { u.Within = 0 }), codes.InvalidArgument, "undo_within"},
		{"an undo in a moment", undoOf(func(u *agentplanev1.UndoSpec) { u.Within = int64(10*time.Second) - 1 }), codes.InvalidArgument, "undo_within"},
		{"an undo the day after", undoOf(func(u *agentplanev1.UndoSpec) { u.Within = int64(24*time.Hour) + 1 }), codes.InvalidArgument, "undo_within"},
		{"an undo of a year", undoOf(func(u *agentplanev1.UndoSpec) { u.RunTimeout = int64(365 * 24 * time.Hour) }), codes.InvalidArgument, "undo_timeout"},
		{"an undo by the weather", undoOf(func(u *agentplanev1.UndoSpec) { u.By = 9 }), codes.InvalidArgument, "undo_by"},
		{"an undo of what may start again", func(_ *world, s *agentplanev1.CommandSpec) {
			undoOf(nil)(nil, s)
			s.Delivery = agentplanev1.Delivery_DELIVERY_IDEMPOTENT
		}, codes.InvalidArgument, "undo_delivery"},
		{"waves that go back", rolloutOf(func(r *agentplanev1.RolloutSpec) { r.Waves = append(r.Waves, &agentplanev1.WaveSpec{Count: 1}) }), codes.InvalidArgument, "waves"},
		{"a wave that is two things", rolloutOf(func(r *agentplanev1.RolloutSpec) { r.Waves[0].Label = &agentplanev1.Label{Name: "x"} }), codes.InvalidArgument, "waves"},
		{"too many waves", rolloutOf(func(r *agentplanev1.RolloutSpec) {
			for n := range uint32(wave.MaxWaves) {
				r.Waves = append(r.Waves, &agentplanev1.WaveSpec{Count: n + 2})
			}
		}), codes.InvalidArgument, "waves"},
		{"a soak of a year", rolloutOf(func(r *agentplanev1.RolloutSpec) { r.Soak = int64(365 * 24 * time.Hour) }), codes.InvalidArgument, "soak"},
		{"a gate with nothing behind it", rolloutOf(func(r *agentplanev1.RolloutSpec) { r.Waves, r.GateHealth = nil, true }), codes.InvalidArgument, "gate"},
		{"a probe without a program", rolloutOf(func(r *agentplanev1.RolloutSpec) { r.Probe = &agentplanev1.ProbeSpec{} }), codes.InvalidArgument, "no_probe"},
		{"a probe with two", rolloutOf(func(r *agentplanev1.RolloutSpec) {
			r.Probe = &agentplanev1.ProbeSpec{Argv: []string{"x"}, Script: []byte("x")}
		}), codes.InvalidArgument, "two_probes"},
		{"a probe with a zero byte", rolloutOf(func(r *agentplanev1.RolloutSpec) { r.Probe = &agentplanev1.ProbeSpec{Argv: []string{"x", "\x00"}} }), codes.InvalidArgument, "argv"},
		{"a probe of a year", rolloutOf(func(r *agentplanev1.RolloutSpec) {
			r.Probe = &agentplanev1.ProbeSpec{Argv: []string{"x"}, Timeout: int64(365 * 24 * time.Hour)}
		}), codes.InvalidArgument, "probe_timeout"},
		{"strict about nothing", rolloutOf(func(r *agentplanev1.RolloutSpec) { r.Strict, r.MaxFailures = true, &agentplanev1.FailureLimit{} }), codes.InvalidArgument, "strict"},
		{"strict about what comes to nothing", rolloutOf(func(r *agentplanev1.RolloutSpec) {
			r.Strict, r.MaxFailures = true, &agentplanev1.FailureLimit{BasisPoints: 10}
		}), codes.InvalidArgument, "strict"},
		{"two limits", rolloutOf(func(r *agentplanev1.RolloutSpec) {
			r.MaxFailures = &agentplanev1.FailureLimit{Count: 1, BasisPoints: 1}
		}), codes.InvalidArgument, "max_failures"},
		{"an order of the future", rolloutOf(func(r *agentplanev1.RolloutSpec) { r.Order = "alphabet" }), codes.InvalidArgument, "order"},
		{"an order by no label", rolloutOf(func(r *agentplanev1.RolloutSpec) { r.Order = "label:" }), codes.InvalidArgument, "order"},
		{"a breach of the future", rolloutOf(func(r *agentplanev1.RolloutSpec) { r.OnBreach = 7 }), codes.InvalidArgument, "on_breach"},
		{"a selector that does not parse", func(_ *world, s *agentplanev1.CommandSpec) { s.Selector = "lable.env == 3" }, codes.InvalidArgument, "bad_selector"},
		{"a selector that means nobody", func(_ *world, s *agentplanev1.CommandSpec) { s.Selector = `label.env == "moon"` }, codes.NotFound, "no_targets"},
		{"an agent that is not there", func(_ *world, s *agentplanev1.CommandSpec) { s.Selector, s.Agents = "", []string{"a9"} }, codes.NotFound, "no_agent"},
		{"a name that two agents have", func(_ *world, s *agentplanev1.CommandSpec) { s.Selector, s.Agents = "", []string{"twin"} }, codes.InvalidArgument, "ambiguous_name"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := fleetWorld(t)
			spec := w.spec("all")
			c.edit(w, spec)
			before, _ := w.m.Published()
			_, err := w.Commands.Submit(t.Context(), &agentplanev1.SubmitRequest{Envelope: envelope(t, spec)})
			wantRefusal(t, err, c.code, c.reason)
			byState := strings.HasPrefix(c.reason, "id") || c.reason == "strict"
			if after, _ := w.m.Published(); w.m.View().CommandCount() != 0 || c.code == codes.InvalidArgument && !byState && after != before {
				t.Fatalf("it left something behind: %d commands, index %d then %d", w.m.View().CommandCount(), before, after)
			}
		})
	}
}

func TestAmbiguousNameNamesTheIDs(t *testing.T) {
	w := fleetWorld(t)
	_, err := w.Fleet.GetAgent(t.Context(), &agentplanev1.GetAgentRequest{Agent: "twin"})
	wantRefusal(t, err, codes.InvalidArgument, "ambiguous_name")
	if !strings.Contains(err.Error(), "a3, a4") {
		t.Fatalf("%v does not name a3 and a4", err)
	}
}

func TestSubmitRefusesUnknownFieldsAtAnyDepth(t *testing.T) {
	w := fleetWorld(t)
	extra := protowire.AppendVarint(protowire.AppendTag(nil, 900, protowire.VarintType), 1)
	plain := w.spec("all")
	specBytes, err := proto.Marshal(plain)
	if err != nil {
		t.Fatal(err)
	}
	inIncarnation := proto.CloneOf(plain)
	inIncarnation.Incarnation.ProtoReflect().SetUnknown(extra)
	inSignature, err := proto.Marshal(&agentplanev1.Envelope{Spec: specBytes, Signatures: []*agentplanev1.Signature{{KeyId: "k"}}})
	if err != nil {
		t.Fatal(err)
	}
	var signed agentplanev1.Envelope
	if err := proto.Unmarshal(inSignature, &signed); err != nil {
		t.Fatal(err)
	}
	signed.Signatures[0].ProtoReflect().SetUnknown(extra)
	inSignature, err = proto.Marshal(&signed)
	if err != nil {
		t.Fatal(err)
	}
	wrap := func(spec []byte) []byte {
		b, err := proto.Marshal(&agentplanev1.Envelope{Spec: spec})
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	for name, b := range map[string][]byte{
		"in the envelope":    append(wrap(specBytes), extra...),
		"in the spec":        wrap(append(slices.Clone(specBytes), extra...)),
		"in the incarnation": envelope(t, inIncarnation),
		"in a signature":     inSignature,
		"no protobuf at all": []byte("\xff\xff\xff"),
		"nothing":            nil,
		"no spec":            wrap(nil),
	} {
		t.Run(name, func(t *testing.T) {
			_, err := w.Commands.Submit(t.Context(), &agentplanev1.SubmitRequest{Envelope: b})
			wantRefusal(t, err, codes.InvalidArgument, "bad_envelope")
		})
	}
}

func TestARepeatedSubmissionAnswersWhatStands(t *testing.T) {
	w := fleetWorld(t)
	spec := w.spec(`label.env == "prod"`)
	first := w.submit(spec)
	// Since then nobody matches, its time is over, and the agents are gone.
	w.must(&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_RemoveAgent{RemoveAgent: &raftlogv1.RemoveAgent{AgentId: "a1"}}})
	w.must(&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_RemoveAgent{RemoveAgent: &raftlogv1.RemoveAgent{AgentId: "a2"}}})
	w.pass(time.Hour)
	w.proposeErr = consensus.ErrNotLeader // and this node does not even lead
	r, err := w.Commands.Submit(t.Context(), &agentplanev1.SubmitRequest{Envelope: envelope(t, spec)})
	if err != nil || !r.GetRepeated() || r.GetCommand().GetSubmittedIndex() != first.GetSubmittedIndex() || r.GetCommand().GetTargets() != 2 {
		t.Fatalf("repeated: %v, %v", r, err)
	}
	spec.Argv = []string{"reboot"}
	_, err = w.Commands.Submit(t.Context(), &agentplanev1.SubmitRequest{Envelope: envelope(t, spec)})
	wantRefusal(t, err, codes.AlreadyExists, "command_exists")
}

func TestASubmissionWhoseOutcomeWasLostStandsOnce(t *testing.T) {
	w := fleetWorld(t)
	spec := w.spec("all")
	w.afterErr = consensus.ErrUnknown
	_, err := w.Commands.Submit(t.Context(), &agentplanev1.SubmitRequest{Envelope: envelope(t, spec)})
	wantRefusal(t, err, codes.Unavailable, "outcome_unknown")
	w.afterErr = nil
	r, err := w.Commands.Submit(t.Context(), &agentplanev1.SubmitRequest{Envelope: envelope(t, spec)})
	if err != nil || !r.GetRepeated() || w.m.View().CommandCount() != 1 {
		t.Fatalf("%v, %v, %d commands", r, err, w.m.View().CommandCount())
	}
}

func TestSubmitPassesLimitsOn(t *testing.T) {
	w := fleetWorld(t, func(o *Options) { o.QueueMax, o.MaxAttempts = 1, 5 })
	spec := w.spec("all")
	spec.RunTimeout, spec.Delivery = 0, agentplanev1.Delivery_DELIVERY_IDEMPOTENT
	id := w.submit(spec).GetId()
	row, _ := w.m.View().Command(id)
	if row.GetRunTimeout() != int64(10*time.Minute) || row.GetMaxAttempts() != 5 || row.GetKillGrace() != int64(time.Second) {
		t.Fatalf("row %v", row)
	}
	second := w.submit(w.spec(`id == "a1"`))
	if second.GetCounts()["skipped"] != 1 {
		t.Fatalf("counts %v: the queue bound was not passed on", second.GetCounts())
	}
	row, _ = w.m.View().Command(second.GetId())
	if row.GetMaxAttempts() != 1 {
		t.Fatalf("at most once has %d attempts", row.GetMaxAttempts())
	}
}

func TestSubmitPassesOnWhatOrdersTheQueue(t *testing.T) {
	w := fleetWorld(t)
	spec := w.spec("all")
	spec.Locks, spec.Exclusive, spec.Priority, spec.Supersede = []string{"deploy", "apt", "deploy"}, true, proto.Uint32(0), "k"
	row := w.submit(spec)
	if !slices.Equal(row.GetLocks(), []string{"apt", "deploy"}) || !row.GetExclusive() || row.GetPriority() != 0 || row.GetSupersede() != "k" {
		t.Fatalf("row %v", row)
	}
	if row := w.submit(w.spec("all")); row.GetPriority() != fsm.NormalPriority {
		t.Fatalf("the priority of a command that names none is %d", row.GetPriority())
	}
}

func TestTheLargestSubmissionFitsAMutation(t *testing.T) {
	w := newWorld(t)
	spec := w.spec("all")
	spec.Selector = "id == \"" + strings.Repeat("x", 4000) + "\""
	spec.Argv, spec.Script = nil, make([]byte, MaxEnvelopeBytes-6000)
	sub, err := decodeSubmission(envelope(t, spec))
	if err != nil {
		t.Fatal(err)
	}
	ordinals := make([]uint32, fsm.MaxTargets)
	for i := range ordinals {
		ordinals[i] = 1<<32 - 1 - fsm.MaxTargets + uint32(i)
	}
	m, _ := w.Commands.submitOf(w.m.View(), sub, ordinals, "ann")
	if n := proto.Size(&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_SubmitCommand{SubmitCommand: m}}); n > raftlogv1.MaxMutationBytes {
		t.Fatalf("the mutation has %d bytes, above %d", n, raftlogv1.MaxMutationBytes)
	}
}

func TestSummaryIsOneShortLine(t *testing.T) {
	for _, c := range []struct {
		spec *agentplanev1.CommandSpec
		want string
	}{
		{&agentplanev1.CommandSpec{Argv: []string{"sh", "-c", "echo it's", ""}}, `sh -c 'echo it'\''s' ''`},
		{&agentplanev1.CommandSpec{Argv: []string{"printf", "a\nb\x1b[2J"}}, `printf 'a b [2J'`},
		{&agentplanev1.CommandSpec{Script: []byte("#!/bin/sh\n\n  apt-get update\nmore")}, "script: apt-get update"},
		{&agentplanev1.CommandSpec{Script: []byte("\xff\xfe")}, "script: \uFFFD"},
		{&agentplanev1.CommandSpec{Argv: []string{strings.Repeat("ä", 200)}}, strings.Repeat("ä", 58) + "…"},
	} {
		if got := summary(c.spec); got != c.want {
			t.Errorf("summary is %q, want %q", got, c.want)
		}
	}
}

func FuzzDecodeSubmission(f *testing.F) {
	w := newWorld(f)
	for _, edit := range []func(*agentplanev1.CommandSpec){
		func(*agentplanev1.CommandSpec) {},
		func(s *agentplanev1.CommandSpec) { s.Argv, s.Script = nil, []byte("#!/bin/sh\ntrue\n") },
		func(s *agentplanev1.CommandSpec) { s.Selector, s.Agents = "", []string{"a", "b"} },
		func(s *agentplanev1.CommandSpec) { s.Argv = []string{"a\x00"} },
	} {
		spec := w.spec("all")
		edit(spec)
		f.Add(envelope(f, spec))
	}
	f.Add([]byte{})
	f.Add([]byte("\x0a\x00"))
	now := testStart.UnixNano()
	f.Fuzz(func(t *testing.T, b []byte) {
		sub, err := decodeSubmission(b)
		if err != nil {
			return
		}
		if len(b) > MaxEnvelopeBytes || !bytes.Equal(sub.envelope, b) || len(sub.digest) != 32 {
			t.Fatalf("%d bytes were read as %d with digest %x", len(b), len(sub.envelope), sub.digest)
		}
		if line := summary(sub.spec); len(line) > summaryBytes || strings.ContainsAny(line, "\n\r\x1b\x00") || !utf8.ValidString(line) {
			t.Fatalf("summary %q", line)
		}
		if check(sub.spec, now) != nil {
			return
		}
		s := sub.spec
		if (s.Selector == "") == (len(s.Agents) == 0) || (len(s.Argv) == 0) == (len(s.Script) == 0) || s.NotAfter <= 0 || s.RunTimeout < 0 || s.KillGrace < 0 {
			t.Fatalf("accepted %v", s)
		}
		for _, a := range s.Argv {
			if strings.Contains(a, "\x00") {
				t.Fatalf("accepted argument %q", a)
			}
		}
	})
}

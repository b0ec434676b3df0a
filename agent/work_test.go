package agent

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/agentplane/agentplane/agent/agenttest"
	"github.com/agentplane/agentplane/agent/journal"
	"github.com/agentplane/agentplane/configs"
	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/wave"
)

func TestKnownAttemptIsAnsweredFromTheJournal(t *testing.T) {
	c := agenttest.NewCluster(t, 1)
	h := newHost(t, c)
	id := h.ready()
	inv := c.Submit(id, c.Spec(h.mark("sleep 0.5")...))
	c.Redeliver(inv)
	c.Redeliver(inv)
	c.Wait(inv)
	n := len(c.Reports(inv))
	c.Redeliver(inv)
	c.Until("it is answered", func() bool { return len(c.Reports(inv)) > n })
	all := c.Reports(inv)
	if r := all[len(all)-1]; r.GetState() != succeeded || r.GetFence() != 1000 {
		t.Errorf("answered %v, want the result", r)
	}
	h.wantMarks(inv, 1)
}

func TestCancel(t *testing.T) {
	c := agenttest.NewCluster(t, 1)
	h := newHost(t, c, func(a *configs.Agent) { a.Slots = 1 })
	id := h.ready()

	inv := c.Submit(id, c.Spec(h.mark("sleep 60")...))
	c.WaitState(inv, running)
	// It runs before its first line has, which the cancel must not be quicker than.
	c.Until("the program has left its mark", func() bool { return h.marks(inv) == 1 })
	waiting := c.Submit(id, c.Spec(h.mark("")...))
	c.Cancel(id, waiting)
	if r := c.Wait(waiting); r.GetState() != canceled || r.GetFence() == 0 {
		t.Errorf("one that waits for a slot: %v", r)
	}
	c.Cancel(id, inv)
	c.Cancel(id, inv)
	if r := c.Wait(inv); r.GetState() != canceled || r.GetCancelTooLate() {
		t.Errorf("one that runs: %v", r)
	}

	done := c.Submit(id, c.Spec(h.mark("")...))
	c.Wait(done)
	c.Cancel(id, done)
	c.Until("too late is said", func() bool {
		all := c.Reports(done)
		last := all[len(all)-1]
		return last.GetCancelTooLate() && last.GetState() == succeeded
	})

	// The cancel comes before its delivery.
	spec := c.Spec(h.mark("")...)
	early := spec.GetCommandId() + ".1"
	c.Cancel(id, early)
	c.Submit(id, spec)
	if r := c.Wait(early); r.GetState() != canceled || r.GetFence() == 0 {
		t.Errorf("a delivery after its cancel: %v, want CANCELED under the fence of the delivery", r)
	}
	for inv, want := range map[string]int{inv: 1, waiting: 0, done: 1, early: 0} {
		h.wantMarks(inv, want)
	}
}

func TestUnknownAttemptIsLostAndNeverStarts(t *testing.T) {
	c := agenttest.NewCluster(t, 1)
	h := newHost(t, c)
	id := h.ready()
	spec := c.Spec(h.mark("")...)
	inv := spec.GetCommandId() + ".1"
	c.Ask(id, inv, 77)
	if r := c.Wait(inv); r.GetState() != lost || r.GetReason() != "unknown" || r.GetFence() != 77 {
		t.Errorf("report is %v", r)
	}
	c.Submit(id, spec)
	if r := c.Wait(inv); r.GetState() != lost {
		t.Errorf("a delivery after that was answered %v", r)
	}
	h.wantMarks(inv, 0)
}

func TestClaimsBeyondTheSlotsWait(t *testing.T) {
	c := agenttest.NewCluster(t, 1)
	h := newHost(t, c, func(a *configs.Agent) { a.Slots = 1 })
	id := h.ready()
	first := c.Submit(id, c.Spec(h.mark("sleep 0.4")...))
	second := c.Submit(id, c.Spec(h.mark("")...))
	third := c.Submit(id, c.Spec(h.mark("")...))
	if r := c.Wait(third); r.GetState() != rejected || r.GetReason() != "no_slot" {
		t.Errorf("the third of one slot: %v", r)
	}
	a, b := c.Wait(first), c.Wait(second)
	if a.GetState() != succeeded || b.GetState() != succeeded || b.GetStartedAt() < a.GetEndedAt() {
		t.Errorf("first %v\nsecond %v, want one after the other", a, b)
	}
}

func TestDeadJournalStartsNothing(t *testing.T) {
	c := agenttest.NewCluster(t, 1)
	h := newHost(t, c)
	id := h.ready()
	h.stop()

	// The journal dies under the agent: Close is as dead as a failed fsync.
	book := make(chan *book, 1)
	h.options = func(o *Options) { o.opened = func(l *life) { book <- l.book } }
	epoch := c.Agent(id).Epoch
	h.start()
	c.WaitReady(epoch)
	_ = (<-book).now().Close()
	inv := c.Submit(id, c.Spec(h.mark("")...))
	if r := c.Wait(inv); r.GetState() != rejected || r.GetReason() != "no_journal" {
		t.Errorf("report is %v", r)
	}
	c.Forget(inv)
	c.Redeliver(inv)
	if r := c.Wait(inv); r.GetState() != rejected {
		t.Errorf("sent again: %v", r)
	}
	h.wantMarks(inv, 0)
}

func TestLocalPolicyRefuses(t *testing.T) {
	c := agenttest.NewCluster(t, 1)
	h := newHost(t, c)
	h.options = func(o *Options) {
		o.Policy = func(s *agentplanev1.CommandSpec) string {
			if len(s.GetScript()) > 0 {
				return "no scripts on this host"
			}
			return ""
		}
	}
	id := h.ready()
	spec := c.Spec()
	spec.Script = []byte("echo hello")
	if r := c.Wait(c.Submit(id, spec)); r.GetState() != rejected || r.GetReason() != "policy" || r.GetDetail() != "no scripts on this host" {
		t.Errorf("report is %v", r)
	}
	if r := c.Wait(c.Submit(id, c.Spec(h.mark("")...))); r.GetState() != succeeded {
		t.Errorf("report is %v", r)
	}
}

func TestRefusalsAreTruthfulAndLast(t *testing.T) {
	c := agenttest.NewCluster(t, 1)
	h := newHost(t, c)
	id := h.ready()
	spec := c.Spec(h.mark("")...)
	spec.NotAfter = time.Now().Add(-time.Second).UnixNano()
	inv := c.Submit(id, spec)
	if r := c.Wait(inv); r.GetState() != rejected || r.GetReason() != "expired" {
		t.Errorf("report is %v", r)
	}
	h.stop()
	epoch := c.Agent(id).Epoch
	h.start()
	c.WaitReady(epoch)
	c.Forget(inv)
	c.Redeliver(inv)
	if r := c.Wait(inv); r.GetState() != rejected || r.GetReason() != "expired" {
		t.Errorf("after a restart: %v", r)
	}
	h.wantMarks(inv, 0)
}

func TestScriptAndVariables(t *testing.T) {
	c := agenttest.NewCluster(t, 1)
	h := newHost(t, c)
	id := h.ready()
	spec := c.Spec()
	spec.Script, spec.Traceparent = []byte("echo $AGENTPLANE_COMMAND_ID $AGENTPLANE_FENCE $AGENTPLANE_AGENT_ID $TRACEPARENT"), "00-x"
	r := c.Wait(c.Submit(id, spec))
	if want := spec.GetCommandId() + " 1000 " + id + " 00-x\n"; string(r.GetStdout().GetHead()) != want {
		t.Errorf("output %q, want %q", r.GetStdout().GetHead(), want)
	}
}

func TestSweepKeepsWhatIsNeeded(t *testing.T) {
	c := agenttest.NewCluster(t, 1)
	h := newHost(t, c)
	id := h.ready()
	inv := c.Submit(id, c.Spec(h.mark("")...))
	c.Wait(inv)
	h.stop()
	// What the journal does not know it has forgotten, or it was put back.
	h.orphan("gone.1@1", 31*24*time.Hour)
	h.orphan("fresh.1@1", 12*time.Hour)
	epoch := c.Agent(id).Epoch
	h.start()
	c.WaitReady(epoch)
	if _, err := os.Stat(filepath.Join(h.dir, attemptsDir, "gone.1@1")); !os.IsNotExist(err) {
		t.Errorf("the orphan is still there: %v", err)
	}
	for _, name := range []string{inv + "@1", "fresh.1@1"} {
		if _, err := os.Stat(filepath.Join(h.dir, attemptsDir, name)); err != nil {
			t.Errorf("a directory that is needed is gone: %v", err)
		}
	}
}

// orphan makes a directory of which the journal does not know.
func (h *host) orphan(name string, age time.Duration) {
	h.t.Helper()
	dir, then := filepath.Join(h.dir, attemptsDir, name), time.Now().Add(-age)
	if err := errors.Join(os.MkdirAll(dir, 0o700), os.Chtimes(dir, then, then)); err != nil {
		h.t.Fatal(err)
	}
}

// probeOf turns a delivery into that of a probe.
func probeOf(number uint32, change func(*agentplanev1.Deliver, *agentplanev1.CommandSpec)) func(*agentplanev1.Deliver, *agentplanev1.CommandSpec) {
	return func(d *agentplanev1.Deliver, s *agentplanev1.CommandSpec) {
		s.CommandId = "01b8dac5-b407-7638-857d-100997e584a2"
		s.Rollout = &agentplanev1.RolloutSpec{Probe: &agentplanev1.ProbeSpec{Argv: []string{"false"}}}
		d.CommandId = wave.ProbeID(s.CommandId, number)
		d.Part, d.Wave, d.InvocationId = agentplanev1.Part_PART_PROBE, number, d.CommandId+".7"
		if change != nil {
			change(d, s)
		}
	}
}

// TestProbeRunsItsOwnProgram has command and probe delivered with the same envelope: each
// runs once, what it is meant to, and the host's policy sees which.
func TestProbeRunsItsOwnProgram(t *testing.T) {
	c := agenttest.NewCluster(t, 1)
	h := newHost(t, c)
	id := h.ready()
	spec := c.Spec(h.mark("echo command")...)
	spec.Rollout = &agentplanev1.RolloutSpec{Probe: &agentplanev1.ProbeSpec{Argv: h.mark("echo probe")}}
	command := c.Submit(id, spec)
	probe := c.Submit(id, spec, func(d *agentplanev1.Deliver) {
		d.CommandId = wave.ProbeID(spec.GetCommandId(), 3)
		d.Part, d.Wave, d.InvocationId = agentplanev1.Part_PART_PROBE, 3, d.CommandId+".1"
	})
	c.Redeliver(probe)
	for invocation, want := range map[string]string{command: "command\n", probe: "probe\n"} {
		if r := c.Wait(invocation); r.GetState() != succeeded || string(r.GetStdout().GetHead()) != want {
			t.Errorf("%s: %v, want the output %q", invocation, r, want)
		}
		h.wantMarks(invocation, 1)
	}
	shown := (&order{deliver: &agentplanev1.Deliver{Part: agentplanev1.Part_PART_PROBE}, spec: spec}).program()
	if !slices.Equal(shown.GetArgv(), spec.GetRollout().GetProbe().GetArgv()) || shown.GetRunTimeout() != int64(wave.ProbeTimeout) {
		t.Errorf("the policy is shown %v", shown)
	}
}

func TestJudge(t *testing.T) {
	now := time.Now().UnixNano()
	at := stage{clusterID: "c1", agentID: "a1", name: "web-1", incarnation: 2, now: now, floor: now - int64(time.Hour)}
	base := func() (*agentplanev1.Deliver, *agentplanev1.CommandSpec) {
		return &agentplanev1.Deliver{InvocationId: "cmd.7", Attempt: 1, CommandId: "cmd", Fence: 5, SubmittedAt: now - int64(time.Minute)},
			&agentplanev1.CommandSpec{ClusterId: "c1", Incarnation: &agentplanev1.Incarnation{Number: 2}, CommandId: "cmd", Argv: []string{"true"}, NotAfter: now + int64(time.Minute)}
	}
	unknown := []byte{0xfa, 0x07, 0x01, 'x'} // field 127
	for name, x := range map[string]struct {
		change func(*agentplanev1.Deliver, *agentplanev1.CommandSpec)
		want   string
	}{
		"all is well":               {func(*agentplanev1.Deliver, *agentplanev1.CommandSpec) {}, ""},
		"of an earlier life":        {func(_ *agentplanev1.Deliver, s *agentplanev1.CommandSpec) { s.Incarnation.Number = 1 }, ""},
		"meant by name":             {func(_ *agentplanev1.Deliver, s *agentplanev1.CommandSpec) { s.Agents = []string{"x", "web-1"} }, ""},
		"meant by id":               {func(_ *agentplanev1.Deliver, s *agentplanev1.CommandSpec) { s.Agents = []string{"a1"} }, ""},
		"a little early":            {func(_ *agentplanev1.Deliver, s *agentplanev1.CommandSpec) { s.NotBefore = now + int64(time.Second) }, ""},
		"a field that nobody knows": {func(_ *agentplanev1.Deliver, s *agentplanev1.CommandSpec) { s.ProtoReflect().SetUnknown(unknown) }, reasonUnsupported},
		"a field that nobody knows inside": {func(_ *agentplanev1.Deliver, s *agentplanev1.CommandSpec) {
			s.Incarnation.ProtoReflect().SetUnknown(unknown)
		}, reasonUnsupported},
		"a delivery with a field that nobody knows": {func(d *agentplanev1.Deliver, _ *agentplanev1.CommandSpec) { d.ProtoReflect().SetUnknown(unknown) }, reasonUnsupported},
		"a part that nobody knows":                  {func(d *agentplanev1.Deliver, _ *agentplanev1.CommandSpec) { d.Part = 9 }, reasonUnsupported},
		"a probe of a command without one":          {probeOf(1, func(_ *agentplanev1.Deliver, s *agentplanev1.CommandSpec) { s.Rollout = nil }), reasonInvalid},
		"a probe":                                   {probeOf(1, nil), ""},
		"a probe of another wave":                   {probeOf(1, func(d *agentplanev1.Deliver, _ *agentplanev1.CommandSpec) { d.Wave = 2 }), reasonNotMeant},
		"a probe under the id of its command": {probeOf(1, func(d *agentplanev1.Deliver, s *agentplanev1.CommandSpec) {
			d.CommandId, d.InvocationId = s.CommandId, s.CommandId+".7"
		}), reasonNotMeant},
		"the program under the id of a probe": {probeOf(1, func(d *agentplanev1.Deliver, _ *agentplanev1.CommandSpec) { d.Part = 0 }), reasonNotMeant},
		"a profile":                           {func(_ *agentplanev1.Deliver, s *agentplanev1.CommandSpec) { s.Profile = "strict" }, reasonUnsupported},
		"of another cluster":                  {func(_ *agentplanev1.Deliver, s *agentplanev1.CommandSpec) { s.ClusterId = "c2" }, reasonWrongCluster},
		"of a life to come":                   {func(_ *agentplanev1.Deliver, s *agentplanev1.CommandSpec) { s.Incarnation.Number = 3 }, reasonWrongCluster},
		"another command in the envelope":     {func(_ *agentplanev1.Deliver, s *agentplanev1.CommandSpec) { s.CommandId = "other" }, reasonNotMeant},
		"an invocation of another command":    {func(d *agentplanev1.Deliver, _ *agentplanev1.CommandSpec) { d.InvocationId = "cmd2.7" }, reasonNotMeant},
		"meant for others":                    {func(_ *agentplanev1.Deliver, s *agentplanev1.CommandSpec) { s.Agents = []string{"x"} }, reasonNotMeant},
		"without an end":                      {func(_ *agentplanev1.Deliver, s *agentplanev1.CommandSpec) { s.NotAfter = 0 }, reasonInvalid},
		"over":                                {func(_ *agentplanev1.Deliver, s *agentplanev1.CommandSpec) { s.NotAfter = now }, reasonExpired},
		"much too early":                      {func(_ *agentplanev1.Deliver, s *agentplanev1.CommandSpec) { s.NotBefore = now + int64(time.Minute) }, reasonNotYet},
		"older than the journal":              {func(d *agentplanev1.Deliver, _ *agentplanev1.CommandSpec) { d.SubmittedAt = now - int64(2*time.Hour) }, reasonForgotten},
	} {
		t.Run(name, func(t *testing.T) {
			d, s := base()
			x.change(d, s)
			spec, err := proto.Marshal(s)
			if err != nil {
				t.Fatal(err)
			}
			if d.Envelope, err = proto.Marshal(&agentplanev1.Envelope{Spec: spec}); err != nil {
				t.Fatal(err)
			}
			o, no := judge(d, at)
			got := ""
			if no != nil {
				got = no.reason
			}
			if got != x.want {
				t.Errorf("judge = %v, want %q", no, x.want)
			}
			if o.intent.Fence != 5 || o.intent.Submitted <= 0 || o.key() != (journal.Key{InvocationID: d.InvocationId, Attempt: 1}) {
				t.Errorf("intent %+v", o.intent)
			}
		})
	}
	d, _ := base()
	d.Envelope = []byte{0xff}
	if _, no := judge(d, at); no == nil || no.reason != reasonInvalid {
		t.Errorf("nonsense was judged %v", no)
	}
}

func FuzzJudge(f *testing.F) {
	f.Add([]byte{}, "c.1", int64(5))
	f.Add([]byte{0x0a, 0x02, 0x0a, 0x00}, "c.1", int64(-5))
	f.Fuzz(func(t *testing.T, envelope []byte, invocation string, submitted int64) {
		o, _ := judge(&agentplanev1.Deliver{InvocationId: invocation, CommandId: "c", Envelope: envelope, SubmittedAt: submitted}, stage{clusterID: "c1", now: 10})
		if o == nil || o.intent.Submitted <= 0 {
			t.Fatalf("judge gives %+v: NEVER needs a time of submission", o)
		}
	})
}

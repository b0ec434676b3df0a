package dispatch

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/agentplane/agentplane/fsm"
	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
	"github.com/agentplane/agentplane/proto/wave"
)

const (
	claimed   = raftlogv1.AttemptState_ATTEMPT_STATE_CLAIMED
	released  = raftlogv1.AttemptState_ATTEMPT_STATE_RELEASED
	succeeded = raftlogv1.AttemptState_ATTEMPT_STATE_SUCCEEDED
	lost      = raftlogv1.AttemptState_ATTEMPT_STATE_LOST
)

func TestClaimsFillSlotsInOrderOfSubmission(t *testing.T) {
	bubble(t, func(t *testing.T, l *testLog) {
		n := l.node(0, nil)
		var ids []string
		for range 5 {
			ids = append(ids, l.submit(nil, 0))
		}
		s := newAgent(t, 0).live(n.Dispatcher) // two slots
		settle(time.Second)
		d := s.deliveries()
		if len(d) != 2 || d[0].GetCommandId() != ids[0] || d[1].GetCommandId() != ids[1] {
			t.Fatalf("deliveries = %v, want %v", d, ids[:2])
		}
		if got := n.Stats().Claims; got != 2 {
			t.Errorf("%d claims for two slots", got)
		}
		i := l.invocation(ids[0], 0)
		c, _ := l.view().Command(ids[0])
		if d[0].GetFence() != i.GetFence() || d[0].GetSessionEpoch() != s.epoch || d[0].GetSubmittedAt() != c.GetSubmittedAt() ||
			string(d[0].GetEnvelope()) != "envelope of "+ids[0] || d[0].GetIncarnation() != 1 {
			t.Errorf("Deliver = %v for %v", d[0], i)
		}
		for k, id := range ids[2:] {
			if got := l.invocation(id, 0).GetState(); got != released {
				t.Errorf("command %d is %v with all slots taken", k+2, got)
			}
		}
		s.tellEnd(d[1], agentplanev1.AttemptState_ATTEMPT_STATE_SUCCEEDED)
		settle(time.Second)
		if d = s.deliveries(); len(d) != 3 || d[2].GetCommandId() != ids[2] {
			t.Errorf("a freed slot got %v, want %s", d[2:], ids[2])
		}
		if len(s.open) != 0 || s.confirmed[d[1].GetInvocationId()] != 1 {
			t.Errorf("the result was not confirmed: %v", s.confirmed)
		}
	})
}

func TestNothingIsClaimedThatMayNotStart(t *testing.T) {
	bubble(t, func(t *testing.T, l *testLog) {
		n := l.node(0, nil)
		a := newAgent(t, 0)
		a.slots, a.run = 8, true
		soon := l.submit(func(m *raftlogv1.SubmitCommand) { m.NotBefore = time.Now().Add(10 * time.Second).UnixNano() }, 0)
		short := l.submit(func(m *raftlogv1.SubmitCommand) { m.Ttl = int64(time.Second) }, 0)
		settle(2 * time.Second)
		plain := l.submit(nil, 0)
		s := a.live(n.Dispatcher)
		settle(5 * time.Second)
		if got := len(s.deliveries()); got != 1 || s.deliveries()[0].GetCommandId() != plain {
			t.Fatalf("%d deliveries: %v", got, s.deliveries())
		}
		settle(6 * time.Second) // an idle log: the state's time stands still
		if got := l.invocation(soon, 0).GetState(); got != succeeded {
			t.Errorf("what was to begin after 10 s is %v after 13 s", got)
		}
		if got := l.invocation(short, 0).GetState(); got != released {
			t.Errorf("what had expired is %v", got)
		}
		if n.Stats().Claims > 6 {
			t.Errorf("%d claims were proposed for two that could be granted", n.Stats().Claims)
		}
	})
}

// What waits for its place within a splay takes no slot from others, and is claimed when
// its time has come, without anybody asking for it before.
func TestSplayedWorkIsClaimedAtItsTime(t *testing.T) {
	bubble(t, func(t *testing.T, l *testLog) {
		n := l.node(0, nil)
		a := newAgent(t, 0)
		a.slots, a.run = 1, true
		s := a.live(n.Dispatcher)
		settle(time.Second)
		begin := time.Now()
		id := l.submit(func(m *raftlogv1.SubmitCommand) { m.Splay, m.Ttl = int64(time.Hour), int64(2*time.Hour) }, 0)
		plain := l.submit(nil, 0)
		i := l.invocation(id, 0)
		c, _ := l.view().Command(id)
		at := fsm.StartsAt(c, i)
		if at == 0 {
			t.Fatalf("nothing says when it starts: %v", i)
		}
		wait := time.Unix(0, at).Sub(begin)
		settle(wait - time.Second)
		if got := s.deliveries(); len(got) != 1 || got[0].GetCommandId() != plain {
			t.Fatalf("%v before its time: %v", wait, got)
		}
		settle(2 * time.Second)
		if got := l.invocation(id, 0).GetState(); got != succeeded {
			t.Errorf("it is %v after its time", got)
		}
		if n.Stats().Claims > 4 {
			t.Errorf("%d claims were proposed for two", n.Stats().Claims)
		}
	})
}

func TestEveryClaimIsDeliveredWhateverTheLogAnswers(t *testing.T) {
	for _, f := range []fault{refused, unknown, forgotten, later} {
		bubble(t, func(t *testing.T, l *testLog) {
			n := l.node(0, nil)
			a := newAgent(t, 0)
			a.run = true
			s := a.live(n.Dispatcher)
			settle(time.Second)
			l.faults(func(call int, _ []*raftlogv1.Mutation) fault {
				if call%2 == 0 {
					return f
				}
				return fine
			})
			var ids []string
			for range 6 {
				ids = append(ids, l.submit(nil, 0))
			}
			settle(2 * time.Minute)
			for _, id := range ids {
				i := l.invocation(id, 0)
				if i.GetState() != succeeded || a.starts[i.GetId()] != 1 {
					t.Errorf("fault %d: %s is %v after %d starts", f, id, i.GetState(), a.starts[i.GetId()])
				}
			}
			if len(a.open) != 0 {
				t.Errorf("fault %d: %d results were never confirmed", f, len(a.open))
			}
			if got := len(s.deliveries()); got != 6 {
				t.Errorf("fault %d: %d deliveries on one stream, want 6", f, got)
			}
		})
	}
}

func TestClaimIsDeliveredAgainOnAnotherNode(t *testing.T) {
	bubble(t, func(t *testing.T, l *testLog) {
		first, second := l.node(0, nil), l.node(1, nil)
		a := newAgent(t, 0)
		id := l.submit(nil, 0)
		s := a.live(first.Dispatcher)
		settle(time.Second)
		before := s.deliveries()
		if len(before) != 1 {
			t.Fatalf("%d deliveries", len(before))
		}
		s.hangUp() // before the agent has journalled anything
		a.run = true
		s = a.live(second.Dispatcher)
		settle(time.Second)
		d := s.deliveries()
		if len(d) != 1 || d[0].GetFence() != before[0].GetFence() || d[0].GetSessionEpoch() != s.epoch {
			t.Fatalf("after the move: %v, want fence %d under epoch %d", d, before[0].GetFence(), s.epoch)
		}
		if got := l.invocation(id, 0).GetState(); got != succeeded {
			t.Errorf("the command is %v", got)
		}
	})
}

func TestReportInHelloIsAnAnswer(t *testing.T) {
	bubble(t, func(t *testing.T, l *testLog) {
		n := l.node(0, nil)
		a := newAgent(t, 0)
		id := l.submit(nil, 0)
		s := a.live(n.Dispatcher)
		settle(time.Second)
		d := s.deliveries()[0]
		s.hangUp()
		a.journal.Seq++
		a.open[d.GetInvocationId()] = &agentplanev1.Report{
			InvocationId: d.GetInvocationId(), Attempt: 1, Fence: d.GetFence(), State: agentplanev1.AttemptState_ATTEMPT_STATE_FAILED, ExitCode: 3, JournalSeq: a.journal.GetSeq(),
		}
		l.faults(func(call int, ms []*raftlogv1.Mutation) fault {
			if ms[0].GetReportAttempt() != nil && call < 12 {
				return refused
			}
			return fine
		})
		s = a.live(n.Dispatcher)
		settle(30 * time.Second)
		if i := l.invocation(id, 0); i.GetState() != raftlogv1.AttemptState_ATTEMPT_STATE_FAILED || i.GetResult().GetExitCode() != 3 {
			t.Errorf("the invocation is %v", i)
		}
		if len(s.deliveries()) != 0 {
			t.Error("what the Hello had answered was delivered again")
		}
		if len(a.open) != 0 {
			t.Error("the report was not confirmed")
		}
		// Told once more, it is confirmed without the log.
		proposed := l.count(func(m *raftlogv1.Mutation) bool { return m.GetReportAttempt() != nil })
		s.tellEnd(d, agentplanev1.AttemptState_ATTEMPT_STATE_FAILED)
		a.journal.Seq--
		s.report(&agentplanev1.Report{InvocationId: d.GetInvocationId(), Attempt: 1, Fence: d.GetFence(), State: agentplanev1.AttemptState_ATTEMPT_STATE_FAILED, JournalSeq: 2})
		settle(time.Second)
		if got := l.count(func(m *raftlogv1.Mutation) bool { return m.GetReportAttempt() != nil }) - proposed; got != 1 {
			t.Errorf("%d proposals for one new and one old journal record, want 1", got)
		}
	})
}

func TestCancelIsToldUntilItEnds(t *testing.T) {
	bubble(t, func(t *testing.T, l *testLog) {
		n := l.node(0, nil)
		s := newAgent(t, 0).live(n.Dispatcher)
		id := l.submit(nil, 0)
		waiting := make([]string, 3)
		for k := range waiting {
			waiting[k] = l.submit(nil, 0)
		}
		settle(time.Second)
		d := s.deliveries()
		l.cancel(id)
		l.cancel(waiting[2]) // not claimed: never starts
		settle(20 * time.Second)
		told := all(s, (*agentplanev1.SessionResponse).GetCancel)
		if len(told) < 4 || len(told) > 6 {
			t.Fatalf("told %d times within 20 s, want about 5 with back-off", len(told))
		}
		if told[0].GetInvocationId() != d[0].GetInvocationId() || told[0].GetSessionEpoch() != s.epoch {
			t.Errorf("CancelAttempt = %v", told[0])
		}
		s.tellEnd(d[0], agentplanev1.AttemptState_ATTEMPT_STATE_CANCELED)
		settle(time.Second)
		n1 := len(all(s, (*agentplanev1.SessionResponse).GetCancel))
		settle(2 * time.Minute)
		if n2 := len(all(s, (*agentplanev1.SessionResponse).GetCancel)); n2 != n1 {
			t.Errorf("told %d times more after the end", n2-n1)
		}
		if got := l.invocation(waiting[2], 0).GetState(); got != raftlogv1.AttemptState_ATTEMPT_STATE_CANCELED {
			t.Errorf("an unclaimed attempt is %v after its cancel", got)
		}
		// On a new stream the cancel goes before the delivery of what is still claimed.
		l.cancel(waiting[0])
		s.hangUp()
		s = s.live(n.Dispatcher)
		settle(100 * time.Millisecond)
		var order []string
		for _, m := range s.got {
			if m.GetCancel().GetInvocationId() == d[1].GetInvocationId() {
				order = append(order, "cancel")
			}
			if m.GetDeliver().GetInvocationId() == d[1].GetInvocationId() {
				order = append(order, "deliver")
			}
		}
		if got := strings.Join(order, " "); got != "cancel deliver" {
			t.Errorf("on the new stream came %q", got)
		}
	})
}

func TestAskedAndUnknownIsLost(t *testing.T) {
	bubble(t, func(t *testing.T, l *testLog) {
		n := l.node(0, nil)
		s := newAgent(t, 0).live(n.Dispatcher)
		id := l.submit(nil, 0) // runs 1 min, grace 10 s
		settle(2*time.Minute + 5*time.Second)
		if got := len(all(s, (*agentplanev1.SessionResponse).GetAsk)); got != 0 {
			t.Fatalf("asked %d times before timeout, grace and a minute", got)
		}
		settle(10 * time.Second)
		ask := all(s, (*agentplanev1.SessionResponse).GetAsk)
		i := l.invocation(id, 0)
		if len(ask) != 1 || ask[0].GetInvocationId() != i.GetId() || ask[0].GetFence() != i.GetFence() {
			t.Fatalf("Ask = %v", ask)
		}
		settle(5 * time.Minute)
		if got := len(all(s, (*agentplanev1.SessionResponse).GetAsk)); got < 5 || got > 7 {
			t.Errorf("asked %d times in five minutes more", got)
		}
		l.faults(func(call int, ms []*raftlogv1.Mutation) fault {
			if call%2 == 1 {
				return refused
			}
			return fine
		})
		s.report(&agentplanev1.Report{InvocationId: i.GetId(), Attempt: 1, State: agentplanev1.AttemptState_ATTEMPT_STATE_LOST, Reason: "unknown"})
		settle(30 * time.Second)
		if i = l.invocation(id, 0); i.GetState() != lost || i.GetReason() != "unknown" {
			t.Errorf("the invocation is %v (%s)", i.GetState(), i.GetReason())
		}
	})
}

func TestQuarantinedAgentGetsNothing(t *testing.T) {
	bubble(t, func(t *testing.T, l *testLog) {
		n := l.node(0, nil)
		a := newAgent(t, 0)
		s := a.live(n.Dispatcher)
		settle(time.Second)
		s.hangUp()
		// Two processes in turn: A, B, A. The second A is refused and the agent
		// quarantined while B's session lives.
		b := newAgent(t, 0)
		b.journal, b.prev = a.journal, a.prev
		sb := b.live(n.Dispatcher)
		settle(time.Second)
		if _, r := a.dial(n.Dispatcher).shake(nil); r.GetReason() != "clone" {
			t.Fatalf("the clone got %v", r)
		}
		id := l.submit(nil, 0)
		settle(time.Minute)
		if got := l.invocation(id, 0).GetState(); got != released || len(sb.deliveries()) != 0 || n.Stats().Claims != 0 {
			t.Errorf("a quarantined agent: attempt %v, %d deliveries, %d claims", got, len(sb.deliveries()), n.Stats().Claims)
		}
	})
}

func TestClaimsOfManySessionsShareEntries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLog(t)
		l.enroll(200)
		n := l.node(0, nil)
		var agents []int
		for i := range 200 {
			a := newAgent(t, i)
			a.run = true
			a.live(n.Dispatcher)
			agents = append(agents, i)
		}
		settle(time.Second)
		l.mu.Lock()
		l.calls, l.largest = 0, 0
		l.mu.Unlock()
		id := l.submit(nil, agents...)
		settle(5 * time.Second)
		c, _ := l.view().Command(id)
		if c.GetState() != raftlogv1.CommandState_COMMAND_STATE_DONE || len(c.GetCounts()) != 1 || c.GetCounts()[0].GetState() != succeeded {
			t.Fatalf("command = %v", c)
		}
		if _, calls := l.size(); calls > 20 || l.largest > raftlogv1.MaxMutations {
			t.Errorf("200 claims and 400 reports took %d calls, the largest of %d", calls, l.largest)
		}
	})
}

func TestProposalsKeepWithinWhatAnEntryTakes(t *testing.T) {
	bubble(t, func(t *testing.T, l *testLog) {
		const agents = 100
		l.enroll(agents)
		n := l.node(0, func(o *Options) { o.MaxMutations = 7 })
		var meant []int
		for i := range agents {
			a := newAgent(t, i)
			a.run = true
			a.live(n.Dispatcher)
			meant = append(meant, i)
		}
		l.submit(nil, meant...)
		settle(time.Second)
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.largest != 7 {
			t.Errorf("the largest proposal has %d mutations, want 7", l.largest)
		}
	})
}

// While an attempt runs, what is told of its steps goes into the log, once.
func TestStepsAreProposedAsTheyGo(t *testing.T) {
	bubble(t, func(t *testing.T, l *testLog) {
		n := l.node(0, nil)
		id := l.submit(nil, 0)
		s := newAgent(t, 0).live(n.Dispatcher)
		settle(time.Second)
		d := s.deliveries()[0]
		const run, done = agentplanev1.AttemptState_ATTEMPT_STATE_RUNNING, agentplanev1.AttemptState_ATTEMPT_STATE_SUCCEEDED
		tell := func(steps ...agentplanev1.AttemptState) {
			r := &agentplanev1.Report{InvocationId: d.GetInvocationId(), Attempt: 1, Fence: d.GetFence(), State: run, JournalSeq: 1}
			for k, state := range steps {
				r.Steps = append(r.Steps, &agentplanev1.StepResult{Number: uint32(k + 1), Name: strings.Repeat("n", 100), Reason: "\xff", State: state})
			}
			s.report(r)
			settle(time.Second)
		}
		reports := func() int { return l.count(func(m *raftlogv1.Mutation) bool { return m.GetReportAttempt() != nil }) }
		for _, c := range []struct {
			what  string
			steps []agentplanev1.AttemptState
			want  int
		}{
			{"it runs", []agentplanev1.AttemptState{run}, 1},
			{"again", []agentplanev1.AttemptState{run}, 0},
			{"the second runs", []agentplanev1.AttemptState{done, run}, 1},
			{"an older one", []agentplanev1.AttemptState{run}, 0},
			{"a state of the future", []agentplanev1.AttemptState{done, 99}, 0},
			{"more than may be", slices.Repeat([]agentplanev1.AttemptState{done}, 100), 1},
			{"once more", slices.Repeat([]agentplanev1.AttemptState{done}, 100), 0},
		} {
			before := reports()
			tell(c.steps...)
			if got := reports() - before; got != c.want {
				t.Errorf("%s: %d proposals, want %d", c.what, got, c.want)
			}
		}
		steps := l.invocation(id, 0).GetResult().GetSteps()
		if len(steps) != fsm.MaxSteps || steps[0].GetName() != strings.Repeat("n", fsm.MaxStepBytes) || steps[0].GetReason() != "" {
			t.Errorf("%d steps are kept, the first %v", len(steps), steps[0])
		}
		if n.Stats().ReportsCut == 0 || n.Stats().ReportsDropped != 0 {
			t.Errorf("%+v", n.Stats())
		}
	})
}

func TestHostileReports(t *testing.T) {
	bubble(t, func(t *testing.T, l *testLog) {
		n := l.node(0, nil)
		id := l.submit(nil, 0)
		s := newAgent(t, 0).live(n.Dispatcher)
		settle(time.Second)
		d := s.deliveries()[0]
		before := l.count(func(m *raftlogv1.Mutation) bool { return m.GetReportAttempt() != nil })
		for _, r := range []*agentplanev1.Report{
			{},
			{InvocationId: strings.Repeat("x", 1000), Attempt: 1, State: agentplanev1.AttemptState_ATTEMPT_STATE_FAILED},
			{InvocationId: "\xff", Attempt: 1, State: agentplanev1.AttemptState_ATTEMPT_STATE_FAILED},
			{InvocationId: d.GetInvocationId(), Attempt: 1, Fence: d.GetFence(), State: agentplanev1.AttemptState_ATTEMPT_STATE_SKIPPED},
			{InvocationId: d.GetInvocationId(), Attempt: 1, Fence: d.GetFence(), State: 45},
			{InvocationId: d.GetInvocationId(), Attempt: 0, Fence: d.GetFence(), State: agentplanev1.AttemptState_ATTEMPT_STATE_FAILED},
		} {
			s.report(r)
		}
		settle(time.Second)
		if got := l.count(func(m *raftlogv1.Mutation) bool { return m.GetReportAttempt() != nil }) - before; got != 0 || n.Stats().ReportsDropped != 6 {
			t.Errorf("%d of six malformed reports were proposed, %d counted as dropped", got, n.Stats().ReportsDropped)
		}
		// One that never was: nothing will ever end it, so it is confirmed, without the log.
		s.report(&agentplanev1.Report{InvocationId: "purged.1", Attempt: 1, State: agentplanev1.AttemptState_ATTEMPT_STATE_FAILED, JournalSeq: 9})
		// Another fence: kept by the agent.
		s.report(&agentplanev1.Report{InvocationId: d.GetInvocationId(), Attempt: 1, Fence: 5, State: agentplanev1.AttemptState_ATTEMPT_STATE_FAILED, JournalSeq: 10})
		settle(time.Second)
		if s.confirmed["purged.1"] != 1 || s.confirmed[d.GetInvocationId()] != 0 || l.invocation(id, 0).GetState() != claimed {
			t.Errorf("confirmed %v, state %v", s.confirmed, l.invocation(id, 0).GetState())
		}
		// Too much output is cut, head first and tail last.
		s.report(&agentplanev1.Report{
			InvocationId: d.GetInvocationId(), Attempt: 1, Fence: d.GetFence(), State: agentplanev1.AttemptState_ATTEMPT_STATE_FAILED, JournalSeq: 11,
			Reason: strings.Repeat("é", 400), Detail: "\xff" + strings.Repeat("d", 5000),
			Stdout: &agentplanev1.Output{Head: []byte("first" + strings.Repeat("h", 100_000)), Tail: []byte(strings.Repeat("t", 100_000) + "last"), TotalBytes: 1 << 30},
		})
		settle(time.Second)
		i := l.invocation(id, 0)
		out := i.GetResult().GetStdout()
		if i.GetState() != raftlogv1.AttemptState_ATTEMPT_STATE_FAILED || !strings.HasPrefix(string(out.GetHead()), "first") || !strings.HasSuffix(string(out.GetTail()), "last") ||
			len(out.GetHead())+len(out.GetTail()) > fsm.MaxOutputBytes || out.GetTotalBytes() != 1<<30 {
			t.Errorf("state %v, head %d, tail %d bytes", i.GetState(), len(out.GetHead()), len(out.GetTail()))
		}
		if len(i.GetReason()) > fsm.MaxReasonBytes || len(i.GetDetail()) > fsm.MaxDetailBytes || n.Stats().ReportsCut != 1 {
			t.Errorf("reason %d, detail %d bytes", len(i.GetReason()), len(i.GetDetail()))
		}
		if !s.alive() {
			t.Error("the stream ended: " + fmt.Sprint(s.err))
		}
	})
}

// TestPausedCommandsAreNotClaimed has a command paused before its agents come: nobody
// proposes claims for it, and all claim within moments when it is resumed.
func TestPausedCommandsAreNotClaimed(t *testing.T) {
	bubble(t, func(t *testing.T, l *testLog) {
		n := l.node(0, nil)
		id := l.submit(nil, 0)
		pause := l.must(&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_PauseCommand{PauseCommand: &raftlogv1.PauseCommand{CommandId: id, PausedBy: "ann"}}})
		a := newAgent(t, 0)
		a.run = true
		s := a.live(n.Dispatcher)
		settle(time.Minute)
		if got := n.Stats().Claims; got != 0 || len(s.deliveries()) != 0 {
			t.Fatalf("%d claims and %d deliveries of a paused command", got, len(s.deliveries()))
		}
		l.must(&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_ResumeCommand{ResumeCommand: &raftlogv1.ResumeCommand{CommandId: id, ExpectedPause: pause.GetNumber()}}})
		settle(100 * time.Millisecond)
		if got := l.invocation(id, 0).GetState(); got != succeeded {
			t.Errorf("a moment after the resume it is %v", got)
		}
	})
}

// TestProbesAreDeliveredAsSuch has a probe delivered with the envelope of its command,
// and says which part of it is meant.
func TestProbesAreDeliveredAsSuch(t *testing.T) {
	bubble(t, func(t *testing.T, l *testLog) {
		n := l.node(0, nil)
		a, b := newAgent(t, 0), newAgent(t, 1)
		a.run, b.run = true, true
		s := a.live(n.Dispatcher)
		b.live(n.Dispatcher)
		id := l.submit(func(m *raftlogv1.SubmitCommand) {
			m.Rollout = &raftlogv1.RolloutPlan{GateProbe: true, ProbeTimeout: int64(time.Minute), Waves: []*raftlogv1.WavePlan{{Count: 1}, {BasisPoints: wave.Whole}}}
		}, 0, 1)
		advance := func() *raftlogv1.Outcome {
			c, _ := l.view().Command(id)
			return l.must(&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_AdvanceRollout{AdvanceRollout: &raftlogv1.AdvanceRollout{
				CommandId: id, ExpectedWave: c.GetWave(), ExpectedReleased: c.GetReleased(), Max: 9,
			}}})
		}
		settle(time.Second)
		if o := advance(); o.GetReason() != "probing" {
			t.Fatalf("behind the first wave: %v", o)
		}
		settle(time.Second)
		d := s.deliveries()
		if len(d) != 2 || d[0].GetPart() != 0 || d[0].GetCommandId() != id {
			t.Fatalf("deliveries %v", d)
		}
		if p := d[1]; p.GetPart() != agentplanev1.Part_PART_PROBE || p.GetWave() != 1 || p.GetCommandId() != wave.ProbeID(id, 1) || string(p.GetEnvelope()) != string(d[0].GetEnvelope()) {
			t.Errorf("the probe's delivery is %v", p)
		}
		if c, _ := l.view().Command(id); !c.GetRollout().GetWaves()[0].GetProbed() {
			t.Errorf("the probe has not opened the gate: %v", c)
		}
	})
}

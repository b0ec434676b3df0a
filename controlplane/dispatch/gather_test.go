package dispatch

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

const running = agentplanev1.AttemptState_ATTEMPT_STATE_RUNNING

// crowd lets so many agents be given one command, and answers their sessions.
func crowd(t *testing.T, l *testLog, n *testNodeRun, agents int) (command string, all []*fakeSession) {
	t.Helper()
	l.enroll(agents)
	var ordinals []int
	for i := range agents {
		ordinals = append(ordinals, i)
		all = append(all, newAgent(t, i).live(n.Dispatcher))
	}
	command = l.submit(nil, ordinals...)
	settle(time.Second)
	for i, s := range all {
		if len(s.deliveries()) != 1 {
			t.Fatalf("agent %d has %d deliveries", i, len(s.deliveries()))
		}
	}
	return command, all
}

func TestReportsOfACrowdShareEntries(t *testing.T) {
	bubble(t, func(t *testing.T, l *testLog) {
		const agents = 300
		n := l.node(0, nil)
		command, all := crowd(t, l, n, agents)
		_, before := l.size()
		for _, s := range all { // one after the other, over 1.5 s
			s.tellEnd(s.deliveries()[0], agentplanev1.AttemptState_ATTEMPT_STATE_SUCCEEDED)
			settle(5 * time.Millisecond)
		}
		settle(gatherWindow)
		_, after := l.size()
		// One for each window, the first four and the last few without company.
		if calls := after - before; calls > 15+8 {
			t.Errorf("%d reports over 1.5 s made %d calls", agents, calls)
		}
		for i, s := range all {
			if got := l.invocation(command, i).GetState(); got != succeeded || len(s.confirmed) != 1 {
				t.Fatalf("agent %d: the state says %v, and %d results are confirmed", i, got, len(s.confirmed))
			}
		}
	})
}

func TestAReportThatNobodyFollowsDoesNotWait(t *testing.T) {
	bubble(t, func(t *testing.T, l *testLog) {
		n := l.node(0, nil)
		command, all := crowd(t, l, n, 100)
		for _, s := range all {
			s.tellEnd(s.deliveries()[0], agentplanev1.AttemptState_ATTEMPT_STATE_SUCCEEDED)
		}
		settle(10 * time.Millisecond) // less than a window: when all have reported none is awaited
		for i := range all {
			if got := l.invocation(command, i).GetState(); got != succeeded {
				t.Fatalf("agent %d is %v when all have reported", i, got)
			}
		}
		// And then one command after the other, right behind the crowd.
		for range 50 {
			id := l.submit(nil, 0)
			settle(3 * time.Millisecond)
			d := all[0].deliveries()
			all[0].tellEnd(d[len(d)-1], agentplanev1.AttemptState_ATTEMPT_STATE_SUCCEEDED)
			settle(3 * time.Millisecond)
			if got := l.invocation(id, 0).GetState(); got != succeeded {
				t.Fatalf("the result of a lone command waits: it is %v", got)
			}
		}
	})
}

func TestMuteAgentsDelayNobodyForLong(t *testing.T) {
	bubble(t, func(t *testing.T, l *testLog) {
		n := l.node(0, nil)
		command, all := crowd(t, l, n, 100)
		for _, s := range all[50:] { // the others never answer
			s.tellEnd(s.deliveries()[0], agentplanev1.AttemptState_ATTEMPT_STATE_SUCCEEDED)
		}
		settle(gatherWindow + 10*time.Millisecond)
		for i := range all[50:] {
			if got := l.invocation(command, 50+i).GetState(); got != succeeded {
				t.Fatalf("agent %d is %v after a window", 50+i, got)
			}
		}
		for _, s := range all[:50] {
			s.hangUp()
		}
		synctest.Wait()
		if got := n.gather.awaited.Load(); got != 0 {
			t.Errorf("%d ends are awaited when every agent has answered or is gone", got)
		}
	})
}

// The newer word of the journal goes in the place of RUNNING, and only of one that no
// worker has taken.
func TestTheEndOvertakesRunning(t *testing.T) {
	bubble(t, func(t *testing.T, l *testLog) {
		n := l.node(0, nil)
		command, all := crowd(t, l, n, 100)
		count := func(s raftlogv1.AttemptState) int {
			return l.count(func(m *raftlogv1.Mutation) bool { return m.GetReportAttempt().GetState() == s })
		}
		for _, s := range all[:60] {
			s.tellEnd(s.deliveries()[0], running)
		}
		settle(gatherWindow)
		told := count(raftlogv1.AttemptState_ATTEMPT_STATE_RUNNING)
		if told != 60 {
			t.Fatalf("%d of 60 reports of RUNNING were proposed", told)
		}
		for _, s := range all[60:] {
			s.tellEnd(s.deliveries()[0], running)
			synctest.Wait()
			s.tellEnd(s.deliveries()[0], agentplanev1.AttemptState_ATTEMPT_STATE_SUCCEEDED)
			synctest.Wait()
		}
		settle(2 * gatherWindow)
		if got := count(raftlogv1.AttemptState_ATTEMPT_STATE_RUNNING) - told; got > gatherLevel {
			t.Errorf("%d reports of RUNNING were proposed although the end was there", got)
		}
		if got := n.Stats().ReportsOvertaken; got < 40-gatherLevel {
			t.Errorf("%d reports were overtaken, want nearly 40", got)
		}
		for i, s := range all[60:] {
			if got := l.invocation(command, 60+i).GetState(); got != succeeded || len(s.confirmed) != 1 || len(s.open) != 0 {
				t.Fatalf("agent %d: %v, confirmed %v, open %v", 60+i, got, s.confirmed, s.open)
			}
		}
	})
}

// Overtaken or not, refused or unknown: every end arrives.
func TestEveryEndArrivesWhateverTheLogAnswers(t *testing.T) {
	for _, f := range []fault{refused, unknown, forgotten, later} {
		bubble(t, func(t *testing.T, l *testLog) {
			n := l.node(0, nil)
			command, all := crowd(t, l, n, 60)
			l.faults(func(call int, _ []*raftlogv1.Mutation) fault {
				if call%2 == 0 {
					return f
				}
				return fine
			})
			for i, s := range all {
				s.tellEnd(s.deliveries()[0], running)
				if i%3 == 0 {
					settle(time.Duration(i) * time.Millisecond)
				}
				s.tellEnd(s.deliveries()[0], agentplanev1.AttemptState_ATTEMPT_STATE_SUCCEEDED)
			}
			settle(time.Minute)
			for i, s := range all {
				if got := l.invocation(command, i).GetState(); got != succeeded || len(s.open) != 0 {
					t.Fatalf("fault %d: agent %d is %v with %d reports open", f, i, got, len(s.open))
				}
			}
		})
	}
}

// Hold is a function of what was noted before.
func TestHold(t *testing.T) {
	begin := time.Unix(1_000_000, 0)
	for _, test := range []struct {
		name            string
		awaited         int64
		reports         int
		last, now, want time.Duration
	}{
		{"a lone command does not wait", 1, 1, 0, time.Millisecond, 0},
		{"many reports of few agents do not wait", 10, 100, 0, time.Millisecond, 0},
		{"the first of a crowd do not wait", 100, 3, 0, time.Millisecond, 0},
		{"more of a crowd wait for the window", 100, 8, 0, 10 * time.Millisecond, 90 * time.Millisecond},
		{"and no longer", 100, 1 << 10, 0, 100 * time.Millisecond, 0},
		{"the last do not wait: none is awaited", 0, 100, 0, time.Millisecond, 0},
	} {
		g := &gathering{}
		g.awaited.Store(max(test.awaited, 1))
		for range test.reports {
			g.arrived(begin)
		}
		g.awaited.Store(test.awaited)
		g.went(begin.Add(test.last))
		if got := max(0, g.hold(begin.Add(test.now))); got != test.want {
			t.Errorf("%s: hold = %v, want %v", test.name, got, test.want)
		}
	}
	g := &gathering{}
	g.awaited.Store(1000)
	for range 1000 {
		g.arrived(begin)
	}
	later := begin.Add(10 * gatherMemory)
	for range 10 {
		g.awaited.Store(2)
		g.arrived(later)
	}
	g.went(later)
	if got := g.hold(later); got > 0 {
		t.Errorf("long after a crowd a report is held for %v", got)
	}
}

// BenchmarkLane is what a proposal costs on its way through a lane, alone and gathered.
func BenchmarkLane(b *testing.B) {
	for _, gather := range []*gathering{nil, {}} {
		name := "plain"
		if gather != nil {
			name = "gathers"
		}
		b.Run(name, func(b *testing.B) {
			l := newLane(instant{}, &counters{}, raftlogv1.MaxMutations)
			l.gather = gather
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			go func() { _ = l.work(ctx) }()
			m := &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_ReadySession{ReadySession: &raftlogv1.ReadySession{AgentId: "a"}}}
			b.ReportAllocs()
			for b.Loop() {
				if _, err := l.do(ctx, m); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// instant answers at once.
type instant struct{}

// Propose answers OK to all.
func (instant) Propose(_ context.Context, ms ...*raftlogv1.Mutation) ([]*raftlogv1.Outcome, error) {
	all := make([]*raftlogv1.Outcome, len(ms))
	for i := range all {
		all[i] = &raftlogv1.Outcome{Code: raftlogv1.Code_CODE_OK}
	}
	return all, nil
}

package dispatch

import (
	"bytes"
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

// bubble runs f in virtual time with a log and one enrolled agent.
func bubble(t *testing.T, f func(t *testing.T, l *testLog)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		l := newLog(t)
		l.enroll(3)
		f(t, l)
	})
}

func TestSessionOpensAndGetsReady(t *testing.T) {
	bubble(t, func(t *testing.T, l *testLog) {
		n := l.node(0, nil)
		a := newAgent(t, 0)
		s := a.dial(n.Dispatcher)
		w, refused := s.shake(nil)
		if refused != nil {
			t.Fatalf("refused: %v", refused)
		}
		row := l.session(0)
		if row.GetEpoch() != w.GetSessionEpoch() || row.GetState() != raftlogv1.SessionState_SESSION_STATE_OPEN {
			t.Fatalf("the state has %v, Welcome says epoch %d", row, w.GetSessionEpoch())
		}
		if !w.GetWantFacts() || w.GetNow() != l.view().Now() || w.GetNodeId() != nodeID(0) || w.GetHeartbeatIntervalMs() != 3000 {
			t.Fatalf("Welcome = %v", w)
		}
		if held := n.Held(); len(held) != 1 || held[0].GetSessionEpoch() != w.GetSessionEpoch() || held[0].GetAgentId() != agentName(0) {
			t.Fatalf("Held = %v", held)
		}
		s.ready()
		s.begin()
		synctest.Wait()
		settle(10 * time.Millisecond)
		if got := l.session(0).GetState(); got != raftlogv1.SessionState_SESSION_STATE_READY {
			t.Fatalf("after Ready the session is %v", got)
		}
		s.send(&agentplanev1.SessionRequest{Message: &agentplanev1.SessionRequest_Facts{Facts: &agentplanev1.FactsReport{
			Facts: []*agentplanev1.Label{{Name: "os", Value: "linux"}}, Hash: []byte("h1"),
		}}})
		settle(time.Second)
		if f, found := l.view().Facts(agentName(0)); !found || string(f.GetHash()) != "h1" {
			t.Fatalf("facts = %v", f)
		}
		s.hangUp()
		settle(time.Second)
		if row := l.session(0); row.GetState() != raftlogv1.SessionState_SESSION_STATE_RECONNECTING || row.GetReason() != "stream_broken" ||
			time.Duration(row.GetGraceUntil()-row.GetChangedAt()) != 30*time.Second {
			t.Fatalf("after the stream broke the session is %v", row)
		}
		again := a.dial(n.Dispatcher)
		w, _ = again.shake(func(h *agentplanev1.Hello) { h.FactsHash = []byte("h1") })
		if w.GetWantFacts() {
			t.Error("known facts are wanted again")
		}
	})
}

func TestHelloIsRefused(t *testing.T) {
	for _, c := range []struct {
		name   string
		edit   func(*agentplanev1.Hello)
		reason string // of Refused, or of the status when there is none
	}{
		{"another cluster", func(h *agentplanev1.Hello) { h.ClusterId = "c2" }, "wrong_cluster"},
		{"the agent has seen a newer incarnation", func(h *agentplanev1.Hello) { h.Incarnation = 2 }, "old_incarnation"},
		{"another agent's name", func(h *agentplanev1.Hello) { h.AgentId = agentName(1) }, "other_agent"},
		{"another epoch than was shown", func(h *agentplanev1.Hello) { h.SeenEpoch = 7 }, "hello"},
		{"no stream id", func(h *agentplanev1.Hello) { h.StreamId = nil }, "hello"},
		{"an endless start id", func(h *agentplanev1.Hello) { h.StartId = make([]byte, 1<<18) }, "hello"},
		{"no journal", func(h *agentplanev1.Hello) { h.Journal = nil }, "hello"},
	} {
		t.Run(c.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, l *testLog) {
				n := l.node(0, nil)
				s := newAgent(t, 0).dial(n.Dispatcher)
				w, r := s.shake(c.edit)
				if w != nil {
					t.Fatal("the agent was welcomed")
				}
				if got := s.ended(); got != c.reason || (r != nil && r.GetReason() != c.reason) {
					t.Errorf("refused with %q and ended with %q, want %q", r.GetReason(), got, c.reason)
				}
				if l.session(0) != nil {
					t.Error("the state was changed")
				}
			})
		})
	}
}

func TestUnknownKeyIsRefusedOnlyAfterCatchingUp(t *testing.T) {
	bubble(t, func(t *testing.T, l *testLog) {
		caughtUp, broken := 0, true
		n := l.node(0, func(o *Options) {
			catchUp := o.CatchUp
			o.CatchUp = func(ctx context.Context) error {
				if caughtUp++; broken {
					return errors.New("no leader")
				}
				return catchUp(ctx)
			}
		})
		l.lag(n.machine, true)
		token := l.token(raftlogv1.TokenKind_TOKEN_KIND_AGENT, 1)
		l.must(&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_EnrollAgent{EnrollAgent: &raftlogv1.EnrollAgent{AgentId: agentName(9), PublicKey: agentKey(9), TokenId: token}}})
		late := newAgent(t, 9)
		if _, r := late.dial(n.Dispatcher).shake(nil); r.GetReason() != "not_ready" {
			t.Fatalf("a node that cannot catch up answers %v", r)
		}
		broken = false
		if w, r := late.dial(n.Dispatcher).shake(nil); w == nil {
			t.Fatalf("an agent that a lagging node does not know was refused: %v", r)
		}
		stranger := newAgent(t, 0)
		stranger.key = []byte("stolen")
		if _, r := stranger.dial(n.Dispatcher).shake(nil); r.GetReason() != "removed" || caughtUp != 3 {
			t.Fatalf("a wrong key got %v after catching up %d times", r, caughtUp)
		}
	})
}

func TestSupersededHelloIsAskedForAgain(t *testing.T) {
	bubble(t, func(t *testing.T, l *testLog) {
		first, second := l.node(0, nil), l.node(1, nil)
		a := newAgent(t, 0)
		waiting := a.dial(second.Dispatcher) // is shown epoch 0
		if c := waiting.recv().GetChallenge(); c.GetSessionEpoch() != 0 {
			t.Fatalf("Challenge = %v", c)
		}
		old := a.live(first.Dispatcher)
		waiting.say(waiting.hello(0))
		r := waiting.recv().GetRefused()
		if r.GetReason() != "superseded" || !r.GetAgain() || r.GetSessionEpoch() != old.epoch {
			t.Fatalf("Refused = %v, want superseded by %d", r, old.epoch)
		}
		if !old.alive() || l.session(0).GetEpoch() != old.epoch {
			t.Fatal("the refused opening touched the session that stands")
		}
		waiting.say(waiting.hello(r.GetSessionEpoch()))
		w := waiting.recv().GetWelcome()
		if w.GetSessionEpoch() <= old.epoch {
			t.Fatalf("Welcome = %v", w)
		}
		settle(time.Second)
		if got := old.ended(); got != "superseded" {
			t.Errorf("the older session ended with %q", got)
		}
		settle(5 * time.Second)
		if row := l.session(0); row.GetEpoch() != w.GetSessionEpoch() || !live(row) {
			t.Errorf("the newer session was touched: %v", row)
		}
		if len(first.Held()) != 0 || first.Stats().Superseded != 1 {
			t.Errorf("the first node holds %v, stats %+v", first.Held(), first.Stats())
		}
	})
}

func TestSameStreamOpensOnceWhateverTheLogDoes(t *testing.T) {
	for _, f := range []fault{refused, unknown, forgotten, later} {
		bubble(t, func(t *testing.T, l *testLog) {
			n := l.node(0, nil)
			l.faults(func(call int, _ []*raftlogv1.Mutation) fault {
				if call <= 3 {
					return f
				}
				return fine
			})
			s := newAgent(t, 0).dial(n.Dispatcher)
			w, r := s.shake(nil)
			if w == nil {
				t.Fatalf("fault %d: refused: %v", f, r)
			}
			if got := l.session(0); got.GetEpoch() != w.GetSessionEpoch() || len(got.GetGrantedAt()) != 1 || !bytes.Equal(got.GetStreamId(), s.id) {
				t.Errorf("fault %d: the state has %v, Welcome %d", f, got, w.GetSessionEpoch())
			}
		})
	}
}

func TestOpeningThatCommitsAfterItsStreamIsGoneIsEnded(t *testing.T) {
	bubble(t, func(t *testing.T, l *testLog) {
		n := l.node(0, nil)
		l.faults(func(call int, _ []*raftlogv1.Mutation) fault { return later })
		s := newAgent(t, 0).dial(n.Dispatcher)
		s.say(s.hello(s.recv().GetChallenge().GetSessionEpoch()))
		settle(100 * time.Millisecond)
		s.hangUp()
		if l.session(0) != nil {
			t.Fatal("the session is open before the entry has committed")
		}
		l.faults(nil)
		settle(5 * time.Second)
		if row := l.session(0); row.GetState() != raftlogv1.SessionState_SESSION_STATE_RECONNECTING {
			t.Errorf("nobody ended the abandoned session: %v", row)
		}
	})
}

func TestRefusalsOfTheState(t *testing.T) {
	bubble(t, func(t *testing.T, l *testLog) {
		n := l.node(0, nil)
		a := newAgent(t, 0)
		s := a.live(n.Dispatcher)
		id := l.submit(nil, 0)
		settle(time.Second)
		s.hangUp()

		behind := newAgent(t, 0)
		behind.start, behind.journal = a.start, &agentplanev1.JournalState{Id: a.journal.GetId(), Seq: 0}
		if _, r := behind.dial(n.Dispatcher).shake(nil); r.GetReason() != "journal_behind" {
			t.Fatalf("an old journal got %v", r)
		}
		if i := l.invocation(id, 0); i.GetState() != raftlogv1.AttemptState_ATTEMPT_STATE_LOST {
			t.Errorf("its claim is %v", i.GetState())
		}
		l.must(&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_ReadmitAgent{ReadmitAgent: &raftlogv1.ReadmitAgent{AgentId: agentName(0)}}})
		if _, r := behind.dial(n.Dispatcher).shake(nil); r.GetReason() != "new_journal" || r.GetNow() == 0 {
			t.Fatalf("after readmission the old journal got %v", r)
		}
		behind.journal = &agentplanev1.JournalState{Id: random()}
		if w, r := behind.dial(n.Dispatcher).shake(nil); w == nil {
			t.Fatalf("a new journal got %v", r)
		}

		// The grant limit of the state, with its hint.
		b := newAgent(t, 1)
		for range 3 {
			b.live(n.Dispatcher).hangUp()
		}
		if _, r := b.dial(n.Dispatcher).shake(nil); r.GetReason() != "rate" || r.GetRetryAfterMs() == 0 {
			t.Errorf("the fourth session within a second got %v", r)
		}
	})
}

func TestAdmissionHasARate(t *testing.T) {
	bubble(t, func(t *testing.T, l *testLog) {
		n := l.node(0, func(o *Options) { o.SessionsPerSecond = 2 })
		reasons := make(map[string]int)
		for i := range 3 {
			w, r := newAgent(t, i).dial(n.Dispatcher).shake(nil)
			if w != nil {
				reasons["welcome"]++
			} else if reasons[r.GetReason()]++; r.GetRetryAfterMs() == 0 {
				t.Error("a refusal without a hint")
			}
		}
		if reasons["welcome"] != 2 || reasons["rate"] != 1 {
			t.Errorf("of three at once: %v", reasons)
		}
	})
}

func TestAgentThatNeverSaysHelloOrReadyIsLetGo(t *testing.T) {
	bubble(t, func(t *testing.T, l *testLog) {
		n := l.node(0, nil)
		mute := newAgent(t, 0).dial(n.Dispatcher)
		mute.recv()
		lazy := newAgent(t, 1).dial(n.Dispatcher)
		lazy.shake(nil)
		lazy.begin()
		settle(31 * time.Second)
		if got := mute.ended(); got != "no_hello" {
			t.Errorf("without Hello: %q", got)
		}
		if got := lazy.ended(); got != "not_ready" {
			t.Errorf("without Ready: %q", got)
		}
	})
}

func TestNewerStreamOnTheSameNodeEndsTheOlder(t *testing.T) {
	bubble(t, func(t *testing.T, l *testLog) {
		n := l.node(0, nil)
		a := newAgent(t, 0)
		old := a.live(n.Dispatcher)
		settle(time.Second)
		w, r := a.dial(n.Dispatcher).shake(nil)
		if w == nil {
			t.Fatalf("refused: %v", r)
		}
		settle(time.Second)
		if got := old.ended(); got != "superseded" {
			t.Errorf("the older stream ended with %q", got)
		}
		settle(time.Second)
		if row := l.session(0); row.GetEpoch() != w.GetSessionEpoch() || !live(row) {
			t.Errorf("the state has %v", row)
		}
		if held := n.Held(); len(held) != 1 || held[0].GetSessionEpoch() != w.GetSessionEpoch() {
			t.Errorf("Held = %v", held)
		}
	})
}

func TestNothingIsSaidBeforeTheNodesOwnStateHasIt(t *testing.T) {
	bubble(t, func(t *testing.T, l *testLog) {
		n := l.node(0, nil)
		l.lag(n.machine, true)
		s := newAgent(t, 0).dial(n.Dispatcher)
		s.say(s.hello(s.recv().GetChallenge().GetSessionEpoch()))
		settle(5 * time.Second)
		select {
		case m := <-s.stream.down:
			t.Fatalf("the node lags, and says %v", m)
		default:
		}
		if !live(l.session(0)) || len(n.Held()) != 0 {
			t.Fatalf("the cluster has %v, the node holds %v", l.session(0), n.Held())
		}
		l.lag(n.machine, false)
		w := s.recv().GetWelcome()
		if w.GetSessionEpoch() != l.session(0).GetEpoch() {
			t.Fatalf("Welcome = %v", w)
		}
		s.epoch = w.GetSessionEpoch()
		s.ready()
		s.begin()
		settle(time.Second)
		l.faults(func(_ int, ms []*raftlogv1.Mutation) fault {
			if ms[0].GetClaimAttempt() != nil {
				l.lagging[n.machine] = true // from the claim on; the lock is held here
			}
			return fine
		})
		id := l.submit(nil, 0)
		settle(5 * time.Second)
		if i := l.invocation(id, 0); i.GetState() != claimed || len(s.deliveries()) != 0 {
			t.Fatalf("the attempt is %v; from an outcome alone came %v", i.GetState(), s.deliveries())
		}
		l.lag(n.machine, false)
		settle(time.Second)
		if len(s.deliveries()) != 1 || n.Stats().Claims != 1 {
			t.Errorf("%d deliveries, %d claims", len(s.deliveries()), n.Stats().Claims)
		}
	})
}

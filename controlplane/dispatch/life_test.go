package dispatch

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/agentplane/agentplane/fsm"
	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

func TestSilenceEndsTheSessionAndBeatsKeepIt(t *testing.T) {
	bubble(t, func(t *testing.T, l *testLog) {
		n := l.node(0, nil)
		s := newAgent(t, 0).live(n.Dispatcher)
		entries, _ := l.size()
		settle(time.Hour)
		if !s.alive() {
			t.Fatalf("a beating agent was let go: %v", s.err)
		}
		if index, _ := l.size(); index > entries+1 { // Ready
			t.Errorf("an hour of heartbeats wrote %d entries", index-entries)
		}
		if acks := all(s, (*agentplanev1.SessionResponse).GetHeartbeatAck); len(acks) < 1100 || acks[len(acks)-1].GetNow() != time.Now().UnixNano() {
			t.Errorf("%d acknowledgements, the last says %v, want %v", len(acks), acks[len(acks)-1].GetNow(), time.Now().UnixNano())
		}
		s.silence()
		settle(8 * time.Second)
		if !s.alive() {
			t.Fatal("let go within three intervals")
		}
		settle(5 * time.Second)
		if got := s.ended(); got != "silent" {
			t.Errorf("ended with %q", got)
		}
		settle(time.Second)
		if row := l.session(0); row.GetState() != raftlogv1.SessionState_SESSION_STATE_RECONNECTING || row.GetReason() != "silent" || !row.GetBroken() {
			t.Errorf("the state has %v, want that the agent broke off", row)
		}
	})
}

func TestGoodbye(t *testing.T) {
	for _, c := range []struct {
		name   string
		reboot bool
		state  raftlogv1.SessionState
		grace  time.Duration
	}{
		{"an agent that leaves has LEFT", false, raftlogv1.SessionState_SESSION_STATE_LEFT, 0},
		{"a host that reboots has its grace", true, raftlogv1.SessionState_SESSION_STATE_RECONNECTING, 5 * time.Minute},
	} {
		t.Run(c.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, l *testLog) {
				n := l.node(0, nil)
				s := newAgent(t, 0).live(n.Dispatcher)
				l.faults(func(call int, ms []*raftlogv1.Mutation) fault {
					if call%2 == 0 {
						return refused
					}
					return fine
				})
				s.send(&agentplanev1.SessionRequest{Message: &agentplanev1.SessionRequest_Goodbye{Goodbye: &agentplanev1.Goodbye{SessionEpoch: s.epoch, Reboot: c.reboot}}})
				settle(10 * time.Second)
				if got := s.ended(); got != "" {
					t.Errorf("ended with %q", got)
				}
				row := l.session(0)
				if grace := time.Duration(max(0, row.GetGraceUntil()-row.GetChangedAt())); row.GetState() != c.state || grace != c.grace {
					t.Errorf("state %v, grace %v", row.GetState(), grace)
				}
			})
		})
	}
}

func TestSlowReaderDelaysNobody(t *testing.T) {
	bubble(t, func(t *testing.T, l *testLog) {
		n := l.node(0, nil)
		slow, quick := newAgent(t, 0).live(n.Dispatcher), newAgent(t, 1)
		quick.run = true
		quick.live(n.Dispatcher)
		slow.silence()
		slow.wg.Wait()
		beating := make(chan struct{})
		go func() { // beats, and never reads
			for {
				select {
				case <-slow.done:
					return
				case <-beating:
					return
				case <-time.After(time.Second):
					slow.send(&agentplanev1.SessionRequest{Message: &agentplanev1.SessionRequest_Heartbeat{Heartbeat: &agentplanev1.Heartbeat{}}})
				}
			}
		}()
		id := l.submit(nil, 0, 1)
		settle(time.Second)
		if got := l.invocation(id, 1).GetState(); got != succeeded {
			t.Errorf("the quick agent's attempt is %v", got)
		}
		settle(15 * time.Second)
		close(beating)
		if got := slow.ended(); got != "slow" || n.Stats().Slow != 1 {
			t.Errorf("ended with %q, %d counted", got, n.Stats().Slow)
		}
	})
}

func TestFloodIsEnded(t *testing.T) {
	bubble(t, func(t *testing.T, l *testLog) {
		n := l.node(0, nil)
		s := newAgent(t, 0).live(n.Dispatcher)
		_, calls := l.size()
		for range 3 * messagesBurst {
			s.report(&agentplanev1.Report{InvocationId: "x.1", Attempt: 1, State: agentplanev1.AttemptState_ATTEMPT_STATE_FAILED})
		}
		if got := s.ended(); got != "flood" || n.Stats().Flooded != 1 {
			t.Errorf("ended with %q", got)
		}
		settle(2 * time.Second)
		if _, now := l.size(); now > calls+2 { // Ready and the end
			t.Errorf("the flood reached the log %d times", now-calls)
		}
	})
}

func TestTooManyStreamsOfOneAgent(t *testing.T) {
	bubble(t, func(t *testing.T, l *testLog) {
		n := l.node(0, func(o *Options) { o.MaxStreams = 6 })
		l.faults(func(int, []*raftlogv1.Mutation) fault { return refused })
		var streams []*fakeSession
		for range maxStreamsOfAgent {
			s := newAgent(t, 0).dial(n.Dispatcher)
			s.say(s.hello(s.recv().GetChallenge().GetSessionEpoch()))
			streams = append(streams, s)
		}
		synctest.Wait()
		s := newAgent(t, 0).dial(n.Dispatcher)
		if _, r := s.shake(nil); r.GetReason() != "rate" {
			t.Errorf("stream %d of one agent got %v", maxStreamsOfAgent+1, r)
		}
		<-s.done
		for range 2 {
			streams = append(streams, newAgent(t, 1).dial(n.Dispatcher))
		}
		synctest.Wait()
		above := newAgent(t, 2).dial(n.Dispatcher)
		if got := above.ended(); got != "streams" {
			t.Errorf("the stream above the node's maximum ended with %q", got)
		}
		for i, s := range streams {
			if !s.alive() {
				t.Errorf("stream %d ended: %v", i, s.err)
			}
		}
	})
}

func TestRemovedAgentIsLetGo(t *testing.T) {
	bubble(t, func(t *testing.T, l *testLog) {
		n := l.node(0, nil)
		s := newAgent(t, 0).live(n.Dispatcher)
		l.must(&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_RemoveAgent{RemoveAgent: &raftlogv1.RemoveAgent{AgentId: agentName(0)}}})
		settle(time.Millisecond)
		if got := s.ended(); got != "removed" {
			t.Errorf("ended with %q", got)
		}
		settle(2 * time.Second)
		if !n.sweeper.idle() {
			t.Error("the sweeper still waits for a session that is gone")
		}
	})
}

func TestSessionEndedByTheClusterIsNotKept(t *testing.T) {
	bubble(t, func(t *testing.T, l *testLog) {
		n := l.node(0, nil)
		s := newAgent(t, 0).live(n.Dispatcher)
		l.must(&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_LoseNodeSessions{LoseNodeSessions: &raftlogv1.LoseNodeSessions{
			NodeId: nodeID(0), UpToStartCounter: 1, Grace: int64(time.Minute), Reason: "node_dead",
		}}})
		settle(time.Second)
		if got := s.ended(); got != "session_ended" {
			t.Errorf("ended with %q", got)
		}
		if row := l.session(0); row.GetReason() != "node_dead" {
			t.Errorf("the state has %v", row)
		}
	})
}

func TestAgentsAreToldOnceThatThereIsNoLeader(t *testing.T) {
	bubble(t, func(t *testing.T, l *testLog) {
		var seen atomic.Int64
		led := atomic.Bool{}
		led.Store(true)
		n := l.node(0, func(o *Options) {
			o.LeaderSeen = func() time.Time {
				if led.Load() {
					seen.Store(time.Now().UnixNano())
				}
				return time.Unix(0, seen.Load())
			}
		})
		s := newAgent(t, 0).live(n.Dispatcher)
		settle(time.Minute)
		led.Store(false)
		settle(9 * time.Second)
		if got := all(s, (*agentplanev1.SessionResponse).GetMoveAway); len(got) != 0 {
			t.Fatalf("an election sent the agent away: %v", got)
		}
		settle(30 * time.Second)
		if got := all(s, (*agentplanev1.SessionResponse).GetMoveAway); len(got) != 1 || got[0].GetReason() != "no_leader" {
			t.Errorf("MoveAway = %v, want one no_leader", got)
		}
		if !s.alive() {
			t.Error("the session did not outlive the lack of a leader")
		}
		if _, r := newAgent(t, 1).dial(n.Dispatcher).shake(nil); r.GetReason() != "not_ready" {
			t.Errorf("a node without a leader answers %v", r)
		}
		led.Store(true)
		settle(2 * time.Second)
		if w, r := newAgent(t, 1).dial(n.Dispatcher).shake(nil); w == nil {
			t.Errorf("with a leader again: %v", r)
		}
		led.Store(false)
		settle(30 * time.Second)
		if got := all(s, (*agentplanev1.SessionResponse).GetMoveAway); len(got) != 2 {
			t.Errorf("the second time it was told %d times", len(got)-1)
		}
	})
}

func TestDrainMovesAgentsGraduallyAndEndsWhatStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLog(t)
		l.enroll(20)
		n := l.node(0, nil)
		var sessions []*fakeSession
		for i := range 20 {
			sessions = append(sessions, newAgent(t, i).live(n.Dispatcher))
		}
		silent := newAgent(t, 0).dial(n.Dispatcher) // never says Hello
		silent.recv()
		settle(time.Second)
		ctx, cancel := context.WithTimeout(t.Context(), 40*time.Second)
		defer cancel()
		done := make(chan error, 1)
		go func() { done <- n.Drain(ctx) }()
		settle(10 * time.Second)
		told := 0
		for _, s := range sessions {
			told += len(all(s, (*agentplanev1.SessionResponse).GetMoveAway))
		}
		if told < 5 || told > 15 {
			t.Errorf("after half of the time %d of 20 were told", told)
		}
		if _, r := newAgent(t, 1).dial(n.Dispatcher).shake(nil); r.GetReason() != "not_ready" {
			t.Errorf("a draining node answers %v", r)
		}
		for _, s := range sessions[:10] {
			s.hangUp() // they go
		}
		settle(13 * time.Second)
		for _, s := range sessions[10:] {
			if got := all(s, (*agentplanev1.SessionResponse).GetMoveAway); len(got) != 1 || got[0].GetReason() != "draining" {
				t.Errorf("agent %d was told %v", s.n, got)
			}
			if !s.alive() {
				t.Errorf("agent %d was cut off before the time was over", s.n)
			}
		}
		if err := <-done; err != nil {
			t.Errorf("Drain = %v", err)
		}
		for _, s := range sessions[10:] {
			if got := s.ended(); got != "draining" {
				t.Errorf("agent %d ended with %q", s.n, got)
			}
		}
		for i := range 20 {
			if row := l.session(i); live(row) {
				t.Errorf("agent %d: Drain returned while the state has %v", i, row.GetState())
			} else if i >= 10 && row.GetBroken() {
				t.Errorf("agent %d was sent elsewhere, and is said to have broken off", i)
			}
		}
	})
}

func TestCompactedFeedLosesNothing(t *testing.T) {
	bubble(t, func(t *testing.T, l *testLog) {
		n := l.node(0, func(o *Options) {
			// A feed of one change: every entry with more of them compacts it.
			o.Machine = l.machine(fsm.Options{FeedChanges: 1})
			m := o.Machine
			o.Bundle = func() *agentplanev1.Bundle { return &agentplanev1.Bundle{Index: m.View().Cluster().GetTrustIndex()} }
		})
		a := newAgent(t, 0)
		a.run = true
		s := a.live(n.Dispatcher)
		for range 5 {
			id := l.submit(nil, 0)
			settle(3 * time.Second)
			if got := l.invocation(id, 0).GetState(); got != succeeded {
				t.Errorf("the attempt is %v", got)
			}
		}
		s.hangUp()
		settle(3 * time.Second)
		if live(l.session(0)) {
			t.Error("the session was not ended")
		}
		if n.Stats().Compactions == 0 {
			t.Error("the feed was never compacted: the test tests nothing")
		}
	})
}

func TestRestartedDispatcherEndsWhatItsRunLeft(t *testing.T) {
	bubble(t, func(t *testing.T, l *testLog) {
		n := l.node(0, nil)
		s := newAgent(t, 0).live(n.Dispatcher)
		n.stop()
		if got := s.ended(); got != "stopping" {
			t.Errorf("ended with %q", got)
		}
		if !live(l.session(0)) {
			t.Fatal("the state knows already: the test tests nothing")
		}
		l.node(0, nil) // the same start of the process: another Run
		settle(2 * time.Second)
		if row := l.session(0); row.GetState() != raftlogv1.SessionState_SESSION_STATE_RECONNECTING {
			t.Errorf("the state has %v", row)
		}
		if err := n.Session(s.stream); reasonOf(err) != "not_ready" {
			t.Errorf("after Run a stream gets %v", err)
		}
	})
}

func TestNewerBundleIsTold(t *testing.T) {
	bubble(t, func(t *testing.T, l *testLog) {
		n := l.node(0, nil)
		s := newAgent(t, 0).live(n.Dispatcher)
		settle(5 * time.Second)
		if got := all(s, (*agentplanev1.SessionResponse).GetTrust); len(got) != 0 {
			t.Fatalf("told of the bundle that Welcome held: %v", got)
		}
		l.must(&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_RemoveNode{RemoveNode: &raftlogv1.RemoveNode{NodeId: nodeID(2)}}})
		settle(time.Millisecond)
		if got := all(s, (*agentplanev1.SessionResponse).GetTrust); len(got) != 1 || got[0].GetBundle().GetIndex() != l.view().Cluster().GetTrustIndex() {
			t.Errorf("TrustUpdate = %v", got)
		}
	})
}

func TestNewRefusesHalfOptions(t *testing.T) {
	if _, err := New(Options{NodeID: "n"}); err == nil {
		t.Error("New without a machine gave no error")
	}
}

package health

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/agentplane/agentplane/fsm"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

func TestNewRefusesWhatCannotWork(t *testing.T) {
	if _, err := New(Options{}); err == nil {
		t.Error("a Monitor without a machine was made")
	}
	o := newWorld(t, "a").options()
	o.NodeDeathGrace = -1
	if _, err := New(o); err == nil {
		t.Error("a negative grace was accepted")
	}
}

func TestDeadNodeBeginsGraceAndThenDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "a", "b")
		ids := w.enrol(8, "a", "b")
		_, stop := w.lead(w.options())
		defer stop()
		pass(time.Minute)
		w.want(ready, ids...)

		w.silent("b")
		w.gossip("b", StateSuspect)
		pass(time.Minute)
		w.want(ready, ids...)
		w.gossip("b", StateDead)
		pass(every)
		w.want(reconnecting, ids[1], ids[3], ids[5], ids[7])
		w.want(ready, ids[0], ids[2], ids[4], ids[6])

		w.open(ids[1], "a") // reaches another node within its grace
		pass(29 * time.Second)
		w.want(reconnecting, ids[3], ids[5], ids[7])
		pass(2 * time.Second)
		w.want(down, ids[3], ids[5], ids[7])
		w.want(ready, ids[0], ids[1], ids[2], ids[4], ids[6])
	})
}

func TestRestartedNodeLosesEarlierSessionsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "a", "b")
		ids := w.enrol(3, "b")
		_, stop := w.lead(w.options())
		defer stop()
		w.started("b", 2)
		w.holds("b", 2)
		synctest.Wait() // no tick is needed
		w.want(reconnecting, ids...)
		w.open(ids[0], "b")
		pass(time.Second)
		w.want(ready, ids[0])
		pass(30 * time.Second)
		w.want(ready, ids[0])
		w.want(down, ids[1:]...)
	})
}

func TestNewLeaderCollectsTables(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "a", "b", "c")
		ids := w.enrol(6, "a", "b", "c") // 0 3 on a, 1 4 on b, 2 5 on c
		w.holds("a", 1, ids[0])          // its EndSession was lost
		w.holds("b", 3)                  // restarted; NodeStarted has not committed
		w.silent("c")                    // cannot be reached, but gossip calls it alive
		_, stop := w.lead(w.options())
		defer stop()
		w.want(reconnecting, ids[1], ids[4])
		w.want(ready, ids[0]) // once is not enough
		pass(settle + time.Second)
		w.want(reconnecting, ids[0], ids[1], ids[4])
		w.want(ready, ids[2], ids[3], ids[5])
		pass(10 * time.Minute)
		w.want(ready, ids[2], ids[3], ids[5])
	})
}

func TestSessionOpenedWhileCollectingStands(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "a", "b")
		ids := w.enrol(1, "b")
		old, _ := w.m.View().Session(ids[0])
		asked := make(chan struct{})
		o := w.options()
		o.CollectTimeout = time.Hour
		o.Sessions = func(context.Context, string) (uint64, []HeldSession, error) {
			close(asked)
			time.Sleep(10 * time.Second) // the answer is on its way
			return 1, nil, nil
		}
		_, stop := w.lead(o)
		<-asked
		// The agent moves away and back: the answer knows nothing of that.
		w.end(ids[0], time.Minute)
		epoch := w.open(ids[0], "b")
		if epoch == old.GetEpoch() {
			t.Fatal("the session is the old one")
		}
		pass(10*time.Second + every)
		w.want(ready, ids[0])
		stop()
	})
}

func TestNodeThatLagsOnceLosesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "a", "b")
		ids := w.enrol(4, "b")
		w.holds("b", 1, ids...) // its state has not applied them yet
		_, stop := w.lead(w.options())
		defer stop()
		pass(time.Second)
		w.holds("b", 1)
		pass(time.Minute)
		w.want(ready, ids...)
		if n := w.proposed("EndSession"); n != 0 {
			t.Errorf("%d sessions were ended", n)
		}
	})
}

func TestFalselyDeadNodeKeepsItsSessions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "a", "b")
		ids := w.enrol(3, "b")
		_, stop := w.lead(w.options())
		defer stop()
		w.gossip("b", StateDead) // but it is well, and its agents reach it
		pass(time.Hour)
		w.want(ready, ids...)
		if n := w.proposed("LoseNodeSessions"); n != 0 {
			t.Errorf("sessions were lost by %d mutations", n)
		}
		w.silent("b") // now it dies
		pass(35 * time.Second)
		w.want(reconnecting, ids...)
		pass(35 * time.Second)
		w.want(down, ids...)
	})
}

// A dead verdict is confirmed by an asking that began after it; an answer that was on
// its way does not refute it.
func TestAnswerFromBeforeTheVerdictDoesNotRefuteIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "a", "b")
		ids := w.enrol(3, "b")
		o := w.options()
		asked, inner := 0, o.Sessions
		o.Sessions = func(ctx context.Context, node string) (uint64, []HeldSession, error) {
			if asked++; asked == 1 { // asks of one node follow each other
				time.Sleep(time.Second)
				return 1, nil, nil
			}
			return inner(ctx, node)
		}
		_, stop := w.lead(o)
		defer stop()
		w.silent("b")
		w.gossip("b", StateDead)
		pass(time.Second + settle)
		w.want(reconnecting, ids...)
	})
}

func TestSessionsThatReopenOnANodeCalledDeadStand(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "a", "b")
		ids := w.enrol(3, "b")
		_, stop := w.lead(w.options())
		defer stop()
		w.silent("b")
		w.gossip("b", StateDead)
		pass(every)
		w.want(reconnecting, ids...)
		w.holds("b", 1) // it was only cut off
		for _, id := range ids {
			w.open(id, "b")
		}
		pass(time.Hour)
		w.want(ready, ids...)

		w.gossip("b", StateAlive)
		pass(time.Minute)
		w.silent("b")
		w.gossip("b", StateDead) // a new verdict, and it does not answer
		pass(every)
		w.want(reconnecting, ids...)
	})
}

func TestNodeUnknownToGossipIsJudgedBySilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "a", "b", "c")
		ids := w.enrol(4, "b", "c")
		w.forget("b")
		w.forget("c")
		w.silent("b")
		_, stop := w.lead(w.options())
		defer stop()
		pass(29 * time.Second)
		w.want(ready, ids...)
		pass(2 * time.Second)
		w.want(reconnecting, ids[0], ids[2])
		pass(10 * time.Minute)
		w.want(down, ids[0], ids[2])
		w.want(ready, ids[1], ids[3]) // unknown, but it answers
	})
}

func TestRemovedNodeLosesItsSessions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "a", "b")
		ids := w.enrol(2, "b")
		_, stop := w.lead(w.options())
		defer stop()
		w.must(&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_RemoveNode{RemoveNode: &raftlogv1.RemoveNode{NodeId: "b"}}})
		synctest.Wait()
		w.want(reconnecting, ids...)
	})
}

func TestNewLeaderGivesGraceAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "a", "b")
		ids := w.enrol(2, "b")
		_, stop := w.lead(w.options())
		w.silent("b")
		w.gossip("b", StateDead)
		pass(29 * time.Second)
		stop()
		pass(10 * time.Minute) // nobody leads, nobody can open a session
		w.takeOffice()
		_, stop = w.lead(w.options())
		defer stop()
		pass(29 * time.Second)
		w.want(reconnecting, ids...) // by the cluster's time its grace is long over
		w.open(ids[0], "a")
		pass(2 * time.Second)
		w.want(ready, ids[0])
		w.want(down, ids[1])
	})
}

func TestGraceIsNotOverBeforeTheClustersTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "a")
		ids := w.enrol(1, "a")
		_, stop := w.lead(w.options())
		defer stop()
		w.end(ids[0], 30*time.Second)
		w.mu.Lock()
		w.skew = -5 * time.Second // the cluster's time goes more slowly than the leader's
		w.mu.Unlock()
		pass(34 * time.Second)
		w.want(reconnecting, ids[0])
		pass(2 * time.Second)
		w.want(down, ids[0])
		if n := w.proposed("MarkDown"); n > 3 {
			t.Errorf("DOWN was proposed %d times", n)
		}
	})
}

func TestFailedProposalsAreTakenAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "a", "b")
		ids := w.enrol(4, "b")
		_, stop := w.lead(w.options())
		defer stop()
		w.breakProposals(errors.New("outcome unknown"))
		w.silent("b")
		w.gossip("b", StateDead)
		pass(time.Minute)
		w.want(ready, ids...)
		w.breakProposals(nil)
		pass(6 * time.Second)
		w.want(reconnecting, ids...)
		w.breakProposals(errors.New("outcome unknown"))
		pass(time.Minute)
		w.want(reconnecting, ids...)
		w.breakProposals(nil)
		pass(6 * time.Second)
		w.want(down, ids...)
	})
}

func TestBrakeHoldsMassFailureAndLetsGoSlowly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "a", "b")
		ids := w.enrol(100, "a")
		m, stop := w.lead(w.options())
		defer stop()
		for _, id := range ids[:40] {
			w.end(id, 9*time.Second)
		}
		pass(10 * time.Second)
		if b := m.Braked(); !b.Engaged || b.Held != 40 || b.Limit != 15 {
			t.Fatalf("Braked = %+v, want 40 held with limit 15", b)
		}
		pass(50 * time.Second)
		w.want(reconnecting, ids[:40]...)
		pass(15 * time.Second) // one window without growth
		if n := w.in(down); n != 15 {
			t.Fatalf("%d are DOWN after one window, want 15", n)
		}
		for _, id := range ids[20:40] {
			w.open(id, "b") // the network heals
		}
		pass(time.Second)
		if n := w.in(down); n != 15 {
			t.Fatalf("%d are DOWN, want the same 15 until the window is over", n)
		}
		pass(time.Minute)
		if b := m.Braked(); b.Engaged {
			t.Errorf("Braked = %+v after the network healed", b)
		}
		if n := w.in(down); n != 20 {
			t.Errorf("%d are DOWN, want the 20 that did not come back", n)
		}
	})
}

func TestHugeFleetOutlivesTheDeathOfANode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "a", "b", "c")
		ids := w.enrol(1800, "a", "b", "c")
		m, stop := w.lead(w.options())
		defer stop()
		w.silent("b")
		w.gossip("b", StateDead)
		pass(every)
		if n := w.in(reconnecting); n != 600 {
			t.Fatalf("%d agents are RECONNECTING, want 600", n)
		}
		if n := w.proposed("LoseNodeSessions"); n != 2 {
			t.Errorf("sessions were lost by %d mutations, want 2 of at most 500", n)
		}
		for i := 1; i < len(ids)-30; i += 3 { // all but ten reach another node
			w.open(ids[i], "c")
		}
		pass(31 * time.Second)
		if n := w.in(down); n != 10 {
			t.Errorf("%d agents are DOWN, want 10", n)
		}
		if m.Braked().Engaged {
			t.Error("the brake holds although nearly all came back")
		}
	})
}

func TestLoopThatFellBehindListsAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorldWith(t, fsm.Options{FeedChanges: 2}, "a")
		ids := w.enrol(8, "a")
		o := w.options()
		var slow atomic.Bool
		nodes := o.Nodes
		o.Nodes = func() []NodeLife {
			if slow.Load() {
				time.Sleep(5 * time.Second)
			}
			return nodes()
		}
		_, stop := w.lead(o)
		defer stop()
		slow.Store(true)
		pass(time.Second)
		for _, id := range ids {
			w.end(id, 9*time.Second)
			synctest.Wait() // the reader reads the first, and waits for the loop
		}
		slow.Store(false)
		pass(30 * time.Second)
		w.want(down, ids...)
	})
}

func TestGracesGoOnCountingWhenListedAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "a")
		ids := w.enrol(3, "a")
		g := newGraces()
		g.list(w.m.View(), 0)
		w.end(ids[0], 9*time.Second)
		g.list(w.m.View(), time.Second)
		w.must(&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_RemoveAgent{RemoveAgent: &raftlogv1.RemoveAgent{AgentId: ids[1]}}})
		w.end(ids[2], 9*time.Second)
		g.list(w.m.View(), 5*time.Second)
		if got := g.load(10*time.Second, time.Minute); got != (Load{Fleet: 2, Due: 1, Soon: 1}) {
			t.Errorf("load = %+v: what counted already must go on counting", got)
		}
	})
}

func TestRunEndsWithTheTermWhileANodeIsAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "a")
		w.enrol(1, "a")
		o := w.options()
		o.Sessions = func(ctx context.Context, _ string) (uint64, []HeldSession, error) {
			<-ctx.Done()
			return 0, nil, ctx.Err()
		}
		_, stop := w.lead(o)
		began := time.Now()
		stop()
		if d := time.Since(began); d != 0 {
			t.Errorf("Run ended %v after its term", d)
		}
	})
}

func BenchmarkChange(b *testing.B) {
	g := newGraces()
	sessions := make([]*raftlogv1.Session, 10_000)
	for i := range sessions {
		sessions[i] = &raftlogv1.Session{AgentId: fmt.Sprint("agent-", i), Epoch: 1, State: reconnecting, GraceUntil: int64(i)}
		g.see(sessions[i], 0)
	}
	i := 0
	for b.Loop() {
		s := sessions[i%len(sessions)]
		s.Epoch++
		g.see(s, time.Duration(i))
		i++
	}
}

func BenchmarkLoad(b *testing.B) {
	g := newGraces()
	for i := range 10_000 {
		g.see(&raftlogv1.Session{AgentId: fmt.Sprint("agent-", i), Epoch: 1, State: reconnecting, GraceUntil: int64(i)}, 0)
	}
	for b.Loop() {
		g.load(5000, 1000)
	}
}

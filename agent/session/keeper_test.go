package session

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
)

// good serves one session as a node should.
func good(w *world, name string, epoch uint64, seen func(*agentplanev1.SessionRequest)) func(*conn) error {
	return func(c *conn) error {
		c.challenge(1, epoch-1)
		if c.hear().GetHello() == nil {
			return nil
		}
		w.enter()
		defer w.leave()
		c.welcome(name, 1, epoch)
		c.serve(seen)
		return nil
	}
}

func TestRefusalsAndWhatFollows(t *testing.T) {
	type span struct{ min, max int } // tries within ten minutes
	for name, c := range map[string]struct {
		refused *agentplanev1.Refused
		tries   span
	}{
		"a rate limit is waited for":      {&agentplanev1.Refused{Reason: "rate", RetryAfterMs: 20000}, span{20, 32}},
		"a clone waits for a person":      {&agentplanev1.Refused{Reason: "clone"}, span{8, 40}},
		"an old image waits for a person": {&agentplanev1.Refused{Reason: "journal_behind"}, span{8, 40}},
		"removed stays up":                {&agentplanev1.Refused{Reason: "removed"}, span{8, 40}},
		"blocked stays up":                {&agentplanev1.Refused{Reason: "blocked"}, span{8, 40}},
		"not ready is asked again soon":   {&agentplanev1.Refused{Reason: "not_ready"}, span{41, 700}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.node("n1", func(s *conn) error {
					s.challenge(1, 1)
					s.hear()
					s.refuse(c.refused)
					return nil
				})
				w.run(func(*Keeper) { time.Sleep(10 * time.Minute) })
				if n := len(w.opens()); n < c.tries.min || n > c.tries.max {
					t.Errorf("%d tries within ten minutes, want %d to %d", n, c.tries.min, c.tries.max)
				}
			})
		})
	}
}

func TestRemovedIsMendedByAToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		known := false
		w.node("n1", func(c *conn) error {
			c.challenge(1, 0)
			c.hear()
			if !known {
				c.refuse(&agentplanev1.Refused{Reason: "removed"})
				return nil
			}
			c.welcome("id-n1", 1, 1)
			c.serve(nil)
			return nil
		})
		w.removed = func(context.Context) error { known = true; return nil }
		w.run(func(*Keeper) { time.Sleep(time.Second) })
		if len(w.begun) != 1 {
			t.Errorf("sessions begun: %v, want one at once", w.begun)
		}
	})
}

func TestOneNodeThatDoesNotKnowTheAgentIsPassedOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		order := rank("a1", []Node{{ID: "id-n1", Address: "n1"}, {ID: "id-n2", Address: "n2"}})
		w.node(order[0].Address, func(c *conn) error {
			c.refuse(&agentplanev1.Refused{Reason: "removed"})
			return nil
		})
		w.node(order[1].Address, good(w, order[1].ID, 1, nil))
		w.removed = func(context.Context) error {
			t.Error("the agent gives up who it is for one node's word")
			return nil
		}
		w.run(func(*Keeper) { time.Sleep(time.Minute) })
		if len(w.begun) != 1 {
			t.Errorf("sessions begun: %v, want one", w.begun)
		}
	})
}

func TestNodesOfAnotherClusterOrAnOlderLifeAreNotTalkedTo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.inc, w.trusted = incarnation(2), incarnation(1)
		var asked atomic.Int32
		silent := func(c *conn) {
			asked.Add(1)
			if m := c.hear(); m != nil {
				t.Errorf("a node that must be refused heard %v", m)
			}
		}
		w.node("old", func(c *conn) error { c.challenge(1, 9); silent(c); return nil })
		w.node("foreign", func(c *conn) error {
			c.say(&agentplanev1.SessionResponse{Message: &agentplanev1.SessionResponse_Challenge{Challenge: &agentplanev1.Challenge{ClusterId: "c2", Incarnation: incarnation(2)}}})
			silent(c)
			return nil
		})
		w.node("twin", func(c *conn) error {
			c.say(&agentplanev1.SessionResponse{Message: &agentplanev1.SessionResponse_Challenge{Challenge: &agentplanev1.Challenge{ClusterId: cluster, Incarnation: &agentplanev1.Incarnation{Number: 2, Id: []byte{9}}}}})
			silent(c)
			return nil
		})
		w.node("right", func(c *conn) error {
			if asked.Load() < 3 { // the others come first
				return errors.New("not yet")
			}
			c.challenge(3, 0)
			c.hear()
			c.welcome("id-right", 3, 3<<52)
			c.serve(nil)
			return nil
		})
		w.run(func(*Keeper) { time.Sleep(20 * time.Second) })
		if len(w.begun) != 1 || w.begun[0].Incarnation.GetNumber() != 3 {
			t.Errorf("begun %v, want one session of incarnation 3", w.begun)
		}
	})
}

func TestAnotherNodeIsTriedAtOnceThenBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		die := make(chan struct{})
		mortal := func(name string, epoch uint64) func(*conn) error {
			return func(c *conn) error {
				c.challenge(1, epoch-1)
				c.hear()
				c.welcome(name, 1, epoch)
				done := make(chan struct{})
				go func() { defer close(done); c.serve(nil) }()
				select {
				case <-die:
					return errors.New("connection reset")
				case <-done:
					return nil
				}
			}
		}
		first := rank("a1", []Node{{ID: "id-n1", Address: "n1"}, {ID: "id-n2", Address: "n2"}})
		w.node(first[0].Address, mortal(first[0].ID, 1))
		w.node(first[1].Address, nil)
		w.run(func(*Keeper) {
			time.Sleep(20 * time.Second)
			if n := len(w.opens()); n != 1 {
				t.Fatalf("%v were opened, want only the best-ranked", w.opens())
			}
			w.node(first[0].Address, nil)
			w.node(first[1].Address, good(w, first[1].ID, 2, nil))
			before := time.Now()
			close(die)
			synctest.Wait()
			if o := w.opens(); len(o) != 2 || o[1] != first[1].Address || !time.Now().Equal(before) {
				t.Fatalf("opened %v, want %s at once", o, first[1].Address)
			}
		})

		// Nobody there: the rounds grow apart, up to the cap.
		w = newWorld(t)
		w.node("n1", nil)
		w.run(func(k *Keeper) {
			k.o.Trust.Nodes()
			time.Sleep(time.Hour)
		})
		// Full jitter up to 15 s: on average one try in 7.5 s.
		if n := len(w.opens()); n < 350 || n > 650 {
			t.Errorf("%d tries within an hour, want about 480", n)
		}
	})
}

func TestSessionThatBreaksAtOnceIsNoReasonToHurry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		epoch := uint64(0)
		w.node("n1", func(c *conn) error {
			epoch++
			c.challenge(1, epoch-1)
			c.hear()
			c.welcome("id-n1", 1, epoch)
			c.hear()
			return errors.New("internal error")
		})
		w.run(func(*Keeper) { time.Sleep(10 * time.Minute) })
		if n := len(w.opens()); n > 250 {
			t.Errorf("%d sessions within ten minutes", n)
		}
	})
}

func TestSilentNodeIsLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		order := rank("a1", []Node{{ID: "id-n1", Address: "n1"}, {ID: "id-n2", Address: "n2"}})
		var began, left time.Time
		w.node(order[0].Address, func(c *conn) error {
			c.challenge(1, 0)
			c.hear()
			began = time.Now()
			c.welcome(order[0].ID, 1, 1)
			<-c.ctx.Done() // takes everything, answers nothing
			left = time.Now()
			return nil
		})
		w.node(order[1].Address, good(w, order[1].ID, 2, nil))
		w.run(func(*Keeper) { time.Sleep(30 * time.Second) })
		if d := left.Sub(began); d < 3*time.Second || d > 4*time.Second {
			t.Errorf("the silent node was left after %v, want 3 heartbeats of 1 s", d)
		}
		if o := w.opens(); len(o) != 2 {
			t.Errorf("opened %v, want the second node at once", o)
		}
	})
}

func TestNodeThatNeverAnswersIsLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.node("n1", func(c *conn) error { <-c.ctx.Done(); return nil })
		w.run(func(*Keeper) { time.Sleep(10 * time.Minute) })
		if n := len(w.opens()); n < 10 {
			t.Errorf("%d tries within ten minutes", n)
		}
	})
}

func TestMoveAwayLeavesOnlyForAStreamThatStands(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		order := rank("a1", []Node{{ID: "id-n1", Address: "n1"}, {ID: "id-n2", Address: "n2"}})
		told := make(chan struct{})
		var old *conn
		w.node(order[0].Address, func(c *conn) error {
			c.challenge(1, 0)
			c.hear()
			old = c
			w.enter()
			defer w.leave()
			c.welcome(order[0].ID, 1, 1)
			go func() {
				<-told
				for range 3 { // told again and again
					c.say(&agentplanev1.SessionResponse{Message: &agentplanev1.SessionResponse_MoveAway{MoveAway: &agentplanev1.MoveAway{Reason: "no_leader"}}})
				}
			}()
			c.serve(nil)
			return nil
		})
		leaderless := func(c *conn) error {
			c.refuse(&agentplanev1.Refused{Reason: "not_ready"})
			return nil
		}
		w.node(order[1].Address, leaderless)
		w.run(func(*Keeper) {
			time.Sleep(15 * time.Second)
			close(told)
			time.Sleep(time.Minute)
			synctest.Wait()
			if w.live != 1 || len(w.begun) != 1 {
				t.Fatalf("live %d, begun %d: the session was left although no node has a leader", w.live, len(w.begun))
			}
			w.node(order[1].Address, func(c *conn) error {
				c.challenge(1, 1)
				c.hear()
				if old.ctx.Err() == nil {
					t.Error("Hello came while the old stream was open")
				}
				c.welcome(order[1].ID, 1, 2)
				c.serve(nil)
				return nil
			})
			time.Sleep(30 * time.Second)
			synctest.Wait()
			if len(w.begun) != 2 || w.begun[1].Epoch != 2 {
				t.Fatalf("begun %v, want a second session on the other node", w.begun)
			}
		})
	})
}

func TestDrainingSpreadsOverTheTimeGiven(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		order := rank("a1", []Node{{ID: "id-n1", Address: "n1"}, {ID: "id-n2", Address: "n2"}})
		w.node(order[0].Address, func(c *conn) error {
			c.challenge(1, 0)
			c.hear()
			c.welcome(order[0].ID, 1, 1)
			c.say(&agentplanev1.SessionResponse{Message: &agentplanev1.SessionResponse_MoveAway{MoveAway: &agentplanev1.MoveAway{Reason: "draining", WithinMs: 60000}}})
			c.serve(nil)
			return nil
		})
		w.node(order[1].Address, good(w, order[1].ID, 2, nil))
		w.run(func(*Keeper) {
			time.Sleep(61 * time.Second)
			synctest.Wait()
			if len(w.begun) != 2 {
				t.Errorf("begun %v, want to have moved within a minute", w.begun)
			}
		})
	})
}

func TestDeliveriesOfOtherSessionsAreDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		deliver := func(inc uint32, epoch uint64) *agentplanev1.SessionResponse {
			return &agentplanev1.SessionResponse{Message: &agentplanev1.SessionResponse_Deliver{Deliver: &agentplanev1.Deliver{InvocationId: "c.1", Attempt: 1, Incarnation: inc, SessionEpoch: epoch}}}
		}
		cancel := func(epoch uint64) *agentplanev1.SessionResponse {
			return &agentplanev1.SessionResponse{Message: &agentplanev1.SessionResponse_Cancel{Cancel: &agentplanev1.CancelAttempt{InvocationId: "c.1", Attempt: 1, SessionEpoch: epoch}}}
		}
		w.node("n1", func(c *conn) error {
			c.challenge(1, 4)
			c.hear()
			c.welcome("id-n1", 1, 5)
			c.say(deliver(1, 4))
			c.say(deliver(2, 5))
			c.say(deliver(1, 6))
			c.say(cancel(4))
			c.say(deliver(1, 5))
			c.say(cancel(5))
			c.serve(nil)
			return nil
		})
		w.run(func(*Keeper) { time.Sleep(time.Second) })
		if len(w.offered) != 2 || w.offered[0].GetDeliver() == nil || w.offered[1].GetCancel() == nil {
			t.Errorf("offered %v, want the one delivery and the one cancel of this session", w.offered)
		}
	})
}

func TestFullQueueEndsTheSessionForADeliveryOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.full = true
		sessions := 0
		w.node("n1", func(c *conn) error {
			if sessions++; sessions > 1 {
				return errors.New("once is enough")
			}
			c.challenge(1, 0)
			c.hear()
			c.welcome("id-n1", 1, 1)
			c.say(&agentplanev1.SessionResponse{Message: &agentplanev1.SessionResponse_Ask{Ask: &agentplanev1.Ask{InvocationId: "c.1"}}})
			w.group.Go(func() {
				time.Sleep(5 * time.Second)
				if c.ctx.Err() != nil {
					t.Error("a question ended the session")
				}
				c.say(&agentplanev1.SessionResponse{Message: &agentplanev1.SessionResponse_Deliver{Deliver: &agentplanev1.Deliver{InvocationId: "c.1", Incarnation: 1, SessionEpoch: 1}}})
			})
			c.serve(nil)
			return nil
		})
		w.run(func(*Keeper) { time.Sleep(7 * time.Second) })
		if n := len(w.opens()); n < 2 {
			t.Error("the delivery that found no room did not end the session")
		}
	})
}

func TestHeartbeatsReportsFactsAndGoodbye(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.running.Store(2)
		var beats, facts int
		var reports []*agentplanev1.Report
		var bye *agentplanev1.Goodbye
		w.node("n1", func(c *conn) error {
			c.challenge(1, 0)
			c.hear()
			c.welcome("id-n1", 1, 1)
			bye = c.serve(func(m *agentplanev1.SessionRequest) {
				switch {
				case m.GetHeartbeat() != nil:
					beats++
					if m.GetHeartbeat().GetRunning() != 2 || m.GetHeartbeat().GetSessionEpoch() != 1 {
						t.Errorf("heartbeat %v", m)
					}
				case m.GetFacts() != nil:
					facts++
				case m.GetReport() != nil:
					reports = append(reports, m.GetReport())
				}
			})
			return nil
		})
		w.run(func(*Keeper) {
			time.Sleep(10*time.Second + time.Millisecond)
			w.reports <- &agentplanev1.Report{InvocationId: "c.1"}
			synctest.Wait()
			if beats != 10 || facts != 0 || len(reports) != 1 || reports[0].GetSessionEpoch() != 1 {
				t.Errorf("beats %d facts %d reports %v; want 10, none since the node has the hash, one of epoch 1", beats, facts, reports)
			}
			w.mu.Lock()
			w.hash = "h2"
			close(w.changed)
			w.changed = make(chan struct{})
			w.mu.Unlock()
			synctest.Wait()
			if facts != 1 {
				t.Errorf("changed facts were sent %d times", facts)
			}
			w.running.Store(0)
		})
		if bye == nil || bye.GetSessionEpoch() != 1 || bye.GetReboot() {
			t.Errorf("goodbye is %v", bye)
		}
	})
}

func TestAgentWithRunningProgramsGoesWithoutGoodbye(t *testing.T) {
	for _, reboot := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			w.running.Store(1)
			w.rebooting = reboot
			var bye *agentplanev1.Goodbye
			w.node("n1", func(c *conn) error {
				c.challenge(1, 0)
				c.hear()
				c.welcome("id-n1", 1, 1)
				bye = c.serve(nil)
				return nil
			})
			w.run(func(*Keeper) { time.Sleep(time.Second) })
			if (bye != nil) != reboot || bye.GetReboot() != reboot {
				t.Errorf("rebooting %t: goodbye is %v", reboot, bye)
			}
		})
	}
}

func TestRankSpreadsAgentsAndMovesFewWhenANodeGoes(t *testing.T) {
	nodes := []Node{{ID: "a", Address: "1"}, {ID: "b", Address: "2"}, {ID: "c", Address: "3"}, {Address: "1"}, {Address: "vip"}}
	count := map[string]int{}
	for i := range 3000 {
		agent := fmt.Sprint("agent-", i)
		order := rank(agent, nodes)
		if len(order) != 4 || order[3].Address != "vip" {
			t.Fatalf("rank = %v, want the three nodes and then the address that none of them has", order)
		}
		count[order[0].ID]++
		without := slices.DeleteFunc(slices.Clone(nodes), func(n Node) bool { return n.ID == order[1].ID })
		if again := rank(agent, without); again[0] != order[0] {
			t.Fatal("an agent would move although its node stays")
		}
	}
	for id, n := range count {
		if n < 850 || n > 1150 {
			t.Errorf("node %s has %d of 3000 agents", id, n)
		}
	}
}

func TestClockNeverGoesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c Clock
		if _, known := c.Now(); known {
			t.Error("a clock that was never set knows the time")
		}
		c.Set(1000)
		time.Sleep(time.Second)
		c.Set(500)
		c.Set(int64(time.Second) + 999)
		if now, _ := c.Now(); now != int64(time.Second)+1000 {
			t.Errorf("now = %d", now)
		}
		c.Set(int64(time.Hour))
		if now, _ := c.Now(); now != int64(time.Hour) {
			t.Errorf("now = %d, want the hour", now)
		}
	})
}

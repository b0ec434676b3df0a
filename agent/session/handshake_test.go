package session

import (
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
)

func TestHandshakeTellsEverythingAndWaitsForTheDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.previous, w.inc, w.trusted = 7, incarnation(1), incarnation(1)
		w.open = []*agentplanev1.Report{{InvocationId: "c.1", Attempt: 1, State: agentplanev1.AttemptState_ATTEMPT_STATE_RUNNING}}
		var hello *agentplanev1.Hello
		var ready *agentplanev1.Ready
		w.node("n1", func(c *conn) error {
			c.challenge(1, 8)
			hello = c.hear().GetHello()
			c.welcome("id-n1", 1, 9)
			ready = c.hear().GetReady()
			w.mu.Lock()
			if len(w.begun) != 1 || w.begun[0].Epoch != 9 {
				t.Errorf("Ready came before the epoch was durable: %v", w.begun)
			}
			w.mu.Unlock()
			c.serve(nil)
			return nil
		})
		w.run(func(k *Keeper) {
			time.Sleep(30 * time.Second)
			if now, known := k.o.Clock.Now(); !known || now < int64(20*time.Second) {
				t.Errorf("cluster time is %d %t, want Welcome's and what has passed", now, known)
			}
		})
		if hello.GetSeenEpoch() != 8 || hello.GetPreviousEpoch() != 7 || hello.GetIncarnation() != 1 || hello.GetAgentId() != "a1" ||
			len(hello.GetStreamId()) != 16 || hello.GetBootId() != "b" || string(hello.GetStartId()) != "s" || hello.GetSlots() != 4 ||
			hello.GetJournal().GetSeq() != 5 || len(hello.GetOpen()) != 1 || string(hello.GetFactsHash()) != "h1" || hello.GetClusterId() != cluster {
			t.Errorf("Hello is %v", hello)
		}
		if ready.GetSessionEpoch() != 9 {
			t.Errorf("Ready is %v, want epoch 9", ready)
		}
		if n := len(w.opens()); n != 1 {
			t.Errorf("%d streams were opened within 30 s, want 1", n)
		}
	})
}

func TestNoReadyWithoutADurableEpoch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.beginErr = errors.New("no space left on device")
		w.node("n1", func(c *conn) error {
			c.challenge(1, 0)
			c.hear()
			c.welcome("id-n1", 1, 1)
			if m := c.hear(); m != nil {
				t.Errorf("the node heard %v", m)
			}
			return nil
		})
		w.run(func(*Keeper) { time.Sleep(time.Minute) })
		if n := len(w.opens()); n < 3 {
			t.Errorf("%d tries within a minute, want it to go on", n)
		}
	})
}

func TestSupersededSaysHelloAgainOnTheSameStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		var hellos []*agentplanev1.Hello
		w.node("n1", func(c *conn) error {
			c.challenge(1, 3)
			hellos = append(hellos, c.hear().GetHello())
			c.refuse(&agentplanev1.Refused{Reason: "superseded", SessionEpoch: 5, Again: true})
			hellos = append(hellos, c.hear().GetHello())
			c.welcome("id-n1", 1, 6)
			c.serve(nil)
			return nil
		})
		w.run(func(*Keeper) { time.Sleep(5 * time.Second) })
		if len(hellos) != 2 || hellos[0].GetSeenEpoch() != 3 || hellos[1].GetSeenEpoch() != 5 {
			t.Fatalf("hellos are %v", hellos)
		}
		if string(hellos[0].GetStreamId()) != string(hellos[1].GetStreamId()) {
			t.Error("the stream id changed on one stream")
		}
		if n := len(w.opens()); n != 1 {
			t.Errorf("%d streams, want 1", n)
		}
	})
}

func TestNewJournalIsBegunBeforeTheNextHello(t *testing.T) {
	for _, again := range []bool{true, false} {
		t.Run(fmt.Sprintf("again=%t", again), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				asked := false
				w.node("n1", func(c *conn) error {
					c.challenge(1, 1)
					c.hear()
					if !asked {
						asked = true
						c.refuse(&agentplanev1.Refused{Reason: "new_journal", Now: 77, Again: again, SessionEpoch: 1})
						if !again {
							return nil
						}
						c.hear()
					}
					c.welcome("id-n1", 1, 2)
					c.serve(nil)
					return nil
				})
				w.run(func(*Keeper) { time.Sleep(3 * time.Second) })
				if !slices.Equal(w.rotated, []int64{77}) || len(w.begun) != 1 {
					t.Errorf("rotated %v, begun %v", w.rotated, w.begun)
				}
			})
		})
	}
}

func TestMoreRecordsThanHelloTakesFollowSlowly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		for i := range 3000 {
			w.open = append(w.open, &agentplanev1.Report{InvocationId: fmt.Sprintf("c.%d", i), Attempt: 1, State: agentplanev1.AttemptState_ATTEMPT_STATE_REJECTED})
		}
		var told, beats atomic.Int32
		w.node("n1", func(c *conn) error {
			c.challenge(1, 0)
			told.Store(int32(len(c.hear().GetHello().GetOpen())))
			c.welcome("id-n1", 1, 1)
			c.serve(func(m *agentplanev1.SessionRequest) {
				if m.GetReport() != nil {
					told.Add(1)
				}
				if m.GetHeartbeat() != nil {
					beats.Add(1)
				}
			})
			return nil
		})
		w.run(func(*Keeper) {
			time.Sleep(10*time.Second + time.Millisecond)
			synctest.Wait()
			if told.Load() > 2100 || beats.Load() < 9 {
				t.Errorf("after 10 s %d reports and %d heartbeats, want a steady flow of both", told.Load(), beats.Load())
			}
			time.Sleep(15 * time.Second)
		})
		if told.Load() != 3000 {
			t.Errorf("%d reports were told, want 3000", told.Load())
		}
	})
}

func TestOpenRecordsThatDoNotFitFollowReady(t *testing.T) {
	report := func(i int) *agentplanev1.Report {
		return &agentplanev1.Report{
			InvocationId: fmt.Sprintf("c.%d", i), Attempt: 1, State: agentplanev1.AttemptState_ATTEMPT_STATE_SUCCEEDED,
			Stdout: &agentplanev1.Output{Head: make([]byte, 1000)},
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(0, 60).Draw(t, "n")
		limit := rapid.IntRange(100, 70000).Draw(t, "limit")
		var all []*agentplanev1.Report
		for i := range n {
			r := report(i)
			if rapid.Bool().Draw(t, "never") {
				r.Stdout, r.State = nil, agentplanev1.AttemptState_ATTEMPT_STATE_REJECTED
			}
			all = append(all, r)
		}
		open, rest := fit(all, limit)
		whole := map[string]bool{}
		size := 0
		for _, r := range open {
			size += len(r.GetInvocationId()) + len(r.GetStdout().GetHead())
			if r.GetState() != agentplanev1.AttemptState_ATTEMPT_STATE_RUNNING {
				whole[r.GetInvocationId()] = true
			}
		}
		for _, r := range rest {
			if whole[r.GetInvocationId()] {
				t.Fatalf("%s is told twice", r.GetInvocationId())
			}
			whole[r.GetInvocationId()] = true
		}
		if len(whole) != n || size > limit {
			t.Fatalf("%d of %d records are told whole, Hello has %d of %d bytes", len(whole), n, size, limit)
		}
	})
}

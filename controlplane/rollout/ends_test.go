package rollout

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/agentplane/agentplane/fsm"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

// TestEveryCommandEnds is I3: whatever agents do (die, come and go, hang, answer) and
// although leaders change, every invocation is final within the bound.
func TestEveryCommandEnds(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		seed := rapid.SliceOfN(rapid.Byte(), 200, 200).Draw(rt, "choices")
		plan := struct {
			ttl, run, lost time.Duration
			attempts       uint32
			leaders        int
		}{
			ttl:      time.Duration(rapid.IntRange(1, 60).Draw(rt, "ttl minutes")) * time.Minute,
			run:      time.Duration(rapid.IntRange(1, 60).Draw(rt, "run minutes")) * time.Minute,
			lost:     time.Duration(rapid.IntRange(1, 20).Draw(rt, "lost-after minutes")) * time.Minute,
			attempts: uint32(rapid.IntRange(1, 3).Draw(rt, "attempts")),
			leaders:  rapid.IntRange(0, 2).Draw(rt, "leader changes"),
		}
		var failure string
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(rt, fsm.Options{})
			targets := w.enrol(4)
			o := w.options()
			o.LostAfter = plan.lost
			stop := w.lead(o)
			defer func() { stop() }()
			submitted := time.Now()
			id := w.submit(targets, func(m *raftlogv1.SubmitCommand) {
				m.Ttl, m.RunTimeout, m.KillGrace = int64(plan.ttl), int64(plan.run), int64(10*time.Second)
				if plan.attempts > 1 {
					m.Delivery, m.MaxAttempts = raftlogv1.Delivery_DELIVERY_IDEMPOTENT, plan.attempts
				}
			})
			synctest.Wait()
			office, change := time.Now(), 0
			bound := func() time.Duration { return Patience{plan.lost}.Bound(plan.run+10*time.Second) + 10*time.Second }
			for n := 0; ; n++ {
				c, _ := w.m.View().Command(id)
				if c.GetState() == raftlogv1.CommandState_COMMAND_STATE_DONE {
					return
				}
				end := submitted.Add(plan.ttl)
				if office.After(end) {
					end = office
				}
				if over := time.Since(end); over > bound() {
					failure = fmt.Sprintf("%v after not-after and the last change of leader (bound %v): %v; %v", over, bound(), CountsOf(c), w.invocation(id, 1).GetTransitions())
					return
				}
				choice := seed[n%len(seed)]
				ordinal := uint32(choice%4) + 1
				// A quarter of the agents never answers, and the choices repeat: some
				// come and go for ever.
				switch choice / 4 % 8 {
				case 0:
					w.claim(id, ordinal)
				case 1:
					w.report(id, ordinal, runs)
				case 2:
					if ordinal > 1 && choice >= 128 {
						w.report(id, ordinal, succeeded)
					}
				case 3:
					w.end(ordinal)
				case 4, 5:
					w.open(ordinal)
				case 6:
					if change < plan.leaders {
						change++
						stop()
						pass(time.Duration(choice) * time.Minute)
						w.takeOffice()
						stop = w.lead(o)
						office = time.Now()
					}
				}
				pass(time.Duration(choice) * 500 * time.Millisecond)
			}
		})
		if failure != "" {
			rt.Fatal(failure)
		}
	})
}

// The wait for a confirmation and the undo are parts of the time that an attempt has: an agent
// that tells of each and hangs then is not given that time for each.
func TestAnUndoEndsWithinTheTimeOfItsAttempt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, fsm.Options{})
		targets := w.enrol(1)
		defer w.lead(w.options())()
		id := w.submit(targets, func(m *raftlogv1.SubmitCommand) {
			m.RunTimeout = int64(time.Hour) // as Submit makes it
			m.Undo = &raftlogv1.UndoPlan{Within: int64(20 * time.Minute), By: raftlogv1.ConfirmBy_CONFIRM_BY_OPERATOR}
		})
		synctest.Wait()
		w.claim(id, 1)
		w.report(id, 1, runs)
		for _, u := range []*raftlogv1.Undo{
			{Phase: raftlogv1.UndoPhase_UNDO_PHASE_ARMED, Until: 1},
			{Phase: raftlogv1.UndoPhase_UNDO_PHASE_ARMED, Until: 2},
			{Phase: raftlogv1.UndoPhase_UNDO_PHASE_RUNNING, Cause: "reboot"},
		} {
			pass(19 * time.Minute)
			if !w.tellUndo(id, 1, u) {
				t.Fatalf("%v is refused", u)
			}
		}
		pass(4*time.Minute + 10*time.Second + 15*time.Minute - time.Second) // the rest of it, the minute to spare, and LostAfter
		w.want(id, Counts{runs: 1})
		pass(3 * time.Second)
		w.want(id, Counts{lost: 1})
		w.wantReason(id, 1, NoAnswer)
	})
}

package schedule

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/agentplane/agentplane/fsm"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
	"github.com/agentplane/agentplane/proto/timetable"
)

// TestEachSlotIsSettledOnce lives days at random: leaders change at any moment, freeze and
// come back, answers get lost, there is no leader for a while, clocks are put forward. In
// the end each slot has one end, and where no leader was away for long each has its own.
func TestEachSlotIsSettledOnce(t *testing.T) {
	for seed := range uint64(12) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { live(t, rand.New(rand.NewPCG(seed, 1)), seed%2 == 0) })
		})
	}
}

// live lives a day; calm says that a leader is never away for as long as a slot may be
// late.
func live(t *testing.T, random *rand.Rand, calm bool) {
	w := newWorld(t)
	crons := map[string]string{"five": "*/5 * * * *", "seven": "*/7 * * * *", "often": "* * * * *", "hour": "0 * * * *"}
	for _, name := range []string{"five", "seven", "often", "hour"} {
		w.put(name, func(s *raftlogv1.ScheduleSpec) {
			s.Cron, s.TimeZone = crons[name], "Europe/Vienna"
			s.Overlap, s.Missed = raftlogv1.Overlap(1+random.IntN(3)), raftlogv1.Missed(1+random.IntN(2))
		})
	}
	o, stop := w.lead()
	var stops, thaws []func() // of those who are frozen
	away := func() time.Duration {
		if calm {
			return time.Duration(random.IntN(40)) * time.Second
		}
		return time.Duration(random.IntN(40*60)) * time.Second
	}
	end := w.now().Add(6 * time.Hour)
	if !calm {
		end = end.Add(18 * time.Hour)
	}
	for w.now().Before(end) {
		switch random.IntN(8) {
		case 0: // the leader dies
			stop()
			pass(away())
			w.elect()
			o, stop = w.lead()
		case 1: // it freezes, and another one leads beside it; it comes back some time
			thaws = append(thaws, o.freeze())
			frozen := stop
			stops = append(stops, frozen)
			pass(away())
			w.elect()
			o, stop = w.lead()
		case 2:
			if len(thaws) > 0 { // it finds that it is deposed, and soon is told
				thaws[0]()
				pass(10 * time.Second)
				stops[0]()
				thaws, stops = thaws[1:], stops[1:]
			}
		case 3:
			w.mu.Lock()
			w.lost, w.twice = random.IntN(3), random.IntN(3)
			w.mu.Unlock()
		case 4:
			w.endCommands()
		case 5:
			w.refuse([]string{"", fsm.NoTargets, "other"}[random.IntN(3)])
		case 6:
			if !calm {
				w.jump(time.Duration(random.IntN(3600)) * time.Second)
			}
		}
		// Not in the middle between two slots only.
		pass(time.Duration(random.IntN(400)) * time.Second)
		pass(time.Until(time.Now().Truncate(time.Minute).Add(time.Minute + time.Duration(random.IntN(3)-1)*time.Millisecond)))
	}
	w.mu.Lock()
	w.lost = 0
	w.mu.Unlock()
	pass(10 * time.Second)
	for _, thaw := range thaws {
		thaw()
	}
	pass(time.Second)
	for _, stop := range append(stops, stop) {
		stop()
	}

	for slot, n := range w.settled {
		if n != 1 {
			t.Errorf("slot %s was settled %d times", slot, n)
		}
	}
	commands := make(map[string]string)
	v := w.m.View()
	for c := range v.CommandsNewestFirst(0) {
		slot := fmt.Sprint(c.GetSchedule(), " ", c.GetSlot())
		if other, twice := commands[slot]; twice {
			t.Errorf("slot %s has the commands %s and %s", slot, other, c.GetId())
		}
		commands[slot] = c.GetId()
	}
	for s := range v.Schedules() {
		table, err := timetable.OfNanos(s.GetSpec().GetCron(), s.GetSpec().GetTimeZone(), 0, 0)
		if err != nil {
			t.Fatal(err)
		}
		want := uint64(0)
		for slot := table.Next(time.Unix(0, s.GetCreatedAt())); !slot.After(time.Unix(0, v.Now())); slot = table.Next(slot) {
			want++
		}
		got := s.GetFired() + s.GetSkipped()
		if s.GetWaitingSlot() != 0 {
			got++
		}
		if got != want {
			t.Errorf("schedule %s: %d slots were settled, want %d", s.GetName(), got, want)
		}
		for _, f := range s.GetFirings() {
			if calm && (f.GetReason() == Missed || f.GetMissed() > 0) && s.GetSpec().GetCron() != crons["often"] {
				t.Errorf("schedule %s missed a slot although a leader was never away for long: %v", s.GetName(), f)
			}
		}
	}
	if len(commands) < 5 {
		t.Errorf("only %d commands came of it", len(commands))
	}
}

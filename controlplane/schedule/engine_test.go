package schedule

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/agentplane/agentplane/fsm"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

func TestNewRefusesWhatCannotWork(t *testing.T) {
	if _, err := New(Options{}); err == nil {
		t.Error("an Engine without a machine was made")
	}
	if _, err := New(Options{Machine: fsm.New(fsm.Options{}), Proposer: &office{}, Planner: &world{}, MissedAfter: -1}); err == nil {
		t.Error("a negative time was accepted")
	}
}

func TestFiresAtEachSlot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		_, stop := w.lead()
		defer stop()
		pass(17 * time.Minute)
		begin := w.now().Truncate(time.Hour)
		w.put("hourly", nil)
		pass(24 * time.Hour)
		told := w.told()
		if len(told) != 24 {
			t.Fatalf("%d slots were settled in a day, want 24: %v", len(told), told)
		}
		for n, f := range told {
			if want := begin.Add(time.Duration(n+1) * time.Hour); !f.slot.Equal(want) || !f.command || f.at.Sub(f.slot) > time.Second || f.at.Before(f.slot) {
				t.Fatalf("slot %d is %+v, want one at %v", n, f, want)
			}
		}
		if s, _ := w.m.View().Schedule("hourly"); s.GetFired() != 24 || s.GetSkipped() != 0 {
			t.Errorf("the row counts %d and %d", s.GetFired(), s.GetSkipped())
		}
	})
}

// The clock is put forward on the day on which Vienna's hour from two to three does not
// exist, and back in October.
func TestFiresOnceOnDaysOfTheClockChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.jump(time.Until(time.Date(2026, 3, 27, 12, 0, 0, 0, time.UTC)))
		w.elect()
		_, stop := w.lead()
		defer stop()
		w.put("vienna", func(s *raftlogv1.ScheduleSpec) { s.Cron, s.TimeZone = "30 2 * * *", "Europe/Vienna" })
		pass(3 * 24 * time.Hour)
		slots(t, w.told(), "03-28T01:30", "03-29T01:00", "03-30T00:30")
		w.jump(time.Date(2026, 10, 24, 12, 0, 0, 0, time.UTC).Sub(w.now()))
		w.must(&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_PauseSchedule{PauseSchedule: &raftlogv1.PauseSchedule{Name: "vienna"}}})
		w.must(&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_ResumeSchedule{ResumeSchedule: &raftlogv1.ResumeSchedule{Name: "vienna"}}})
		w.told()
		pass(2 * 24 * time.Hour)
		slots(t, w.told(), "10-25T00:30", "10-26T01:30")
	})
}

// A slot that fires without some of its agents says so.
func TestSlotNotesWhoIsGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		_, stop := w.lead()
		defer stop()
		w.put("hourly", nil)
		w.mu.Lock()
		w.gone = []string{"web-9", "web-8"}
		w.mu.Unlock()
		pass(time.Hour)
		s, _ := w.m.View().Schedule("hourly")
		if f := s.GetFirings(); len(f) != 1 || f[0].GetCommandId() == "" || f[0].GetReason() != AgentsGone || f[0].GetDetail() != "not there any more: web-9, web-8" || s.GetFired() != 1 {
			t.Errorf("it is noted as %v", f)
		}
	})
}

func slots(t *testing.T, told []fired, want ...string) {
	t.Helper()
	var got []string
	for _, f := range told {
		got = append(got, f.slot.Format("01-02T15:04"))
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("slots %v were settled, want %v", got, want)
	}
}

func TestMissedSlots(t *testing.T) {
	for name, c := range map[string]struct {
		policy raftlogv1.Missed
		down   time.Duration
		want   []fired
	}{
		"an election is no miss":     {raftlogv1.Missed_MISSED_SKIP, 50 * time.Second, []fired{{command: true}}},
		"hours are noted":            {raftlogv1.Missed_MISSED_SKIP, 3*time.Hour + 5*time.Minute, []fired{{reason: Missed, missed: 3}}},
		"the newest fires for all":   {raftlogv1.Missed_MISSED_ONCE, 3*time.Hour + 5*time.Minute, []fired{{command: true, missed: 3}}},
		"the newest is still good":   {raftlogv1.Missed_MISSED_SKIP, 3*time.Hour + 30*time.Second, []fired{{command: true, missed: 3}}},
		"months are counted in part": {raftlogv1.Missed_MISSED_ONCE, 100*24*time.Hour + time.Minute + 30*time.Second, []fired{{command: true, missed: 999}}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.put("hourly", func(s *raftlogv1.ScheduleSpec) { s.Missed = c.policy })
				pass(time.Hour - time.Second)
				pass(c.down) // without a leader
				w.elect()
				_, stop := w.lead()
				defer stop()
				pass(2 * time.Second)
				told := w.told()
				if len(told) != len(c.want) {
					t.Fatalf("settled %+v, want %+v", told, c.want)
				}
				for n, f := range told {
					want := c.want[n]
					want.schedule, want.slot, want.at = f.schedule, w.now().Truncate(time.Hour).UTC(), f.at
					if f != want {
						t.Errorf("settled %+v, want %+v", f, want)
					}
				}
				pass(time.Hour)
				if told := w.told(); len(told) != 1 || !told[0].command || told[0].missed != 0 {
					t.Errorf("the next slot is %+v", told)
				}
			})
		})
	}
}

func TestClockThatIsPutForwardMissesSlots(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.put("hourly", nil)
		_, stop := w.lead()
		defer stop()
		pass(90 * time.Minute)
		w.told()
		w.jump(5 * time.Hour)
		pass(2 * time.Second)
		if told := w.told(); len(told) != 1 || told[0].command || told[0].missed != 4 {
			t.Errorf("settled %+v, want one note of five slots", told)
		}
		w.jump(-4 * time.Hour) // the cluster's time stands until the clocks are there again
		pass(4 * time.Hour)
		if told := w.told(); len(told) != 0 {
			t.Errorf("settled %+v while time stood", told)
		}
		pass(time.Hour)
		if told := w.told(); len(told) != 1 || !told[0].command {
			t.Errorf("settled %+v", told)
		}
	})
}

func TestOverlaps(t *testing.T) {
	for name, c := range map[string]struct {
		policy raftlogv1.Overlap
		want   []string
	}{
		"skip":  {raftlogv1.Overlap_OVERLAP_SKIP, []string{"fired", "overlap", "overlap", "fired"}},
		"queue": {raftlogv1.Overlap_OVERLAP_QUEUE, []string{"fired", "one_waits", "fired"}},
		"allow": {raftlogv1.Overlap_OVERLAP_ALLOW, []string{"fired", "fired", "fired", "fired"}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				_, stop := w.lead()
				defer stop()
				w.put("often", func(s *raftlogv1.ScheduleSpec) { s.Cron, s.Overlap = "* * * * *", c.policy })
				pass(3*time.Minute + 30*time.Second) // three slots while the first one's command is open
				ended := w.now()
				w.endCommands()
				pass(10 * time.Second)
				var got []string
				told := w.told()
				for _, f := range told {
					word := f.reason
					if f.command {
						word = "fired"
					}
					got = append(got, word)
				}
				if c.policy == raftlogv1.Overlap_OVERLAP_QUEUE {
					if last := told[len(told)-1]; !last.command || last.at.Before(ended) || last.at.Sub(ended) > 2*time.Second {
						t.Errorf("what waited fired at %v, the end was at %v", last.at, ended)
					}
				} else {
					pass(time.Minute)
					if f := w.told(); len(f) != 1 || !f[0].command {
						t.Errorf("after the end: %+v", f)
					}
					got = append(got, "fired")
				}
				if fmt.Sprint(got) != fmt.Sprint(c.want) {
					t.Errorf("slots went %v, want %v", got, c.want)
				}
			})
		})
	}
}

func TestPauseAndResume(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		_, stop := w.lead()
		defer stop()
		w.put("hourly", func(s *raftlogv1.ScheduleSpec) { s.Missed = raftlogv1.Missed_MISSED_ONCE })
		pass(90 * time.Minute)
		w.must(&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_PauseSchedule{PauseSchedule: &raftlogv1.PauseSchedule{Name: "hourly"}}})
		w.told()
		pass(5 * time.Hour)
		w.must(&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_ResumeSchedule{ResumeSchedule: &raftlogv1.ResumeSchedule{Name: "hourly"}}})
		pass(29 * time.Minute)
		if told := w.told(); len(told) != 0 {
			t.Errorf("slots of the pause were settled: %+v", told)
		}
		pass(2 * time.Minute)
		if told := w.told(); len(told) != 1 || !told[0].command || told[0].missed != 0 {
			t.Errorf("after the pause: %+v", told)
		}
	})
}

func TestOnceAndUntilEndAndAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		_, stop := w.lead()
		defer stop()
		at := w.now().Add(10 * time.Minute)
		w.put("once", func(s *raftlogv1.ScheduleSpec) { s.Cron, s.At = "", at.UnixNano() })
		w.put("until", func(s *raftlogv1.ScheduleSpec) { s.Until = w.now().Add(150 * time.Minute).UnixNano() })
		pass(5 * time.Hour)
		slots(t, w.told(), at.UTC().Format("01-02T15:04"), at.Truncate(time.Hour).Add(time.Hour).UTC().Format("01-02T15:04"), at.Truncate(time.Hour).Add(2*time.Hour).UTC().Format("01-02T15:04"))
		for _, name := range []string{"once", "until"} {
			if s, _ := w.m.View().Schedule(name); s.GetEndedAt() == 0 {
				t.Errorf("schedule %s has not ended: %v", name, s)
			}
		}
		pass(30 * 24 * time.Hour)
		if n := w.m.View().ScheduleCount(); n != 0 {
			t.Errorf("%d schedules are left after their time", n)
		}
	})
}

func TestWhoIsNotThereIsSaid(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		_, stop := w.lead()
		defer stop()
		w.put("hourly", nil)
		w.refuse(fsm.NoTargets)
		pass(time.Hour)
		w.refuse("ambiguous_name")
		pass(time.Hour)
		w.refuse("")
		pass(time.Hour)
		told := w.told()
		if len(told) != 3 || told[0].reason != fsm.NoTargets || told[1].reason != "ambiguous_name" || !told[2].command {
			t.Fatalf("settled %+v", told)
		}
		s, _ := w.m.View().Schedule("hourly")
		if s.GetFired() != 2 || s.GetSkipped() != 1 || s.GetFirings()[1].GetDetail() != "nobody is meant" {
			t.Errorf("the row says %v", s)
		}
	})
}

// Answers get lost after the entry was applied: whoever asks again finds the slot settled.
func TestLostAnswersFireOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		_, stop := w.lead()
		defer stop()
		w.put("hourly", nil)
		for range 5 {
			pass(time.Hour - time.Second)
			w.mu.Lock()
			w.lost = 3
			w.mu.Unlock()
			pass(time.Second)
		}
		pass(time.Minute)
		if told := w.told(); len(told) != 5 {
			t.Errorf("settled %+v", told)
		}
		if n := w.m.View().CommandCount(); n != 5 {
			t.Errorf("%d commands came of 5 slots", n)
		}
	})
}

// A leader is frozen just at the slot, and goes on when another has fired it.
func TestFrozenLeaderChangesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		old, stopOld := w.lead()
		w.put("hourly", nil)
		pass(time.Hour - time.Second)
		thaw := old.freeze()
		pass(2 * time.Second)
		w.elect()
		_, stop := w.lead()
		defer stop()
		pass(2 * time.Second)
		if told := w.told(); len(told) != 1 || !told[0].command {
			t.Fatalf("the new leader settled %+v", told)
		}
		thaw()
		pass(10 * time.Minute)
		stopOld()
		if told := w.told(); len(told) != 0 || w.m.View().CommandCount() != 1 {
			t.Errorf("the old leader settled %+v; there are %d commands", told, w.m.View().CommandCount())
		}
	})
}

func TestManyAtOnceInBoundedEntries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		_, stop := w.lead(func(o *Options) { o.MaxMutations = 7 })
		defer stop()
		for n := range 200 {
			w.put(fmt.Sprintf("s%03d", n), func(s *raftlogv1.ScheduleSpec) {
				if n%2 == 0 {
					s.Until = w.now().Add(90 * time.Minute).UnixNano()
				}
			})
		}
		pass(time.Hour + time.Second)
		if told := w.told(); len(told) != 200 {
			t.Errorf("%d of 200 slots were settled", len(told))
		}
		if n, _ := w.bounds(); n > 7 {
			t.Errorf("a proposal had %d mutations, at most 7 are allowed", n)
		}
		pass(time.Hour)
		if told := w.told(); len(told) != 100 {
			t.Errorf("%d of 100 slots were settled", len(told))
		}
	})
}

// Slots of large commands that are due at once are divided among entries that any
// configuration takes.
func TestLargeCommandsInBoundedEntries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.size = 70 << 10
		_, stop := w.lead()
		defer stop()
		for n := range 20 {
			w.put(fmt.Sprintf("s%03d", n), nil)
		}
		pass(time.Hour + time.Second)
		if told := w.told(); len(told) != 20 {
			t.Errorf("%d of 20 slots were settled", len(told))
		}
		if n, bytes := w.bounds(); bytes > 256<<10 || n != 3 {
			t.Errorf("a proposal had %d mutations of %d bytes, at most 256 KiB are allowed", n, bytes)
		}
	})
}

// Thousands end at once, and are purged at once.
func TestManyEndInBoundedEntries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		_, stop := w.lead(func(o *Options) { o.RetainCount = 10 })
		defer stop()
		until := w.now().Add(90 * time.Minute).UnixNano()
		for n := range 900 {
			w.put(fmt.Sprintf("s%03d", n), func(s *raftlogv1.ScheduleSpec) { s.Cron, s.Until = "0 0 * * *", until })
		}
		pass(2 * time.Hour)
		if n := w.m.View().ScheduleCount(); n != 10 {
			t.Errorf("%d schedules are left, want 10", n)
		}
		if _, bytes := w.bounds(); bytes > 256<<10 {
			t.Errorf("a proposal had %d bytes", bytes)
		}
	})
}

func TestChangeOfTheTimesCountsFromNow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		_, stop := w.lead()
		defer stop()
		w.put("s", func(s *raftlogv1.ScheduleSpec) { s.Cron, s.Missed = "@daily", raftlogv1.Missed_MISSED_ONCE })
		pass(12*time.Hour + 30*time.Second)
		w.put("s", func(s *raftlogv1.ScheduleSpec) { s.Missed = raftlogv1.Missed_MISSED_ONCE }) // hourly
		pass(59 * time.Minute)
		if told := w.told(); len(told) != 0 {
			t.Errorf("hours before the change were settled: %+v", told)
		}
		pass(time.Minute)
		if told := w.told(); len(told) != 1 || told[0].missed != 0 {
			t.Errorf("after the change: %+v", told)
		}
	})
}

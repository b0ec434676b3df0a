package timetable

import (
	"testing"
	"time"
)

// FuzzNew feeds expressions, zones and times: what is taken has slots that ascend, each
// of which is found from just before it.
func FuzzNew(f *testing.F) {
	for _, expr := range []string{"0 3 * * *", "*/10 * * * *", "30 2 29 2 *", "@daily", "0 0 1,15 * MON-FRI", "59 23 31 12 7", "* * * * *", "TZ=x 1 1 1 1 1", "*/0 * * * *", "5-1 * * * *", "?/9999999999 * * * *"} {
		f.Add(expr, "Europe/Vienna", int64(1774746000))
		f.Add(expr, "Australia/Lord_Howe", int64(1775314800))
		f.Add(expr, "", int64(0))
	}
	f.Fuzz(func(t *testing.T, expr, zone string, from int64) {
		table, err := New(Spec{Cron: expr, Zone: zone})
		if err != nil || from < 0 || from > 1<<33 {
			return
		}
		slot := time.Unix(from, 0)
		for range 4 {
			next := table.Next(slot)
			if next.IsZero() {
				return // more than five years away
			}
			if !next.After(slot) {
				t.Fatalf("%q in %q: the slot after %v is %v", expr, zone, slot, next)
			}
			if again := table.Next(next.Add(-time.Nanosecond)); !again.Equal(next) {
				t.Fatalf("%q in %q: %v is a slot, from just before it comes %v", expr, zone, next, again)
			}
			slot = next
		}
	})
}

package timetable

import (
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

func at(t *testing.T, text, zone string) time.Time {
	t.Helper()
	when, err := ParseTime(text, zone)
	if err != nil {
		t.Fatal(err)
	}
	return when
}

func TestSlots(t *testing.T) {
	const vienna, newYork, lordHowe, apia, kolkata = "Europe/Vienna", "America/New_York", "Australia/Lord_Howe", "Pacific/Apia", "Asia/Kolkata"
	for name, c := range map[string]struct {
		cron, zone, after string
		want              []string // in UTC
	}{
		"every day at three":      {"0 3 * * *", "", "2026-01-01T00:00", []string{"2026-01-01T03:00", "2026-01-02T03:00"}},
		"in a zone":               {"0 3 * * *", vienna, "2026-01-01T00:00", []string{"2026-01-01T02:00", "2026-01-02T02:00"}},
		"of a half hour":          {"0 3 * * *", kolkata, "2026-01-01T00:00", []string{"2025-12-31T21:30", "2026-01-01T21:30"}},
		"after is not part of it": {"0 3 * * *", "", "2026-01-01T03:00", []string{"2026-01-02T03:00"}},
		"days or weekdays":        {"0 0 13 * 5", "", "2026-02-12T00:00", []string{"2026-02-13T00:00", "2026-02-20T00:00"}},
		"by a word":               {"@daily", vienna, "2026-07-01T12:00", []string{"2026-07-01T22:00"}},
		"a leap day":              {"0 0 29 2 *", "", "2026-01-01T00:00", []string{"2028-02-29T00:00", "2032-02-29T00:00"}},

		"the left out hour comes due at the jump":     {"30 2 * * *", vienna, "2026-03-28T00:00", []string{"2026-03-28T01:30", "2026-03-29T01:00", "2026-03-30T00:30"}},
		"several in the left out hour are one":        {"0,15,30 2 * * *", vienna, "2026-03-28T12:00", []string{"2026-03-29T01:00", "2026-03-30T00:00"}},
		"one at the jump and one in it are one":       {"30 2,3 * * *", vienna, "2026-03-29T00:00", []string{"2026-03-29T01:00", "2026-03-29T01:30"}},
		"the hour that comes twice counts once":       {"30 2 * * *", vienna, "2026-10-24T12:00", []string{"2026-10-25T00:30", "2026-10-26T01:30"}},
		"and not when asked in its second time":       {"45 2 * * *", vienna, "2026-10-25T02:30+01:00", []string{"2026-10-26T01:45"}},
		"what comes after it is in winter time":       {"0 3 * * *", vienna, "2026-10-24T12:00", []string{"2026-10-25T02:00"}},
		"an hour later in America":                    {"30 1 * * *", newYork, "2026-10-31T12:00", []string{"2026-11-01T05:30", "2026-11-02T06:30"}},
		"every hour goes on through the left out one": {"30 * * * *", vienna, "2026-03-29T00:00", []string{"2026-03-28T23:30", "2026-03-29T00:30", "2026-03-29T01:30"}},
		"every hour goes on through the double one":   {"0 * * * *", vienna, "2026-10-25T01:30", []string{"2026-10-25T00:00", "2026-10-25T01:00", "2026-10-25T02:00"}},
		"half an hour that comes twice":               {"*/20 * * * *", lordHowe, "2026-04-05T01:50+11:00", []string{"2026-04-04T15:10", "2026-04-04T15:30", "2026-04-04T15:50"}},
		"half an hour that is left out":               {"10 2 * * *", lordHowe, "2026-10-03T12:00", []string{"2026-10-03T15:30", "2026-10-04T15:10"}},
		"a day that was left out":                     {"0 8 * * *", apia, "2011-12-29T12:00", []string{"2011-12-30T10:00", "2011-12-30T18:00"}},
	} {
		t.Run(name, func(t *testing.T) {
			table, err := New(Spec{Cron: c.cron, Zone: c.zone})
			if err != nil {
				t.Fatal(err)
			}
			slot := at(t, c.after, c.zone)
			for n, want := range c.want {
				if slot = table.Next(slot); !slot.Equal(at(t, want, "")) {
					t.Fatalf("slot %d = %v, want %v", n, slot.UTC(), want)
				}
			}
		})
	}
}

func TestOnce(t *testing.T) {
	when := at(t, "2026-12-01T03:00", "Europe/Vienna")
	table, err := New(Spec{At: when, Zone: "Europe/Vienna"})
	if err != nil || table.Repeats() {
		t.Fatalf("New = %v, %v", table, err)
	}
	if got := table.Next(when.Add(-time.Hour)); !got.Equal(at(t, "2026-12-01T02:00", "")) {
		t.Errorf("Next = %v", got)
	}
	if got := table.Next(when); !got.IsZero() {
		t.Errorf("a second slot at %v", got)
	}
}

func TestUntil(t *testing.T) {
	table, err := New(Spec{Cron: "0 3 * * *", Until: at(t, "2026-01-02T03:00", "")})
	if err != nil {
		t.Fatal(err)
	}
	first := table.Next(at(t, "2026-01-01T04:00", ""))
	if !first.Equal(at(t, "2026-01-02T03:00", "")) || !table.Next(first).IsZero() {
		t.Errorf("slots %v, %v", first, table.Next(first))
	}
}

func TestTimesOfDay(t *testing.T) {
	for text, want := range map[string]string{
		"2026-12-01T03:00":          "2026-12-01T02:00",
		"2026-12-01 03:00":          "2026-12-01T02:00",
		"2026-12-01T03:00:00Z":      "2026-12-01T03:00",
		"2026-12-01T03:00+05:00":    "2026-11-30T22:00",
		"2026-03-29T02:30":          "2026-03-29T01:00", // left out
		"2026-10-25T02:30":          "2026-10-25T00:30", // the first of two
		"2026-10-25T02:30:00+01:00": "2026-10-25T01:30", // the second of two
	} {
		if got := at(t, text, "Europe/Vienna"); !got.Equal(at(t, want, "")) {
			t.Errorf("%s is %v, want %s", text, got.UTC(), want)
		}
	}
	for _, bad := range []string{"", "03:00", "2026-13-01T03:00", "tomorrow"} {
		if got, err := ParseTime(bad, ""); err == nil {
			t.Errorf("%q is %v", bad, got)
		}
	}
}

func TestRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		spec Spec
		says string
	}{
		"nothing":           {Spec{}, "neither"},
		"both":              {Spec{Cron: "@daily", At: time.Unix(1, 0)}, "one of them"},
		"four fields":       {Spec{Cron: "0 3 * *"}, "five fields"},
		"a word":            {Spec{Cron: "x 3 * * *"}, `the minute is "x", and may be 0 to 59`},
		"a late hour":       {Spec{Cron: "0 24 * * *"}, `the hour is "24", and may be 0 to 23`},
		"no day":            {Spec{Cron: "0 3 0 * *"}, `the day is "0", and may be 1 to 31`},
		"no month":          {Spec{Cron: "0 3 * foo *"}, `the month is "foo", and may be 1 to 12 or JAN to DEC`},
		"a range backwards": {Spec{Cron: "0 3 * * 5-1"}, `the weekday is "5-1", and may be 0 to 6 or SUN to SAT`},
		"a step of nothing": {Spec{Cron: "*/0 * * * *"}, `the minute is "*/0"`},
		"another word":      {Spec{Cron: "@midday"}, "none of @hourly, @daily"},
		"seconds":           {Spec{Cron: "0 0 3 * * *"}, "five fields"},
		"a minute too high": {Spec{Cron: "60 3 * * *"}, "60"},
		"a zone inside":     {Spec{Cron: "TZ=Europe/Vienna 0 3 * * *"}, "beside"},
		"a zone alone":      {Spec{Cron: "CRON_TZ=Europe/Vienna"}, "beside"},
		"no slots":          {Spec{Cron: "@every 10m"}, "*/10"},
		"never":             {Spec{Cron: "0 0 30 2 *"}, "never"},
		"too long":          {Spec{Cron: strings.Repeat("1,", 200) + "1 * * * *"}, "256"},
		"no such zone":      {Spec{Cron: "@daily", Zone: "Europe/Wien"}, "Europe/Wien"},
		"the node's zone":   {Spec{Cron: "@daily", Zone: "Local"}, "Local"},
		"a path":            {Spec{Cron: "@daily", Zone: "../passwd"}, "not known"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := New(c.spec); err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("New = %v, want an error with %q", err, c.says)
			}
		})
	}
}

func TestDueFindsTheNewestAfterAnyTime(t *testing.T) {
	table, err := New(Spec{Cron: "* * * * *"})
	if err != nil {
		t.Fatal(err)
	}
	from := at(t, "2026-01-01T00:00", "")
	for _, c := range []struct {
		now    time.Time
		newest time.Time
		n      int
	}{
		{from.Add(59 * time.Second), time.Time{}, 0},
		{from.Add(time.Minute), from.Add(time.Minute), 1},
		{from.Add(5*time.Minute + time.Second), from.Add(5 * time.Minute), 5},
		{from.Add(1000 * time.Minute), from.Add(1000 * time.Minute), 1000},
		{from.Add(400*24*time.Hour + time.Second), from.Add(400 * 24 * time.Hour), 1000},
	} {
		if newest, n := table.Due(from, c.now); !newest.Equal(c.newest) || n != c.n {
			t.Errorf("Due until %v = %v, %d, want %v, %d", c.now, newest, n, c.newest, c.n)
		}
	}
}

// TestSlotsAreThoseOfASlowWalk compares with a walk over all minutes of weeks around
// the jumps of a clock.
func TestSlotsAreThoseOfASlowWalk(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	fields := func(from ...string) string { return from[random.IntN(len(from))] }
	for range 80 {
		expr := strings.Join([]string{
			fields("0", "30", "*/20", "15,45", "*"), fields("*", "2", "1-3", "*/2", "0,3", "23"), fields("*", "*", "29", "1"), "*", fields("*", "*", "0"),
		}, " ")
		zone := fields("Europe/Vienna", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata", "")
		table, err := New(Spec{Cron: expr, Zone: zone})
		if err != nil {
			t.Fatal(err)
		}
		begin := at(t, fields("2026-03-06T00:00", "2026-03-27T00:00", "2026-10-02T00:00", "2026-10-23T00:00", "2026-10-30T00:00", "2026-04-03T00:00"), "")
		end := begin.Add(4 * 24 * time.Hour)
		want := slowSlots(table, begin, end)
		slot := begin
		for n, w := range want {
			if slot = table.Next(slot); !slot.Equal(w) {
				t.Fatalf("%q in %q: slot %d after %v = %v, want %v", expr, zone, n, begin, slot.UTC(), w.UTC())
			}
		}
		if slot = table.Next(slot); slot.Before(end) {
			t.Fatalf("%q in %q: a slot at %v too many", expr, zone, slot.UTC())
		}
	}
}

// slowSlots looks at each minute. Which times of day were shown before is a set.
func slowSlots(table *Timetable, begin, end time.Time) []time.Time {
	matches := func(wall time.Time) bool { return table.spec.Next(wall.Add(-time.Second)).Equal(wall) }
	elapsed := table.spec.Hour&everyHour == everyHour
	shown := make(map[time.Time]bool)
	var slots []time.Time
	last := wallOf(begin.Add(-24*time.Hour), table.zone)
	for now := begin.Add(-24 * time.Hour); now.Before(end); now = now.Add(time.Minute) {
		wall := wallOf(now, table.zone)
		due := matches(wall) && (elapsed || !shown[wall])
		for over := last.Add(time.Minute); !elapsed && over.Before(wall); over = over.Add(time.Minute) {
			due = due || matches(over) && !shown[over] // jumped over
			shown[over] = true
		}
		shown[wall], last = true, wall
		if due && now.After(begin) {
			slots = append(slots, now)
		}
	}
	return slots
}

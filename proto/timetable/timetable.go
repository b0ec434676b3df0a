package timetable

import (
	"errors"
	"fmt"
	"strings"
	"time"
	_ "time/tzdata" // for hosts without zone files

	"github.com/robfig/cron/v3"
)

const (
	// MaxExpressionBytes bounds a cron expression.
	MaxExpressionBytes = 256
	// MaxZoneBytes bounds the name of a zone.
	MaxZoneBytes = 64
	// MaxCounted is up to how many slots Due counts.
	MaxCounted = 1000

	everyHour = 1<<24 - 1
)

// Spec is what a Timetable is made from: Cron or At, not both.
type Spec struct {
	// Cron has the five fields minute, hour, day of month, month, day of week; or is
	// one of @hourly, @daily, @weekly, @monthly, @yearly.
	Cron string
	// At is the only slot.
	At time.Time
	// Zone is a name of the IANA data base, as Europe/Vienna; empty means UTC.
	Zone string
	// Until, unless zero, is the last instant that may be a slot.
	Until time.Time
}

// Timetable knows the slots of a schedule. It is never changed.
type Timetable struct {
	spec *cron.SpecSchedule // nil: there is one slot
	at   time.Time
	zone *time.Location
	last time.Time
}

var parser = cron.NewParser(cron.Minute | cron.Hour | cron.Dom | cron.Month | cron.Dow | cron.Descriptor)

// New returns the timetable, or says what is wrong with the spec in a clause.
func New(s Spec) (*Timetable, error) {
	zone, err := Zone(s.Zone)
	if err != nil {
		return nil, err
	}
	t := &Timetable{at: s.At, zone: zone, last: s.Until}
	switch {
	case s.Cron == "" && s.At.IsZero():
		return nil, errors.New("there is neither a cron expression nor a time")
	case s.Cron != "" && !s.At.IsZero():
		return nil, errors.New("there is a cron expression and a time: one of them")
	case s.Cron == "":
		return t, nil
	}
	if t.spec, err = parse(s.Cron); err != nil {
		return nil, err
	}
	if t.next(time.Unix(0, 0)).IsZero() {
		return nil, fmt.Errorf("cron expression %q never comes due", s.Cron)
	}
	return t, nil
}

// OfNanos is New for times as messages hold them, in Unix nanoseconds; 0 is none.
func OfNanos(cron, zone string, at, until int64) (*Timetable, error) {
	s := Spec{Cron: cron, Zone: zone}
	if at != 0 {
		s.At = time.Unix(0, at)
	}
	if until != 0 {
		s.Until = time.Unix(0, until)
	}
	return New(s)
}

func parse(expr string) (*cron.SpecSchedule, error) {
	const form = "five fields are wanted, minute hour day month weekday, as in '0 3 * * *'"
	switch {
	case len(expr) > MaxExpressionBytes:
		return nil, fmt.Errorf("the cron expression has %d bytes, at most %d are allowed", len(expr), MaxExpressionBytes)
	case strings.Contains(expr, "="):
		return nil, fmt.Errorf("cron expression %q names a time zone: it stands beside the expression", expr)
	case strings.HasPrefix(expr, "@every"):
		return nil, fmt.Errorf("cron expression %q has no slots: write '*/10 * * * *' for every ten minutes", expr)
	}
	have, err := parser.Parse(expr)
	if err != nil {
		return nil, fmt.Errorf("cron expression %q: %s", expr, wrongIn(expr, form))
	}
	spec, ok := have.(*cron.SpecSchedule)
	if !ok {
		return nil, fmt.Errorf("cron expression %q: %s", expr, form)
	}
	return spec, nil
}

// fields are those of an expression, with what may stand there.
var fields = [...]struct{ name, allowed string }{
	{"minute", "0 to 59"}, {"hour", "0 to 23"}, {"day", "1 to 31"}, {"month", "1 to 12 or JAN to DEC"}, {"weekday", "0 to 6 or SUN to SAT"},
}

// wrongIn says what is wrong with an expression that the parser refuses, whose own words
// are Go's.
func wrongIn(expr, form string) string {
	if strings.HasPrefix(strings.TrimSpace(expr), "@") {
		return "it is none of @hourly, @daily, @weekly, @monthly, @yearly; or write " + form
	}
	have := strings.Fields(expr)
	if len(have) != len(fields) {
		return fmt.Sprintf("it has %d fields; %s", len(have), form)
	}
	for i, value := range have {
		alone := []string{"*", "*", "*", "*", "*"}
		alone[i] = value
		if _, err := parser.Parse(strings.Join(alone, " ")); err != nil {
			return fmt.Sprintf("the %s is %q, and may be %s, a list as 1,5, a range as 1-5, a step as */5, or *", fields[i].name, value, fields[i].allowed)
		}
	}
	return form
}

// Zone returns the zone with the name.
func Zone(name string) (*time.Location, error) {
	switch {
	case name == "":
		return time.UTC, nil
	case name == "Local" || len(name) > MaxZoneBytes:
		return nil, fmt.Errorf("time zone %.70q is not known: a name as Europe/Vienna is wanted", name)
	}
	zone, err := time.LoadLocation(name)
	if err != nil {
		return nil, fmt.Errorf("time zone %q is not known: a name as Europe/Vienna is wanted", name)
	}
	return zone, nil
}

// forms of a time, with an offset and without.
var (
	exactForms = []string{time.RFC3339, "2006-01-02T15:04Z07:00"}
	wallForms  = []string{"2006-01-02T15:04", "2006-01-02T15:04:05", "2006-01-02 15:04"}
)

// ParseTime reads a time of day in the zone, or an instant with an offset of its own. A
// time of day that the zone leaves out is the moment of the jump, one that comes twice is
// the first.
func ParseTime(text, zone string) (time.Time, error) {
	in, err := Zone(zone)
	if err != nil {
		return time.Time{}, err
	}
	for _, form := range exactForms {
		if t, err := time.Parse(form, text); err == nil {
			return t.In(in), nil
		}
	}
	for _, form := range wallForms {
		if wall, err := time.Parse(form, text); err == nil {
			return instant(wall, in), nil
		}
	}
	return time.Time{}, fmt.Errorf("time %.40q is not written as 2026-12-01T03:00, or with an offset of its own, as 2026-12-01T03:00+01:00", text)
}

// In returns the zone of the slots.
func (t *Timetable) In() *time.Location { return t.zone }

// Repeats says that there is more than one slot.
func (t *Timetable) Repeats() bool { return t.spec != nil }

// Next is the first slot after the instant; zero when there is none.
func (t *Timetable) Next(after time.Time) time.Time {
	slot := t.next(after)
	if !t.last.IsZero() && slot.After(t.last) {
		return time.Time{}
	}
	return slot
}

func (t *Timetable) next(after time.Time) time.Time {
	switch {
	case t.spec == nil && after.Before(t.at):
		return t.at.In(t.zone)
	case t.spec == nil:
		return time.Time{}
	case t.spec.Hour&everyHour == everyHour:
		return t.nextElapsed(after)
	default:
		return t.nextOfDay(after)
	}
}

// nextOfDay searches the calendar of the zone, then asks when that is.
func (t *Timetable) nextOfDay(after time.Time) time.Time {
	for wall := wallOf(after, t.zone); ; {
		if wall = t.spec.Next(wall); wall.IsZero() {
			return time.Time{}
		}
		if slot := instant(wall, t.zone); slot.After(after) {
			return slot
		}
	}
}

// nextElapsed searches stretch by stretch of those in which the zone's offset stays.
func (t *Timetable) nextElapsed(after time.Time) time.Time {
	for from := after.In(t.zone); ; {
		_, offset := from.Zone()
		_, end := from.ZoneBounds()
		wall := t.spec.Next(wallOf(from, t.zone))
		if wall.IsZero() {
			return time.Time{}
		}
		slot := wall.Add(-time.Duration(offset) * time.Second)
		if end.IsZero() || slot.Before(end) {
			return slot.In(t.zone)
		}
		// What the next stretch begins with is a slot when its own clock says so.
		if begin := wallOf(end, t.zone); t.spec.Next(begin.Add(-time.Second)).Equal(begin) {
			return end.In(t.zone)
		}
		from = end.In(t.zone)
	}
}

// Due answers the newest slot after the one instant and not after the other, and how
// many there are, counted up to MaxCounted; none is zero. However long the time between
// is, it looks at few slots more than it counts.
func (t *Timetable) Due(after, now time.Time) (newest time.Time, n int) {
	for slot := t.Next(after); !slot.IsZero() && !slot.After(now); slot = t.Next(slot) {
		if newest, n = slot, n+1; n == MaxCounted {
			return t.newest(slot, now), n
		}
	}
	return newest, n
}

// newest is the newest slot up to now; one is known. It goes back in steps that double
// until a slot follows.
func (t *Timetable) newest(known, now time.Time) time.Time {
	from := known
	for back := time.Minute; now.Add(-back).After(known); back *= 2 {
		if slot := t.Next(now.Add(-back)); !slot.IsZero() && !slot.After(now) {
			from = now.Add(-back)
			break
		}
	}
	for slot := t.Next(from); !slot.IsZero() && !slot.After(now); slot = t.Next(slot) {
		known = slot
	}
	return known
}

// wallOf is what the zone's clock shows, as a time in UTC.
func wallOf(t time.Time, zone *time.Location) time.Time {
	_, offset := t.In(zone).Zone()
	return t.UTC().Add(time.Duration(offset) * time.Second)
}

// instant is when the zone's clock first shows wall; when it never does, the moment at
// which it jumps over it.
func instant(wall time.Time, zone *time.Location) time.Time {
	near := time.Date(wall.Year(), wall.Month(), wall.Day(), wall.Hour(), wall.Minute(), wall.Second(), 0, zone)
	start, end := near.ZoneBounds()
	first := time.Time{}
	for _, in := range []time.Time{near, start.Add(-time.Second), end} {
		_, offset := in.In(zone).Zone()
		at := wall.Add(-time.Duration(offset) * time.Second)
		if _, then := at.In(zone).Zone(); then == offset && (first.IsZero() || at.Before(first)) {
			first = at
		}
	}
	if !first.IsZero() {
		return first.In(zone)
	}
	for _, jump := range []time.Time{start, end} {
		if !jump.IsZero() && !wall.Before(wallOf(jump.Add(-time.Second), zone)) && wall.Before(wallOf(jump, zone)) {
			return jump.In(zone)
		}
	}
	return near
}

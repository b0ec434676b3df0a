package main

import (
	"time"

	"github.com/spf13/cobra"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/client"
	"github.com/agentplane/agentplane/proto/timetable"
)

var overlaps = map[string]agentplanev1.Overlap{
	"skip":  agentplanev1.Overlap_OVERLAP_SKIP,
	"queue": agentplanev1.Overlap_OVERLAP_QUEUE,
	"allow": agentplanev1.Overlap_OVERLAP_ALLOW,
}

var missedPolicies = map[string]agentplanev1.Missed{
	"skip": agentplanev1.Missed_MISSED_SKIP,
	"once": agentplanev1.Missed_MISSED_ONCE,
}

// scheduleFlags say when, and what becomes of a slot that cannot fire as it should.
type scheduleFlags struct {
	run     runFlags
	cron    string
	at      string
	zone    string
	until   string
	overlap string
	missed  string
	version uint64
}

func (f *scheduleFlags) add(c *cobra.Command) {
	f.run.add(c)
	fl := c.Flags()
	fl.StringVar(&f.cron, "cron", "", "when, as `EXPR`: minute hour day month weekday, or @hourly, @daily, @weekly, @monthly")
	fl.StringVar(&f.at, "at", "", "when, once, as `TIME`: 2026-12-01T03:00, or with an offset of its own")
	fl.StringVar(&f.zone, "tz", "", "time `ZONE` of --cron, --at and --until, as Europe/Vienna (default UTC)")
	fl.StringVar(&f.until, "until", "", "last `TIME` at which it may fire")
	fl.StringVar(&f.overlap, "overlap", "skip", "`WHAT` to do while an earlier command of it is open: skip, queue or allow")
	fl.StringVar(&f.missed, "missed", "skip", "`WHAT` to do about times at which nobody could fire: skip, or once for all")
	fl.Uint64Var(&f.version, "version", 0, "change the schedule, which must be at version `N`")
	_ = c.RegisterFlagCompletionFunc("overlap", cobra.FixedCompletions([]string{"skip", "queue", "allow"}, cobra.ShellCompDirectiveNoFileComp))
	_ = c.RegisterFlagCompletionFunc("missed", cobra.FixedCompletions([]string{"skip", "once"}, cobra.ShellCompDirectiveNoFileComp))
}

func (f *scheduleFlags) schedule(a *app, argv []string, ttlSet, queueSet bool) (*client.Schedule, error) {
	command, err := f.run.command(a, argv, ttlSet, queueSet)
	if err != nil {
		return nil, err
	}
	overlap, knownOverlap := overlaps[f.overlap]
	missed, knownMissed := missedPolicies[f.missed]
	switch {
	case !knownOverlap:
		return nil, usagef("--overlap %q is none of skip, queue, allow", f.overlap)
	case !knownMissed:
		return nil, usagef("--missed %q is neither skip nor once", f.missed)
	case f.cron == "" && f.at == "":
		return nil, usagef("no time is given: say --cron '0 3 * * *', or --at 2026-12-01T03:00")
	case f.cron != "" && f.at != "":
		return nil, usagef("--cron and --at are both given")
	}
	s := &client.Schedule{Command: command, Cron: f.cron, Zone: f.zone, Overlap: overlap, Missed: missed}
	if s.At, err = timeFlag("--at", f.at, f.zone); err != nil {
		return nil, err
	}
	if s.Until, err = timeFlag("--until", f.until, f.zone); err != nil {
		return nil, err
	}
	if _, err := timetable.New(timetable.Spec{Cron: s.Cron, At: s.At, Zone: s.Zone, Until: s.Until}); err != nil {
		return nil, usagef("%w", err)
	}
	return s, nil
}

func timeFlag(flag, text, zone string) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	t, err := timetable.ParseTime(text, zone)
	if err != nil {
		return time.Time{}, usagef("%s: %w", flag, err)
	}
	return t, nil
}

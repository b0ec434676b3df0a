package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/client"
	"github.com/agentplane/agentplane/proto/timetable"
)

func (a *app) scheduleCmd() *cobra.Command {
	c := &cobra.Command{Use: "schedule", Short: "run programs on agents at times"}
	one := args(1, 1, "the name of a schedule")
	verb := func(use, short string, run func(*cobra.Command, []string) error) *cobra.Command {
		return &cobra.Command{Use: use, Short: short, Args: one, ValidArgsFunction: a.completeSchedules, RunE: run}
	}
	get := verb("get NAME", "show a schedule and what became of its last slots", a.scheduleGet)
	get.Annotations = is(reads)
	c.AddCommand(
		a.scheduleCreate(),
		&cobra.Command{Use: "list", Short: "list the schedules", Args: args(0, 0, ""), Annotations: is(reads), RunE: a.scheduleList},
		get,
		verb("delete NAME", "end a schedule; what it has started goes on", a.scheduleDelete),
		verb("pause NAME", "keep a schedule from firing", a.schedulePause),
		verb("resume NAME", "let a schedule fire again; what was due meanwhile is gone", a.scheduleResume),
		a.scheduleRun(), a.scheduleNext(),
	)
	return c
}

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

func (a *app) scheduleCreate() *cobra.Command {
	var f scheduleFlags
	c := &cobra.Command{
		Use: "create NAME --cron EXPR|--at TIME --on SELECTOR [flags] -- ARGV…", Short: "make a schedule, or change one",
		Long: `create makes a schedule: at each of its times a command as "agentctl run" makes it, on
the agents that the selector means then. Each time comes once, whichever node leads.

Times are those of the zone. Of the hour that is left out when clocks are put forward, a
time comes due at the jump; of the hour that comes twice, the first counts. With * as its
hour, an expression goes by the time that passes.

Repeated with the same content it answers what stands. To change a schedule, say all of
it again, and --version N as "agentctl schedule get" shows it.`,
		Example: `  agentctl schedule create nightly --cron '0 3 * * *' --tz Europe/Vienna --on all --splay 10m -- /usr/local/bin/backup
  agentctl schedule create reboot --at 2026-12-01T03:00 -l role=web --queue 1h -- systemctl reboot`,
		Args: cobra.ArbitraryArgs, Annotations: is(creates),
		RunE: func(cmd *cobra.Command, args []string) error {
			name, argv := splitName(cmd, args)
			if name == "" {
				return usagef("%s needs a name before --, and the program behind it", cmd.CommandPath())
			}
			schedule, err := f.schedule(a, argv, cmd.Flags().Changed("ttl"), cmd.Flags().Changed("queue"))
			if err != nil {
				return err
			}
			schedule.Name, schedule.ID, schedule.Version = name, a.flags.id, f.version
			return a.putSchedule(cmd, schedule)
		},
	}
	f.add(c)
	return c
}

// splitName divides NAME -- ARGV…; the name is empty when something else is written.
func splitName(cmd *cobra.Command, args []string) (name string, argv []string) {
	switch dash := cmd.ArgsLenAtDash(); {
	case dash == 1:
		return args[0], args[1:]
	case dash < 0 && len(args) == 1:
		return args[0], nil
	default:
		return "", nil
	}
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

func (a *app) putSchedule(cmd *cobra.Command, schedule *client.Schedule) error {
	return a.with(cmd.Context(), func(s *session) error {
		made, repeated, err := s.PutSchedule(cmd.Context(), schedule)
		if err != nil {
			return hintUnknown(err, "agentctl schedule get "+schedule.Name)
		}
		if repeated {
			a.talk("schedule %s stood already", schedule.Name)
		}
		return a.done(toObject(made), "schedule %s fires next at %s", schedule.Name, inZone(made.GetNextAt(), made.GetSpec().GetTimeZone()))
	})
}

// inZone prints a time as the zone's clock shows it.
func inZone(ns int64, zone string) string {
	if ns == 0 {
		return "no time"
	}
	in, err := timetable.Zone(zone)
	if err != nil {
		in = time.UTC
	}
	return time.Unix(0, ns).In(in).Format(time.RFC3339)
}

func (a *app) scheduleList(cmd *cobra.Command, _ []string) error {
	return a.with(cmd.Context(), func(s *session) error {
		schedules, err := s.Schedules(cmd.Context(), client.Stale(a.flags.stale))
		if err != nil {
			return err
		}
		return printList(a, schedules, []column[*agentplanev1.Schedule]{
			{"NAME", false, (*agentplanev1.Schedule).GetName},
			{"STATE", false, (*agentplanev1.Schedule).GetState},
			{"WHEN", false, when},
			{"NEXT", false, func(s *agentplanev1.Schedule) string {
				if s.NextAt == 0 {
					return ""
				}
				return inZone(s.NextAt, s.Spec.GetTimeZone())
			}},
			{"LAST", false, func(s *agentplanev1.Schedule) string {
				if len(s.Firings) == 0 {
					return ""
				}
				return inZone(s.Firings[0].Slot, s.Spec.GetTimeZone()) + " " + became(s.Firings[0])
			}},
			{"WHAT", false, (*agentplanev1.Schedule).GetSummary},
			{"SELECTOR", true, (*agentplanev1.Schedule).GetSelector},
			{"FIRED", true, func(s *agentplanev1.Schedule) string { return fmt.Sprint(s.Fired) }},
			{"SKIPPED", true, func(s *agentplanev1.Schedule) string { return fmt.Sprint(s.Skipped) }},
			{"BY", true, (*agentplanev1.Schedule).GetCreatedBy},
			{"VERSION", true, func(s *agentplanev1.Schedule) string { return fmt.Sprint(s.Version) }},
		})
	})
}

// when says when a schedule fires, in the words in which it was made.
func when(s *agentplanev1.Schedule) string {
	zone := s.Spec.GetTimeZone()
	if s.Spec.GetAt() != 0 {
		return "once at " + inZone(s.Spec.GetAt(), zone)
	}
	text := s.Spec.GetCron()
	if zone != "" {
		text += " " + zone
	}
	if s.Spec.GetUntil() != 0 {
		text += " until " + inZone(s.Spec.GetUntil(), zone)
	}
	return text
}

// became says what became of a slot.
func became(f *agentplanev1.Firing) string {
	word := strings.ToLower(stateName(f.Result))
	var why []string
	if f.Reason != "" {
		why = append(why, f.Reason)
	}
	if f.Missed > 0 {
		why = append(why, fmt.Sprintf("%s before it missed", count(int(f.Missed), "slot")))
	}
	if f.RunBy != "" {
		why = append(why, "by "+f.RunBy)
	}
	if len(why) > 0 {
		word += " (" + strings.Join(why, ", ") + ")"
	}
	return word
}

func (a *app) scheduleGet(cmd *cobra.Command, args []string) error {
	return a.with(cmd.Context(), func(s *session) error {
		r, err := s.Schedule(cmd.Context(), args[0], client.Stale(a.flags.stale))
		if err != nil {
			return err
		}
		return printOne(a, toObject(r), func(w io.Writer) { a.writeSchedule(w, r) })
	})
}

func (a *app) writeSchedule(w io.Writer, s *agentplanev1.Schedule) {
	zone := s.Spec.GetTimeZone()
	since := func(ns int64, by string) string {
		if ns == 0 {
			return ""
		}
		return fmt.Sprintf("%s by %s", clock(ns), by)
	}
	next, waits := "", ""
	if s.NextAt != 0 {
		next = inZone(s.NextAt, zone)
	}
	if s.WaitingAt != 0 {
		waits = inZone(s.WaitingAt, zone) + ", for the end of an earlier command"
	}
	pairs(w,
		[2]string{"name", s.Name}, [2]string{"state", s.State}, [2]string{"when", when(s)}, [2]string{"next", next}, [2]string{"waits", waits},
		[2]string{"what", s.Summary}, [2]string{"selector", s.Selector}, [2]string{"splay", splayText(s.Spec.GetCommand().GetSplay())},
		[2]string{"overlap", strings.ToLower(stateName(s.Spec.GetOverlap()))}, [2]string{"missed", strings.ToLower(stateName(s.Spec.GetMissed()))},
		[2]string{"created", since(s.CreatedAt, s.CreatedBy)}, [2]string{"changed", since(s.ChangedAt, s.ChangedBy)},
		[2]string{"paused", since(s.PausedAt, s.PausedBy)}, [2]string{"ended", clock(s.EndedAt)},
		[2]string{"version", fmt.Sprint(s.Version)}, [2]string{"slots", fmt.Sprintf("%d fired, %d skipped", s.Fired, s.Skipped)},
	)
	if len(s.Firings) == 0 {
		return
	}
	fmt.Fprintln(w)
	writeTable(w, a.flags.output == "wide", s.Firings, []column[*agentplanev1.Firing]{
		{"SLOT", false, func(f *agentplanev1.Firing) string { return inZone(f.Slot, zone) }},
		{"RESULT", false, became},
		{"COMMAND", false, (*agentplanev1.Firing).GetCommandId},
		{"STATE", false, func(f *agentplanev1.Firing) string {
			if f.CommandId != "" && f.CommandState == "" {
				return "purged"
			}
			return f.CommandState
		}},
		{"COUNTS", false, func(f *agentplanev1.Firing) string { return counts(f.Counts) }},
		{"DETAIL", true, (*agentplanev1.Firing).GetDetail},
		{"AT", true, func(f *agentplanev1.Firing) string { return clock(f.At) }},
		{"INDEX", true, func(f *agentplanev1.Firing) string { return fmt.Sprint(f.Index) }},
	})
}

func (a *app) scheduleDelete(cmd *cobra.Command, args []string) error {
	return a.with(cmd.Context(), func(s *session) error {
		if err := s.DeleteSchedule(cmd.Context(), args[0]); err != nil {
			return hintUnknown(err, "agentctl schedule list")
		}
		return a.done(object{{"deleted", args[0]}}, "schedule %s is deleted; what it has started goes on", args[0])
	})
}

func (a *app) schedulePause(cmd *cobra.Command, args []string) error {
	return a.with(cmd.Context(), func(s *session) error {
		r, err := s.PauseSchedule(cmd.Context(), args[0])
		if err != nil {
			return hintUnknown(err, "agentctl schedule get "+args[0])
		}
		return a.done(toObject(r), "schedule %s is paused; let it go on with \"agentctl schedule resume %s\"", args[0], args[0])
	})
}

func (a *app) scheduleResume(cmd *cobra.Command, args []string) error {
	return a.with(cmd.Context(), func(s *session) error {
		r, err := s.ResumeSchedule(cmd.Context(), args[0])
		if err != nil {
			return hintUnknown(err, "agentctl schedule get "+args[0])
		}
		return a.done(toObject(r), "schedule %s fires next at %s", args[0], inZone(r.GetNextAt(), r.GetSpec().GetTimeZone()))
	})
}

func (a *app) scheduleRun() *cobra.Command {
	var detach bool
	c := &cobra.Command{
		Use: "run NAME", Short: "run what a schedule runs, now, and follow it to its end", Args: args(1, 1, "the name of a schedule"),
		Annotations: is(creates), ValidArgsFunction: a.completeSchedules,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.with(cmd.Context(), func(s *session) error { return a.runScheduled(cmd, s, args[0], detach) })
		},
	}
	c.Flags().BoolVar(&detach, "detach", false, "return once the command is accepted")
	return c
}

func (a *app) runScheduled(cmd *cobra.Command, s *session, name string, detach bool) error {
	ctx := cmd.Context()
	id, r, err := s.RunSchedule(ctx, name, a.flags.id)
	if err != nil {
		if code, _ := classify(err); code == exitUnknown {
			return &failure{code: code, err: fmt.Errorf("command %s: %w", id, err), hint: fmt.Sprintf(
				"it may run; look with %q, or repeat the same line with --id %s: it runs once", "agentctl commands get "+id, id)}
		}
		return err
	}
	if r.Repeated {
		a.talk("command %s stood already", id)
	}
	if detach {
		return printOne(a, toObject(r.Command), func(w io.Writer) { fmt.Fprintln(w, id) })
	}
	a.talk("command %s on %s", id, count(int(r.Command.GetTargets()), "agent"))
	return a.follow(ctx, s, id, &resultFlags{})
}

func (a *app) scheduleNext() *cobra.Command {
	var n uint32
	c := &cobra.Command{
		Use: "next NAME", Short: "print when a schedule will fire", Args: args(1, 1, "the name of a schedule"),
		Annotations: is(reads), ValidArgsFunction: a.completeSchedules,
		RunE: func(cmd *cobra.Command, args []string) error {
			if n < 1 || n > 1000 {
				return usagef("-n %d is not between 1 and 1000", n)
			}
			return a.with(cmd.Context(), func(s *session) error {
				slots, zone, err := s.NextSlots(cmd.Context(), args[0], n, client.Stale(a.flags.stale))
				if err != nil {
					return err
				}
				objects := make([]object, len(slots))
				for i, slot := range slots {
					objects[i] = object{{"at", timeValue(slot.UnixNano())}, {"local", inZone(slot.UnixNano(), zone)}}
				}
				return printObjects(a, objects, func(w io.Writer) {
					for _, slot := range slots {
						fmt.Fprintln(w, inZone(slot.UnixNano(), zone))
					}
				})
			})
		},
	}
	c.Flags().Uint32VarP(&n, "number", "n", 5, "how many, `N`")
	return c
}

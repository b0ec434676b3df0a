package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/client"
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

func (a *app) putSchedule(cmd *cobra.Command, schedule *client.Schedule) error {
	return a.with(cmd.Context(), func(s *session) error {
		made, repeated, err := s.PutSchedule(cmd.Context(), schedule)
		if err != nil {
			return hintUnknown(err, "agentctl schedule get "+schedule.Name)
		}
		if repeated {
			a.talk("schedule %s stood already", schedule.Name)
		}
		if u := made.GetSpec().GetCommand().GetUndo(); u != nil && u.GetBy() != agentplanev1.ConfirmBy_CONFIRM_BY_CONTACT {
			a.talk("note: when it fires nobody may be there to confirm it, and then it is undone each time; with --confirm-by contact the agent confirms by itself")
		}
		return a.done(toObject(made), "schedule %s fires next at %s", schedule.Name, inZone(made.GetNextAt(), made.GetSpec().GetTimeZone()))
	})
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

func (a *app) scheduleGet(cmd *cobra.Command, args []string) error {
	return a.with(cmd.Context(), func(s *session) error {
		r, err := s.Schedule(cmd.Context(), args[0], client.Stale(a.flags.stale))
		if err != nil {
			return err
		}
		return printOne(a, toObject(r), func(w io.Writer) { a.writeSchedule(w, r) })
	})
}

func (a *app) scheduleDelete(cmd *cobra.Command, args []string) error {
	return a.with(cmd.Context(), func(s *session) error {
		// One that is not there is a slip here; sent again, it is an answer.
		if _, err := s.Schedule(cmd.Context(), args[0]); err != nil {
			return err
		}
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
	for _, note := range r.Notes {
		a.talk("%s", note)
	}
	if detach {
		a.tellTerms(r.Command)
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
				r, err := s.Schedule(cmd.Context(), args[0], client.Stale(a.flags.stale))
				switch {
				case err != nil:
					return err
				case r.GetPausedAt() != 0:
					a.talk("note: schedule %s is paused by %s: at none of these times it fires before \"agentctl schedule resume %s\"", args[0], r.GetPausedBy(), args[0])
				case r.GetEndedAt() != 0:
					a.talk("schedule %s has ended: it does not fire again", args[0])
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

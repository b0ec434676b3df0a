package main

import (
	"cmp"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"time"

	"github.com/spf13/cobra"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/client"
)

func (a *app) lockCmd() *cobra.Command {
	c := &cobra.Command{Use: "lock", Short: "look after locks and disruption budgets of the fleet, and run programs under them"}
	c.AddCommand(
		a.lockList(), a.lockCreate(), a.lockDelete(), a.lockRelease(), a.lockRun(),
		&cobra.Command{
			Use: "get LOCK", Short: "show one lock and who holds it", Args: args(1, 1, "the name of a lock"), Annotations: is(reads),
			ValidArgsFunction: a.completeLocks, RunE: a.lockGet,
		},
	)
	return c
}

func (a *app) lockColumns() []column[*agentplanev1.Lock] {
	return []column[*agentplanev1.Lock]{
		{"NAME", false, (*agentplanev1.Lock).GetName},
		{"LIMIT", false, func(l *agentplanev1.Lock) string { return fmt.Sprint(l.Limit) }},
		{"PER", false, perOf},
		{"HELD", false, func(l *agentplanev1.Lock) string { return fmt.Sprint(l.Held) }},
		{"BUDGET OF", false, (*agentplanev1.Lock).GetSelector},
		{"BY", false, (*agentplanev1.Lock).GetCreatedBy},
		{"AGE", false, func(l *agentplanev1.Lock) string { return a.age(l.CreatedAt) }},
		{"IMPLICIT", true, func(l *agentplanev1.Lock) string { return fmt.Sprint(l.Implicit) }},
	}
}

const perLabel = "label:"

func perOf(l *agentplanev1.Lock) string {
	if l.GetPerLabel() == "" {
		return ""
	}
	return perLabel + l.GetPerLabel()
}

// labelOf reads what --per says.
func labelOf(per string) (string, error) {
	name, ok := strings.CutPrefix(per, perLabel)
	if per != "" && (!ok || name == "") {
		return "", usagef("--per %q is not label:NAME", per)
	}
	return name, nil
}

func (a *app) lockList() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "list the locks and budgets", Args: args(0, 0, ""), Annotations: is(reads),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.with(cmd.Context(), func(s *session) error {
				locks, err := s.Locks(cmd.Context(), client.Stale(a.flags.stale))
				if err != nil {
					return err
				}
				return printList(a, locks, a.lockColumns())
			})
		},
	}
}

func (a *app) lockGet(cmd *cobra.Command, args []string) error {
	return a.with(cmd.Context(), func(s *session) error {
		l, err := s.Lock(cmd.Context(), args[0], client.Stale(a.flags.stale))
		if err != nil {
			return err
		}
		return a.printLock(l)
	})
}

func (a *app) printLock(l *agentplanev1.Lock) error {
	return printOne(a, toObject(l), func(w io.Writer) {
		kind := "lock"
		if l.Selector != "" {
			kind = "budget: every command takes a place on each agent that is meant"
		}
		pairs(
			w,
			[2]string{"name", l.Name}, [2]string{"kind", kind}, [2]string{"limit", fmt.Sprint(l.Limit)}, [2]string{"per", perOf(l)},
			[2]string{"selector", l.Selector}, [2]string{"held", fmt.Sprint(l.Held)},
			[2]string{"created", clock(l.CreatedAt) + " by " + l.CreatedBy},
		)
		if len(l.Holders) > 0 {
			fmt.Fprintln(w)
			writeTable(w, a.flags.output == "wide", l.Holders, a.holderColumns())
		}
	})
}

func (a *app) holderColumns() []column[*agentplanev1.LockHolder] {
	return []column[*agentplanev1.LockHolder]{
		{"GROUP", false, (*agentplanev1.LockHolder).GetGroup},
		{"FENCE", false, func(h *agentplanev1.LockHolder) string { return fmt.Sprint(h.Fence) }},
		{"BY", false, (*agentplanev1.LockHolder).GetHolder},
		{"COMMAND OR LEASE", false, func(h *agentplanev1.LockHolder) string { return cmp.Or(h.CommandId, h.LeaseId) }},
		{"AGENT", false, func(h *agentplanev1.LockHolder) string { return cmp.Or(h.AgentName, h.AgentId) }},
		{"AGE", false, func(h *agentplanev1.LockHolder) string { return a.age(h.TakenAt) }},
		{"UNTIL", false, func(h *agentplanev1.LockHolder) string { return clock(h.ExpiresAt) }},
		{"WHAT", false, (*agentplanev1.LockHolder).GetNote},
	}
}

func (a *app) lockCreate() *cobra.Command {
	var sel selectorFlags
	var limit uint32
	var per string
	c := &cobra.Command{
		Use: "create NAME --limit N [--per label:NAME] [--on SELECTOR]", Short: "make a lock, or with a selector a budget",
		Long: "Make a lock of the fleet with so many places, in all or for each value of a label. Commands take a place with\n" +
			"--lock fleet:NAME, operators with \"agentctl lock run\". With a selector it is a budget: whatever is started on an agent\n" +
			"that is meant takes a place, so that of those no more than the limit do something at a time.",
		Args: args(1, 1, "a name"),
		RunE: func(cmd *cobra.Command, args []string) error {
			expr, err := sel.expression()
			if err != nil {
				return err
			}
			label, err := labelOf(per)
			switch {
			case err != nil:
				return err
			case limit == 0:
				return usagef("--limit N is not given, or 0: say how many may hold lock %q at the same time", args[0])
			}
			return a.with(cmd.Context(), func(s *session) error {
				made, repeated, err := s.CreateLock(cmd.Context(), &agentplanev1.CreateLockRequest{
					Name: args[0], Limit: limit, PerLabel: label, Selector: expr,
				})
				if err != nil {
					return hintUnknown(err, "agentctl lock get "+args[0])
				}
				if repeated {
					a.talk("lock %s stood already", args[0])
				}
				return a.done(toObject(made), "lock %s has %s%s", args[0], count(int(limit), "place"), map[bool]string{true: " per " + per}[per != ""])
			})
		},
	}
	sel.add(c)
	c.Flags().Uint32Var(&limit, "limit", 0, "places, `N`")
	c.Flags().StringVar(&per, "per", "", "so many for each value of a label, `label:NAME`")
	return c
}

func (a *app) lockDelete() *cobra.Command {
	var force bool
	c := &cobra.Command{
		Use: "delete LOCK", Short: "remove a lock or budget", Args: args(1, 1, "the name of a lock"), ValidArgsFunction: a.completeLocks,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.with(cmd.Context(), func(s *session) error {
				// One that is not there is a slip here; sent again, it is an answer.
				if _, err := s.Lock(cmd.Context(), args[0]); err != nil {
					return err
				}
				if err := s.DeleteLock(cmd.Context(), args[0], force); err != nil {
					return hintUnknown(err, "agentctl lock list")
				}
				return a.done(object{{"removed", args[0]}}, "lock %s is removed", args[0])
			})
		},
	}
	c.Flags().BoolVar(&force, "force", false, "also when somebody holds it, who may go on working")
	return c
}

func (a *app) lockRelease() *cobra.Command {
	var force bool
	c := &cobra.Command{
		Use: "release LOCK LEASE", Short: "give back the place of a lease, as \"lock get\" shows it", Args: args(2, 2, "a lock and a lease"),
		ValidArgsFunction: a.completeLocks,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.with(cmd.Context(), func(s *session) error {
				giveBack := s.ReleaseLock
				if force {
					giveBack = s.BreakLease
				}
				if err := giveBack(cmd.Context(), args[0], args[1]); err != nil {
					return hintUnknown(err, "agentctl lock get "+args[0])
				}
				return a.done(object{{"released", args[1]}}, "lease %s holds no place of lock %s", args[1], args[0])
			})
		},
	}
	c.Flags().BoolVar(&force, "force", false, "also when it is another operator's, whose program is told to end when it renews")
	return c
}

// lockRunFlags say for what a place is taken, and how.
type lockRunFlags struct {
	limit     uint32
	per       string
	agent     string
	ttl       time.Duration
	wait      time.Duration
	killGrace time.Duration
}

func (a *app) lockRun() *cobra.Command {
	var f lockRunFlags
	c := &cobra.Command{
		Use: "run LOCK [flags] -- ARGV…", Short: "run a program on this machine while holding a place of a lock",
		Long: "Wait for a place, run the program while holding it, and give it back. A lock that is not there is made, and goes\n" +
			"with its last holder. The program finds AGENTPLANE_LOCK and AGENTPLANE_LOCK_FENCE in its environment; the fence grows\n" +
			"with every holder. When the place is lost, since the cluster could not be reached for the time of --ttl, the program\n" +
			"is sent TERM, then KILL, and the exit code is 8; otherwise it is the program's, or 127 when there is none, and 126 when\n" +
			"it cannot be started.",
		Args: cobra.ArbitraryArgs, Annotations: is(creates),
		ValidArgsFunction: a.completeLocks,
		RunE: func(cmd *cobra.Command, args []string) error {
			dash := cmd.ArgsLenAtDash()
			switch {
			case dash != 1:
				return usagef("one lock stands before --, and the program behind it, as in: agentctl lock run deploy -- make deploy")
			case len(args) == 1:
				return usagef("no program is given: write it behind --")
			case f.ttl < time.Second || f.ttl > 24*time.Hour:
				return usagef("--ttl %v is not between 1s and 24h", f.ttl)
			case f.wait < 0 || f.killGrace < 0:
				return usagef("--wait and --kill-grace must not be below 0")
			}
			label, err := labelOf(f.per)
			if err != nil {
				return err
			}
			if _, err := exec.LookPath(args[1]); err != nil { // before anybody waits for a place
				return notStarted(args[1], err)
			}
			return a.with(cmd.Context(), func(s *session) error { return a.holdAndRun(cmd.Context(), s, args[0], label, &f, args[1:]) })
		},
	}
	fl := c.Flags()
	fl.Uint32VarP(&f.limit, "limit", "n", 0, "how many may hold it, `N`: makes the lock when it is not there (1 unless said), and it must be so when it is")
	fl.StringVar(&f.per, "per", "", "so many for each value of a label, `label:NAME`")
	fl.StringVar(&f.agent, "agent", "", "the `AGENT` that the work is about: of its group the place is")
	durationVar(fl, &f.ttl, "ttl", 30*time.Second, "for how long the place is kept when the cluster cannot be reached")
	durationVar(fl, &f.wait, "wait", 0, "give up when there was no place for so long; 0 is never")
	durationVar(fl, &f.killGrace, "kill-grace", defaultKillGrace, "how long between TERM and KILL")
	_ = c.RegisterFlagCompletionFunc("agent", func(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
		return a.live(cmd, agentWords)
	})
	return c
}

package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/client"
)

// showPlan prints what a command would do, and submits nothing.
func (a *app) showPlan(ctx context.Context, s *session, command *client.Command) error {
	command.ID = a.flags.id
	p, err := s.Plan(ctx, command)
	if err != nil {
		return err
	}
	for _, note := range p.Notes {
		a.talk("%s", note)
	}
	spec := &agentplanev1.CommandSpec{} // what has no field in Command: of one that runs again, its files too
	if command.Edit != nil {
		if err := command.Edit(spec); err != nil {
			return err
		}
	}
	return printOne(a, toObject(p), func(w io.Writer) {
		writePlan(w, p)
		writeBrought(w, command, p.Missing)
		writeBroughtAgain(w, spec, p.Missing)
		writePlannedUndo(w, spec.GetUndo())
	})
}

func writePlan(w io.Writer, p *agentplanev1.PlanResponse) {
	total := 0
	for n, wv := range p.Waves {
		total += len(wv.Targets)
		line := fmt.Sprintf("wave %d (%s): ", n+1, wv.Share)
		if len(p.Waves) == 1 {
			line = "runs on "
		}
		if len(wv.Targets) == 0 {
			fmt.Fprintf(w, "%snobody; it is passed over\n", printable(line))
			continue
		}
		fmt.Fprintf(w, "%s%s: %s\n", printable(line), count(len(wv.Targets), "agent"), printable(strings.Join(plannedNames(wv.Targets, false), " ")))
	}
	for _, x := range []struct {
		verb string
		who  []*agentplanev1.PlannedTarget
	}{{"waits for", p.Waits}, {"skips", p.Skipped}} {
		if len(x.who) > 0 {
			fmt.Fprintf(w, "%s %s: %s\n", x.verb, count(len(x.who), "agent"), printable(strings.Join(plannedNames(x.who, true), ", ")))
		}
	}
	writePlannedLocks(w, p)
	if e := p.Estimate; e.GetRuns() > 0 {
		fmt.Fprintf(w, "takes about %v on one agent, at most %v on nine of ten, by %s of it so far, of which %d succeeded\n",
			rounded(e.GetMedian()), rounded(e.GetP90()), count(int(e.GetRuns()), "run"), e.GetSucceeded())
	}
	if p.MaxFailures != nil {
		fmt.Fprintf(w, "stops when more than %d of %d have failed\n", p.GetMaxFailures(), total)
	}
}

// writePlannedLocks says what holds the starts back, or spreads them.
func writePlannedLocks(w io.Writer, p *agentplanev1.PlanResponse) {
	if p.Exclusive {
		fmt.Fprintln(w, "runs alone on each host")
	}
	if len(p.Locks) > 0 {
		fmt.Fprintf(w, "holds on each host: %s\n", printable(strings.Join(p.Locks, ", ")))
	}
	for _, l := range p.FleetLocks {
		what, group := "lock "+fleetPrefix+l.Name, ""
		if l.Budget {
			what = "budget " + l.Name
		}
		if l.Group != "" {
			group = fmt.Sprintf(" for %s", l.Group)
		}
		line := fmt.Sprintf("%s%s has %s, %d taken: %s need one", what, group, count(int(l.Limit), "place"), l.Held, count(int(l.Targets), "agent"))
		if l.Targets == 1 {
			line = strings.TrimSuffix(line, "need one") + "needs one"
		}
		if l.Waits != "" {
			line += "; now " + l.Waits
		}
		fmt.Fprintln(w, printable(line))
	}
	if p.Splay > 0 {
		fmt.Fprintf(w, "starts are spread over %s\n", splayText(p.Splay))
	}
}

// writePlannedUndo says when what the program did is undone, and by what.
func writePlannedUndo(w io.Writer, u *agentplanev1.UndoSpec) {
	if u == nil {
		return
	}
	by := strings.Join(u.GetArgv(), " ")
	if len(u.GetScript()) > 0 {
		by = "a script of " + byteText(int64(len(u.GetScript())))
	}
	fmt.Fprintf(w, "is undone %s of the program's end, by: %s\n", termsText(termsOf(u)), printable(by))
}

// rounded is a span in three digits or so.
func rounded(ns int64) time.Duration {
	d := time.Duration(ns)
	switch {
	case d > time.Minute:
		return d.Round(time.Second)
	case d > time.Second:
		return d.Round(100 * time.Millisecond)
	default:
		return d.Round(time.Millisecond)
	}
}

func plannedNames(targets []*agentplanev1.PlannedTarget, why bool) []string {
	var names []string
	for _, t := range targets {
		name := t.AgentName
		if name == "" {
			name = cmp.Or(t.AgentId, "(removed)")
		}
		if why {
			name += " " + t.Reason
		}
		names = append(names, name)
	}
	return names
}

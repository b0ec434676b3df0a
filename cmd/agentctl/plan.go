package main

import (
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
	return printOne(a, toObject(p), func(w io.Writer) {
		writePlan(w, p)
		writeBrought(w, command, p.Missing)
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
	if e := p.Estimate; e.GetRuns() > 0 {
		fmt.Fprintf(w, "takes about %v on one agent, at most %v on nine of ten, by %s of it so far, of which %d succeeded\n",
			rounded(e.GetMedian()), rounded(e.GetP90()), count(int(e.GetRuns()), "run"), e.GetSucceeded())
	}
	if p.MaxFailures != nil {
		fmt.Fprintf(w, "stops when more than %d of %d have failed\n", p.GetMaxFailures(), total)
	}
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
			name = t.AgentId
		}
		if why {
			name += " " + t.Reason
		}
		names = append(names, name)
	}
	return names
}

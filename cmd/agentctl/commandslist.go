package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/client"
)

var commandStates = map[string]agentplanev1.CommandState{
	"active":    agentplanev1.CommandState_COMMAND_STATE_ACTIVE,
	"canceling": agentplanev1.CommandState_COMMAND_STATE_CANCELING,
	"done":      agentplanev1.CommandState_COMMAND_STATE_DONE,
}

// statePaused is a word for --state that is no state: the command is active.
const statePaused = "paused"

func stateNames() []string {
	return slices.Sorted(slices.Values(append(slices.Collect(maps.Keys(commandStates)), statePaused)))
}

// outcomes are the words for --outcome: those of --rerun, and what is no reason to run
// again.
var outcomes = func() map[string][]agentplanev1.AttemptState {
	m := maps.Clone(client.RerunWords)
	m["succeeded"] = []agentplanev1.AttemptState{agentplanev1.AttemptState_ATTEMPT_STATE_SUCCEEDED}
	m["waiting"] = []agentplanev1.AttemptState{agentplanev1.AttemptState_ATTEMPT_STATE_PENDING, agentplanev1.AttemptState_ATTEMPT_STATE_RELEASED}
	m["running"] = []agentplanev1.AttemptState{agentplanev1.AttemptState_ATTEMPT_STATE_CLAIMED, agentplanev1.AttemptState_ATTEMPT_STATE_RUNNING}
	return m
}()

const listHelp = `List the commands, newest first. Of several filters all have to hold.

  agentctl commands list --outcome failed,lost --since 1d
  agentctl commands list --agent web-1 --outcome all-not-succeeded
  agentctl commands list --state paused
  agentctl commands list --schedule nightly --outcome failed
  agentctl commands list --operator alice --text nginx --until 2026-11-20T12:00:00Z

--since and --until are ages, like 90m, 2h or 7d, or times, like 2026-11-20,
2026-11-20T12:00 (of this machine's time zone) or 2026-11-20T12:00:00Z; --since is
included, --until is not. With --agent, --outcome is that on this agent, else that of
any. When there are more than --limit, the last line says how to go on.`

// listFlags say which commands are meant.
type listFlags struct {
	limit                        uint32
	before, state                string
	operator, agent, text, rerun string
	schedule                     string
	since, until                 string
	outcomes                     []string
}

func (a *app) commandsList() *cobra.Command {
	var f listFlags
	c := &cobra.Command{
		Use: "list", Short: "list the commands, newest first", Long: listHelp, Args: args(0, 0, ""), Annotations: is(reads),
		RunE: func(cmd *cobra.Command, _ []string) error {
			q, err := f.query(a.now())
			if err != nil {
				return err
			}
			return a.with(cmd.Context(), func(s *session) error {
				page, err := s.ListCommands(cmd.Context(), q, int(f.limit), client.Stale(a.flags.stale))
				if err != nil {
					return err
				}
				if page.Next != "" {
					a.talk("more may follow: the same with --before %s", page.Next)
				}
				return printList(a, page.Commands, a.commandColumns())
			})
		},
	}
	fl := c.Flags()
	fl.Uint32Var(&f.limit, "limit", 100, "at most `N`")
	fl.StringVar(&f.before, "before", "", "only those older than the command `ID`")
	fl.StringVar(&f.state, "state", "", "only those in `STATE`: active, canceling, done; or paused")
	fl.StringVar(&f.operator, "operator", "", "only those that the operator `NAME` submitted")
	fl.StringVar(&f.agent, "agent", "", "only those that mean `AGENT`, by id or name")
	fl.StringVar(&f.text, "text", "", "only those with `TEXT` in what they run or in their selector")
	fl.StringVar(&f.since, "since", "", "only those submitted at `WHEN` or later: an age or a time")
	fl.StringVar(&f.until, "until", "", "only those submitted before `WHEN`")
	fl.StringSliceVar(&f.outcomes, "outcome", nil, "only those with an invocation that is so, `WORD`: "+strings.Join(outcomeWords(), ", "))
	fl.StringVar(&f.rerun, "rerun-of", "", "only those that took their targets from `COMMAND`")
	fl.StringVar(&f.schedule, "schedule", "", "only those that the schedule `NAME` made")
	fixed := func(flag string, words []string) {
		_ = c.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp))
	}
	fixed("state", stateNames())
	fixed("outcome", outcomeWords())
	fixed("since", []string{"1h", "1d", "7d"})
	for flag, words := range map[string]cobra.CompletionFunc{
		"before": a.completeCommands, "rerun-of": a.completeCommands, "agent": a.completeAgents, "operator": a.completeOperators,
		"schedule": a.completeSchedules,
	} {
		_ = c.RegisterFlagCompletionFunc(flag, func(cmd *cobra.Command, _ []string, word string) ([]string, cobra.ShellCompDirective) {
			return words(cmd, nil, word)
		})
	}
	return c
}

func outcomeWords() []string { return slices.Sorted(maps.Keys(outcomes)) }

func (f *listFlags) query(now time.Time) (client.CommandQuery, error) {
	q := client.CommandQuery{
		Operator: f.operator, Agent: f.agent, Text: f.text, RerunOf: f.rerun, Schedule: f.schedule, Before: f.before,
	}
	if f.limit < 1 || f.limit > 1000 {
		return q, usagef("--limit %d is not between 1 and 1000", f.limit)
	}
	switch state, ok := commandStates[strings.ToLower(f.state)]; {
	case f.state == "":
	case strings.EqualFold(f.state, statePaused):
		q.Paused = true
	case !ok:
		return q, usagef("--state %q is none of %s%s", f.state, strings.Join(stateNames(), ", "), nearest(f.state, stateNames()))
	default:
		q.State = state
	}
	for _, word := range f.outcomes {
		states, ok := outcomes[strings.ToLower(word)]
		if !ok {
			return q, usagef("--outcome %q is none of %s%s", word, strings.Join(outcomeWords(), ", "), nearest(word, outcomeWords()))
		}
		q.Outcomes = append(q.Outcomes, states...)
	}
	var err error
	for _, w := range []struct {
		flag, text string
		into       *time.Time
	}{{"--since", f.since, &q.Since}, {"--until", f.until, &q.Until}} {
		if w.text == "" {
			continue
		}
		if *w.into, err = parseWhen(w.text, now); err != nil {
			return q, usagef("%s: %w", w.flag, err)
		}
	}
	if !q.Since.IsZero() && !q.Until.IsZero() && !q.Since.Before(q.Until) {
		return q, usagef("--since %s is not before --until %s: nothing is between", f.since, f.until)
	}
	return q, nil
}

// parseWhen reads an age or a time.
func parseWhen(s string, now time.Time) (time.Time, error) {
	if d, err := parseDuration(s); err == nil {
		if d < 0 {
			return time.Time{}, fmt.Errorf("%q lies ahead", s)
		}
		return now.Add(-d), nil
	}
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05", "2006-01-02T15:04", "2006-01-02 15:04:05", "2006-01-02 15:04", time.DateOnly} {
		if t, err := time.ParseInLocation(layout, s, time.Local); err == nil {
			return t, nil
		}
	}
	return time.Time{}, fmt.Errorf("%q is neither an age, like 90m or 7d, nor a time, like 2026-11-20T12:00:00Z", s)
}

package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
)

func (a *app) commandsCmd() *cobra.Command {
	c := &cobra.Command{Use: "commands", Short: "look after the commands"}
	one := args(1, 1, "the id of a command")
	c.AddCommand(
		a.commandsList(), a.commandsOutput(),
		&cobra.Command{
			Use: "get COMMAND", Short: "show one command and its invocations", Args: one, Annotations: is(reads),
			ValidArgsFunction: a.completeCommands, RunE: a.commandsGet,
		},
		&cobra.Command{
			Use: "cancel COMMAND", Short: "cancel a command: what has not started never starts", Args: one,
			ValidArgsFunction: a.completeCommands, RunE: a.commandsCancel,
		},
		&cobra.Command{
			Use: "watch COMMAND", Short: "follow a command to its end, as run does", Args: one,
			ValidArgsFunction: a.completeCommands,
			RunE: func(cmd *cobra.Command, args []string) error {
				return a.with(cmd.Context(), func(s *session) error { return a.follow(cmd.Context(), s, args[0]) })
			},
		},
	)
	c.AddCommand(a.brakeCmds()...)
	return c
}

var commandStates = map[string]agentplanev1.CommandState{
	"":          agentplanev1.CommandState_COMMAND_STATE_UNSPECIFIED,
	"active":    agentplanev1.CommandState_COMMAND_STATE_ACTIVE,
	"canceling": agentplanev1.CommandState_COMMAND_STATE_CANCELING,
	"done":      agentplanev1.CommandState_COMMAND_STATE_DONE,
}

func (a *app) commandsList() *cobra.Command {
	var limit uint32
	var before, state string
	c := &cobra.Command{
		Use: "list", Short: "list the commands, newest first", Args: args(0, 0, ""), Annotations: is(reads),
		RunE: func(cmd *cobra.Command, _ []string) error {
			wanted, ok := commandStates[strings.ToLower(state)]
			switch {
			case !ok:
				return usagef("--state %q is none of active, canceling, done", state)
			case limit < 1 || limit > 1000:
				return usagef("--limit %d is not between 1 and 1000", limit)
			}
			return a.with(cmd.Context(), func(s *session) error {
				r, err := agentplanev1.NewCommandServiceClient(s).ListCommands(cmd.Context(), &agentplanev1.ListCommandsRequest{
					Limit: limit, Before: before, State: wanted, Stale: a.flags.stale,
				})
				if err != nil {
					return err
				}
				if r.More && len(r.Commands) > 0 {
					a.talk("more follow: agentctl commands list --before %s", r.Commands[len(r.Commands)-1].Id)
				}
				return printList(a, r.Commands, a.commandColumns())
			})
		},
	}
	c.Flags().Uint32Var(&limit, "limit", 100, "at most `N`")
	c.Flags().StringVar(&before, "before", "", "only those older than the command `ID`")
	c.Flags().StringVar(&state, "state", "", "only those in `STATE`: active, canceling or done")
	return c
}

func (a *app) commandColumns() []column[*agentplanev1.Command] {
	return []column[*agentplanev1.Command]{
		{"ID", false, (*agentplanev1.Command).GetId},
		{"STATE", false, commandState},
		{"AGE", false, func(c *agentplanev1.Command) string { return a.age(c.SubmittedAt) }},
		{"BY", false, (*agentplanev1.Command).GetSubmittedBy},
		{"TARGETS", false, func(c *agentplanev1.Command) string { return fmt.Sprint(c.Targets) }},
		{"COUNTS", false, func(c *agentplanev1.Command) string { return counts(c.Counts) }},
		{"WHAT", false, func(c *agentplanev1.Command) string {
			if c.GetParentId() != "" {
				return fmt.Sprintf("└ probe of wave %d: %s", c.GetParentWave(), c.GetSummary())
			}
			return c.GetSummary()
		}},
		{"SELECTOR", true, (*agentplanev1.Command).GetSelector},
		{"INDEX", true, func(c *agentplanev1.Command) string { return fmt.Sprint(c.SubmittedIndex) }},
	}
}

// commandState is the state of a command, and whether it is stopped.
func commandState(c *agentplanev1.Command) string {
	switch {
	case c.GetPaused() != nil:
		return stateName(c.State) + "(paused)"
	case c.GetAborted() != nil:
		return stateName(c.State) + "(aborted)"
	default:
		return stateName(c.State)
	}
}

func counts(m map[string]uint32) string {
	var parts []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		if m[k] > 0 {
			parts = append(parts, fmt.Sprintf("%s=%d", k, m[k]))
		}
	}
	return strings.Join(parts, ",")
}

// command reads one command with everything.
func (a *app) readCommand(cmd *cobra.Command, s *session, id string, output bool) (*agentplanev1.Command, error) {
	r, err := agentplanev1.NewCommandServiceClient(s).GetCommand(cmd.Context(), &agentplanev1.GetCommandRequest{
		Id: id, WithInvocations: true, WithOutput: output, Stale: a.flags.stale,
	})
	if err != nil {
		return nil, err
	}
	slices.SortFunc(r.Command.GetInvocations(), byAgent)
	return r.Command, nil
}

func (a *app) commandsGet(cmd *cobra.Command, args []string) error {
	return a.with(cmd.Context(), func(s *session) error {
		c, err := a.readCommand(cmd, s, args[0], a.flags.output != "table" && a.flags.output != "wide")
		if err != nil {
			return err
		}
		return printOne(a, toObject(c), func(w io.Writer) {
			about := [][2]string{
				{"id", c.Id},
				{"state", commandState(c)},
				{"what", c.Summary},
				{"selector", c.Selector},
				{"submitted", fmt.Sprintf("%s by %s, at index %d", clock(c.SubmittedAt), c.SubmittedBy, c.SubmittedIndex)},
				{"not after", clock(c.NotAfter)},
				{"finished", clock(c.FinishedAt)},
				{"canceled by", c.CanceledBy},
				{"counts", counts(c.Counts)},
			}
			pairs(w, append(about, rolloutPairs(c)...)...)
			fmt.Fprintln(w)
			if len(c.GetRollout().GetWaves()) > 1 {
				writeWaves(w, a.flags.output == "wide", c.Rollout)
				fmt.Fprintln(w)
			}
			writeTable(w, a.flags.output == "wide", c.Invocations, a.invocationColumns())
		})
	})
}

func (a *app) commandsCancel(cmd *cobra.Command, args []string) error {
	return a.with(cmd.Context(), func(s *session) error {
		r, err := agentplanev1.NewCommandServiceClient(s).CancelCommand(cmd.Context(), &agentplanev1.CancelCommandRequest{Id: args[0]})
		if err != nil {
			return hintUnknown(err, "agentctl commands get "+args[0])
		}
		return a.done(toObject(r.Command), "command %s is %s: %s", args[0], stateName(r.Command.GetState()), counts(r.Command.GetCounts()))
	})
}

func (a *app) commandsOutput() *cobra.Command {
	return &cobra.Command{
		Use: "output COMMAND [AGENT]", Short: "print what the programs printed: its head and tail, and how much is not shown",
		Args: args(1, 2, "the id of a command, and at most one agent"), Annotations: is(reads),
		ValidArgsFunction: a.completeCommandAgent,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.with(cmd.Context(), func(s *session) error {
				c, err := a.readCommand(cmd, s, args[0], true)
				if err != nil {
					return err
				}
				if len(args) == 1 {
					return a.printOutputs(c.GetInvocations())
				}
				for _, i := range c.GetInvocations() {
					if i.AgentId == args[1] || i.AgentName == args[1] {
						return a.printOutput(i)
					}
				}
				return &failure{
					code: exitNotFound, err: fmt.Errorf("command %s does not mean agent %q", args[0], args[1]),
					hint: fmt.Sprintf("see \"agentctl commands get %s\"; an agent that was removed is named by its id", args[0]),
				}
			})
		},
	}
}

func (a *app) printOutputs(all []*agentplanev1.Invocation) error {
	objects := make([]object, len(all))
	for n, i := range all {
		objects[n] = toObject(i)
	}
	return printObjects(a, objects, func(w io.Writer) { writeGroups(w, all) })
}

// printOutput gives the program's stdout to stdout, and its stderr to stderr.
func (a *app) printOutput(i *agentplanev1.Invocation) error {
	if err := printOne(a, toObject(i), func(w io.Writer) { a.writeRaw(w, a.stdout, i.Stdout) }); err != nil {
		return err
	}
	if a.flags.output == "table" || a.flags.output == "wide" {
		a.writeRaw(a.stderr, a.stderr, i.Stderr)
	}
	return nil
}

// writeRaw writes the bytes as they are, unless they would go to a terminal.
func (a *app) writeRaw(w, sink io.Writer, o *agentplanev1.Output) {
	text := shownText(o)
	if isTerminal(sink) {
		text = printableText(text)
	}
	_, _ = io.WriteString(w, text)
}

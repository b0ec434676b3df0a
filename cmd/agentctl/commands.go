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
		a.commandsList(), a.commandsOutput(), a.commandsAttach(),
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
		{"STATE", false, func(c *agentplanev1.Command) string { return stateName(c.State) }},
		{"AGE", false, func(c *agentplanev1.Command) string { return a.age(c.SubmittedAt) }},
		{"BY", false, (*agentplanev1.Command).GetSubmittedBy},
		{"TARGETS", false, func(c *agentplanev1.Command) string { return fmt.Sprint(c.Targets) }},
		{"COUNTS", false, func(c *agentplanev1.Command) string { return counts(c.Counts) }},
		{"WHAT", false, (*agentplanev1.Command).GetSummary},
		{"SELECTOR", true, (*agentplanev1.Command).GetSelector},
		{"INDEX", true, func(c *agentplanev1.Command) string { return fmt.Sprint(c.SubmittedIndex) }},
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
			pairs(w,
				[2]string{"id", c.Id}, [2]string{"state", stateName(c.State)}, [2]string{"what", c.Summary},
				[2]string{"selector", c.Selector},
				[2]string{"submitted", fmt.Sprintf("%s by %s, at index %d", clock(c.SubmittedAt), c.SubmittedBy, c.SubmittedIndex)},
				[2]string{"not after", clock(c.NotAfter)}, [2]string{"finished", clock(c.FinishedAt)},
				[2]string{"canceled by", c.CanceledBy}, [2]string{"counts", counts(c.Counts)},
			)
			fmt.Fprintln(w)
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
	var f outputFlags
	c := &cobra.Command{
		Use: "output COMMAND [AGENT]", Short: "print what the programs printed: of one agent all that is kept, of all its head and tail",
		Long: "Print what the programs of a command printed. Of one agent it is the exact bytes of all that is kept,\n" +
			"stdout to stdout and stderr to stderr, compared with the recorded hash; what is not kept is said on\n" +
			"stderr. Of all agents it is the head and the tail that the results hold, equal ones together.",
		Args: args(1, 2, "the id of a command, and at most one agent"), Annotations: is(reads),
		ValidArgsFunction: a.completeCommandAgent,
		RunE: func(cmd *cobra.Command, args []string) error {
			f.ranged = cmd.Flags().Changed("offset")
			plain := a.flags.output == "table" || a.flags.output == "wide"
			switch {
			case (f.stderr || f.ranged) && len(args) == 1:
				return usagef("--stderr and --offset are of one agent: name it behind the command")
			case (f.stderr || f.ranged) && !plain:
				return usagef("--stderr and --offset print bytes: -o %s is not for them", a.flags.output)
			}
			return a.with(cmd.Context(), func(s *session) error {
				c, err := a.readCommand(cmd, s, args[0], true)
				if err != nil {
					return err
				}
				if len(args) == 1 {
					return a.printOutputs(c.GetInvocations())
				}
				for _, i := range c.GetInvocations() {
					switch {
					case i.AgentId != args[1] && i.AgentName != args[1]:
					case plain:
						return a.printWhole(cmd.Context(), s, args[0], args[1], &f)
					default:
						return a.printOutput(i)
					}
				}
				return noInvocation(args[0], args[1])
			})
		},
	}
	f.add(c)
	return c
}

func (a *app) printOutputs(all []*agentplanev1.Invocation) error {
	objects := make([]object, len(all))
	for n, i := range all {
		objects[n] = toObject(i)
	}
	return printObjects(a, objects, func(w io.Writer) { writeGroups(w, all) })
}

// printOutput gives the result, with the head and the tail that it holds, as an object.
func (a *app) printOutput(i *agentplanev1.Invocation) error {
	return printOne(a, toObject(i), func(io.Writer) {})
}

package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/client"
)

func (a *app) commandsCmd() *cobra.Command {
	c := &cobra.Command{Use: "commands", Short: "look after the commands"}
	one := args(1, 1, "the id of a command")
	c.AddCommand(
		a.commandsList(), a.commandsOutput(), a.commandsAttach(), a.commandsWatch(), a.commandsQueue(), a.commandsConfirm(),
		&cobra.Command{
			Use: "get COMMAND", Short: "show one command and its invocations", Args: one, Annotations: is(reads),
			ValidArgsFunction: a.completeCommands, RunE: a.commandsGet,
		},
		&cobra.Command{
			Use: "cancel COMMAND", Short: "cancel a command: what has not started never starts", Args: one,
			ValidArgsFunction: a.completeCommands, RunE: a.commandsCancel,
		},
	)
	c.AddCommand(a.brakeCmds()...)
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
		{"SLOT", true, func(c *agentplanev1.Command) string { return clock(c.Slot) }},
	}
}

func unlessNormal(priority uint32) string {
	if priority == priorities["normal"] {
		return ""
	}
	return fmt.Sprint(priority)
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

func (a *app) commandsGet(cmd *cobra.Command, args []string) error {
	return a.with(cmd.Context(), func(s *session) error {
		c, err := s.Results(cmd.Context(), args[0], a.flags.output != "table" && a.flags.output != "wide", client.Stale(a.flags.stale))
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
				{"schedule", c.Schedule},
				{"slot", clock(c.Slot)},
				{"splay", splayText(c.Splay)},
				{"undo", termsText(c.Undo)},
				{"not after", clock(c.NotAfter)},
				{"finished", clock(c.FinishedAt)},
				{"locks", heldLocks(c)},
				{"priority", unlessNormal(c.Priority)},
				{"supersedes", c.Supersede},
				{"canceled", canceledText(c)},
				{"rerun of", c.RerunOf},
				{"counts", counts(c.Counts)},
			}
			about = append(about, broughtPairs(c.GetSpec())...)
			pairs(w, append(about, rolloutPairs(c)...)...)
			fmt.Fprintln(w)
			if len(c.GetRollout().GetWaves()) > 1 {
				writeWaves(w, a.flags.output == "wide", c.Rollout)
				fmt.Fprintln(w)
			}
			writeTable(w, a.flags.output == "wide", c.Invocations, a.invocationColumns(c))
			if steps := stepRows(c.Invocations, c.GetSpec().GetSteps()); len(steps) > 0 {
				fmt.Fprintln(w, "\nSTEPS")
				writeTable(w, false, steps, agentStepColumns)
			}
		})
	})
}

func canceledText(c *agentplanev1.Command) string {
	if c.CanceledIndex == 0 {
		return ""
	}
	return fmt.Sprintf("%s by %s, at index %d", clock(c.CanceledAt), c.CanceledBy, c.CanceledIndex)
}

func (a *app) commandsCancel(cmd *cobra.Command, args []string) error {
	return a.with(cmd.Context(), func(s *session) error {
		c, err := s.Cancel(cmd.Context(), args[0])
		if err != nil {
			return hintUnknown(err, "agentctl commands get "+args[0])
		}
		return a.done(toObject(c), "command %s is %s: %s", args[0], stateName(c.GetState()), counts(c.GetCounts()))
	})
}

func (a *app) commandsWatch() *cobra.Command {
	var results resultFlags
	c := &cobra.Command{
		Use: "watch COMMAND", Short: "follow a command to its end, as run does", Args: args(1, 1, "the id of a command"),
		ValidArgsFunction: a.completeCommands,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := results.prepare(false); err != nil {
				return err
			}
			return a.with(cmd.Context(), func(s *session) error { return a.follow(cmd.Context(), s, args[0], &results) })
		},
	}
	results.add(c)
	return c
}

func (a *app) commandsOutput() *cobra.Command {
	var f outputFlags
	var results resultFlags
	c := &cobra.Command{
		Use: "output COMMAND [AGENT]", Short: "print what the programs printed: of one agent all that is kept, of all its head and tail",
		Long: "Print what the programs of a command printed. Of one agent it is the exact bytes of all that is kept,\n" +
			"stdout to stdout and stderr to stderr, compared with the recorded hash; what is not kept is said on\n" +
			"stderr. Of all agents it is the head and the tail that the results hold, equal ones together;\n" +
			"with --output-dir it is all that is kept of each, in files.",
		Args: args(1, 2, "the id of a command, and at most one agent"), Annotations: is(reads),
		ValidArgsFunction: a.completeCommandAgent,
		RunE: func(cmd *cobra.Command, args []string) error {
			f.ranged = cmd.Flags().Changed("offset")
			plain := a.flags.output == "table" || a.flags.output == "wide"
			switch {
			case len(args) == 2 && results.dir != "":
				return usagef("--output-dir takes the results of all agents: leave %q away", args[1])
			case (f.stderr || f.ranged) && len(args) == 1:
				return usagef("--stderr and --offset are of one agent: name it behind the command")
			case (f.stderr || f.ranged) && !plain:
				return usagef("--stderr and --offset print bytes: -o %s is not for them", a.flags.output)
			}
			if err := results.prepare(false); err != nil {
				return err
			}
			return a.with(cmd.Context(), func(s *session) error {
				c, err := s.Results(cmd.Context(), args[0], true, client.Stale(a.flags.stale))
				if err != nil {
					return err
				}
				later, err := results.write(cmd.Context(), a, s, c)
				if err != nil {
					return err
				}
				if later > 0 {
					return &failure{
						code: exitUnavailable, err: fmt.Errorf("the output of command %s on %s may not be all: AGENT/%s says why", args[0], count(later, "agent"), gapsFile),
						hint: fmt.Sprintf("try again when the hosts and the nodes are there: agentctl commands output %s --output-dir DIR", args[0]),
					}
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
	results.add(c)
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

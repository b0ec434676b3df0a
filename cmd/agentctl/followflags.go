package main

import (
	"context"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/client"
)

// followFlags say that output is printed as it comes.
type followFlags struct{ follow bool }

func (f *followFlags) add(c *cobra.Command) {
	c.Flags().BoolVar(&f.follow, "follow", false, "print what the programs print as it comes")
}

// check says whether the output can be printed so.
func (f *followFlags) check(a *app, detach bool) error {
	switch {
	case !f.follow:
		return nil
	case detach:
		return usagef("--follow and --detach are both given")
	default:
		return a.lines("--follow")
	}
}

// lines refuses output formats of which a stream of lines is none.
func (a *app) lines(what string) error {
	if o := a.flags.output; o != "table" && o != "wide" {
		return usagef("%s prints lines as they come: -o %s is not for it", what, o)
	}
	return nil
}

func (a *app) commandsAttach() *cobra.Command {
	return &cobra.Command{
		Use: "attach COMMAND [AGENT]", Short: "print what the programs have printed, from the beginning, and what they print as it comes",
		Long: "Print what the programs of a command have printed, from the beginning, and what they print as it comes,\n" +
			"until they have ended. With several agents each line begins with the agent's name. What is not kept\n" +
			"is said on stderr. Ctrl-C ends the printing, not the command.",
		Args:              args(1, 2, "the id of a command, and at most one agent"),
		ValidArgsFunction: a.completeCommandAgent,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := a.lines("attach"); err != nil {
				return err
			}
			agent := ""
			if len(args) == 2 {
				agent = args[1]
			}
			return a.with(cmd.Context(), func(s *session) error { return a.attach(cmd.Context(), s, args[0], agent, &resultFlags{}) })
		},
	}
}

// attach prints the output of a command, or of one agent, to its end.
func (a *app) attach(ctx context.Context, s *session, id, agent string, results *resultFlags) error {
	c, err := s.Results(ctx, id, false, client.Stale(a.flags.stale))
	if err != nil {
		return err
	}
	if agent != "" && len(ofAgent(c.Invocations, agent)) == 0 {
		return noInvocation(id, agent)
	}
	single := agent != "" || c.GetTargets() == 1
	p := newLinePrinter(a, single, ofAgent(c.Invocations, agent))
	err = p.beside(ctx, s, id, func() error {
		return s.Follow(ctx, &agentplanev1.FollowRequest{CommandId: id, Agent: agent}, p.take)
	})
	p.flush()
	if err != nil {
		return a.detachedFrom(ctx, id, agent, err)
	}
	return a.attached(ctx, s, id, agent, results)
}

// ofAgent is what there is of the agent, by id or name; of all when it is empty.
func ofAgent(all []*agentplanev1.Invocation, agent string) []*agentplanev1.Invocation {
	return slices.DeleteFunc(slices.Clone(all), func(i *agentplanev1.Invocation) bool {
		return agent != "" && i.AgentId != agent && i.AgentName != agent
	})
}

// attached says how what was followed has ended.
func (a *app) attached(ctx context.Context, s *session, id, agent string, results *resultFlags) error {
	c, err := s.Results(ctx, id, true)
	if err != nil {
		return err
	}
	if _, err := results.write(ctx, a, s, c); err != nil {
		return err
	}
	c.Invocations = ofAgent(c.Invocations, agent)
	for _, i := range c.Invocations {
		if i.State != agentplanev1.AttemptState_ATTEMPT_STATE_SUCCEEDED {
			a.talk("%s: %s", printable(client.AgentOf(i)), printable(ending(i)))
		}
	}
	return verdict(c)
}

// detachedFrom says what goes on without us, and how to come back.
func (a *app) detachedFrom(ctx context.Context, id, agent string, err error) error {
	back := "agentctl commands attach " + id
	if agent != "" {
		back += " " + agent
	}
	if ctx.Err() != nil {
		return &failure{
			code: exitError, err: fmt.Errorf("detached; command %s goes on", id),
			hint: fmt.Sprintf("come back: %s; or cancel it: agentctl commands cancel %s", back, id),
		}
	}
	return detached(ctx, id, err)
}

func noInvocation(id, agent string) error {
	return &failure{
		code: exitNotFound, err: fmt.Errorf("command %s does not mean agent %q", id, agent),
		hint: fmt.Sprintf("see \"agentctl commands get %s\"; an agent that was removed is named by its id", id),
	}
}

package main

import (
	"bufio"
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
)

const removeHelp = `Remove a node for ever: its data directory cannot join again, and its voice is gone. A
voter that is not known to be dead is removed only with --yes, or when you say so at the
terminal: to stop a node for a while, stop its process.

Agents trust the nodes of which they have heard. When you replace all nodes, do so one
after the other: an agent that is away meanwhile, and then knows none of those that are
left, has to enrol again.`

func (a *app) clusterRemove() *cobra.Command {
	var yes bool
	c := &cobra.Command{
		Use: "remove NODE", Short: "remove a node for ever, by id or name", Long: "Remove a node from the cluster.\n\n" + removeHelp,
		Args: args(1, 1, "the id or name of a node"), ValidArgsFunction: a.completeMembers,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.with(cmd.Context(), func(s *session) error {
				if !yes {
					if err := a.askToRemove(cmd, s, args[0]); err != nil {
						return err
					}
				}
				return a.removeMember(cmd, s, args[0])
			})
		},
	}
	c.Flags().BoolVar(&yes, "yes", false, "also when the node is a voter that is not known to be dead, without asking")
	return c
}

// mustAsk says that the removal of a member takes away what works.
func mustAsk(m *agentplanev1.Member) bool {
	return m.GetVoter() && m.GetState() != "dead" && m.GetState() != "left"
}

// askToRemove asks whether a voter that lives is meant. One that is not there has been
// removed, perhaps: that is for the cluster to say.
func (a *app) askToRemove(cmd *cobra.Command, s *session, who string) error {
	members, err := s.Members(cmd.Context())
	if err != nil {
		return err
	}
	at := slices.IndexFunc(members, func(m *agentplanev1.Member) bool { return m.Id == who || m.Name == who })
	if at < 0 || !mustAsk(members[at]) {
		return nil
	}
	m := members[at]
	what := fmt.Sprintf("node %s at %s is a voter and %s", cmp.Or(m.Name, m.Id), m.Address, m.State)
	if m.Leader {
		what = fmt.Sprintf("node %s at %s is the leader", cmp.Or(m.Name, m.Id), m.Address)
	}
	refused := &failure{
		code: exitUsage, err: fmt.Errorf("%s: it is not removed without --yes", what),
		hint: fmt.Sprintf("when it is to go for ever: agentctl cluster remove %s --yes; to stop it for a while, stop its process", who),
	}
	if !isTerminal(a.stdin) || !isTerminal(a.stderr) {
		return refused
	}
	fmt.Fprintf(a.stderr, "agentctl: %s; removed it is gone for ever. Remove it? [y/N] ", printable(what))
	if !saysYes(a.stdin) {
		return refused
	}
	return nil
}

// saysYes reads one line.
func saysYes(r io.Reader) bool {
	line, _ := bufio.NewReader(io.LimitReader(r, 100)).ReadString('\n')
	line = strings.ToLower(strings.TrimSpace(line))
	return line == "y" || line == "yes"
}

func (a *app) removeMember(cmd *cobra.Command, s *session, who string) error {
	if err := s.RemoveMember(cmd.Context(), who); err != nil {
		return hintUnknown(err, `agentctl cluster members`)
	}
	s.refresh(cmd.Context())
	if members, err := s.Members(cmd.Context()); err == nil {
		a.tellVoters(members)
	}
	return a.done(object{{"removed", who}}, "node %s is removed; its data directory cannot join again", who)
}

// tellVoters says how many deaths the voters that are left tolerate, and what to type when
// it is none.
func (a *app) tellVoters(members []*agentplanev1.Member) {
	voters := 0
	for _, m := range members {
		if m.GetVoter() {
			voters++
		}
	}
	spare := (voters - 1) / 2
	a.talk("%s left: %d may die before the cluster stops", count(voters, "voter"), spare)
	if spare == 0 {
		a.talk("let another node join: agentctl tokens create --kind node")
	}
}

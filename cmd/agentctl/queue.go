package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/client"
)

func (a *app) commandsQueue() *cobra.Command {
	var limit uint32
	c := &cobra.Command{
		Use: "queue AGENT", Short: "show what runs on an agent and what waits there, in its order, and why",
		Args: args(1, 1, "the id or name of an agent"), Annotations: is(reads), ValidArgsFunction: a.completeAgents,
		RunE: func(cmd *cobra.Command, args []string) error {
			if limit < 1 || limit > 10_000 {
				return usagef("--limit %d is not between 1 and 10000", limit)
			}
			return a.with(cmd.Context(), func(s *session) error {
				r, err := s.Queue(cmd.Context(), args[0], limit, client.Stale(a.flags.stale))
				if err != nil {
					return err
				}
				a.talk("agent %s is %s: %d of %d slots are taken, %d wait", r.AgentName, r.Health, r.Running, r.Slots, r.Waiting)
				return printList(a, r.Items, a.queueColumns())
			})
		},
	}
	c.Flags().Uint32Var(&limit, "limit", 1000, "at most `N`")
	return c
}

func (a *app) queueColumns() []column[*agentplanev1.QueueItem] {
	return []column[*agentplanev1.QueueItem]{
		{"COMMAND", false, (*agentplanev1.QueueItem).GetCommandId},
		{"STATE", false, func(i *agentplanev1.QueueItem) string { return stateName(i.State) }},
		{"PRIORITY", false, func(i *agentplanev1.QueueItem) string { return fmt.Sprint(i.Priority) }},
		{"AGE", false, func(i *agentplanev1.QueueItem) string { return a.age(i.SubmittedAt) }},
		{"BY", false, (*agentplanev1.QueueItem).GetSubmittedBy},
		{"LOCKS", false, func(i *agentplanev1.QueueItem) string { return heldLocks(i) }},
		{"WHAT", false, (*agentplanev1.QueueItem).GetSummary},
		{"WAITS", false, (*agentplanev1.QueueItem).GetWaits},
		{"BECAUSE", false, (*agentplanev1.QueueItem).GetDetail},
		{"ATTEMPT", true, func(i *agentplanev1.QueueItem) string { return fmt.Sprint(i.Attempt) }},
	}
}

// heldLocks is what attempts hold while they run.
func heldLocks(c interface {
	GetLocks() []string
	GetFleetLocks() []string
	GetExclusive() bool
},
) string {
	locks := append([]string(nil), c.GetLocks()...)
	for _, name := range c.GetFleetLocks() {
		locks = append(locks, fleetPrefix+name)
	}
	if c.GetExclusive() {
		locks = append(locks, "the whole host")
	}
	return strings.Join(locks, ", ")
}

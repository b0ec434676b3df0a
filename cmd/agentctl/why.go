package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
)

func (a *app) whyCmd() *cobra.Command {
	return &cobra.Command{
		Use: "why COMMAND AGENT", Short: "prove what became of a command on an agent",
		Args: args(2, 2, "the id of a command and an agent"), ValidArgsFunction: a.completeCommandAgent,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.with(cmd.Context(), func(s *session) error {
				r, err := agentplanev1.NewCommandServiceClient(s).Why(cmd.Context(), &agentplanev1.WhyRequest{CommandId: args[0], Agent: args[1]})
				if err != nil {
					return err
				}
				return printOne(a, toObject(r), func(w io.Writer) { writeWhy(w, r) })
			})
		},
	}
}

// told are the words for a state in a proof.
var told = map[agentplanev1.AttemptState]string{
	agentplanev1.AttemptState_ATTEMPT_STATE_PENDING:  "submitted",
	agentplanev1.AttemptState_ATTEMPT_STATE_RELEASED: "released",
	agentplanev1.AttemptState_ATTEMPT_STATE_CLAIMED:  "claimed",
	agentplanev1.AttemptState_ATTEMPT_STATE_RUNNING:  "started",
}

func writeWhy(w io.Writer, r *agentplanev1.WhyResponse) {
	i := r.GetInvocation()
	fmt.Fprintf(w, "command %s on agent %s: %s\n", printable(i.GetCommandId()), printable(agentName(i)), printable(ending(i)))
	writeTable(w, false, r.Transitions, []column[*agentplanev1.Transition]{
		{"WHAT", false, func(t *agentplanev1.Transition) string {
			if word, ok := told[t.State]; ok {
				return word
			}
			return "result " + stateName(t.State)
		}},
		{"INDEX", false, func(t *agentplanev1.Transition) string { return fmt.Sprint(t.Index) }},
		{"AT", false, func(t *agentplanev1.Transition) string { return clock(t.At) }},
		{"ATTEMPT", false, func(t *agentplanev1.Transition) string { return fmt.Sprint(t.Attempt) }},
		{"FENCE", false, func(t *agentplanev1.Transition) string { return nonZero(t.Fence) }},
		{"EPOCH", false, func(t *agentplanev1.Transition) string { return nonZero(t.SessionEpoch) }},
		{"NODE", false, (*agentplanev1.Transition).GetNodeId},
		{"REASON", false, (*agentplanev1.Transition).GetReason},
	})
}

func nonZero(n uint64) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprint(n)
}

package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/client"
)

func (a *app) whyCmd() *cobra.Command {
	return &cobra.Command{
		Use: "why COMMAND AGENT", Short: "prove what became of a command on an agent",
		Args: args(2, 2, "the id of a command and an agent"), ValidArgsFunction: a.completeCommandAgent,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.with(cmd.Context(), func(s *session) error {
				r, err := s.Why(cmd.Context(), args[0], args[1])
				if err != nil {
					return err
				}
				return printOne(a, toObject(r), func(w io.Writer) { writeWhy(w, r) })
			})
		},
	}
}

func writeWhy(w io.Writer, r *agentplanev1.WhyResponse) {
	i := r.GetInvocation()
	fmt.Fprintf(w, "command %s on agent %s: %s\n", printable(i.GetCommandId()), printable(client.AgentOf(i)), printable(ending(i)))
	signers := strings.Join(r.KeyIds, ", ")
	if signers == "" {
		signers = "nobody"
	}
	pairs(w,
		[2]string{"what", r.GetCommand().GetSummary()}, [2]string{"rerun of", r.GetCommand().GetRerunOf()},
		[2]string{"detail", i.GetDetail()}, [2]string{"undo", undoText(i.GetUndo())}, [2]string{"envelope", envelopeText(r.EnvelopeSha256)}, [2]string{"signed by", signers},
	)
	fmt.Fprintln(w)
	writeTable(w, false, r.Transitions, []column[*agentplanev1.Transition]{
		{"WHAT", false, func(t *agentplanev1.Transition) string {
			if client.Final(t.State) {
				return t.What + " " + stateName(t.State)
			}
			return t.What
		}},
		{"INDEX", false, func(t *agentplanev1.Transition) string { return fmt.Sprint(t.Index) }},
		{"AT", false, func(t *agentplanev1.Transition) string { return clock(t.At) }},
		{"ATTEMPT", false, func(t *agentplanev1.Transition) string { return fmt.Sprint(t.Attempt) }},
		{"FENCE", false, func(t *agentplanev1.Transition) string { return nonZero(t.Fence) }},
		{"EPOCH", false, func(t *agentplanev1.Transition) string { return nonZero(t.SessionEpoch) }},
		{"NODE", false, (*agentplanev1.Transition).GetNodeId},
		{"BY", false, (*agentplanev1.Transition).GetBy},
		{"REASON", false, (*agentplanev1.Transition).GetReason},
	})
	if steps := stepRows([]*agentplanev1.Invocation{i}, r.GetCommand().GetSpec().GetSteps()); len(steps) > 0 {
		fmt.Fprintln(w, "\nSTEPS")
		writeTable(w, false, steps, stepColumns)
	}
}

func nonZero(n uint64) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprint(n)
}

// envelopeText is the hash of the command's bytes, which is told to nobody of one with
// secrets.
func envelopeText(sum string) string {
	if sum == "" {
		return "its hash is not shown, since it has secrets"
	}
	return "sha256 " + sum
}

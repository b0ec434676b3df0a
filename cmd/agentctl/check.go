package main

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/client"
)

func (a *app) clusterCheck() *cobra.Command {
	return &cobra.Command{
		Use: "check", Short: "compare the states of all nodes at one index", Args: args(0, 0, ""),
		Long: `Ask every node for the SHA-256 of its state, and again until all answer for the same
index or --request-timeout is over. All must be the same there: the exit code is 1 when they
differ, and 5 when a node does not answer or they are never at the same index. Each node reads
its whole state for it, beside its work, perhaps more than once: that takes a processor some
seconds for each gigabyte. The answer also says what each node's process takes of its machine.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.with(cmd.Context(), func(s *session) error {
				ctx, cancel := context.WithTimeout(cmd.Context(), a.flags.requestTimeout)
				defer cancel()
				states, err := s.CheckStates(ctx)
				if err != nil {
					return err
				}
				if err := a.judgeStates(states); err != nil {
					return err
				}
				return a.printStates(states)
			})
		},
	}
}

// judgeStates says what keeps the nodes from having the same state. It is worst that they
// differ, also where others are not known.
func (a *app) judgeStates(states []client.NodeState) error {
	if !client.SameState(states) {
		return &failure{
			code: exitError, err: fmt.Errorf("the states of nodes differ: %s", strings.Join(statesText(states), "; ")),
			hint: "keep a copy of the data directories of all of them for whoever looks into it, then take out what stands alone: agentctl cluster remove NODE",
		}
	}
	for _, s := range states {
		if s.Err == nil {
			continue
		}
		who := cmp.Or(s.Member.GetName(), s.Member.GetId())
		err := fmt.Errorf("node %s at %s: %w", who, s.Member.GetAddress(), s.Err)
		if e := client.AsError(s.Err); e.Code == codes.Unimplemented {
			return &failure{code: exitError, err: fmt.Errorf("node %s cannot say what it holds: its version is older", who), hint: "upgrade it, then look again"}
		} else if codeOf(e) == exitDenied {
			return err
		}
		return &failure{code: exitUnavailable, err: err, hint: `nothing is known to differ; see "agentctl cluster status --why"`}
	}
	if !client.SameIndex(states) {
		return &failure{
			code: exitUnavailable, err: fmt.Errorf("the nodes were never seen at the same index within %v: %s", shortDuration(a.flags.requestTimeout), strings.Join(statesText(states), "; ")),
			hint: "give them longer with --request-timeout, or look when less is written; a node that stays behind has a disk or a link that is too slow",
		}
	}
	return nil
}

// statesText are the states that were seen, each with those that have it.
func statesText(states []client.NodeState) (parts []string) {
	has := make(map[string][]string)
	var order []string
	for _, s := range states {
		what := "not known"
		if s.Err == nil {
			what = fmt.Sprintf("%s at index %d", shortHash(s.State), s.State.GetAppliedIndex())
		}
		if has[what] == nil {
			order = append(order, what)
		}
		has[what] = append(has[what], cmp.Or(s.Member.GetName(), s.Member.GetId()))
	}
	slices.SortStableFunc(order, func(x, y string) int { return cmp.Compare(len(has[y]), len(has[x])) })
	for _, what := range order {
		parts = append(parts, strings.Join(has[what], ", ")+": "+what)
	}
	return parts
}

func shortHash(s *agentplanev1.CheckStateResponse) string {
	text := hex.EncodeToString(s.GetHash())
	return text[:min(len(text), 12)]
}

var stateColumns = []column[client.NodeState]{
	{"NAME", false, func(s client.NodeState) string { return s.Member.GetName() }},
	{"ADDRESS", true, func(s client.NodeState) string { return s.Member.GetAddress() }},
	{"MEMORY", false, func(s client.NodeState) string { return bytesText(s.State.GetProcess().GetResidentBytes()) }},
	{"FILES", false, func(s client.NodeState) string { return fmt.Sprint(s.State.GetProcess().GetOpenFiles()) }},
	{"GOROUTINES", false, func(s client.NodeState) string { return fmt.Sprint(s.State.GetProcess().GetGoroutines()) }},
}

func (a *app) printStates(states []client.NodeState) error {
	if len(states) == 0 {
		return errors.New("the cluster knows no nodes")
	}
	first := states[0].State
	nodes := make([]object, len(states))
	for i, s := range states {
		nodes[i] = object{{"id", s.Member.GetId()}, {"name", s.Member.GetName()}, {"address", s.Member.GetAddress()}, {"process", toObject(s.State.GetProcess())}}
	}
	o := object{{"index", first.GetAppliedIndex()}, {"hash", hex.EncodeToString(first.GetHash())}, {"nodes", nodes}}
	return printOne(a, o, func(w io.Writer) {
		fmt.Fprintf(w, "%d nodes have the same state at index %d: %s\n\n", len(states), first.GetAppliedIndex(), shortHash(first))
		writeTable(w, a.flags.output == "wide", states, stateColumns)
	})
}

// processText is what a node's process takes of its machine; empty when that is not known.
func processText(p *agentplanev1.Process) string {
	if p == nil {
		return ""
	}
	return fmt.Sprintf("%s of memory, %d open files, %d goroutines", bytesText(p.GetResidentBytes()), p.GetOpenFiles(), p.GetGoroutines())
}

func bytesText(n uint64) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }

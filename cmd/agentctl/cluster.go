package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/client"
)

func (a *app) clusterCmd() *cobra.Command {
	c := &cobra.Command{Use: "cluster", Short: "make, join and look after the cluster"}
	c.AddCommand(
		a.clusterInit(), a.clusterJoin(),
		&cobra.Command{
			Use: "members", Short: "list the nodes", Args: args(0, 0, ""), Annotations: is(reads),
			RunE: a.clusterMembers,
		},
		a.clusterStatus(),
		a.clusterCheck(),
		a.clusterRemove(),
		&cobra.Command{
			Use: "transfer [NODE]", Short: "hand leadership over, to the given node or the most caught up",
			Args: args(0, 1, "at most one node"), ValidArgsFunction: a.completeMembers, RunE: a.clusterTransfer,
		},
	)
	return c
}

var memberColumns = []column[*agentplanev1.Member]{
	{"ID", false, (*agentplanev1.Member).GetId},
	{"NAME", false, (*agentplanev1.Member).GetName},
	{"ADDRESS", false, (*agentplanev1.Member).GetAddress},
	{"LEADER", false, func(m *agentplanev1.Member) string { return yesNo(m.Leader) }},
	{"VOTER", false, func(m *agentplanev1.Member) string { return yesNo(m.Voter) }},
	{"STATE", false, (*agentplanev1.Member).GetState},
	{"WAITS FOR", true, (*agentplanev1.Member).GetWaitsFor},
	{"VERSION", true, (*agentplanev1.Member).GetVersion},
	{"LEVEL", true, func(m *agentplanev1.Member) string { return fmt.Sprint(m.FeatureLevel) }},
	{"STARTS", true, func(m *agentplanev1.Member) string { return fmt.Sprint(m.StartCounter) }},
}

func (a *app) clusterMembers(cmd *cobra.Command, _ []string) error {
	return a.with(cmd.Context(), func(s *session) error {
		members, err := s.Members(cmd.Context(), client.Stale(a.flags.stale))
		if err != nil {
			return err
		}
		return printList(a, members, memberColumns)
	})
}

func (a *app) clusterStatus() *cobra.Command {
	var why bool
	var dir string
	c := &cobra.Command{
		Use: "status", Short: "say how the cluster is; with --why what is wrong and what to type", Args: args(0, 0, ""),
		Long: `Say how the cluster is. With --why print what is wrong, each with the one right
command; when the cluster as a whole does not answer, what the node that was asked
knows by itself, and how old that is; the exit code is 5 then. With --data-dir the node
on this machine is asked over its own socket, which needs no context and no other node.`,
		Annotations: is(reads),
	}
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		if !c.Flags().Changed("data-dir") {
			return a.with(cmd.Context(), func(s *session) error {
				return a.status(cmd.Context(), why, func(ctx context.Context, stale bool) (*agentplanev1.StatusResponse, source, error) {
					r, err := s.Status(ctx, client.Stale(stale))
					return r, source{s.Address(), age(s.LeaderAge())}, err
				})
			})
		}
		if a.flags.addr != "" {
			return usagef("--data-dir asks the node on this machine, --addr others: give one of them")
		}
		return a.onNode(cmd.Context(), dir, func(ctx context.Context, node *client.Local) error {
			return a.status(ctx, why, func(ctx context.Context, stale bool) (*agentplanev1.StatusResponse, source, error) {
				ctx, cancel := context.WithTimeout(ctx, a.flags.requestTimeout)
				defer cancel()
				r, old, known, err := node.Status(ctx, client.Stale(stale))
				if err != nil {
					err = localError(dir, err, false)
				} else if stale && a.flags.stale {
					a.talk("note: stale: the node of %q answered from its own state, at index %d, %s", dir, r.AppliedIndex, age(old, known))
				}
				return r, source{"the node of " + dir, age(old, known)}, err
			})
		})
	}
	c.Flags().BoolVar(&why, "why", false, "print what is wrong, each with the one right command")
	c.Flags().StringVar(&dir, "data-dir", "", "ask the node on this machine that runs on `DIR`")
	return c
}

// whyPatience is how long a diagnosis waits for the answer of the whole cluster: longer
// than an election.
const whyPatience = 3 * time.Second

// source is who answered, and how old the answer may be.
type source struct{ who, age string }

// status prints what call answers. A diagnosis is wanted most when the cluster cannot
// answer: then it is what one node knows, and that is said.
func (a *app) status(ctx context.Context, why bool, call func(ctx context.Context, stale bool) (*agentplanev1.StatusResponse, source, error)) error {
	first, cancel := ctx, context.CancelFunc(func() {})
	if why && !a.flags.stale {
		first, cancel = context.WithTimeout(ctx, min(whyPatience, a.flags.requestTimeout))
	}
	r, _, err := call(first, a.flags.stale)
	cancel()
	whole := true
	if code, _ := classify(err); err != nil && why && !a.flags.stale && code == exitUnavailable && ctx.Err() == nil {
		var from source
		if r, from, err = call(ctx, true); err == nil {
			whole = false
			a.talk("note: the cluster as a whole does not answer; this is what %s knows by itself, %s", from.who, from.age)
		}
	}
	if code, hint := classify(err); err != nil && code == exitUnavailable && hint == "" {
		return hinted(err, `start the nodes at the addresses that they had, or give the address of one with --addr HOST:PORT; on a node's own machine type "agentctl cluster status --why --data-dir DIR", and look at its log`)
	}
	if err != nil {
		return err
	}
	if err := printOne(a, toObject(r), func(w io.Writer) { writeStatus(w, r, why, whole, a.flags.output == "wide") }); err != nil || whole {
		return err
	}
	hint := "look again in a moment: an election may be going on"
	if len(r.Problems) > 0 && r.Problems[0].Command != "" {
		hint = "type what stands below the problems: " + r.Problems[0].Command
	}
	return &failure{code: exitUnavailable, err: errors.New("the cluster as a whole does not answer"), hint: hint}
}

// age says how old an answer may be.
func age(d time.Duration, known bool) string {
	if !known {
		return "of unknown age: it has not heard of a leader since it started"
	}
	return fmt.Sprintf("at most %v old", d)
}

func writeStatus(w io.Writer, r *agentplanev1.StatusResponse, why, whole, wide bool) {
	switch {
	case why && !whole && len(r.Problems) == 0:
		fmt.Fprintln(w, "this node sees nothing wrong")
		return
	case why:
		writeProblems(w, r.Problems)
		return
	}
	name := func(id string) string {
		i := slices.IndexFunc(r.Members, func(m *agentplanev1.Member) bool { return m.Id == id })
		if i < 0 || r.Members[i].Name == "" {
			return id
		}
		return r.Members[i].Name
	}
	leader := name(r.LeaderId)
	if r.LeaderId == "" {
		leader = "none"
	}
	var agents []string
	for _, health := range slices.Sorted(maps.Keys(r.Agents)) {
		agents = append(agents, fmt.Sprintf("%d %s", r.Agents[health], health))
	}
	pairs(w,
		[2]string{"cluster", r.ClusterId},
		[2]string{"leader", leader},
		[2]string{"voters", fmt.Sprintf("%d; %d more may die before the cluster stops", r.Voters, r.Tolerates)},
		[2]string{"agents", strings.Join(agents, ", ")},
		[2]string{"index", fmt.Sprintf("%d (term %d)", r.AppliedIndex, r.Term)},
		[2]string{"time", clock(r.Now)},
		[2]string{"answered by", name(r.AnsweredBy)},
		[2]string{"its process", processText(r.Process)},
	)
	fmt.Fprintln(w)
	writeTable(w, wide, r.Members, memberColumns)
	if len(r.Problems) > 0 {
		fmt.Fprintln(w)
		writeProblems(w, r.Problems)
	}
}

func writeProblems(w io.Writer, problems []*agentplanev1.Problem) {
	if len(problems) == 0 {
		fmt.Fprintln(w, "nothing is wrong")
	}
	for _, p := range problems {
		fmt.Fprintf(w, "%s: %s\n", printable(p.Reason), printable(p.What))
		if p.Command != "" {
			fmt.Fprintf(w, "  type: %s\n", printable(p.Command))
		}
	}
}

func (a *app) clusterTransfer(cmd *cobra.Command, args []string) error {
	to := ""
	if len(args) == 1 {
		to = args[0]
	}
	return a.with(cmd.Context(), func(s *session) error {
		leader, err := s.Transfer(cmd.Context(), to)
		if err != nil {
			return hintUnknown(err, `agentctl cluster status`)
		}
		return a.done(object{{"leaderId", leader}}, "node %s leads", leader)
	})
}

// done prints the result of a change: an object, or a line.
func (a *app) done(o object, format string, args ...any) error {
	return printOne(a, o, func(w io.Writer) { fmt.Fprintln(w, printable(fmt.Sprintf(format, args...))) })
}

// hintUnknown says how to look, when it is not known whether a write happened.
func hintUnknown(err error, look string) error {
	if code, _ := classify(err); code == exitUnknown {
		return &failure{code: code, err: err, hint: fmt.Sprintf("it may have happened; look with %q; repeating it is safe", look)}
	}
	return err
}

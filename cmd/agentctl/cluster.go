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

func (a *app) clusterCmd() *cobra.Command {
	c := &cobra.Command{Use: "cluster", Short: "make, join and look after the cluster"}
	c.AddCommand(
		a.clusterInit(), a.clusterJoin(),
		&cobra.Command{
			Use: "members", Short: "list the nodes", Args: args(0, 0, ""), Annotations: is(reads),
			RunE: a.clusterMembers,
		},
		a.clusterStatus(),
		&cobra.Command{
			Use: "remove NODE", Short: "remove a node for ever, by id or name", Args: args(1, 1, "the id or name of a node"),
			ValidArgsFunction: a.completeMembers, RunE: a.clusterRemove,
		},
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
		r, err := agentplanev1.NewClusterServiceClient(s).ListMembers(cmd.Context(), &agentplanev1.ListMembersRequest{Stale: a.flags.stale})
		if err != nil {
			return err
		}
		return printList(a, r.Members, memberColumns)
	})
}

func (a *app) clusterStatus() *cobra.Command {
	var why bool
	c := &cobra.Command{
		Use: "status", Short: "say how the cluster is; with --why what is wrong and what to type", Args: args(0, 0, ""),
		Annotations: is(reads),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.with(cmd.Context(), func(s *session) error {
				r, err := agentplanev1.NewClusterServiceClient(s).Status(cmd.Context(), &agentplanev1.StatusRequest{Stale: a.flags.stale})
				if err != nil {
					return err
				}
				return printOne(a, toObject(r), func(w io.Writer) { writeStatus(w, r, why, a.flags.output == "wide") })
			})
		},
	}
	c.Flags().BoolVar(&why, "why", false, "print what is wrong, each with the one right command")
	return c
}

func writeStatus(w io.Writer, r *agentplanev1.StatusResponse, why, wide bool) {
	if why {
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
			if p.Command != "" {
				fmt.Fprintf(w, "  type: %s\n", printable(p.Command))
			}
		}
	}
}

func (a *app) clusterRemove(cmd *cobra.Command, args []string) error {
	return a.with(cmd.Context(), func(s *session) error {
		if _, err := agentplanev1.NewClusterServiceClient(s).RemoveMember(cmd.Context(), &agentplanev1.RemoveMemberRequest{Member: args[0]}); err != nil {
			return hintUnknown(err, `agentctl cluster members`)
		}
		s.refresh(cmd.Context())
		return a.done(object{{"removed", args[0]}}, "node %s is removed; its data directory cannot join again", args[0])
	})
}

func (a *app) clusterTransfer(cmd *cobra.Command, args []string) error {
	req := &agentplanev1.TransferLeadershipRequest{}
	if len(args) == 1 {
		req.To = args[0]
	}
	return a.with(cmd.Context(), func(s *session) error {
		r, err := agentplanev1.NewClusterServiceClient(s).TransferLeadership(cmd.Context(), req)
		if err != nil {
			return hintUnknown(err, `agentctl cluster status`)
		}
		return a.done(toObject(r), "node %s leads", r.LeaderId)
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

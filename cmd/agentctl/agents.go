package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/client"
)

func (a *app) agentsCmd() *cobra.Command {
	c := &cobra.Command{Use: "agents", Short: "look after the agents"}
	one := args(1, 1, "the id or name of an agent")
	c.AddCommand(
		a.agentsList(), a.agentsWatch(), a.agentsLabel(),
		&cobra.Command{
			Use: "get AGENT", Short: "show one agent", Args: one, Annotations: is(reads),
			ValidArgsFunction: a.completeAgents, RunE: a.agentsGet,
		},
		&cobra.Command{
			Use: "remove AGENT", Short: "remove an agent for ever; what it has not finished becomes LOST", Args: one,
			ValidArgsFunction: a.completeAgents, RunE: a.agentsRemove,
		},
		&cobra.Command{
			Use: "readmit AGENT", Short: "take an agent out of quarantine", Args: one,
			ValidArgsFunction: a.completeAgents, RunE: a.agentsReadmit,
		},
	)
	return c
}

func (a *app) agentColumns() []column[*agentplanev1.Agent] {
	return []column[*agentplanev1.Agent]{
		{"ID", false, (*agentplanev1.Agent).GetId},
		{"NAME", false, (*agentplanev1.Agent).GetName},
		{"HEALTH", false, health},
		{"SINCE", false, func(g *agentplanev1.Agent) string { return a.age(g.Since) }},
		{"LABELS", false, func(g *agentplanev1.Agent) string { return labels(g.Labels) }},
		{"RUNNING", false, func(g *agentplanev1.Agent) string { return fmt.Sprint(g.Running) }},
		{"QUEUED", false, func(g *agentplanev1.Agent) string { return fmt.Sprint(g.Queued) }},
		{"NODE", true, (*agentplanev1.Agent).GetNode},
		{"EPOCH", true, func(g *agentplanev1.Agent) string { return fmt.Sprint(g.SessionEpoch) }},
		{"VERSION", true, (*agentplanev1.Agent).GetVersion},
		{"FACTS", true, func(g *agentplanev1.Agent) string { return labels(g.Facts) }},
	}
}

func health(g *agentplanev1.Agent) string {
	if g.HealthReason == "" {
		return g.Health
	}
	return g.Health + "(" + g.HealthReason + ")"
}

// work counts what runs and waits on an agent.
func work(g *agentplanev1.Agent) string {
	text := fmt.Sprintf("%d running, %d queued", g.Running, g.Queued)
	switch n := g.GetAwaitingReboot(); n {
	case 0:
		return text
	case 1:
		return text + "; 1 waits for the reboot of the host that it announced"
	default:
		return text + fmt.Sprintf("; %d wait for the reboot of the host that they announced", n)
	}
}

func labels(m map[string]string) string {
	var parts []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		parts = append(parts, k+"="+m[k])
	}
	return strings.Join(parts, ",")
}

func byName(x, y *agentplanev1.Agent) int {
	return strings.Compare(x.Name+"\x00"+x.Id, y.Name+"\x00"+y.Id)
}

func (a *app) agentsList() *cobra.Command {
	var sel selectorFlags
	c := &cobra.Command{
		Use: "list", Short: "list the agents", Args: args(0, 0, ""), Annotations: is(reads),
		Long: "List the agents. Their names are theirs to choose, and need not be unique: a selector on a name means all that\n" +
			"have it; where one agent is to be named, a name that several have is refused, and the id is needed.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			expr, err := sel.expression()
			if err != nil {
				return err
			}
			return a.with(cmd.Context(), func(s *session) error {
				agents, err := client.Collect(s.Agents(cmd.Context(), expr, a.flags.output != "table", client.Stale(a.flags.stale)))
				if err != nil {
					return err
				}
				for _, note := range namesakes(agents) {
					a.talk("note: %s", note)
				}
				return printList(a, agents, a.agentColumns())
			})
		},
	}
	sel.add(c)
	return c
}

// maxNamesakes bounds the names that are told of.
const maxNamesakes = 5

// namesakes says which names several of the agents have.
func namesakes(agents []*agentplanev1.Agent) (notes []string) {
	count := map[string]int{}
	for _, g := range agents {
		count[g.Name]++
	}
	for _, name := range slices.Sorted(maps.Keys(count)) {
		switch {
		case count[name] < 2:
		case len(notes) == maxNamesakes:
			return append(notes, "further agents share their names")
		default:
			notes = append(notes, fmt.Sprintf("%d agents are named %q: a selector on the name means all of them; name one by its id", count[name], name))
		}
	}
	return notes
}

func (a *app) agentsGet(cmd *cobra.Command, args []string) error {
	return a.with(cmd.Context(), func(s *session) error {
		g, err := s.Agent(cmd.Context(), args[0], client.Stale(a.flags.stale))
		if err != nil {
			return err
		}
		return a.printAgent(g)
	})
}

func (a *app) printAgent(g *agentplanev1.Agent) error {
	return printOne(a, toObject(g), func(w io.Writer) {
		lines := [][2]string{
			{"id", g.Id},
			{"name", g.Name},
			{"health", health(g)},
			{"detail", g.HealthDetail},
			{"since", clock(g.Since)},
			{"labels", labels(g.Labels)},
			{"node", g.Node},
			{"session epoch", fmt.Sprint(g.SessionEpoch)},
			{"work", work(g)},
			{"enrolled", clock(g.EnrolledAt)},
			{"version", g.Version},
		}
		for _, k := range slices.Sorted(maps.Keys(g.Facts)) {
			lines = append(lines, [2]string{"fact " + printable(k), g.Facts[k]})
		}
		pairs(w, lines...)
	})
}

func (a *app) agentsWatch() *cobra.Command {
	var sel selectorFlags
	c := &cobra.Command{
		Use: "watch", Short: "show the agents, then every change, until interrupted", Args: args(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if a.flags.output == "json" || a.flags.output == "yaml" {
				return usagef("%s has no end: use -o jsonl, table or wide, not %s", cmd.CommandPath(), a.flags.output)
			}
			expr, err := sel.expression()
			if err != nil {
				return err
			}
			return a.with(cmd.Context(), func(s *session) error {
				c := &changes{app: a, seen: map[string]string{}, table: stream[*agentplanev1.Agent]{wide: a.flags.output == "wide", columns: a.agentColumns()}}
				err := s.WatchAgents(cmd.Context(), &agentplanev1.WatchAgentsRequest{Selector: expr}, c.take)
				if cmd.Context().Err() != nil {
					return nil // how a watch ends
				}
				return err
			})
		},
	}
	sel.add(c)
	return c
}

// changes prints what a watch tells, without what was told before.
type changes struct {
	app   *app
	table stream[*agentplanev1.Agent]
	seen  map[string]string // by agent id, what was printed
	// missing are those that a copy has not named yet, and index is the copy's: it
	// may come in several messages of one index, so only a later index shows who
	// is gone.
	missing map[string]bool
	index   uint64
}

func (c *changes) take(r *agentplanev1.WatchAgentsResponse) error {
	removed := slices.Clone(r.RemovedIds)
	if r.Snapshot {
		c.index, c.missing = r.Index, map[string]bool{}
		for id := range c.seen {
			c.missing[id] = true
		}
	} else if r.Index > c.index {
		removed = append(removed, slices.Collect(maps.Keys(c.missing))...)
		clear(c.missing)
	}
	var changed []*agentplanev1.Agent
	for _, g := range slices.SortedFunc(slices.Values(r.Agents), byName) {
		delete(c.missing, g.Id)
		flat, err := marshalJSON(toObject(g))
		if err != nil {
			return err
		}
		if c.seen[g.Id] != string(flat) {
			c.seen[g.Id] = string(flat)
			changed = append(changed, g)
		}
		removed = slices.DeleteFunc(removed, func(id string) bool { return id == g.Id })
	}
	slices.Sort(removed)
	for _, id := range removed {
		delete(c.seen, id)
	}
	return c.print(changed, removed)
}

func (c *changes) print(changed []*agentplanev1.Agent, removed []string) error {
	a := c.app
	if len(changed) > 0 {
		objects := make([]object, len(changed))
		for i, g := range changed {
			objects[i] = toObject(g)
		}
		if err := printObjects(a, objects, func(w io.Writer) { c.table.write(w, changed) }); err != nil {
			return err
		}
	}
	for _, id := range removed {
		err := printOne(a, object{{"id", id}, {"removed", true}}, func(w io.Writer) { fmt.Fprintln(w, "removed "+printable(id)) })
		if err != nil {
			return err
		}
	}
	return nil
}

func (a *app) agentsLabel() *cobra.Command {
	var expected uint64
	c := &cobra.Command{
		Use: "label AGENT NAME=VALUE… NAME-…", Short: "set labels, and remove those with a trailing -",
		Args: args(2, -1, "an agent, and labels like env=prod or env-"), ValidArgsFunction: a.completeAgents,
		RunE: func(cmd *cobra.Command, args []string) error {
			change, err := labelChange(args)
			if err != nil {
				return err
			}
			change.ExpectedVersion = expected
			return a.with(cmd.Context(), func(s *session) error {
				g, err := s.SetLabels(cmd.Context(), args[0], change)
				if err != nil {
					return hintUnknown(err, "agentctl agents get "+args[0])
				}
				return a.done(toObject(g), "agent %s has labels %s", g.GetName(), labels(g.GetLabels()))
			})
		},
	}
	c.Flags().Uint64Var(&expected, "expected-version", 0, "change nothing unless the labels have this version, `N` (labelsVersion of -o json)")
	return c
}

func labelChange(args []string) (client.LabelChange, error) {
	change := client.LabelChange{Set: map[string]string{}}
	for _, arg := range args[1:] {
		if name, value, ok := strings.Cut(arg, "="); ok && name != "" {
			if _, twice := change.Set[name]; twice {
				return change, usagef("label %q is set twice", name)
			}
			change.Set[name] = value
		} else if name, ok := strings.CutSuffix(arg, "-"); ok && name != "" {
			change.Remove = append(change.Remove, name)
		} else {
			return change, usagef("%q is neither NAME=VALUE nor NAME-", arg)
		}
	}
	for _, name := range change.Remove {
		if _, both := change.Set[name]; both {
			return change, usagef("label %q is both set and removed", name)
		}
	}
	return change, nil
}

func (a *app) agentsRemove(cmd *cobra.Command, args []string) error {
	return a.with(cmd.Context(), func(s *session) error {
		who := args[0]
		// A name may be another agent's by the time a lost answer is asked for again.
		g, err := s.Agent(cmd.Context(), who)
		switch {
		case err == nil:
			who = g.GetId()
		case client.AsError(err).Code != codes.NotFound: // removed before, perhaps: that is answered too
			return err
		}
		if err := s.RemoveAgent(cmd.Context(), who); err != nil {
			return hintUnknown(err, "agentctl agents list")
		}
		return a.done(object{{"removed", args[0]}}, "agent %s is removed", args[0])
	})
}

const quarantined = "QUARANTINED"

// readmitted says what has become of an agent, and what is to happen next.
func readmitted(name string, before, after *agentplanev1.Agent) string {
	switch {
	case before.GetHealth() != quarantined:
		return fmt.Sprintf("agent %s was not quarantined: it is %s", name, health(after))
	case after.GetHealth() == quarantined:
		return fmt.Sprintf("agent %s has to enrol again with a new key: see that no copy of it runs, and start agentd with a new token "+
			"of \"agentctl tokens create --kind agent\" (--token)", name)
	default:
		return fmt.Sprintf("agent %s is readmitted; it begins a new journal with its next session", name)
	}
}

func (a *app) agentsReadmit(cmd *cobra.Command, args []string) error {
	return a.with(cmd.Context(), func(s *session) error {
		before, err := s.Agent(cmd.Context(), args[0])
		if err != nil {
			return err
		}
		after, err := s.ReadmitAgent(cmd.Context(), args[0])
		if err != nil {
			return hintUnknown(err, "agentctl agents get "+args[0])
		}
		return a.done(toObject(after), "%s", readmitted(args[0], before, after))
	})
}

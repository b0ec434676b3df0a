package operator

import (
	"fmt"
	"iter"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/grpc/codes"

	"github.com/agentplane/agentplane/fsm"
	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
	"github.com/agentplane/agentplane/proto/selector"
)

// target is an agent as a selector sees it. Facts and session are looked up when
// the expression asks for them.
type target struct {
	view  *fsm.View
	agent *raftlogv1.Agent
	now   int64
}

func (t target) ID() string   { return t.agent.GetId() }
func (t target) Name() string { return t.agent.GetName() }

func (t target) Health() string {
	s, _ := t.view.Session(t.agent.GetId())
	health, _, _ := Health(t.agent, s, t.now)
	return health
}

func (t target) Label(name string) (string, bool) { return valueOf(t.agent.GetLabels(), name) }

func (t target) Fact(name string) (string, bool) {
	facts, _ := t.view.Facts(t.agent.GetId())
	return valueOf(facts.GetFacts(), name)
}

// valueOf looks into rows sorted by name.
func valueOf(sorted []*raftlogv1.Label, name string) (string, bool) {
	i, found := slices.BinarySearchFunc(sorted, name, func(l *raftlogv1.Label, name string) int {
		return strings.Compare(l.GetName(), name)
	})
	if !found {
		return "", false
	}
	return sorted[i].GetValue(), true
}

// parseSelector answers everybody for the empty expression when it may be left away.
func (s *service) parseSelector(expr string, optional bool) (*selector.Selector, error) {
	if expr == "" && optional {
		return selector.All(), nil
	}
	sel, err := selector.Parse(expr)
	if err != nil {
		const hint = `spell it like 'label.env == "prod" && health == "ONLINE"', or "all"`
		return nil, s.refuseHint(codes.InvalidArgument, "bad_selector", hint, "%v", err)
	}
	return sel, nil
}

// matching yields the agents that the selector means, by id.
func matching(v *fsm.View, sel *selector.Selector, now int64) iter.Seq[*raftlogv1.Agent] {
	return func(yield func(*raftlogv1.Agent) bool) {
		t := &target{view: v, now: now}
		for a := range candidates(v, sel) {
			if t.agent = a; sel.Match(t) && !yield(a) {
				return
			}
		}
	}
}

// candidates yields those of whom some may be meant. An expression that is nothing
// but an id or a name, as most single submissions are, needs no walk over the fleet.
func candidates(v *fsm.View, sel *selector.Selector) iter.Seq[*raftlogv1.Agent] {
	field, text, _ := strings.Cut(sel.String(), " == ")
	value, err := strconv.Unquote(text) // fails unless one text is all that follows
	switch {
	case err == nil && field == "name":
		return v.AgentsByName(value)
	case err == nil && field == "id":
		return func(yield func(*raftlogv1.Agent) bool) {
			if a, found := v.Agent(value); found {
				yield(a)
			}
		}
	default:
		return v.Agents()
	}
}

// maxNamed bounds how many ids an error names.
const maxNamed = 5

// agent finds an agent by its id, or by its name when only one has it.
func (s *service) agent(v *fsm.View, who string) (*raftlogv1.Agent, error) {
	if who == "" {
		return nil, s.refuseHint(codes.InvalidArgument, "no_agent", hints["no_agent"], "no agent was named")
	}
	if a, found := v.Agent(who); found {
		return a, nil
	}
	var ids []string
	var found *raftlogv1.Agent
	for a := range v.AgentsByName(who) {
		found = a
		ids = append(ids, a.GetId())
	}
	switch len(ids) {
	case 0:
		return nil, s.refuse(codes.NotFound, "no_agent", "there is no agent %q", who)
	case 1:
		return found, nil
	default:
		return nil, s.ambiguous(who, ids)
	}
}

func (s *service) ambiguous(name string, ids []string) error {
	more := ""
	if len(ids) > maxNamed {
		ids, more = ids[:maxNamed], ", …"
	}
	return s.refuseHint(codes.InvalidArgument, "ambiguous_name", "name one of them by its id",
		"several agents are named %q: %s%s", name, strings.Join(ids, ", "), more)
}

// again answers the ordinals of those targets of an earlier command that ended as the spec
// says. Of those who have been removed since, the state machine makes SKIPPED.
func (c *Commands) again(v *fsm.View, spec *agentplanev1.CommandSpec) ([]uint32, error) {
	old, err := c.command(v, spec.GetRerunOf())
	if err != nil {
		return nil, err
	}
	var ordinals []uint32
	for i := range v.Invocations(old.GetId()) {
		if slices.Contains(spec.GetRerunStates(), agentplanev1.AttemptState(i.GetState())) {
			ordinals = append(ordinals, i.GetAgentOrdinal())
		}
	}
	if len(ordinals) == 0 {
		return nil, c.refuseHint(codes.NotFound, "no_targets", fmt.Sprintf(`see how it ended with "agentctl commands get %s"`, old.GetId()),
			"of the %d targets of command %q none is %s: there is nothing to run again", old.GetTargets(), old.GetId(), stateWords(spec.GetRerunStates()))
	}
	return ordinals, nil
}

// stateWords names states, as in "FAILED or LOST".
func stateWords(states []agentplanev1.AttemptState) string {
	words := make([]string, len(states))
	for i, s := range states {
		words[i] = s.ShortName()
	}
	return strings.Join(words, " or ")
}

// named answers the ordinals of the agents, ascending; naming one twice is harmless.
func (s *service) named(v *fsm.View, agents []string) ([]uint32, error) {
	ordinals := make([]uint32, 0, len(agents))
	for _, who := range agents {
		a, err := s.agent(v, who)
		if err != nil {
			return nil, err
		}
		ordinals = append(ordinals, a.GetOrdinal())
	}
	slices.Sort(ordinals)
	return slices.Compact(ordinals), nil
}

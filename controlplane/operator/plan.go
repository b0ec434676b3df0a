package operator

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/agentplane/agentplane/fsm"
	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
	"github.com/agentplane/agentplane/proto/wave"
)

// Plan answers what Submit would do with the envelope on the state as it is: who runs it
// in which wave, who cannot, and why. A random order is drawn anew by Submit.
func (c *Commands) Plan(ctx context.Context, req *agentplanev1.PlanRequest) (*agentplanev1.PlanResponse, error) {
	v, err := c.read(ctx, false)
	if err != nil {
		return nil, err
	}
	p, err := c.plan(ctx, v, req.GetEnvelope(), func(spec *agentplanev1.CommandSpec) ([]uint32, error) { return c.targets(v, spec) })
	switch {
	case err != nil:
		return nil, err
	case p.stands != nil:
		return nil, c.refuse(codes.AlreadyExists, "command_exists", "command %q stands already", p.id)
	}
	m, limited := p.mutation.GetSubmitCommand(), true
	for _, name := range m.GetFleetLocks() {
		if _, err := c.lock(v, name); err != nil {
			return nil, err
		}
	}
	if m.GetRollout() == nil {
		m.Rollout, limited = &raftlogv1.RolloutPlan{Waves: []*raftlogv1.WavePlan{{Share: "100%", BasisPoints: wave.Whole}}}, false
	}
	r, ranks, refusal := v.LayRollout(m)
	if err := c.outcomeRefusal(refusal); refusal != nil {
		return nil, err
	}
	answer := &agentplanev1.PlanResponse{
		Notes: p.notes, Index: v.Index(), Locks: m.GetLocks(), Exclusive: m.GetExclusive(), Splay: m.GetSplay(), Undo: undoTerms(m.GetUndo()),
	}
	if sub, err := decodeSubmission(req.GetEnvelope()); err == nil { // as plan has read it
		answer.Estimate = estimateRow(EstimateOf(v, sub.spec))
		if why := c.mayNotSubmit(ctx, sub.spec); why != "" {
			answer.Notes = append(answer.Notes, why)
		}
	}
	for _, b := range m.GetBlobs() {
		if !v.BlobKept(b.GetSha256(), b.GetSize()) {
			answer.Missing = append(answer.Missing, &agentplanev1.Blob{Sha256: b.GetSha256(), Size: b.GetSize()})
		}
	}
	if limited && r.GetLimited() {
		answer.MaxFailures = proto.Uint32(r.GetMaxFailures())
	}
	held := make(holds)
	byRank := make([]*agentplanev1.PlannedTarget, r.GetSize())
	for n, ordinal := range m.GetAgentOrdinals() {
		a, _ := v.AgentByOrdinal(ordinal)
		t := &agentplanev1.PlannedTarget{AgentId: a.GetId(), AgentName: a.GetName()}
		switch {
		case ranks[n] == 0:
			t.Reason = whyNot(v, a, v.Skips(ordinal, m.GetQueueOffline(), m.GetQueueMax()))
			answer.Skipped = append(answer.Skipped, t)
			continue
		case m.GetQueueOffline():
			if why := v.Skips(ordinal, false, m.GetQueueMax()); why != "" {
				answer.Waits = append(answer.Waits, &agentplanev1.PlannedTarget{AgentId: a.GetId(), AgentName: a.GetName(), Reason: whyNot(v, a, why)})
			}
		}
		byRank[ranks[n]-1] = t
		held.add(v, v.Needs(a, &raftlogv1.Command{FleetLocks: m.GetFleetLocks()}))
	}
	answer.FleetLocks = held.rows()
	last := uint32(0)
	for _, w := range r.GetWaves() {
		answer.Waves = append(answer.Waves, &agentplanev1.PlannedWave{Share: w.GetShare(), Targets: byRank[last:w.GetEnd()]})
		last = w.GetEnd()
	}
	return answer, nil
}

// mayNotSubmit says why whoever asks for the plan may not submit the command; "" when he may.
// That is no refusal: to see whom something would hit is for those who may read.
func (c *Commands) mayNotSubmit(ctx context.Context, spec *agentplanev1.CommandSpec) string {
	if c.o.Allowed == nil {
		return ""
	}
	if _, ok := c.o.Allowed(ctx, "commands.submit"); ok {
		return ""
	}
	role, templates := c.o.Allowed(ctx, "templates.run")
	you := fmt.Sprintf("you may not run this: operator %q has role %s", c.callerName(ctx), role)
	switch more := beside(spec); {
	case !templates:
		return you + ", which runs nothing"
	case more != "":
		return fmt.Sprintf("%s, which runs templates alone, and the command says %s", you, more)
	case spec.GetTemplate() == nil:
		return you + ", which runs templates alone"
	default:
		return ""
	}
}

// holds are the places of locks and budgets of the fleet that a command takes, by lock
// and group.
type holds map[string]*agentplanev1.PlannedLock

// add counts what one more target needs.
func (h holds) add(v *fsm.View, needs []fsm.Need) {
	for _, n := range needs {
		key := n.Lock + "\x00" + n.Group
		if h[key] == nil {
			h[key] = &agentplanev1.PlannedLock{
				Name: n.Lock, Group: n.Group, Budget: n.Budget, Limit: n.Limit, Held: n.Held, Waits: v.Blocked(n).String(),
			}
		}
		h[key].Targets++
	}
}

func (h holds) rows() []*agentplanev1.PlannedLock {
	return slices.SortedFunc(maps.Values(h), func(a, b *agentplanev1.PlannedLock) int {
		return cmp.Or(cmp.Compare(a.GetName(), b.GetName()), cmp.Compare(a.GetGroup(), b.GetGroup()))
	})
}

// whyNot says more of an agent that counts as offline.
func whyNot(v *fsm.View, a *raftlogv1.Agent, reason string) string {
	if reason == "offline" && a.GetQuarantine() != raftlogv1.Quarantine_QUARANTINE_UNSPECIFIED {
		s, _ := v.Session(a.GetId())
		_, why, _ := Health(a, s, v.Now())
		return "quarantined(" + why + ")"
	}
	return reason
}

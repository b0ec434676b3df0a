package fsm

import (
	"cmp"
	"slices"
	"time"

	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
	"github.com/agentplane/agentplane/proto/wave"
)

// maxShareBytes bounds the words of a wave and of an order.
const maxShareBytes = 600

// layout is how a rollout begins.
type layout struct {
	rollout *raftlogv1.Rollout
	ranks   []uint32 // of each target
	wave    uint32   // that is released at once; 0 = none
	release uint32   // ranks up to this one are RELEASED at once
}

// layRollout lays the targets of a submission into waves, and releases at most the given
// number of the first. It writes nothing; both answers are nil when there is no rollout.
func (t *tables) layRollout(m *raftlogv1.SubmitCommand, release uint32) (*layout, *raftlogv1.Outcome) {
	p := m.GetRollout()
	if p == nil {
		return nil, nil
	}
	if refusal := checkRollout(m, p); refusal != nil {
		return nil, refusal
	}
	targets, size := make([]wave.Target, len(m.GetAgentOrdinals())), uint32(0)
	for n, at := range orderOf(m) {
		ordinal := m.GetAgentOrdinals()[at]
		a, _ := t.agents.getBy(agentsByOrdinal, be32(ordinal))
		targets[n].Skipped = t.skips(a, ordinal, m.GetQueueOffline(), m.GetQueueMax()) != ""
		if !targets[n].Skipped {
			size++
		}
		for i, w := range p.GetWaves() {
			if _, member := slices.BinarySearch(w.GetMembers(), ordinal); member {
				targets[n].Label = i + 1
				break
			}
		}
	}
	inOrder, ends := wave.Lay(sharesOf(p), targets)
	l := &layout{ranks: make([]uint32, len(inOrder)), rollout: &raftlogv1.Rollout{
		Size: size, Soak: p.GetSoak(), GateHealth: p.GetGateHealth(), GateProbe: p.GetGateProbe(), ProbeTimeout: p.GetProbeTimeout(),
		ProbeSummary: p.GetProbeSummary(), Limited: p.GetLimited(), MaxFailures: p.GetMaxFailures(),
		MaxFailuresBasisPoints: p.GetMaxFailuresBasisPoints(), Strict: p.GetStrict(), OnBreach: p.GetOnBreach(), Order: p.GetOrder(),
	}}
	if bp := p.GetMaxFailuresBasisPoints(); bp > 0 {
		l.rollout.MaxFailures = wave.Limit(size, bp)
		if m.GetRerunOf() != "" && p.GetStrict() {
			// The share was chosen for more targets. One at a time is as strict as it gets.
			l.rollout.MaxFailures = max(l.rollout.GetMaxFailures(), 1)
		}
	}
	for n, at := range orderOf(m) {
		l.ranks[at] = inOrder[n]
	}
	for i, w := range p.GetWaves() {
		l.rollout.Waves = append(l.rollout.Waves, &raftlogv1.Wave{Share: w.GetShare(), End: ends[i]})
	}
	first := wave.State{
		Ends: ends, Pending: size, Limited: p.GetLimited(), Max: l.rollout.GetMaxFailures(), Strict: p.GetStrict(), Stopped: release == 0,
	}.Next(t.cluster.GetNow()) // a first wave waits for nothing
	if first.Kind == wave.Release {
		l.wave, l.release = uint32(first.Wave), min(release, first.Release)
	}
	if p.GetStrict() && l.rollout.GetMaxFailures() == 0 && size > 0 {
		return l, refuse(raftlogv1.Code_CODE_INVALID, "strict", "strict needs a failure that may happen: at most %s of %d targets is none",
			wave.Percent(p.GetMaxFailuresBasisPoints()), size)
	}
	return l, nil
}

// orderOf are the places of the targets of a submission in the order of its rollout.
func orderOf(m *raftlogv1.SubmitCommand) []int {
	order := make([]int, len(m.GetAgentOrdinals()))
	for n := range order {
		order[n] = n
	}
	for n, rank := range m.GetRollout().GetRanks() {
		order[rank-1] = n
	}
	return order
}

func sharesOf(p *raftlogv1.RolloutPlan) []wave.Share {
	shares := make([]wave.Share, len(p.GetWaves()))
	for i, w := range p.GetWaves() {
		shares[i] = wave.Share{Count: w.GetCount(), BasisPoints: w.GetBasisPoints()}
		if w.GetCount() == 0 && w.GetBasisPoints() == 0 {
			shares[i].Label = cmp.Or(w.GetShare(), "label")
		}
	}
	return shares
}

func checkRollout(m *raftlogv1.SubmitCommand, p *raftlogv1.RolloutPlan) *raftlogv1.Outcome {
	bad := func(format string, args ...any) *raftlogv1.Outcome {
		return refuse(raftlogv1.Code_CODE_INVALID, "rollout", format, args...)
	}
	if err := wave.Check(sharesOf(p)); err != nil {
		return bad("%v", err)
	}
	for i, w := range p.GetWaves() {
		if len(w.GetShare()) > maxShareBytes || !slices.IsSorted(w.GetMembers()) || (len(w.GetMembers()) > 0 && w.GetCount()+w.GetBasisPoints() > 0) {
			return bad("wave %d has too long a name, or members out of order or beside a share", i+1)
		}
	}
	seen := make([]bool, len(m.GetAgentOrdinals()))
	for _, rank := range p.GetRanks() {
		if len(p.GetRanks()) != len(seen) || rank == 0 || int(rank) > len(seen) || seen[rank-1] {
			return bad("the order of %d targets is no permutation", len(seen))
		}
		seen[rank-1] = true
	}
	switch {
	case p.GetSoak() < 0 || p.GetProbeTimeout() < 0 || (p.GetGateProbe() && p.GetProbeTimeout() == 0):
		return bad("soak %v and probe timeout %v must not be below zero, and a probe has a timeout", time.Duration(p.GetSoak()), time.Duration(p.GetProbeTimeout()))
	case p.GetMaxFailuresBasisPoints() > wave.Whole || (p.GetMaxFailures() > 0 && p.GetMaxFailuresBasisPoints() > 0):
		return bad("the limit of failures is a count or a share of at most 100%%")
	case p.GetStrict() && (!p.GetLimited() || p.GetMaxFailures()+p.GetMaxFailuresBasisPoints() == 0):
		return refuse(raftlogv1.Code_CODE_INVALID, "strict", "strict needs a failure that may happen: give max failures of 1 at least")
	case p.GetOnBreach() < raftlogv1.OnBreach_ON_BREACH_UNSPECIFIED || p.GetOnBreach() > raftlogv1.OnBreach_ON_BREACH_ABORT:
		return bad("what follows a breach is neither pause nor abort")
	case max(len(p.GetOrder()), len(p.GetProbeSummary())) > maxShareBytes:
		return bad("order and probe summary may have %d bytes", maxShareBytes)
	}
	return nil
}

// beginRollout gives the row of a command that is submitted its rollout.
func (tx *tx) beginRollout(c *raftlogv1.Command, l *layout) {
	c.Rollout = l.rollout
	if l.wave == 0 {
		return
	}
	w := c.Rollout.Waves[l.wave-1]
	w.ReleasedAt, w.ReleasedIndex = tx.now(), tx.index
	c.Wave, c.Rollout.Waiting = l.wave, w.GetEnd()-l.release
}

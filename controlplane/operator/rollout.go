package operator

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/agentplane/agentplane/fsm"
	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
	"github.com/agentplane/agentplane/proto/wave"
)

// MaxSoak bounds the time between two waves.
const MaxSoak = 7 * 24 * time.Hour

// Orders of a rollout.
const (
	orderRandom   = "random"
	orderCoverage = "coverage"
	orderLabel    = "label:" // and the label's name
)

// maxLabelBytes bounds what a rollout says of labels; no label is longer.
const maxLabelBytes = 256

// checkRollout says what is wrong with a rollout by itself.
func checkRollout(r *agentplanev1.RolloutSpec) *problem {
	if err := wave.Check(sharesOf(r)); err != nil {
		return problemf("waves", "%v", err)
	}
	for n, w := range r.GetWaves() {
		if len(w.GetLabel().GetName()) > maxLabelBytes || len(w.GetLabel().GetValue()) > maxLabelBytes {
			return problemf("waves", "wave %d: name and value of the label may have %d bytes", n+1, maxLabelBytes)
		}
	}
	several := severalWaves(r)
	limit, probe := r.GetMaxFailures(), r.GetProbe()
	label, byLabel := strings.CutPrefix(r.GetOrder(), orderLabel)
	switch {
	case r.GetSoak() < 0 || time.Duration(r.GetSoak()) > MaxSoak:
		return problemf("soak", "soak %v is not between 0 and %v", time.Duration(r.GetSoak()), MaxSoak)
	case !several && (r.GetSoak() > 0 || r.GetGateHealth() || probe != nil):
		return problemf("gate", "soak and gates stand between two waves, and there is one wave")
	case limit.GetBasisPoints() > wave.Whole || (limit.GetBasisPoints() > 0 && limit.GetCount() > 0):
		return problemf("max_failures", "the limit of failures is a count or a share of at most 100%%")
	case r.GetStrict() && limit.GetCount()+limit.GetBasisPoints() == 0:
		return problemf("strict", "strict needs a failure that may happen")
	case agentplanev1.OnBreach_name[int32(r.GetOnBreach())] == "":
		return problemf("on_breach", "what follows a breach, %d, is neither pause nor abort", r.GetOnBreach())
	case byLabel && (label == "" || len(label) > maxLabelBytes),
		!byLabel && r.GetOrder() != "" && r.GetOrder() != orderRandom && r.GetOrder() != orderCoverage:
		return problemf("order", "order %.60q is none of random, coverage, label:NAME", r.GetOrder())
	case probe != nil:
		return checkProbe(probe)
	}
	return nil
}

// severalWaves says that not all are released at once.
func severalWaves(r *agentplanev1.RolloutSpec) bool {
	waves := r.GetWaves()
	return len(waves) > 1 || len(waves) == 1 && waves[0].GetBasisPoints() != wave.Whole
}

func checkProbe(p *agentplanev1.ProbeSpec) *problem {
	switch timeout := time.Duration(p.GetTimeout()); {
	case len(p.GetArgv()) == 0 && len(p.GetScript()) == 0:
		return problemf("no_probe", "the probe has neither a program nor a script")
	case len(p.GetArgv()) > 0 && len(p.GetScript()) > 0:
		return problemf("two_probes", "the probe has a program and a script: one of them")
	case len(p.GetArgv()) > MaxArgs || (len(p.GetArgv()) > 0 && p.GetArgv()[0] == ""):
		return problemf("probe", "the probe has more than %d arguments, or its program no name", MaxArgs)
	case timeout < 0 || timeout > MaxRunTimeout:
		return problemf("probe_timeout", "probe timeout %v is not between 0 (the default %v) and %v", timeout, wave.ProbeTimeout, MaxRunTimeout)
	}
	return checkArgs(p.GetArgv())
}

// sharesOf are the waves of a rollout, complete.
func sharesOf(r *agentplanev1.RolloutSpec) []wave.Share {
	var shares []wave.Share
	for _, w := range r.GetWaves() {
		s := wave.Share{Count: w.GetCount(), BasisPoints: w.GetBasisPoints()}
		if w.GetLabel() != nil {
			s.Label, s.Value = w.GetLabel().GetName(), w.GetLabel().GetValue()
		}
		shares = append(shares, s)
	}
	return wave.Complete(shares)
}

// addRollout gives a submission the rollout that its spec, which was checked, asks for:
// the order of the targets, and who is meant by waves that name a label. The notes say
// what does not come out as it was asked for.
func addRollout(v *fsm.View, spec *agentplanev1.CommandSpec, m *raftlogv1.SubmitCommand) (notes []string) {
	r := spec.GetRollout()
	if r == nil {
		return nil
	}
	p := &raftlogv1.RolloutPlan{
		Soak: r.GetSoak(), GateHealth: r.GetGateHealth(), Limited: r.GetMaxFailures() != nil, MaxFailures: r.GetMaxFailures().GetCount(),
		MaxFailuresBasisPoints: r.GetMaxFailures().GetBasisPoints(), Strict: r.GetStrict(), OnBreach: raftlogv1.OnBreach(r.GetOnBreach()), Order: r.GetOrder(),
	}
	if probe := r.GetProbe(); probe != nil {
		p.GateProbe, p.ProbeTimeout = true, cmp.Or(probe.GetTimeout(), int64(wave.ProbeTimeout))
		p.ProbeSummary = summary(&agentplanev1.CommandSpec{Argv: probe.GetArgv(), Script: probe.GetScript()})
	}
	shares, taken := sharesOf(r), make(map[uint32]bool)
	for _, s := range shares {
		w := &raftlogv1.WavePlan{Share: s.String(), Count: s.Count, BasisPoints: s.BasisPoints}
		p.Waves = append(p.Waves, w)
		if s.Label == "" {
			continue
		}
		for _, ordinal := range m.GetAgentOrdinals() {
			a, _ := v.AgentByOrdinal(ordinal)
			if value, has := valueOf(a.GetLabels(), s.Label); has && value == s.Value && !taken[ordinal] {
				w.Members, taken[ordinal] = append(w.Members, ordinal), true
			}
		}
	}
	order, notes := orderOf(v, r.GetOrder(), shares[0], m)
	notes = append(notes, oneAtATime(v, m, p)...)
	if order != nil {
		p.Ranks = make([]uint32, len(order))
		for rank, at := range order {
			p.Ranks[at] = uint32(rank + 1)
		}
	}
	m.Rollout = p
	return notes
}

// oneAtATime says that the share of failures of a strict rerun is none of its targets, upon
// which one may fail all the same: of none nothing could be started.
func oneAtATime(v *fsm.View, m *raftlogv1.SubmitCommand, p *raftlogv1.RolloutPlan) []string {
	if m.GetRerunOf() == "" || !p.GetStrict() || p.GetMaxFailuresBasisPoints() == 0 {
		return nil
	}
	size := uint32(0)
	for _, ordinal := range m.GetAgentOrdinals() {
		if v.Skips(ordinal, m.GetQueueOffline(), m.GetQueueMax()) == "" {
			size++
		}
	}
	if size == 0 || wave.Limit(size, p.GetMaxFailuresBasisPoints()) > 0 {
		return nil
	}
	return []string{fmt.Sprintf("%s of %d targets is less than one failure: one may fail, and they run one at a time", wave.Percent(p.GetMaxFailuresBasisPoints()), size)}
}

// orderOf answers the places of the targets in the order that is asked for; nil means as
// they stand.
func orderOf(v *fsm.View, order string, first wave.Share, m *raftlogv1.SubmitCommand) (places []int, notes []string) {
	targets := m.GetAgentOrdinals()
	label, byLabel := strings.CutPrefix(order, orderLabel)
	switch {
	case order == orderRandom:
		return rand.Perm(len(targets)), nil
	case order == orderCoverage:
		return coverage(v, first, m)
	case !byLabel:
		return nil, nil
	}
	values := make([]string, len(targets))
	for n, ordinal := range targets {
		a, _ := v.AgentByOrdinal(ordinal)
		value, has := valueOf(a.GetLabels(), label)
		values[n] = "0" + value
		if !has {
			values[n] = "1" // behind those that have it
		}
		places = append(places, n)
	}
	slices.SortStableFunc(places, func(a, b int) int { return strings.Compare(values[a], values[b]) })
	return places, nil
}

// coverage puts hosts in front that differ in system, version or role. Those that would
// be skipped, or waited for, show nothing and stand behind.
func coverage(v *fsm.View, first wave.Share, m *raftlogv1.SubmitCommand) (places []int, notes []string) {
	var front, behind []int
	var traits [][]string
	size := uint32(0)
	for n, ordinal := range m.GetAgentOrdinals() {
		if v.Skips(ordinal, m.GetQueueOffline(), m.GetQueueMax()) == "" {
			size++
		}
		if v.Skips(ordinal, false, m.GetQueueMax()) != "" {
			behind = append(behind, n)
			continue
		}
		a, _ := v.AgentByOrdinal(ordinal)
		facts, _ := v.Facts(a.GetId())
		system, _ := valueOf(facts.GetFacts(), "os")
		role, _ := valueOf(a.GetLabels(), "role")
		front, traits = append(front, n), append(traits, []string{system, a.GetVersion(), role})
	}
	room := len(front)
	if first.Label == "" {
		room = min(room, int(first.Of(size)))
	}
	order, left := wave.Cover(traits, room)
	for _, at := range order {
		places = append(places, front[at])
	}
	if left > 0 {
		notes = append(notes, fmt.Sprintf("the first wave (%s) holds %d of the %d combinations of system, version and role: the others come later", first, room, room+left))
	}
	return append(places, behind...), notes
}

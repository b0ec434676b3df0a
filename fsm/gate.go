package fsm

import (
	"fmt"
	"math"
	"strings"

	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
	"github.com/agentplane/agentplane/proto/wave"
)

// askGates asks the gates behind the wave at hand. nil says that they are open; another
// outcome is a refusal, a breach, or that a probe has begun.
func (tx *tx) askGates(c *raftlogv1.Command) *raftlogv1.Outcome {
	r := c.GetRollout()
	if r.GetOpened() >= c.GetWave() {
		return nil // by whoever resumed it
	}
	if r.GetGateHealth() {
		if o := tx.askHealth(c); o != nil {
			return o
		}
	}
	if w := r.GetWaves()[c.GetWave()-1]; r.GetGateProbe() && !w.GetProbed() {
		return tx.beginProbe(c)
	}
	return nil
}

// askHealth wants every agent on which the command has succeeded to be reachable and not
// quarantined. One that is about to come back, or to be DOWN, is waited for; one that was
// removed has left the fleet.
func (tx *tx) askHealth(c *raftlogv1.Command) *raftlogv1.Outcome {
	var sick []string
	coming := ""
	for i := range tx.invocations.withPrefix(c.GetId() + ".") {
		a, found := tx.agents.get(i.GetAgentId())
		if !found || i.GetState() != raftlogv1.AttemptState_ATTEMPT_STATE_SUCCEEDED {
			continue
		}
		s, _ := tx.sessions.get(a.GetId())
		switch {
		case !tx.reachable(a):
			sick = append(sick, nameOf(a))
		case s.GetState() == raftlogv1.SessionState_SESSION_STATE_RECONNECTING:
			coming = nameOf(a)
		}
	}
	switch {
	case len(sick) > 0:
		return tx.shut(c, gateHealth, fmt.Sprintf("it has succeeded on agents that are down or quarantined by now, %d: %s", len(sick), list(sick)))
	case coming != "":
		return refuse(raftlogv1.Code_CODE_REFUSED, "reconnecting", "agent %q is reconnecting", coming)
	}
	return nil
}

// shut is the breach of a gate.
func (tx *tx) shut(c *raftlogv1.Command, reason, detail string) *raftlogv1.Outcome {
	tx.breach(c, reason, detail)
	o := ok()
	o.Reason, o.Detail = reason, clip(detail, MaxDetailBytes)
	return o
}

// beginProbe makes the command that probes the wave at hand. nil says that there is
// nobody to probe.
func (tx *tx) beginProbe(c *raftlogv1.Command) *raftlogv1.Outcome {
	first, r := uint32(0), c.GetRollout()
	if c.GetWave() > 1 {
		first = r.GetWaves()[c.GetWave()-2].GetEnd()
	}
	var ordinals []uint32
	for i := range tx.invocations.withPrefix(c.GetId() + ".") {
		_, found := tx.agents.get(i.GetAgentId())
		if found && i.GetState() == raftlogv1.AttemptState_ATTEMPT_STATE_SUCCEEDED && i.GetRank() > first && i.GetRank() <= waveEnd(c) {
			ordinals = append(ordinals, i.GetAgentOrdinal())
		}
	}
	if len(ordinals) == 0 {
		return nil
	}
	id := wave.ProbeID(c.GetId(), c.GetWave())
	if _, taken := tx.commands.get(id); taken {
		return tx.shut(c, gateProbe, fmt.Sprintf("the probe's id %s stands for another command", id))
	}
	e := tx.editCommand(c.GetId())
	e.Rollout.Waves[c.GetWave()-1].ProbeId = id
	probe := &raftlogv1.Command{
		Id: id, Digest: c.GetDigest(), SubmittedBy: c.GetSubmittedBy(), SubmittedAt: tx.now(), SubmittedIndex: tx.index,
		NotAfter: c.GetNotAfter(), RunTimeout: r.GetProbeTimeout(), KillGrace: c.GetKillGrace(),
		Delivery: raftlogv1.Delivery_DELIVERY_AT_MOST_ONCE, MaxAttempts: 1, State: raftlogv1.CommandState_COMMAND_STATE_ACTIVE,
		Targets: uint32(len(ordinals)), Summary: r.GetProbeSummary(),
		ParentId: c.GetId(), ParentWave: c.GetWave(), Part: raftlogv1.Part_PART_PROBE, Precedence: c.GetPrecedence(),
	}
	tx.edited = append(tx.edited, probe)
	for _, ordinal := range ordinals {
		tx.addInvocation(probe, ordinal, 0, math.MaxUint32, true)
	}
	o := ok()
	o.Reason, o.Count = "probing", probe.GetTargets()
	return o
}

// openProbe is the probe of the command that has not ended; nil = there is none.
func (tx *tx) openProbe(c *raftlogv1.Command) *raftlogv1.Command {
	if c.GetRollout() == nil || c.GetWave() == 0 {
		return nil
	}
	w := c.GetRollout().GetWaves()[c.GetWave()-1]
	if w.GetProbeId() == "" || w.GetProbed() {
		return nil
	}
	probe, _ := tx.commands.get(w.GetProbeId())
	return probe
}

// probed tells the command whose wave was probed that the probe has ended.
func (tx *tx) probed(probe *raftlogv1.Command) {
	c := tx.editCommand(probe.GetParentId())
	c.Rollout.Waves[probe.GetParentWave()-1].Probed = true
	var failed []string
	for i := range tx.invocations.withPrefix(probe.GetId() + ".") {
		if i.GetState() != raftlogv1.AttemptState_ATTEMPT_STATE_SUCCEEDED {
			a, _ := tx.agents.get(i.GetAgentId())
			failed = append(failed, fmt.Sprintf("%s %s", nameOf(a), word(i.GetState())))
		}
	}
	if len(failed) == 0 || c.GetState() != raftlogv1.CommandState_COMMAND_STATE_ACTIVE || c.GetAbort() != nil {
		return
	}
	tx.breach(c, gateProbe, fmt.Sprintf("the probe of wave %d did not succeed on %d of %d agents: %s", probe.GetParentWave(), len(failed), probe.GetTargets(), list(failed)))
}

func nameOf(a *raftlogv1.Agent) string {
	if a == nil {
		return "a removed agent"
	}
	if a.GetName() != "" {
		return a.GetName()
	}
	return a.GetId()
}

// list joins the first few.
func list(words []string) string {
	if len(words) > maxNamed {
		return strings.Join(words[:maxNamed], ", ") + ", …"
	}
	return strings.Join(words, ", ")
}

package operator

import (
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/agentplane/agentplane/fsm"
	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

// The states of the API have the numbers of those on disk; health_test.go holds them
// together.

func commandRow(c *raftlogv1.Command) *agentplanev1.Command {
	r := &agentplanev1.Command{
		Id: c.GetId(), State: agentplanev1.CommandState(c.GetState()), Summary: c.GetSummary(), Selector: c.GetSelector(),
		SubmittedBy: c.GetSubmittedBy(), SubmittedAt: c.GetSubmittedAt(), SubmittedIndex: c.GetSubmittedIndex(),
		NotAfter: c.GetNotAfter(), FinishedAt: c.GetFinishedAt(), CanceledBy: c.GetCanceledBy(), Targets: c.GetTargets(),
		CanceledIndex: c.GetCancelIndex(), CanceledAt: c.GetCanceledAt(), RerunOf: c.GetRerunOf(),
		Locks: c.GetLocks(), Exclusive: c.GetExclusive(),
		Priority: uint32(fsm.NormalPriority + c.GetPrecedence()), Supersede: c.GetSupersede(),
		FleetLocks: c.GetFleetLocks(),
		Counts:     make(map[string]uint32, len(c.GetCounts())),
		Schedule:   c.GetSchedule(), Slot: c.GetSlot(), Splay: c.GetSplay(),
		ParentId: c.GetParentId(), ParentWave: c.GetParentWave(), Rollout: rolloutRow(c), Undo: undoTerms(c.GetUndo()),
	}
	if p := c.GetPause(); paused(c) {
		r.Paused = &agentplanev1.Stop{Number: p.GetNumber(), At: p.GetAt(), By: p.GetBy(), Reason: p.GetReason(), Detail: p.GetDetail()}
	}
	if a := c.GetAbort(); a != nil {
		r.Aborted = &agentplanev1.Stop{Number: a.GetNumber(), At: a.GetAt(), By: a.GetBy(), Reason: a.GetReason(), Detail: a.GetDetail()}
	}
	for _, n := range c.GetCounts() {
		r.Counts[strings.ToLower(agentplanev1.AttemptState(n.GetState()).ShortName())] = n.GetCount()
	}
	return r
}

// waveOf is the wave that a rank is in.
func waveOf(c *raftlogv1.Command, rank uint32) uint32 {
	for n, w := range c.GetRollout().GetWaves() {
		if rank <= w.GetEnd() {
			return uint32(n + 1)
		}
	}
	return 0
}

// rolloutRow answers how far the rollout of a command is; nil when it has none.
func rolloutRow(c *raftlogv1.Command) *agentplanev1.Rollout {
	have := c.GetRollout()
	if have == nil {
		return nil
	}
	r := &agentplanev1.Rollout{
		Wave: c.GetWave(), Size: have.GetSize(), Failures: fsm.Failures(c), Forgiven: have.GetForgiven(), Strict: have.GetStrict(),
		OnBreach: agentplanev1.OnBreach(max(have.GetOnBreach(), raftlogv1.OnBreach_ON_BREACH_PAUSE)), Order: have.GetOrder(),
		Soak: have.GetSoak(), GateHealth: have.GetGateHealth(), GateProbe: have.GetGateProbe(), SoakedAt: fsm.WaveState(c).Soaked(),
	}
	if have.GetLimited() {
		r.MaxFailures = proto.Uint32(have.GetMaxFailures())
	}
	last := uint32(0)
	for _, w := range have.GetWaves() {
		r.Waves = append(r.Waves, &agentplanev1.Wave{
			Share: w.GetShare(), Targets: w.GetEnd() - last, ReleasedAt: w.GetReleasedAt(), SettledAt: w.GetSettledAt(),
			PassedOver: w.GetEnd() == last, ProbeId: w.GetProbeId(), Probed: w.GetProbed(), OpenedBy: w.GetOpenedBy(),
		})
		last = w.GetEnd()
	}
	return r
}

// judgeProbes says of the waves that were probed how that has ended.
func judgeProbes(v *fsm.View, c *agentplanev1.Command) {
	for _, w := range c.GetRollout().GetWaves() {
		probe, _ := v.Command(w.GetProbeId())
		w.ProbeFailed = w.GetProbed() && slices.ContainsFunc(probe.GetCounts(), func(n *raftlogv1.StateCount) bool {
			return n.GetState() != raftlogv1.AttemptState_ATTEMPT_STATE_SUCCEEDED
		})
	}
}

func invocationRow(v *fsm.View, i *raftlogv1.Invocation, withOutput bool) *agentplanev1.Invocation {
	a, _ := v.Agent(i.GetAgentId())
	r := &agentplanev1.Invocation{
		Id: i.GetId(), CommandId: i.GetCommandId(), AgentId: i.GetAgentId(), AgentName: a.GetName(), Attempt: i.GetAttempt(),
		State: agentplanev1.AttemptState(i.GetState()), Fence: i.GetFence(), ExitCode: i.GetResult().GetExitCode(),
		Signal: i.GetResult().GetSignal(), Reason: i.GetReason(), Detail: i.GetDetail(), Late: i.GetLate(), Held: i.GetHeld(),
		CancelRequested: i.GetCancelIndex() != 0, CancelTooLate: i.GetCancelTooLate(),
		StartedAt: i.GetResult().GetStartedAt(), EndedAt: i.GetResult().GetEndedAt(), NodeId: i.GetNodeId(),
		Steps: stepRows(i.GetResult()), Undo: undoRow(i),
	}
	if i.GetState() == raftlogv1.AttemptState_ATTEMPT_STATE_RELEASED {
		c, _ := v.Command(i.GetCommandId())
		r.StartsAt = fsm.StartsAt(c, i)
	}
	for _, o := range i.GetOutputs() {
		if o.GetAttempt() == i.GetAttempt() {
			r.Kept = &agentplanev1.KeptOutput{NodeIds: o.GetNodeIds(), Totals: &agentplanev1.OutputTotals{
				Stdout: totalRow(o.GetStdout()), Stderr: totalRow(o.GetStderr()),
			}}
		}
	}
	if i.GetRank() > 0 {
		c, _ := v.Command(i.GetCommandId())
		r.Wave = waveOf(c, i.GetRank())
	}
	if withOutput {
		r.Stdout, r.Stderr = outputRow(i.GetResult().GetStdout()), outputRow(i.GetResult().GetStderr())
	}
	return r
}

func totalRow(s *raftlogv1.StreamRecord) *agentplanev1.OutputTotal {
	return &agentplanev1.OutputTotal{Bytes: s.GetBytes(), Missing: s.GetMissing(), Sha256: s.GetSha256()}
}

func outputRow(o *raftlogv1.Output) *agentplanev1.Output {
	if o == nil {
		return nil
	}
	return &agentplanev1.Output{Head: o.GetHead(), Tail: o.GetTail(), TotalBytes: o.GetTotalBytes()}
}

func transitionRow(t *raftlogv1.Transition) *agentplanev1.Transition {
	return &agentplanev1.Transition{
		State: agentplanev1.AttemptState(t.GetState()), Index: t.GetIndex(), At: t.GetAt(), Attempt: t.GetAttempt(),
		Fence: t.GetFence(), NodeId: t.GetNodeId(), SessionEpoch: t.GetSessionEpoch(), Reason: t.GetReason(),
	}
}

// rebootAnnounced is the reason of what runs and waits for the reboot that it announced.
const rebootAnnounced = "reboot_announced"

// agentRow answers the agent with its health and work at the time now.
func agentRow(v *fsm.View, a *raftlogv1.Agent, now int64, withFacts bool) *agentplanev1.Agent {
	s, _ := v.Session(a.GetId())
	r := &agentplanev1.Agent{
		Id: a.GetId(), Name: a.GetName(), Labels: labelMap(a.GetLabels()), Node: s.GetNodeId(), SessionEpoch: s.GetEpoch(),
		Since: s.GetChangedAt(), EnrolledAt: a.GetEnrolledAt(), Version: a.GetVersion(), LabelsVersion: a.GetLabelsVersion(),
	}
	if s == nil {
		r.Since = a.GetEnrolledAt()
	}
	r.Health, r.HealthReason, r.HealthDetail = Health(a, s, now)
	if withFacts {
		facts, _ := v.Facts(a.GetId())
		r.Facts = labelMap(facts.GetFacts())
	}
	for state, n := range map[raftlogv1.AttemptState]*uint32{
		raftlogv1.AttemptState_ATTEMPT_STATE_PENDING:  &r.Queued,
		raftlogv1.AttemptState_ATTEMPT_STATE_RELEASED: &r.Queued,
		raftlogv1.AttemptState_ATTEMPT_STATE_CLAIMED:  &r.Running,
		raftlogv1.AttemptState_ATTEMPT_STATE_RUNNING:  &r.Running,
	} {
		for i := range v.Work(a.GetOrdinal(), state) {
			*n++
			if i.GetState() == raftlogv1.AttemptState_ATTEMPT_STATE_RUNNING && i.GetReason() == rebootAnnounced {
				r.AwaitingReboot++
			}
		}
	}
	return r
}

func labelMap(labels []*raftlogv1.Label) map[string]string {
	m := make(map[string]string, len(labels))
	for _, l := range labels {
		m[l.GetName()] = l.GetValue()
	}
	return m
}

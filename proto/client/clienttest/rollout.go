package clienttest

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/wave"
)

// sharesOf are the waves of a rollout, complete.
func sharesOf(r *agentplanev1.RolloutSpec) []wave.Share {
	var shares []wave.Share
	for _, w := range r.GetWaves() {
		shares = append(shares, wave.Share{
			Count: w.GetCount(), BasisPoints: w.GetBasisPoints(), Label: w.GetLabel().GetName(), Value: w.GetLabel().GetValue(),
		})
	}
	return wave.Complete(shares)
}

// layLocked gives the invocations of a command, which are on the agents, their waves.
// Who is DOWN is skipped.
func (s *State) layLocked(cmd *command, agents []*agentplanev1.Agent) {
	shares := sharesOf(cmd.spec.Rollout)
	ranks, ends := wave.Lay(shares, targetsOf(shares, agents))
	r := &agentplanev1.Rollout{
		Size: ends[len(ends)-1], Strict: cmd.spec.Rollout.Strict, OnBreach: cmd.spec.Rollout.OnBreach, Soak: cmd.spec.Rollout.Soak,
		GateHealth: cmd.spec.Rollout.GateHealth, GateProbe: cmd.spec.Rollout.Probe != nil, Order: cmd.spec.Rollout.Order,
	}
	if limit := cmd.spec.Rollout.MaxFailures; limit != nil {
		r.MaxFailures = proto.Uint32(limit.Count + wave.Limit(r.Size, limit.BasisPoints))
	}
	last := uint32(0)
	for n, end := range ends {
		r.Waves = append(r.Waves, &agentplanev1.Wave{Share: shares[n].String(), Targets: end - last, PassedOver: end == last})
		last = end
	}
	cmd.command.Rollout = r
	for n, i := range cmd.invocations {
		s.moveLocked(cmd, i, agentplanev1.AttemptState_ATTEMPT_STATE_PENDING, "")
		if ranks[n] == 0 {
			s.moveLocked(cmd, i, agentplanev1.AttemptState_ATTEMPT_STATE_SKIPPED, "offline")
			continue
		}
		for i.Wave = 1; ranks[n] > ends[i.Wave-1]; i.Wave++ {
		}
	}
}

func targetsOf(shares []wave.Share, agents []*agentplanev1.Agent) []wave.Target {
	targets := make([]wave.Target, len(agents))
	for n, a := range agents {
		targets[n].Skipped = a.Health == "DOWN"
		for i, share := range shares {
			if share.Label != "" && a.Labels[share.Label] == share.Value && targets[n].Label == 0 {
				targets[n].Label = i + 1
			}
		}
	}
	return targets
}

// advanceLocked runs one wave after the other, those agents that answer at once, until
// too many have failed.
func (s *State) advanceLocked(cmd *command) {
	r := cmd.command.Rollout
	for r.Wave < uint32(len(r.Waves)) && cmd.command.Paused == nil && cmd.command.Aborted == nil {
		r.Wave++
		w := r.Waves[r.Wave-1]
		w.ReleasedAt = time.Now().UnixNano()
		for _, i := range cmd.invocations {
			if i.Wave == r.Wave && !final(i.State) {
				s.startLocked(cmd, i, s.agentLocked(i.AgentId), false)
			}
		}
		w.SettledAt = time.Now().UnixNano()
		r.Failures = cmd.command.Counts["failed"]
		if r.MaxFailures != nil && r.Failures-r.Forgiven > r.GetMaxFailures() && cmd.command.State != agentplanev1.CommandState_COMMAND_STATE_DONE {
			stop := &agentplanev1.Stop{
				Number: s.index, At: time.Now().UnixNano(), Reason: wave.MaxFailures, Detail: fmt.Sprintf("%d failed, and %d may", r.Failures-r.Forgiven, r.GetMaxFailures()),
			}
			if r.OnBreach == agentplanev1.OnBreach_ON_BREACH_ABORT {
				s.abortLocked(cmd, stop)
			} else {
				cmd.command.Paused = stop
			}
		}
	}
	s.changedLocked()
}

func (s *State) abortLocked(cmd *command, stop *agentplanev1.Stop) {
	cmd.command.Aborted, cmd.command.Paused = stop, nil
	for _, i := range cmd.invocations {
		if i.State < agentplanev1.AttemptState_ATTEMPT_STATE_CLAIMED {
			s.moveLocked(cmd, i, agentplanev1.AttemptState_ATTEMPT_STATE_CANCELED, "aborted")
		}
	}
}

func (c commandService) Plan(_ context.Context, req *agentplanev1.PlanRequest) (*agentplanev1.PlanResponse, error) {
	_, spec, err := decodeSpec(req.Envelope)
	if err != nil {
		return nil, Refusal(codes.InvalidArgument, "bad_envelope", err.Error(), "")
	}
	s := c.state
	s.mu.Lock()
	defer s.mu.Unlock()
	matched, err := s.targetsLocked(spec)
	if err != nil {
		return nil, err
	}
	shares := sharesOf(spec.Rollout)
	ranks, ends := wave.Lay(shares, targetsOf(shares, matched))
	answer := &agentplanev1.PlanResponse{Index: s.index, Locks: spec.Locks, Exclusive: spec.Exclusive, Splay: spec.Splay, Missing: s.missingLocked(spec)}
	for _, name := range spec.FleetLocks {
		answer.FleetLocks = append(answer.FleetLocks, &agentplanev1.PlannedLock{Name: name, Limit: 1, Targets: ends[len(ends)-1]})
	}
	if limit := spec.Rollout.GetMaxFailures(); limit != nil {
		answer.MaxFailures = proto.Uint32(limit.Count)
	}
	last := uint32(0)
	for n, end := range ends {
		w := &agentplanev1.PlannedWave{Share: shares[n].String()}
		for i, a := range matched {
			if ranks[i] > last && ranks[i] <= end {
				w.Targets = append(w.Targets, &agentplanev1.PlannedTarget{AgentId: a.Id, AgentName: a.Name})
			}
		}
		last = end
		answer.Waves = append(answer.Waves, w)
	}
	for i, a := range matched {
		if ranks[i] == 0 {
			answer.Skipped = append(answer.Skipped, &agentplanev1.PlannedTarget{AgentId: a.Id, AgentName: a.Name, Reason: "offline"})
		}
	}
	return answer, nil
}

// braked calls f with a command that is there.
func (c commandService) braked(id string, f func(*command)) (*agentplanev1.Command, error) {
	c.state.mu.Lock()
	defer c.state.mu.Unlock()
	cmd := c.state.commandLocked(id)
	if cmd == nil {
		return nil, noCommand(id)
	}
	f(cmd)
	c.state.changedLocked()
	return cmd.view(false, false), nil
}

func (c commandService) PauseCommand(_ context.Context, req *agentplanev1.PauseCommandRequest) (*agentplanev1.PauseCommandResponse, error) {
	var over error
	row, err := c.braked(req.Id, func(cmd *command) {
		switch {
		case cmd.command.State != agentplanev1.CommandState_COMMAND_STATE_ACTIVE || cmd.command.Aborted != nil:
			over = Refusal(codes.FailedPrecondition, "not_active", fmt.Sprintf("command %q is done or canceled", req.Id), "")
		case cmd.command.Paused == nil:
			cmd.command.Paused = &agentplanev1.Stop{Number: c.state.index, At: time.Now().UnixNano(), By: "admin", Reason: "operator"}
		}
	})
	if err == nil {
		err = over
	}
	return &agentplanev1.PauseCommandResponse{Command: row}, err
}

func (c commandService) ResumeCommand(_ context.Context, req *agentplanev1.ResumeCommandRequest) (*agentplanev1.ResumeCommandResponse, error) {
	var moved error
	row, err := c.braked(req.Id, func(cmd *command) {
		if cmd.command.Paused.GetNumber() != req.Pause {
			moved = Refusal(codes.Aborted, "pause_moved", "it is paused by another pause by now", "")
			return
		}
		cmd.command.Paused = nil
		if r := cmd.command.Rollout; r != nil {
			r.Forgiven = r.Failures
			c.state.advanceLocked(cmd)
		}
	})
	if err == nil {
		err = moved
	}
	return &agentplanev1.ResumeCommandResponse{Command: row}, err
}

func (c commandService) AbortCommand(_ context.Context, req *agentplanev1.AbortCommandRequest) (*agentplanev1.AbortCommandResponse, error) {
	row, err := c.braked(req.Id, func(cmd *command) {
		c.state.abortLocked(cmd, &agentplanev1.Stop{Number: c.state.index, At: time.Now().UnixNano(), By: "admin", Reason: "operator"})
	})
	return &agentplanev1.AbortCommandResponse{Command: row}, err
}

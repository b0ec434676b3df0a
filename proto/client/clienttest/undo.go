package clienttest

import (
	"context"
	"fmt"
	"slices"
	"time"

	"google.golang.org/grpc/codes"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
)

func termsOf(spec *agentplanev1.CommandSpec) *agentplanev1.UndoTerms {
	if spec.Undo == nil {
		return nil
	}
	return &agentplanev1.UndoTerms{Within: spec.Undo.Within, By: spec.Undo.By}
}

// armedLocked has an invocation wait for a confirmation whose agent would have it succeed. By
// contact it is confirmed at once.
func (s *State) armedLocked(c *command, i *agentplanev1.Invocation, b Behaviour) bool {
	u := c.spec.Undo
	if u == nil || i.Undo != nil || b.State > agentplanev1.AttemptState_ATTEMPT_STATE_SUCCEEDED {
		return false
	}
	i.Undo = &agentplanev1.Undo{Phase: agentplanev1.UndoPhase_UNDO_PHASE_ARMED, Until: time.Now().Add(time.Duration(u.Within)).UnixNano()}
	s.moveLocked(c, i, agentplanev1.AttemptState_ATTEMPT_STATE_RUNNING, "armed")
	i.Undo.ArmedIndex = s.index
	if u.By == agentplanev1.ConfirmBy_CONFIRM_BY_CONTACT {
		s.confirmedLocked(c, i)
	}
	return true
}

func (s *State) confirmedLocked(c *command, i *agentplanev1.Invocation) {
	i.Undo.Phase = agentplanev1.UndoPhase_UNDO_PHASE_CONFIRMED
	s.endLocked(c, i, s.behave[i.AgentId])
}

// undoneLocked ends an invocation by its undo, which succeeds.
func (s *State) undoneLocked(c *command, i *agentplanev1.Invocation, state agentplanev1.AttemptState, cause string) {
	i.Undo.Phase, i.Undo.Cause = agentplanev1.UndoPhase_UNDO_PHASE_DONE, cause
	i.Undo.State = agentplanev1.AttemptState_ATTEMPT_STATE_SUCCEEDED
	s.moveLocked(c, i, state, "undone")
}

// Undo ends what waits for a confirmation as if its time were over.
func (s *State) Undo(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.commandLocked(id)
	if c == nil {
		return
	}
	for _, i := range c.invocations {
		if i.Undo.GetPhase() == agentplanev1.UndoPhase_UNDO_PHASE_ARMED {
			s.undoneLocked(c, i, agentplanev1.AttemptState_ATTEMPT_STATE_FAILED, "not_confirmed")
		}
	}
}

func (c commandService) ConfirmCommand(_ context.Context, req *agentplanev1.ConfirmCommandRequest) (*agentplanev1.ConfirmCommandResponse, error) {
	s := c.state
	s.mu.Lock()
	defer s.mu.Unlock()
	cmd := s.commandLocked(req.Id)
	switch {
	case cmd == nil:
		return nil, noCommand(req.Id)
	case cmd.spec.Undo == nil:
		return nil, Refusal(codes.FailedPrecondition, "no_undo", fmt.Sprintf("command %q has no undo: there is nothing to confirm", req.Id), "give an undo with --undo when you run it")
	}
	for _, name := range req.Agents {
		if !slices.ContainsFunc(cmd.invocations, func(i *agentplanev1.Invocation) bool { return i.AgentName == name || i.AgentId == name }) {
			return nil, Refusal(codes.NotFound, "no_invocation", fmt.Sprintf("command %q means no agent %q", req.Id, name), "")
		}
	}
	answer, before := &agentplanev1.ConfirmCommandResponse{}, false
	for _, i := range cmd.invocations {
		u := i.GetUndo()
		if len(req.Agents) > 0 && !slices.Contains(req.Agents, i.AgentName) && !slices.Contains(req.Agents, i.AgentId) {
			continue
		}
		before = before || u.GetConfirmedIndex() != 0
		if u.GetPhase() == agentplanev1.UndoPhase_UNDO_PHASE_ARMED && u.GetArmedIndex() <= req.UpTo {
			u.ConfirmedIndex, u.ConfirmedAt, u.ConfirmedBy = s.index, time.Now().UnixNano(), "admin"
			s.confirmedLocked(cmd, i)
			answer.Confirmed++
		}
	}
	if answer.Confirmed == 0 && !before {
		return nil, Refusal(codes.FailedPrecondition, "not_armed", fmt.Sprintf("nothing of command %q that was seen waits for a confirmation", req.Id), `see how far it is with "agentctl commands get"; what waits is shown there`)
	}
	answer.Command = cmd.view(false, false)
	return answer, nil
}

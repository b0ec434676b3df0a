package operator

import (
	"cmp"
	"context"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/agentplane/agentplane/fsm"
	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

// checkUndo says what is wrong with the undo of a command by itself.
func checkUndo(s *agentplanev1.CommandSpec) *problem {
	u := s.GetUndo()
	switch within, timeout := time.Duration(u.GetWithin()), time.Duration(u.GetRunTimeout()); {
	case u == nil:
		return nil
	case len(u.GetArgv()) == 0 && len(u.GetScript()) == 0:
		return problemf("no_undo_program", "the undo has neither a program nor a script")
	case len(u.GetArgv()) > 0 && len(u.GetScript()) > 0:
		return problemf("two_undos", "the undo has a program and a script: one of them")
	case len(u.GetArgv()) > MaxArgs || (len(u.GetArgv()) > 0 && u.GetArgv()[0] == ""):
		return problemf("undo", "the undo has more than %d arguments, or its program no name", MaxArgs)
	case within < fsm.MinWithin || within > fsm.MaxWithin:
		return problemf("undo_within", "the time for a confirmation, %v, is not between %v and %v", within, fsm.MinWithin, fsm.MaxWithin)
	case timeout < 0 || timeout > MaxRunTimeout:
		return problemf("undo_timeout", "the undo's run timeout %v is not between 0 (that of the command) and %v", timeout, MaxRunTimeout)
	case agentplanev1.ConfirmBy_name[int32(u.GetBy())] == "":
		return problemf("undo_by", "what confirms the command, %d, is neither operator nor contact", u.GetBy())
	case s.GetDelivery() == agentplanev1.Delivery_DELIVERY_IDEMPOTENT:
		return problemf("undo_delivery", "a command with an undo is started once: class idempotent is not for it")
	}
	return checkArgs(u.GetArgv())
}

// undoPlan is what the state has to know of the undo; nil when there is none.
func undoPlan(s *agentplanev1.CommandSpec) *raftlogv1.UndoPlan {
	u := s.GetUndo()
	if u == nil {
		return nil
	}
	return &raftlogv1.UndoPlan{
		Within: u.GetWithin(), By: raftlogv1.ConfirmBy(max(u.GetBy(), agentplanev1.ConfirmBy_CONFIRM_BY_OPERATOR)),
	}
}

// undoTime is how much longer an attempt may take with its undo: the time for a confirmation,
// which a reboot of the host begins once more, and the undo itself.
func undoTime(s *agentplanev1.CommandSpec) time.Duration {
	u := s.GetUndo()
	if u == nil {
		return 0
	}
	return 2*time.Duration(u.GetWithin()) + betweenSteps + cmp.Or(time.Duration(u.GetRunTimeout()), time.Duration(s.GetRunTimeout()), defaultRunTimeout) +
		cmp.Or(time.Duration(s.GetKillGrace()), defaultKillGrace)
}

func undoTerms(p *raftlogv1.UndoPlan) *agentplanev1.UndoTerms {
	if p == nil {
		return nil
	}
	return &agentplanev1.UndoTerms{Within: p.GetWithin(), By: agentplanev1.ConfirmBy(p.GetBy())}
}

func undoRow(i *raftlogv1.Invocation) *agentplanev1.Undo {
	u := i.GetUndo()
	if u == nil {
		return nil
	}
	return &agentplanev1.Undo{
		Phase: agentplanev1.UndoPhase(u.GetPhase()), Until: u.GetUntil(), Cause: u.GetCause(), State: agentplanev1.AttemptState(u.GetState()),
		ExitCode: u.GetExitCode(), Signal: u.GetSignal(), Reason: u.GetReason(), Detail: u.GetDetail(),
		StartedAt: u.GetStartedAt(), EndedAt: u.GetEndedAt(), ArmedIndex: u.GetArmedIndex(),
		ConfirmedIndex: u.GetConfirmIndex(), ConfirmedAt: u.GetConfirmedAt(), ConfirmedBy: u.GetConfirmedBy(),
		// Which of the two came first only the agent's journal knows, and it has told.
		ConfirmTooLate: u.GetConfirmIndex() != 0 && u.GetPhase() >= raftlogv1.UndoPhase_UNDO_PHASE_RUNNING,
	}
}

// maxConfirmed bounds the agents that one confirmation names.
const maxConfirmed = 256

// ConfirmCommand confirms what the caller has seen to wait for it: sent again, it confirms
// nothing that came to wait since.
func (c *Commands) ConfirmCommand(ctx context.Context, req *agentplanev1.ConfirmCommandRequest) (*agentplanev1.ConfirmCommandResponse, error) {
	if n := len(req.GetAgents()); n > maxConfirmed {
		return nil, c.refuseHint(codes.InvalidArgument, "too_many", "name fewer at a time, or none to confirm all", "%d agents are above the maximum %d", n, maxConfirmed)
	}
	m := &raftlogv1.ConfirmCommand{CommandId: req.GetId(), UpToIndex: req.GetUpTo(), ConfirmedBy: c.callerName(ctx)}
	if len(req.GetAgents()) > 0 {
		v := c.o.Machine.View()
		row, err := c.command(v, req.GetId())
		if err != nil {
			return nil, err
		}
		for _, agent := range req.GetAgents() {
			i, err := c.invocation(v, row, agent)
			if err != nil {
				return nil, err
			}
			m.InvocationIds = append(m.InvocationIds, i.GetId())
		}
	}
	o, v, err := c.propose(ctx, &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_ConfirmCommand{ConfirmCommand: m}})
	if err != nil {
		return nil, err
	}
	row, err := c.command(v, req.GetId())
	if err != nil {
		return nil, err
	}
	return &agentplanev1.ConfirmCommandResponse{Command: commandRow(row), Confirmed: o.GetCount()}, nil
}

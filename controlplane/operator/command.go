package operator

import (
	"context"
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/agentplane/agentplane/fsm"
	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

const (
	defaultListed = 100
	maxListed     = 1000
	// maxAnswerBytes bounds an answer that cannot be divided; clients take 64 MiB.
	maxAnswerBytes = 48 << 20
)

// Commands asks work of agents.
type Commands struct {
	agentplanev1.UnimplementedCommandServiceServer
	*service
}

// GetCommand answers a command, with its invocations by number of the agent where
// they are asked for.
func (c *Commands) GetCommand(ctx context.Context, req *agentplanev1.GetCommandRequest) (*agentplanev1.GetCommandResponse, error) {
	v, err := c.read(ctx, req.GetStale())
	if err != nil {
		return nil, err
	}
	row, err := c.command(v, req.GetId())
	if err != nil {
		return nil, err
	}
	answer := commandRow(row)
	if !req.GetWithInvocations() {
		return &agentplanev1.GetCommandResponse{Command: answer}, nil
	}
	size := 0
	for i := range v.Invocations(row.GetId()) {
		r := invocationRow(v, i, req.GetWithOutput())
		if size += proto.Size(r); size > maxAnswerBytes {
			return nil, c.refuseHint(codes.ResourceExhausted, "too_large", `leave the output away, or follow it with "agentctl commands watch"`,
				"the invocations of command %q with their output are above %d bytes", row.GetId(), maxAnswerBytes)
		}
		answer.Invocations = append(answer.Invocations, r)
	}
	return &agentplanev1.GetCommandResponse{Command: answer}, nil
}

// ListCommands answers commands, the newest first, each with its probes behind it, which
// the limit does not count.
func (c *Commands) ListCommands(ctx context.Context, req *agentplanev1.ListCommandsRequest) (*agentplanev1.ListCommandsResponse, error) {
	v, err := c.read(ctx, req.GetStale())
	if err != nil {
		return nil, err
	}
	limit := int(req.GetLimit())
	switch {
	case limit == 0:
		limit = defaultListed
	case limit > maxListed:
		return nil, c.refuseHint(codes.InvalidArgument, "limit", "ask for less, then for those before the last",
			"limit %d is above the maximum %d", limit, maxListed)
	}
	if s := req.GetState(); agentplanev1.CommandState_name[int32(s)] == "" {
		return nil, c.refuse(codes.InvalidArgument, "state", "command state %d is none of ACTIVE, CANCELING, DONE", s)
	}
	var before uint64
	var first *raftlogv1.Command // the one that those asked for stand behind
	if req.GetBefore() != "" {
		if first, err = c.command(v, req.GetBefore()); err != nil {
			return nil, err
		}
		if parent := first.GetParentId(); parent != "" { // it stands with its parent
			if first, err = c.command(v, parent); err != nil {
				return nil, err
			}
		}
		// Several commands may share an index: begin at it and pass by those up to
		// the one that was named.
		before = first.GetSubmittedIndex() + 1
	}
	answer, listed := &agentplanev1.ListCommandsResponse{}, 0
	for row := range v.CommandsNewestFirst(before) {
		switch {
		case first != nil && row.GetSubmittedIndex() == first.GetSubmittedIndex() && row.GetId() >= first.GetId():
			continue
		case row.GetParentId() != "":
			continue
		case req.GetState() != 0 && agentplanev1.CommandState(row.GetState()) != req.GetState():
			continue
		case listed == limit:
			answer.More = true
			return answer, nil
		}
		listed++
		answer.Commands = append(answer.Commands, commandRow(row))
		for _, w := range row.GetRollout().GetWaves() {
			if probe, found := v.Command(w.GetProbeId()); found {
				answer.Commands = append(answer.Commands, commandRow(probe))
			}
		}
	}
	return answer, nil
}

// CancelCommand makes sure that what has not been claimed never starts, and asks
// the agents to end the rest. Repeated, it answers what stands.
func (c *Commands) CancelCommand(ctx context.Context, req *agentplanev1.CancelCommandRequest) (*agentplanev1.CancelCommandResponse, error) {
	_, v, err := c.propose(ctx, &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_CancelCommand{
		CancelCommand: &raftlogv1.CancelCommand{CommandId: req.GetId(), CanceledBy: c.callerName(ctx)},
	}})
	if err != nil {
		return nil, err
	}
	row, err := c.command(v, req.GetId())
	if err != nil {
		return nil, err
	}
	return &agentplanev1.CancelCommandResponse{Command: commandRow(row)}, nil
}

// Why answers the proof of one invocation. The agent may have been removed since.
func (c *Commands) Why(ctx context.Context, req *agentplanev1.WhyRequest) (*agentplanev1.WhyResponse, error) {
	v, err := c.read(ctx, false)
	if err != nil {
		return nil, err
	}
	row, err := c.command(v, req.GetCommandId())
	if err != nil {
		return nil, err
	}
	var meant *raftlogv1.Invocation
	var ids []string
	for i := range v.Invocations(row.GetId()) {
		if i.GetAgentId() == req.GetAgent() {
			meant, ids = i, []string{i.GetAgentId()}
			break
		}
		if a, _ := v.Agent(i.GetAgentId()); a != nil && a.GetName() == req.GetAgent() {
			meant = i
			ids = append(ids, i.GetAgentId())
		}
	}
	switch {
	case meant == nil:
		return nil, c.refuseHint(codes.NotFound, "no_invocation",
			fmt.Sprintf(`see "agentctl commands get %s"; an agent that was removed is named by its id: its name is gone`, row.GetId()),
			"command %q means no agent %q", row.GetId(), req.GetAgent())
	case len(ids) > 1:
		return nil, c.ambiguous(req.GetAgent(), ids)
	}
	answer := &agentplanev1.WhyResponse{Command: commandRow(row), Invocation: invocationRow(v, meant, false)}
	answer.Transitions = proof(meant)
	return answer, nil
}

// proof are the steps of an invocation. What was released by its submission has one
// row for both. Of a program that ends at once the agent's first word may be its
// result, which then is what proves the start, too.
func proof(i *raftlogv1.Invocation) []*agentplanev1.Transition {
	var steps []*agentplanev1.Transition
	running := uint32(0) // the attempt that was last seen to run
	for n, t := range i.GetTransitions() {
		if n == 0 && t.GetState() == raftlogv1.AttemptState_ATTEMPT_STATE_RELEASED {
			submitted := transitionRow(t)
			submitted.State = agentplanev1.AttemptState_ATTEMPT_STATE_PENDING
			steps = append(steps, submitted)
		}
		told := t.GetAttempt() == i.GetAttempt() && t.GetState() > raftlogv1.AttemptState_ATTEMPT_STATE_LOST
		switch {
		case t.GetState() == raftlogv1.AttemptState_ATTEMPT_STATE_RUNNING:
			running = t.GetAttempt()
		case told && running != t.GetAttempt() && i.GetResult().GetStartedAt() != 0:
			started := transitionRow(t)
			started.State, started.Reason = agentplanev1.AttemptState_ATTEMPT_STATE_RUNNING, "told with the result"
			steps = append(steps, started)
		}
		steps = append(steps, transitionRow(t))
	}
	return steps
}

func (c *Commands) command(v *fsm.View, id string) (*raftlogv1.Command, error) {
	if row, found := v.Command(id); found {
		return row, nil
	}
	return nil, c.refuse(codes.NotFound, "no_command", "there is no command %q", id)
}

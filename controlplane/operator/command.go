package operator

import (
	"context"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/agentplane/agentplane/fsm"
	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

// maxAnswerBytes bounds an answer that cannot be divided; clients take 64 MiB.
const maxAnswerBytes = 48 << 20

// Commands asks work of agents.
type Commands struct {
	agentplanev1.UnimplementedCommandServiceServer
	*service
	rate submitRate
}

// GetCommand answers a command, with its invocations by number of the agent, and with
// what was asked, where they are asked for.
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
	judgeProbes(v, answer)
	if req.GetWithSpec() {
		_, spec, err := c.asked(v, row.GetId())
		if err != nil {
			return nil, err
		}
		answer.Spec = withoutSecrets(spec)
	}
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

func (c *Commands) command(v *fsm.View, id string) (*raftlogv1.Command, error) {
	if row, found := v.Command(id); found {
		return row, nil
	}
	return nil, c.refuse(codes.NotFound, "no_command", "there is no command %q", id)
}

package operator

import (
	"context"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

// PauseCommand has nothing of the command released or claimed any more. Repeated, it
// answers what stands, also when the command was paused by itself.
func (c *Commands) PauseCommand(ctx context.Context, req *agentplanev1.PauseCommandRequest) (*agentplanev1.PauseCommandResponse, error) {
	row, err := c.brake(ctx, req.GetId(), &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_PauseCommand{
		PauseCommand: &raftlogv1.PauseCommand{CommandId: req.GetId(), PausedBy: c.callerName(ctx)},
	}})
	if err != nil {
		return nil, err
	}
	return &agentplanev1.PauseCommandResponse{Command: row}, nil
}

// ResumeCommand ends the pause that the caller has seen, and no other.
func (c *Commands) ResumeCommand(ctx context.Context, req *agentplanev1.ResumeCommandRequest) (*agentplanev1.ResumeCommandResponse, error) {
	row, err := c.brake(ctx, req.GetId(), &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_ResumeCommand{
		ResumeCommand: &raftlogv1.ResumeCommand{CommandId: req.GetId(), ExpectedPause: req.GetPause(), ResumedBy: c.callerName(ctx)},
	}})
	if err != nil {
		return nil, err
	}
	return &agentplanev1.ResumeCommandResponse{Command: row}, nil
}

// AbortCommand makes sure that what has not been claimed never starts, and leaves the
// rest alone. Repeated, it answers what stands.
func (c *Commands) AbortCommand(ctx context.Context, req *agentplanev1.AbortCommandRequest) (*agentplanev1.AbortCommandResponse, error) {
	row, err := c.brake(ctx, req.GetId(), &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_AbortCommand{
		AbortCommand: &raftlogv1.AbortCommand{CommandId: req.GetId(), AbortedBy: c.callerName(ctx)},
	}})
	if err != nil {
		return nil, err
	}
	return &agentplanev1.AbortCommandResponse{Command: row}, nil
}

func (c *Commands) brake(ctx context.Context, id string, m *raftlogv1.Mutation) (*agentplanev1.Command, error) {
	_, v, err := c.propose(ctx, m)
	if err != nil {
		return nil, err
	}
	row, err := c.command(v, id)
	if err != nil {
		return nil, err
	}
	return commandRow(row), nil
}

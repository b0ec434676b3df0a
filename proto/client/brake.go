package client

import (
	"context"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
)

// Plan returns what Submit would do with the command now: who runs it in which wave, who
// cannot, and why. It changes nothing, and sets no ID that is empty for good.
func (c *Client) Plan(ctx context.Context, cmd *Command) (*agentplanev1.PlanResponse, error) {
	planned := *cmd
	_, envelope, err := c.envelope(ctx, &planned)
	if err != nil {
		return nil, err
	}
	return agentplanev1.NewCommandServiceClient(c).Plan(ctx, &agentplanev1.PlanRequest{Envelope: envelope})
}

// Pause has nothing more of a command started until it is resumed. What runs goes on.
func (c *Client) Pause(ctx context.Context, id string) (*agentplanev1.Command, error) {
	r, err := agentplanev1.NewCommandServiceClient(c).PauseCommand(ctx, &agentplanev1.PauseCommandRequest{Id: id})
	return r.GetCommand(), err
}

// Resume ends the pause of that number, which the command shows, and forgives the
// failures so far. It is refused when another pause stands by now.
func (c *Client) Resume(ctx context.Context, id string, pause uint64) (*agentplanev1.Command, error) {
	r, err := agentplanev1.NewCommandServiceClient(c).ResumeCommand(ctx, &agentplanev1.ResumeCommandRequest{Id: id, Pause: pause})
	return r.GetCommand(), err
}

// Abort makes sure that nothing more of a command starts, ever. What runs goes on, which
// Cancel ends as well.
func (c *Client) Abort(ctx context.Context, id string) (*agentplanev1.Command, error) {
	r, err := agentplanev1.NewCommandServiceClient(c).AbortCommand(ctx, &agentplanev1.AbortCommandRequest{Id: id})
	return r.GetCommand(), err
}

// Confirm keeps what the programs of a command did that was seen to wait for it, up to the
// highest armed index of its invocations; on the agents alone, by id or name, when some are
// named. Their undo never runs, unless this comes too late for a host, which alone decides.
func (c *Client) Confirm(ctx context.Context, id string, upTo uint64, agents []string) (*agentplanev1.ConfirmCommandResponse, error) {
	return agentplanev1.NewCommandServiceClient(c).ConfirmCommand(ctx, &agentplanev1.ConfirmCommandRequest{Id: id, UpTo: upTo, Agents: agents})
}

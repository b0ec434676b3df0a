package client

import (
	"context"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
)

// Queue returns what runs on an agent, by id or name, and then up to limit of what waits
// there, in the order in which it starts, and why it waits.
func (c *Client) Queue(ctx context.Context, agent string, limit uint32, opts ...ReadOption) (*agentplanev1.GetQueueResponse, error) {
	return agentplanev1.NewCommandServiceClient(c).GetQueue(ctx, &agentplanev1.GetQueueRequest{
		Agent: agent, Limit: limit, Stale: readOf(opts).stale,
	})
}

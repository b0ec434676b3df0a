package operator

import (
	"context"
	"time"

	"google.golang.org/grpc/codes"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
)

// checkWait is how long a check waits for the index that is asked for. A cluster that rests
// may be far from it.
const checkWait = time.Second

// CheckState answers the hash of this node's state, which all nodes share at an equal index.
// The state is read as it stood at that index, beside the entries that are applied
// meanwhile, and for one caller at a time.
func (c *Cluster) CheckState(ctx context.Context, req *agentplanev1.CheckStateRequest) (*agentplanev1.CheckStateResponse, error) {
	wait, cancel := context.WithTimeout(ctx, checkWait)
	defer cancel()
	v, err := c.o.Machine.ViewFrom(wait, req.GetIndex())
	if err != nil {
		v = c.o.Machine.View()
	}
	select {
	case c.checking <- struct{}{}: // also when the caller's time went by with the wait for the index
	default:
		select {
		case c.checking <- struct{}{}:
		case <-ctx.Done():
			return nil, c.refuse(codes.Unavailable, "timed_out", "this node sums its state for others: %v", ctx.Err())
		}
	}
	defer func() { <-c.checking }()
	hash := v.Hash()
	return &agentplanev1.CheckStateResponse{NodeId: c.o.NodeID, AppliedIndex: v.Index(), Hash: hash[:], Process: c.o.Process()}, nil
}

package client

import (
	"context"
	"fmt"
	"time"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/identity"
)

// whereaboutsFor is for how long a client goes by what it was told of the cluster when it
// makes something.
const whereaboutsFor = time.Minute

// whereabouts is what a client has to know before it makes anything.
type whereabouts struct {
	info *agentplanev1.InfoResponse
	at   time.Time // by the monotonic clock
}

// Info returns what a node says of the cluster and of the caller. The cluster must be that
// of the client's trust bundle.
func (c *Client) Info(ctx context.Context, opts ...ReadOption) (*agentplanev1.InfoResponse, error) {
	asked := time.Now()
	info, err := agentplanev1.NewClusterServiceClient(c).Info(ctx, &agentplanev1.InfoRequest{Stale: readOf(opts).stale})
	if err != nil {
		return nil, err
	}
	if want := c.Bundle().GetClusterId(); info.GetClusterId() != want {
		return nil, fmt.Errorf("node %s is of cluster %s, not %s: %w", c.Address(), info.GetClusterId(), want, identity.ErrWrongCluster)
	}
	if !readOf(opts).stale {
		c.mu.Lock()
		c.known = whereabouts{info, asked}
		c.mu.Unlock()
	}
	return info, nil
}

// Now returns the cluster's time. It asks a node at most once a minute.
func (c *Client) Now(ctx context.Context) (time.Time, error) {
	_, now, err := c.whereabouts(ctx)
	return now, err
}

func (c *Client) whereabouts(ctx context.Context) (*agentplanev1.InfoResponse, time.Time, error) {
	c.mu.Lock()
	known := c.known
	c.mu.Unlock()
	if known.info == nil || time.Since(known.at) > whereaboutsFor {
		if _, err := c.Info(ctx); err != nil {
			return nil, time.Time{}, err
		}
		c.mu.Lock()
		known = c.known
		c.mu.Unlock()
	}
	return known.info, time.Unix(0, known.info.GetNow()).Add(time.Since(known.at)), nil
}

func (c *Client) forgetWhereabouts() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.known = whereabouts{}
}

// Status returns how the cluster is, and what is wrong with it.
func (c *Client) Status(ctx context.Context, opts ...ReadOption) (*agentplanev1.StatusResponse, error) {
	return agentplanev1.NewClusterServiceClient(c).Status(ctx, &agentplanev1.StatusRequest{Stale: readOf(opts).stale})
}

// Members returns the nodes of the cluster.
func (c *Client) Members(ctx context.Context, opts ...ReadOption) ([]*agentplanev1.Member, error) {
	r, err := agentplanev1.NewClusterServiceClient(c).ListMembers(ctx, &agentplanev1.ListMembersRequest{Stale: readOf(opts).stale})
	return r.GetMembers(), err
}

// RemoveMember removes a node for ever, by id or name.
func (c *Client) RemoveMember(ctx context.Context, member string) error {
	_, err := agentplanev1.NewClusterServiceClient(c).RemoveMember(ctx, &agentplanev1.RemoveMemberRequest{Member: member})
	return err
}

// Transfer hands leadership to a node, by id or name, or with the empty name to the one
// that is most caught up. It returns the id of the node that leads.
func (c *Client) Transfer(ctx context.Context, to string) (string, error) {
	r, err := agentplanev1.NewClusterServiceClient(c).TransferLeadership(ctx, &agentplanev1.TransferLeadershipRequest{To: to})
	return r.GetLeaderId(), err
}

// Keys returns the gossip keys, the one in use first.
func (c *Client) Keys(ctx context.Context, opts ...ReadOption) ([]*agentplanev1.GossipKey, error) {
	r, err := agentplanev1.NewClusterServiceClient(c).ListKeys(ctx, &agentplanev1.ListKeysRequest{Stale: readOf(opts).stale})
	return r.GetKeys(), err
}

// RotateKey begins to put a new gossip key in the place of the one with the id, or answers how
// far that has come.
func (c *Client) RotateKey(ctx context.Context, from string) (*agentplanev1.RotateKeyResponse, error) {
	return agentplanev1.NewClusterServiceClient(c).RotateKey(ctx, &agentplanev1.RotateKeyRequest{From: from})
}

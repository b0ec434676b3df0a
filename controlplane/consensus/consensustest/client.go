package consensustest

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/agentplane/agentplane/controlplane/consensus"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

// Leader is a node in office, or -1. After a partition there may be two for a moment;
// the one with the higher term is answered.
func (c *Cluster) Leader() int {
	leader, term := -1, uint64(0)
	for i := range c.nodes {
		if h := c.Host(i); h != nil {
			if o, ok := h.InOffice(); ok && o.Term > term {
				leader, term = i, o.Term
			}
		}
	}
	return leader
}

// WaitLeader waits for a node in office, at most a minute.
func (c *Cluster) WaitLeader() int {
	c.T.Helper()
	for range 60_000 {
		if l := c.Leader(); l >= 0 {
			return l
		}
		time.Sleep(time.Millisecond)
	}
	c.T.Fatalf("no leader within a minute")
	return -1
}

// Propose proposes through any node until ctx ends or something is known: it tries
// again when nothing happened, and only then.
func (c *Cluster) Propose(ctx context.Context, muts ...*raftlogv1.Mutation) ([]*raftlogv1.Outcome, error) {
	i := c.Leader()
	for {
		if i < 0 {
			c.mu.Lock()
			i = c.rng.IntN(len(c.nodes))
			c.mu.Unlock()
		}
		outcomes, err := c.ProposeOn(ctx, i, muts...)
		switch {
		case err == nil, errors.Is(err, consensus.ErrUnknown), errors.Is(err, consensus.ErrTooLarge):
			return outcomes, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(5 * time.Millisecond):
		}
		i = c.Leader()
	}
}

// ProposeOn proposes through node i. When the node was killed meanwhile the outcome
// is unknown, whatever it said.
func (c *Cluster) ProposeOn(ctx context.Context, i int, muts ...*raftlogv1.Mutation) ([]*raftlogv1.Outcome, error) {
	h := c.Host(i)
	if h == nil || c.Net.reach("", c.Addr(i)) == nil {
		return nil, consensus.ErrShutdown
	}
	outcomes, err := h.Propose(ctx, muts...)
	if c.Host(i) != h {
		return nil, fmt.Errorf("%w: node %d was killed", consensus.ErrUnknown, i)
	}
	return outcomes, err
}

// Read makes the state of node i fit for a linearizable read: it asks whom node i
// takes for the leader for an index, over the network, and waits until the node's own
// state has published it.
func (c *Cluster) Read(ctx context.Context, i int) (consensus.Machine, error) {
	c.mu.Lock()
	h, m, end := c.nodes[i].host, c.nodes[i].machine, c.nodes[i].end
	c.mu.Unlock()
	if h == nil || c.Net.reach("", c.Addr(i)) == nil {
		return nil, consensus.ErrShutdown
	}
	id, addr, known := h.Leader()
	if !known {
		return nil, consensus.ErrNotLeader
	}
	var index uint64
	var err error
	if id == c.ID(i) {
		index, err = h.ReadIndex(ctx)
	} else {
		var v any
		v, err = c.Net.call(end, addr, 0, ctx.Done(), func(e *endpoint) (any, error) {
			s, ok := c.Net.peerOf(e).(interface {
				ReadIndex(context.Context) (uint64, error)
			})
			if !ok {
				return nil, errRefused
			}
			return s.ReadIndex(ctx)
		})
		if err == nil {
			index = v.(uint64)
		}
	}
	if err == nil {
		err = m.WaitPublished(ctx, index)
	}
	if err == nil && c.Host(i) != h {
		err = consensus.ErrShutdown
	}
	return m, err
}

// WaitAgree waits until every running node's state has published everything that was
// acknowledged before the call, at most a minute.
func (c *Cluster) WaitAgree() {
	c.T.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var index uint64
	for {
		var err error
		if h := c.Host(c.WaitLeader()); h != nil {
			if index, err = h.ReadIndex(ctx); err == nil {
				break
			}
		}
		if ctx.Err() != nil {
			c.T.Fatalf("no read index within a minute: %v", err)
		}
		time.Sleep(10 * time.Millisecond)
	}
	for i := range c.nodes {
		if c.Host(i) == nil {
			continue
		}
		if err := c.Machine(i).WaitPublished(ctx, index); err != nil {
			c.T.Fatalf("node %d: %v", i, err)
		}
	}
}

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/codes"

	"github.com/agentplane/agentplane/configs"
	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/client"
)

const (
	// devSetUpTimeout bounds the way to a cluster whose agents are all online.
	devSetUpTimeout = 60 * time.Second
	devPoll         = 20 * time.Millisecond
)

// setUp makes the nodes a cluster, or finds the one that they are, and starts the
// agents. Every step may be repeated: a directory of a process that died on the way
// goes on here.
func (c *devCluster) setUp(life context.Context, start func(*devAgent)) error {
	ctx, cancel := context.WithTimeoutCause(life, devSetUpTimeout, hinted{
		fmt.Errorf("the cluster was not up within %v", devSetUpTimeout), "see the logs in " + c.dir.logs(),
	})
	defer cancel()
	err := c.trySetUp(ctx, start)
	if cause := context.Cause(ctx); cause != nil && err != nil {
		var h hinted
		if errors.As(cause, &h) {
			return hinted{fmt.Errorf("%w: %w", cause, err), h.hint}
		}
		return cause
	}
	return err
}

func (c *devCluster) trySetUp(ctx context.Context, start func(*devAgent)) error {
	if err := c.becomeOperator(ctx); err != nil {
		return fmt.Errorf("make the cluster: %w", err)
	}
	cl, err := c.connect(ctx)
	if err != nil {
		return err
	}
	defer cl.Close()
	var joins errgroup.Group
	for _, n := range c.nodes[1:] {
		if n.node.Joined() {
			continue
		}
		joins.Go(func() error {
			if err := c.join(ctx, cl, n); err != nil {
				return fmt.Errorf("%s: join: %w", n.name, err)
			}
			return nil
		})
	}
	if err := joins.Wait(); err != nil {
		return err
	}
	if err := c.awaitMembers(ctx, cl); err != nil {
		return err
	}
	if err := c.learn(ctx, cl); err != nil {
		return err
	}
	c.say("cluster %s of %s; agentctl has context %q in %s", c.operator.ClusterID, number(len(c.nodes), "node"), c.o.context, c.user.Path())
	if err := c.makeAgents(ctx, cl); err != nil {
		return err
	}
	for _, a := range c.agents {
		start(a)
	}
	return c.awaitAgents(ctx, cl)
}

// join makes the node a member of the cluster of the first one.
func (c *devCluster) join(ctx context.Context, cl *client.Client, n *devNode) error {
	t, err := token(ctx, cl, agentplanev1.TokenKind_TOKEN_KIND_NODE, 1)
	if err != nil {
		return err
	}
	cc, err := client.DialLocal(ctx, n.dir)
	if err != nil {
		return err
	}
	defer cc.Close()
	stream, err := agentplanev1.NewLocalServiceClient(cc).Join(ctx, &agentplanev1.JoinRequest{
		Addresses: cl.Addresses(), Token: t.Reveal(),
	})
	if err != nil {
		return err
	}
	for {
		r, err := stream.Recv()
		switch {
		case errors.Is(err, io.EOF):
			return errors.New("the node ended the join before it was done")
		case err != nil:
			return err
		case r.GetDone():
			return nil
		}
	}
}

// awaitMembers waits until the cluster has a leader and sees all its nodes alive. One
// that it has removed is not among them.
func (c *devCluster) awaitMembers(ctx context.Context, cl *client.Client) error {
	return retry(ctx, func() (bool, error) {
		r, err := agentplanev1.NewClusterServiceClient(cl).ListMembers(ctx, &agentplanev1.ListMembersRequest{})
		if err != nil {
			return false, again(err)
		}
		for _, m := range r.GetMembers() {
			if m.GetState() != "alive" {
				return false, againError{fmt.Errorf("%s is %s", m.GetName(), m.GetState())}
			}
		}
		return true, nil
	})
}

// makeAgents gives each agent its configuration. The token serves those that are
// not enrolled yet.
func (c *devCluster) makeAgents(ctx context.Context, cl *client.Client) error {
	if c.o.agents == 0 {
		return nil
	}
	t, err := token(ctx, cl, agentplanev1.TokenKind_TOKEN_KIND_AGENT, c.o.agents)
	if err != nil {
		return err
	}
	for i := range c.o.agents {
		name := fmt.Sprintf("agent-%d", i+1)
		config, err := configs.Load(configs.Sources{Program: configs.ProgramAgent, Flags: map[string][]string{
			"data_dir": {c.dir.join(name)}, "name": {name}, "servers": c.addresses(), "token": {t.Reveal()},
			"labels": {"zone=" + string(rune('a'+i%3))},
		}})
		if err != nil {
			return err
		}
		c.agents = append(c.agents, &devAgent{name: name, config: config.Agent(), log: c.dir.log(name)})
	}
	return nil
}

// awaitAgents waits until the cluster has judged every agent that it has heard of. One
// that is started again and again is FLAPPING, one whose files were copied
// QUARANTINED: people want to see that, not wait for its end.
func (c *devCluster) awaitAgents(ctx context.Context, cl *client.Client) error {
	ours := make(map[string]bool)
	for _, a := range c.agents {
		ours[a.name] = true
	}
	return retry(ctx, func() (bool, error) {
		r, err := agentplanev1.NewFleetServiceClient(cl).ListAgents(ctx, &agentplanev1.ListAgentsRequest{})
		if err != nil {
			return false, again(err)
		}
		there := 0
		for _, a := range r.GetAgents() {
			switch a.GetHealth() {
			case "ONLINE", "FLAPPING", "QUARANTINED":
				if ours[a.GetName()] {
					there++
				}
			}
		}
		if there < len(c.agents) {
			return false, againError{fmt.Errorf("%d of %d agents are there", there, len(c.agents))}
		}
		return true, nil
	})
}

// againError is an error that passes.
type againError struct{ error }

func (e againError) Unwrap() error { return e.error }

// again marks the error of a read that passes.
func again(err error) error {
	switch client.AsError(err).Code {
	case codes.Unavailable, codes.DeadlineExceeded:
		return againError{err}
	default:
		return err
	}
}

// retry calls f until it is done, or fails with another error than againError, or ctx
// ends.
func retry(ctx context.Context, f func() (done bool, err error)) error {
	tick := time.NewTicker(devPoll)
	defer tick.Stop()
	for {
		done, err := f()
		var passing againError
		if done || !errors.As(err, &passing) {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return passing.error
		}
	}
}

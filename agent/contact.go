package agent

import (
	"context"
	"errors"
	"fmt"

	"github.com/agentplane/agentplane/agent/session"
	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
)

// contact proves that the cluster is still reached. The session that stands is no proof:
// behind a firewall that lets no new connection through it may live on. So each try is a
// connection of its own to each node in turn, with a handshake in which both prove who they
// are, and the node has to say something; that it takes no sessions now is an answer as well.
type contact struct {
	trust  *trust
	opener *opener // set before anything is tried
}

// try gives the first node that has answered.
func (c *contact) try(ctx context.Context) (node string, err error) {
	if c.opener == nil {
		return "", errors.New("not connected yet")
	}
	var all []error
	for _, n := range c.trust.Nodes() {
		if err := c.ask(ctx, n); err != nil {
			all = append(all, fmt.Errorf("%s: %w", n.Address, err))
			continue
		}
		if n.ID != "" {
			return n.ID, nil
		}
		return n.Address, nil
	}
	return "", errors.Join(all...)
}

// ask begins a session with the node and hears its first word. Without Hello nobody takes
// it for one.
func (c *contact) ask(ctx context.Context, n session.Node) error {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	stream, release, err := c.opener.Open(ctx, n)
	if err != nil {
		return err
	}
	defer release()
	defer cancel() // the stream ends before its connection
	m, err := stream.Recv()
	if err != nil {
		return err
	}
	switch m.GetMessage().(type) {
	case *agentplanev1.SessionResponse_Challenge, *agentplanev1.SessionResponse_Refused:
		return nil
	default:
		return fmt.Errorf("the node began with %T", m.GetMessage())
	}
}

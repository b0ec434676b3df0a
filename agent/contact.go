package agent

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/agentplane/agentplane/agent/session"
	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
)

// contactNext is how long a node has before the next one is asked beside it: one that is
// dead, or behind a firewall that swallows everything, says nothing for long.
const contactNext = time.Second

// contact proves that the cluster is still reached. The session that stands is no proof:
// behind a firewall that lets no new connection through it may live on. So each try is a
// connection of its own, with a handshake in which both prove who they are, and the node has
// to say something; that it takes no sessions now is an answer as well.
type contact struct {
	trust  *trust
	opener *opener // set before anything is tried
}

// try asks one node after the other, in any order, and gives the first that has answered.
// When it returns, nothing of it goes on.
func (c *contact) try(ctx context.Context) (node string, err error) {
	nodes := c.nodes()
	if c.opener == nil || len(nodes) == 0 {
		return "", errors.New("no node is known")
	}
	type answer struct {
		node session.Node
		err  error
	}
	answers := make(chan answer, len(nodes))
	ctx, cancel := context.WithCancel(ctx)
	asked, answered := 0, 0
	defer func() {
		cancel()
		for ; answered < asked; answered++ {
			<-answers
		}
	}()
	turn := time.NewTimer(0)
	defer turn.Stop()
	var all []error
	for answered < len(nodes) {
		select {
		case <-turn.C:
			if asked == len(nodes) {
				continue
			}
			n := nodes[asked]
			asked++
			go func() { answers <- answer{n, c.ask(ctx, n)} }()
			turn.Reset(contactNext)
		case a := <-answers:
			answered++
			if a.err == nil {
				return nameOf(a.node), nil
			}
			all = append(all, fmt.Errorf("%s: %w", a.node.Address, a.err))
			turn.Reset(0)
		case <-ctx.Done():
			return "", errors.Join(append(all, ctx.Err())...)
		}
	}
	return "", errors.Join(all...)
}

// nodes are those that may be asked, each once.
func (c *contact) nodes() []session.Node {
	var all []session.Node
	for _, n := range c.trust.Nodes() { // those with ids come first
		if n.Address != "" && !slices.ContainsFunc(all, func(have session.Node) bool { return have.Address == n.Address }) {
			all = append(all, n)
		}
	}
	rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	return all
}

func nameOf(n session.Node) string {
	if n.ID != "" {
		return n.ID
	}
	return n.Address
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

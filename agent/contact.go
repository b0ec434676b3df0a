package agent

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/agentplane/agentplane/agent/session"
)

// contactNext is how long a node has before the next one is asked beside it: one that is
// dead, or behind a firewall that swallows everything, says nothing for long.
const contactNext = time.Second

// resolveFor bounds how long it is looked where a node's name leads.
const resolveFor = 2 * time.Second

// contact proves that the cluster is still reached. The session that stands is no proof:
// behind a firewall that lets no new connection through it may live on. So each try is a
// connection of its own, with a handshake in which both prove who they are, and the node has
// to say that it has a leader: one that is cut off together with this host has none.
//
// A node on this host is reached whatever became of the network, so it is asked only where
// every node known is on this host.
type contact struct {
	trust  *trust
	opener *opener // set before anything is tried
	// local says that an address is of this host; nil is onThisHost.
	local func(ctx context.Context, address string) bool
}

// try asks one node after the other, in any order, and gives the first that has answered.
// When it returns, nothing of it goes on.
func (c *contact) try(ctx context.Context) (node string, err error) {
	nodes := c.nodes(ctx)
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

// nodes are those that may be asked, each once: those elsewhere, or all when none is.
func (c *contact) nodes(ctx context.Context) []session.Node {
	var all []session.Node
	for _, n := range c.trust.Nodes() { // those with ids come first
		if n.Address != "" && !slices.ContainsFunc(all, func(have session.Node) bool { return have.Address == n.Address }) {
			all = append(all, n)
		}
	}
	if away := c.elsewhere(ctx, all); len(away) > 0 {
		all = away
	}
	rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	return all
}

// elsewhere are those of the nodes that are not on this host.
func (c *contact) elsewhere(ctx context.Context, nodes []session.Node) (away []session.Node) {
	ctx, cancel := context.WithTimeout(ctx, resolveFor)
	defer cancel()
	local := c.local
	if local == nil {
		local = onThisHost
	}
	here := make([]bool, len(nodes))
	var all sync.WaitGroup
	for i, n := range nodes {
		all.Go(func() { here[i] = local(ctx, n.Address) })
	}
	all.Wait()
	for i, n := range nodes {
		if !here[i] {
			away = append(away, n)
		}
	}
	return away
}

// onThisHost says that an address may lead to this host. One whose name leads nowhere now
// does not.
func onThisHost(ctx context.Context, address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return false
	}
	own, _ := net.InterfaceAddrs() // loopback is known without
	return slices.ContainsFunc(ips, func(ip netip.Addr) bool {
		ip = ip.Unmap().WithZone("")
		return ip.IsLoopback() || ip.IsUnspecified() || slices.ContainsFunc(own, func(a net.Addr) bool {
			p, err := netip.ParsePrefix(a.String())
			return err == nil && p.Addr().Unmap() == ip
		})
	})
}

func nameOf(n session.Node) string {
	if n.ID != "" {
		return n.ID
	}
	return n.Address
}

// ask begins a session with the node and hears its first word, which is Challenge where
// there is a leader. Without Hello nobody takes it for a session.
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
	switch {
	case m.GetChallenge() != nil:
		return nil
	case m.GetRefused() != nil:
		return fmt.Errorf("the node refuses: %s: %s", m.GetRefused().GetReason(), m.GetRefused().GetDetail())
	default:
		return fmt.Errorf("the node began with %T", m.GetMessage())
	}
}

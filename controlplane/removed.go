package controlplane

import (
	"context"
	"errors"
	"fmt"
	"time"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
)

// ErrRemoved says that the cluster has removed this node. Its data directory is of no
// use any more.
var ErrRemoved = errors.New("this node was removed from the cluster")

const (
	removalEvery = 2 * time.Second
	// removalPatience is how long a node hears of no leader before it asks whether it
	// was removed.
	removalPatience = 3 * time.Second
)

// removal finds out that this node was removed. Either its own state still heard of
// it, or nobody talks to it any more: peers refuse the certificate of a removed node, so
// it asks them without one. It believes only whom it has verified by its own bundle.
//
// A removal takes a node out of raft and out of the state, and whoever did the first may have
// died before the second. Nobody sends such a node anything, and all answer it as one of
// theirs: it asks to be added again. Whoever wanted it gone sees it still there.
type removal struct {
	// trusted says whether this node's own bundle holds it.
	trusted func() bool
	// leaderSeen is when this node last heard of a leader.
	leaderSeen func() time.Time
	// peers are the other nodes of its bundle.
	peers func() []string
	// ask asks the node whether this one was removed.
	ask func(ctx context.Context, nodeID string) (bool, error)
	// rejoin asks the leader, if there is one, to have this node in raft's configuration.
	rejoin func(ctx context.Context)
	// moved has a value when the bundle may have changed.
	moved <-chan struct{}
}

// run returns when ctx ends, or with an error that wraps ErrRemoved.
func (r removal) run(ctx context.Context) error {
	began := time.Now()
	tick := time.NewTicker(removalEvery)
	defer tick.Stop()
	for {
		if !r.trusted() {
			return fmt.Errorf("%w: its own state says so", ErrRemoved)
		}
		seen := r.leaderSeen()
		if seen.Before(began) {
			seen = began
		}
		if time.Since(seen) >= removalPatience {
			for _, id := range r.peers() {
				asking, cancel := context.WithTimeout(ctx, removalEvery)
				removed, err := r.ask(asking, id)
				cancel()
				if err == nil && removed {
					return fmt.Errorf("%w: node %q says so", ErrRemoved, id)
				}
			}
			asking, cancel := context.WithTimeout(ctx, removalEvery)
			r.rejoin(asking)
			cancel()
		}
		select {
		case <-r.moved:
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// learnRemoval ends the member once it was removed, after it has sent its agents
// elsewhere.
func (m *member) learnRemoval(ctx context.Context) error {
	err := removal{
		trusted: func() bool {
			_, ok := m.trust.state().Bundle.Node(m.n.ID())
			return ok
		},
		leaderSeen: m.leaderSeen, peers: m.trust.Nodes, ask: m.askRemoved, rejoin: m.rejoin, moved: m.removalNews,
	}.run(ctx)
	if err == nil {
		return nil
	}
	m.logger.Error(err.Error()+"; it ends. To have it back, start it with an empty data directory and run \"agentctl cluster join ADDR --token T --data-dir DIR\" there",
		"node_id", m.n.ID(), "data_dir", m.n.o.Config.DataDir)
	m.stop() //nolint:contextcheck // its steps have bounds of their own
	return err
}

// rejoin asks to be added to raft's configuration. Where this node is in it, the leader only
// says so.
func (m *member) rejoin(ctx context.Context) {
	_, err := m.askToBeAdded(ctx)
	m.logger.Debug("no leader is heard; asked to be added to raft's configuration, if this node is not in it", "err", err)
}

// askRemoved asks a node that this one trusts, without showing its certificate.
func (m *member) askRemoved(ctx context.Context, nodeID string) (bool, error) {
	conn, err := m.pool.Outsider(nodeID)
	if err != nil {
		return false, err
	}
	defer func() { _ = conn.Close() }()
	r, err := agentplanev1.NewEnrollServiceClient(conn).NodeRemoved(ctx, &agentplanev1.NodeRemovedRequest{NodeId: m.n.ID(), PublicKey: m.leaf.Key()})
	if err != nil {
		return false, err
	}
	// An older life of the cluster does not speak for this one.
	return r.GetRemoved() && uint64(r.GetIncarnation().GetNumber()) >= m.trust.state().Bundle.Incarnation.Number, nil
}

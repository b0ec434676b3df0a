package controlplane

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/grpc/status"

	"github.com/agentplane/agentplane/controlplane/consensus"
	"github.com/agentplane/agentplane/controlplane/datadir"
	"github.com/agentplane/agentplane/controlplane/peer"
	"github.com/agentplane/agentplane/gossip"
	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/identity"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

// ErrPutBack says that the node's disk was put back to an earlier time.
var ErrPutBack = datadir.ErrPutBack

const (
	knownEvery = 300 * time.Millisecond
	// unknownPatience is how long a start may stay unknown before the log says so.
	unknownPatience = 15 * time.Second
	// maxAsked bounds the nodes that are asked in turn for the leader.
	maxAsked = 16
	// memoryEvery is how often what is remembered of peers goes to disk at most.
	memoryEvery = time.Second
)

// becomeKnown makes raft know this node, then tells the cluster of this start and of
// the addresses in use. It returns when both are done; a node that a crash stopped
// anywhere on the way goes on here.
func (m *member) becomeKnown(ctx context.Context) error {
	tick := time.NewTicker(knownEvery)
	defer tick.Stop()
	log := consensus.Quiet(m.logger) // a line at once, then now and then
	for begun := time.Now(); ; {
		done, err := m.tryBecomeKnown(ctx, log)
		if errors.Is(err, ErrPutBack) {
			err = errors.Join(err, m.n.dir.PutBack())
		}
		if done || err != nil {
			return err
		}
		if time.Since(begun) > unknownPatience {
			_, addresses := m.trust.known()
			delete(addresses, m.n.ID())
			log.Warn("the cluster has not heard of this start yet: no leader is reached; the other nodes are looked for at the addresses that they had: start those that moved at the old ones again", "nodes", addresses)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

func (m *member) tryBecomeKnown(ctx context.Context, log hclog.Logger) (done bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	// First the addresses: a leader that knows an old one only cannot reach this node,
	// and raft here learns of no leader.
	o, err := m.announce(ctx)
	switch d := agentplanev1.DetailOf(err); {
	case d.GetReason() == peer.ReasonPutBack:
		return false, fmt.Errorf("%w (%w)", ErrPutBack, err)
	case d.GetReason() == peer.ReasonUnreachable:
		log.Error("the cluster does not take this node's address and looks for it at the old one", "err", err, "hint", d.GetHint())
		return false, nil
	case err != nil:
		m.logger.Debug("start not yet announced", "err", err)
		return false, nil
	case o.GetReason() == "node_removed":
		return false, ErrRemoved
	case o.GetReason() == "start_counter":
		return false, fmt.Errorf("%w (%s)", ErrPutBack, o.GetDetail())
	case o.GetCode() == raftlogv1.Code_CODE_INVALID, o.GetCode() == raftlogv1.Code_CODE_CONFLICT, o.GetReason() == "feature_level":
		return false, errors.New(o.GetDetail())
	case o.GetCode() != raftlogv1.Code_CODE_OK: // the cluster is not founded yet, or not by this leader
		m.logger.Debug("start not yet announced", "reason", o.GetReason(), "detail", o.GetDetail())
		return false, nil
	}
	if m.inConfiguration() {
		if err := m.state.WaitPublished(ctx, o.GetIndex()); err != nil {
			m.logger.Debug("start announced, and not yet seen in the state", "err", err)
			return false, nil
		}
		m.clock.current.Store(true)
		m.logger.Info("this start is known to the cluster", "start", m.n.dir.Starts(), "index", o.GetIndex())
		return true, nil
	}
	_, err = m.askToBeAdded(ctx)
	if agentplanev1.DetailOf(err).GetReason() == "node_removed" {
		return false, ErrRemoved
	}
	if err != nil {
		m.logger.Debug("not yet added", "err", err)
	}
	return false, nil
}

// announce tells the leader, whichever node that is, of this start and of the
// addresses in use.
func (m *member) announce(ctx context.Context) (*raftlogv1.Outcome, error) {
	row := m.row()
	started := &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_NodeStarted{NodeStarted: &raftlogv1.NodeStarted{
		NodeId: row.GetId(), StartCounter: row.GetStartCounter(), StartId: m.n.dir.StartIDs()[0], Version: row.GetVersion(),
		FeatureLevel: row.GetFeatureLevel(), Address: row.GetAddress(), GossipAddress: row.GetGossipAddress(),
	}}}
	if _, _, here := m.office(); here {
		outcomes, err := m.host.Propose(ctx, started)
		if err != nil {
			return nil, err
		}
		return outcomes[0], nil
	}
	var outcome *raftlogv1.Outcome
	err := m.askLeader(ctx, func(ctx context.Context, c agentplanev1.PeerServiceClient) error {
		r, err := c.Propose(ctx, &agentplanev1.ProposeRequest{Mutations: []*raftlogv1.Mutation{started}})
		if err == nil && len(r.GetOutcomes()) != 1 {
			err = fmt.Errorf("one mutation was answered by %d outcomes", len(r.GetOutcomes()))
		}
		if err != nil {
			return err
		}
		outcome = r.GetOutcomes()[0]
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("announce this start: %w", err)
	}
	return outcome, nil
}

// askLeader asks the nodes that are trusted, one after another and whomever they
// name as the leader, until one answers. It does not need raft here to know a leader.
func (m *member) askLeader(ctx context.Context, ask func(context.Context, agentplanev1.PeerServiceClient) error) error {
	last := errors.New("no other node is known")
	nodes := m.trust.Nodes()
	if leader, _, _ := m.office(); leader != "" && leader != m.n.ID() {
		nodes = append([]string{leader}, nodes...)
	}
	for i := 0; i < len(nodes) && i < maxAsked; i++ {
		c, err := m.pool.Client(nodes[i])
		if err != nil {
			last = err
			continue
		}
		if err = ask(ctx, c); err == nil {
			return nil
		}
		err = plain{err}
		d := agentplanev1.DetailOf(err)
		if d.GetReason() == "node_removed" || d.GetReason() == peer.ReasonPutBack {
			return err // nobody will say anything else
		}
		last = err
		if leader := d.GetLeaderId(); leader != "" && leader != m.n.ID() {
			nodes = append(nodes, leader)
		}
	}
	return last
}

// plain is what another node said without the words that gRPC puts before it.
type plain struct{ error }

func (p plain) Error() string { return status.Convert(p.error).Message() }
func (p plain) Unwrap() error { return p.error }

// inConfiguration says whether raft's configuration, as this node has it, knows this
// node.
func (m *member) inConfiguration() bool {
	cfg, _ := m.host.Configuration()
	for _, s := range cfg.Servers {
		if string(s.ID) == m.n.ID() {
			return true
		}
	}
	return false
}

// askToBeAdded asks the leader, whoever that is, to add this node, and answers how
// far it has come.
func (m *member) askToBeAdded(ctx context.Context) (*agentplanev1.AddServerResponse, error) {
	if _, _, here := m.office(); here {
		return m.addServer(ctx, m.n.ID())
	}
	var answer *agentplanev1.AddServerResponse
	err := m.askLeader(ctx, func(ctx context.Context, c agentplanev1.PeerServiceClient) (err error) {
		answer, err = c.AddServer(ctx, &agentplanev1.AddServerRequest{})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("ask to be added: %w", err)
	}
	return answer, nil
}

// askAboutStrangers fetches newer trust from peers when somebody showed a key that
// is not known here: it may have been registered while this node was away.
func (m *member) askAboutStrangers(ctx context.Context) error {
	for {
		select {
		case <-m.strangers:
		case <-ctx.Done():
			return nil
		}
		m.fetchTrust(ctx)
		select { // a stranger that stays one costs no more than a question a second
		case <-time.After(time.Second):
		case <-ctx.Done():
			return nil
		}
	}
}

func (m *member) fetchTrust(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	for _, id := range m.trust.Nodes() {
		c, err := m.pool.Client(id)
		if err != nil {
			continue
		}
		boot := m.trust.state()
		r, err := c.BootState(ctx, &agentplanev1.BootStateRequest{Incarnation: incarnationOf(boot.Bundle.Incarnation), Index: boot.Index})
		if err != nil || len(r.GetBootState()) == 0 {
			continue
		}
		if err := m.trust.adopt(r.GetBootState()); err != nil {
			m.logger.Warn("trust of a peer not taken", "node_id", id, "err", err)
		}
	}
}

// followTrust brings gossip in line with what is trusted.
func (m *member) followTrust(ctx context.Context) error {
	used := m.keys // what is trusted may be newer by now
	for {
		select {
		case <-m.trustChanged:
		case <-ctx.Done():
			return nil
		}
		m.n.port.Judge() // not on the goroutine that applies: it looks at every connection
		boot := m.trust.state()
		if err := useKeyring(m.gossip, used, boot.GossipKeyring); err != nil {
			m.logger.Warn("gossip keyring not changed", "err", err)
		} else {
			used = boot.GossipKeyring
			m.ring.Store(boot.Index)
			m.promoter.Kick()
		}
		if err := m.gossip.SetMeta(m.meta()); err != nil {
			m.logger.Warn("gossip metadata not changed", "err", err)
		}
		m.meetPeers(ctx)
		m.promoter.Kick()
	}
}

// keepMemory writes what is remembered of peers to disk until ctx ends.
func (m *member) keepMemory(ctx context.Context) error {
	tick := time.NewTicker(memoryEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			if err := m.trust.keepMemory(); err != nil {
				return err
			}
		case <-ctx.Done():
			return nil
		}
	}
}

// meetPeers joins the gossip of nodes that have become known just now; those that do
// not answer are tried again by the pool itself.
func (m *member) meetPeers(ctx context.Context) {
	met := make(map[string]bool)
	for _, p := range m.gossip.Members() {
		met[p.Addr] = !p.State.Gone()
	}
	missing := slices.DeleteFunc(m.gossipPeers(), func(addr string) bool { return met[addr] })
	if len(missing) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	if _, err := m.gossip.Join(ctx, missing); err != nil {
		m.logger.Debug("new peers do not gossip yet", "addresses", missing, "err", err)
	}
}

// useKeyring brings the ring of a pool from one to another, in which several steps of a rotation
// may lie.
func useKeyring(pool *gossip.Pool, was, is []identity.Secret) error {
	for _, k := range is {
		if err := pool.InstallKey(k.Reveal()); err != nil {
			return err
		}
	}
	if err := pool.UseKey(is[0].Reveal()); err != nil {
		return err
	}
	for _, old := range was {
		kept := false
		for _, k := range is {
			kept = kept || bytes.Equal(k.Reveal(), old.Reveal())
		}
		if !kept {
			if err := pool.RemoveKey(old.Reveal()); err != nil {
				return err
			}
		}
	}
	return nil
}

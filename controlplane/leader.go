package controlplane

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/agentplane/agentplane/controlplane/consensus"
	"github.com/agentplane/agentplane/controlplane/health"
	"github.com/agentplane/agentplane/controlplane/membership"
	"github.com/agentplane/agentplane/controlplane/rollout"
	"github.com/agentplane/agentplane/controlplane/schedule"
	"github.com/agentplane/agentplane/gossip"
	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

// runOffice is what a node does while it leads. It returns when the term ends, or
// with the first error of a loop: then the node hands over rather than lead halfway.
func (m *member) runOffice(ctx context.Context, o consensus.Office) error {
	m.logger.Info("this node leads", "term", o.Term, "leader_epoch", o.Epoch, "index", o.Index)
	if err := m.found(ctx); err != nil {
		return err
	}
	monitor, err := m.newMonitor()
	if err != nil {
		return err
	}
	engine, err := m.newEngine()
	if err != nil {
		return err
	}
	schedules, err := m.newSchedules()
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	for name, run := range map[string]func(context.Context) error{
		"membership": m.promoter.Run,
		"health":     monitor.Run,
		"rollout":    engine.Run,
		"schedule":   schedules.Run,
		"depot":      func(ctx context.Context) error { return m.depot.RunOffice(ctx, m.host) },
	} {
		g.Go(func() error {
			if err := run(ctx); err != nil && ctx.Err() == nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			return nil
		})
	}
	return g.Wait()
}

// newMonitor judges sessions and agents for one term.
func (m *member) newMonitor() (*health.Monitor, error) {
	c := m.n.o.Config
	return health.New(health.Options{
		Machine: m.state, Proposer: m.host, Nodes: m.nodeLives, Sessions: m.sessionsOf, NodeDeathGrace: c.Agent.NodeDeathGrace,
		BrakeCount: c.Agent.BrakeCount, BrakePercent: c.Agent.BrakePercent, Logger: m.logger.Named("health"),
	})
}

// newEngine brings commands to their end for one term.
func (m *member) newEngine() (*rollout.Engine, error) {
	c := m.n.o.Config
	return rollout.New(rollout.Options{
		Machine: m.state, Proposer: m.host, MaxMutations: c.Batch.MaxMutations, LostAfter: c.Commands.LostAfter, Retain: c.Commands.Retain,
		RetainCount: c.Commands.RetainCount, RetainTokens: c.Tokens.Retain, RetainTokenCount: c.Tokens.RetainCount, Logger: m.logger.Named("rollout"),
	})
}

// newSchedules fires schedules for one term.
func (m *member) newSchedules() (*schedule.Engine, error) {
	c := m.n.o.Config
	return schedule.New(schedule.Options{
		Machine: m.state, Proposer: m.host, Planner: m.services.Schedules, Now: m.clock.now, MaxMutations: c.Batch.MaxMutations,
		MissedAfter: c.Schedules.MissedAfter, Retain: c.Schedules.Retain, RetainCount: c.Schedules.RetainCount, Logger: m.logger.Named("schedule"),
	})
}

// nodeLives is what gossip says of the nodes.
func (m *member) nodeLives() []health.NodeLife {
	var lives []health.NodeLife
	for _, p := range m.gossip.Members() {
		state := map[gossip.State]health.State{
			gossip.StateAlive: health.StateAlive, gossip.StateSuspect: health.StateSuspect, gossip.StateDead: health.StateDead, gossip.StateLeft: health.StateLeft,
		}[p.State]
		lives = append(lives, health.NodeLife{ID: p.ID, State: state, Since: p.Since})
	}
	return lives
}

// sessionsOf asks a node which agent sessions it holds.
func (m *member) sessionsOf(ctx context.Context, nodeID string) (uint64, []health.HeldSession, error) {
	starts, held := m.n.dir.Starts(), m.dispatch.Held()
	if nodeID != m.n.ID() {
		c, err := m.pool.Client(nodeID)
		if err != nil {
			return 0, nil, err
		}
		r, err := c.Sessions(ctx, &agentplanev1.SessionsRequest{})
		if err != nil {
			return 0, nil, err
		}
		starts, held = r.GetStartCounter(), r.GetSessions()
	}
	sessions := make([]health.HeldSession, len(held))
	for i, s := range held {
		sessions[i] = health.HeldSession{AgentID: s.GetAgentId(), Epoch: s.GetSessionEpoch()}
	}
	return starts, sessions, nil
}

// found founds the cluster when the state has none: this node is its founder.
func (m *member) found(ctx context.Context) error {
	if m.state.View().Cluster().GetClusterId() != "" {
		return nil
	}
	init, err := initMutation(m.trust.state(), m.row())
	if err != nil {
		return err
	}
	outcomes, err := m.host.Propose(ctx, init)
	if err != nil {
		return fmt.Errorf("found the cluster: %w", err)
	}
	if o := outcomes[0]; o.GetCode() != raftlogv1.Code_CODE_OK {
		return fmt.Errorf("found the cluster: %s", o.GetDetail())
	}
	m.logger.Info("founded the cluster", "cluster_id", m.trust.state().Bundle.ClusterID)
	return nil
}

// row is this node as it registers itself.
func (m *member) row() *raftlogv1.Node {
	return &raftlogv1.Node{
		Id: m.n.ID(), Name: m.n.name, Address: m.n.advertise, GossipAddress: m.gossip.AdvertiseAddr(),
		PublicKey: m.leaf.Key(), CaCertificate: m.ca.Entry().CertDER, Candidate: true,
		FeatureLevel: m.n.level(), Version: m.n.o.Version, StartCounter: m.n.dir.Starts(),
	}
}

// servers is what the promoter decides on.
func (m *member) servers(ctx context.Context) ([]membership.Server, uint64, uint64, error) {
	cfg, index := m.host.Configuration()
	commit, view := m.host.Stats().CommitIndex, m.state.View()
	servers := make([]membership.Server, len(cfg.Servers))
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	var g errgroup.Group
	for i, s := range cfg.Servers {
		n, _ := view.Node(string(s.ID))
		servers[i] = membership.Server{
			ID: string(s.ID), Voter: s.Suffrage == consensus.Voter, Candidate: n.GetCandidate(), Registered: n.GetRegisteredIndex(),
			Removed: n.GetState() >= raftlogv1.NodeState_NODE_STATE_REMOVED, Level: n.GetFeatureLevel(),
		}
		if servers[i].ID == m.n.ID() {
			servers[i].Answers, servers[i].Applied, servers[i].Boot, servers[i].Ring = true, view.Index(), m.trust.state().Index, m.ring.Load()
			continue
		}
		g.Go(func() error {
			c, err := m.pool.Client(servers[i].ID)
			if err != nil {
				return nil // it does not answer, which is what the promoter wants to know
			}
			if r, err := c.ReadTerm(ctx, &agentplanev1.ReadTermRequest{}); err == nil {
				m.trust.memory.saw(servers[i].ID, r)
				servers[i].Answers, servers[i].Applied, servers[i].Boot, servers[i].Ring = true, r.GetAppliedIndex(), r.GetBootIndex(), r.GetRingIndex()
			}
			return nil
		})
	}
	return servers, index, commit, g.Wait()
}

// addServer makes a registered node a non-voter, on the leader, and says how far it
// has come.
func (m *member) addServer(ctx context.Context, nodeID string) (*agentplanev1.AddServerResponse, error) {
	leader, address, here := m.office()
	if !here {
		return nil, agentplanev1.Refusal(codes.Unavailable,
			&agentplanev1.ErrorDetail{Reason: "not_leader", LeaderId: leader, LeaderAddress: address}, "this node does not lead")
	}
	node, ok := m.state.View().Node(nodeID)
	switch {
	case !ok:
		return nil, status.Errorf(codes.NotFound, "node %q is not registered", nodeID)
	case node.GetState() >= raftlogv1.NodeState_NODE_STATE_REMOVED:
		return nil, agentplanev1.Refusal(codes.PermissionDenied, &agentplanev1.ErrorDetail{Reason: "node_removed"}, "node %q was removed from the cluster", nodeID)
	}
	cfg, index := m.host.Configuration()
	for _, s := range cfg.Servers {
		if string(s.ID) != nodeID {
			continue
		}
		m.promoter.Kick()
		w := m.promoter.WaitsFor(nodeID)
		voter := s.Suffrage == consensus.Voter
		return &agentplanev1.AddServerResponse{
			Voter: voter, CaughtUp: voter || w.Settled, WaitsFor: w.Why, Settled: voter || w.Settled || !node.GetCandidate(),
		}, nil
	}
	if err := m.host.AddNonvoter(ctx, consensus.ServerID(nodeID), consensus.ServerAddress(node.GetAddress()), index); err != nil {
		return nil, err
	}
	m.logger.Info("node added as a non-voter", "node_id", nodeID, "address", node.GetAddress())
	m.promoter.Kick()
	return &agentplanev1.AddServerResponse{WaitsFor: "it is catching up"}, nil
}

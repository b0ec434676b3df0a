package controlplane

import (
	"context"
	"fmt"
	"time"

	"github.com/agentplane/agentplane/controlplane/authz"
	"github.com/agentplane/agentplane/controlplane/operator"
	"github.com/agentplane/agentplane/controlplane/peer"
	"github.com/agentplane/agentplane/controlplane/pki"
	"github.com/agentplane/agentplane/gossip"
	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/identity"

	"github.com/agentplane/agentplane/controlplane/consensus"
)

// register builds the services and puts them on the server.
func (m *member) register() error {
	var err error
	m.services, err = operator.New(operator.Options{
		NodeID: m.n.ID(), Version: m.n.o.Version, Machine: m.state, Proposer: m.host, Read: m.read,
		Raft: operatorRaft{m}, Issuer: issuer{m.ca},
		Caller: func(ctx context.Context) (name, kind string, key []byte, from string) {
			c := authz.From(ctx)
			return c.Name, c.Kind, c.Key, c.From
		},
		Allowed: func(ctx context.Context, permission string) (role string, ok bool) {
			c := authz.From(ctx)
			return c.Role, c.Kind != "operator" || authz.Allowed(c.Role, permission)
		},
		Peers: m.peerStates, Unreached: m.pool.Unreached, Silent: m.pool.Silent, Trusted: m.trust.known,
		WaitsFor: func(id string) operator.Wait {
			w := m.promoter.WaitsFor(id)
			return operator.Wait{Why: w.Why, Node: w.Node}
		},
		Reach: func(ctx context.Context, address string, key []byte) error {
			return peer.Reach(ctx, m.n.o.Surroundings.Dial, address, key)
		},
		ClockDistance: func() time.Duration { return m.host.Stats().ClockDistance },
		Process:       process,
		Now:           m.clock.now, QueueMax: uint32(m.n.o.Config.Agent.QueueMax),
		RatePerOperator: m.n.o.Config.Commands.RatePerOperator, RateBurst: m.n.o.Config.Commands.RateBurst,
		BatchMutations: m.n.o.Config.Batch.MaxMutations, BatchBytes: int(m.n.o.Config.Batch.MaxBytes), Logger: m.logger.Named("operator"),
	})
	if err != nil {
		return err
	}
	m.calls.serve(m.server, &agentplanev1.ClusterService_ServiceDesc, m.services.Cluster)
	m.calls.serve(m.server, &agentplanev1.CommandService_ServiceDesc, commandAPI{m.services.Commands, m.output})
	m.calls.serve(m.server, &agentplanev1.BlobService_ServiceDesc, m.depot)
	m.calls.serve(m.server, &agentplanev1.FleetService_ServiceDesc, m.services.Fleet)
	m.calls.serve(m.server, &agentplanev1.TokenService_ServiceDesc, m.services.Tokens)
	m.calls.serve(m.server, &agentplanev1.OperatorService_ServiceDesc, m.services.Operators)
	m.calls.serve(m.server, &agentplanev1.EnrollService_ServiceDesc, m.services.Enroll)
	m.calls.serve(m.server, &agentplanev1.LockService_ServiceDesc, m.services.Locks)
	m.calls.serve(m.server, &agentplanev1.ScheduleService_ServiceDesc, m.services.Schedules)
	m.calls.serve(m.server, &agentplanev1.TemplateService_ServiceDesc, m.services.Templates)
	m.calls.serve(m.server, &agentplanev1.AgentService_ServiceDesc, agentAPI{m.dispatch, m.output, m.depot})
	m.calls.serve(m.server, &agentplanev1.PeerService_ServiceDesc, peerAPI{peer.NewService(peer.ServiceOptions{
		Consensus: m.host, StartCounter: m.n.dir.Starts(),
		BootIndex: func() uint64 { return m.trust.state().Index }, RingIndex: m.ring.Load,
		Boot:    func() ([]byte, error) { return m.trust.state().Share() },
		Forward: m.calls.forwarded, Held: m.dispatch.Held, AddServer: m.addServer, Reach: m.reach,
	}), m.output, m.depot})
	return nil
}

// reach says why a node is not reached at an address that is new to this one.
func (m *member) reach(ctx context.Context, nodeID, address string) error {
	if known, _ := m.trust.Address(nodeID); known == address {
		return nil
	}
	node, _ := m.trust.state().Bundle.Node(nodeID)
	return peer.Reach(ctx, m.n.o.Surroundings.Dial, address, node.Key)
}

// peerStates is how each node is of which this one has heard, by gossip or by the
// connection to it.
func (m *member) peerStates() map[string]string {
	return livesOf(m.gossip.Members(), m.pool.Linked())
}

// livesOf puts together what gossip says and since when connections are open, which is
// the newer word where a node has just come back.
func livesOf(members []gossip.Member, linked map[string]time.Time) map[string]string {
	states := make(map[string]string)
	for id := range linked {
		states[id] = gossip.StateAlive.String()
	}
	for _, p := range members {
		if since, ok := linked[p.ID]; !ok || !since.After(p.Since) {
			states[p.ID] = p.State.String()
		}
	}
	return states
}

// operatorRaft shows consensus to operators.
type operatorRaft struct{ m *member }

func (r operatorRaft) Configuration() operator.Configuration {
	cfg, index := r.m.host.Configuration()
	leader, _, _ := r.m.host.Leader()
	c := operator.Configuration{Index: index, Leader: string(leader)}
	for _, s := range cfg.Servers {
		if s.Suffrage == consensus.Voter {
			c.Voters = append(c.Voters, string(s.ID))
		} else {
			c.NonVoters = append(c.NonVoters, string(s.ID))
		}
	}
	return c
}

func (r operatorRaft) Term() uint64 { return r.m.host.Stats().Term }

func (r operatorRaft) Transfer(ctx context.Context, to string) error {
	return r.m.host.Transfer(ctx, consensus.ServerID(to))
}

func (r operatorRaft) RemoveServer(ctx context.Context, id string, previous uint64) error {
	return r.m.host.Remove(ctx, consensus.ServerID(id), previous)
}

// issuer signs with this node's CA.
type issuer struct{ ca *pki.CA }

func (i issuer) Issue(kind, name string, publicKey []byte) ([]byte, error) {
	der, err := i.ca.Issue(pki.Request{
		ID: identity.ID{Cluster: i.ca.Node().Cluster, Kind: identity.Kind(kind), Name: name}, Key: publicKey,
	})
	if err != nil {
		return nil, fmt.Errorf("issue certificate of %s %q: %w", kind, name, err)
	}
	return der, nil
}

func (i issuer) CACertificate() []byte { return i.ca.Entry().CertDER }

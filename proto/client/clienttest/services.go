package clienttest

import (
	"context"
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/identity"
)

// service is what each service of a node has.
type service struct {
	node  *Node
	state *State
}

// Refusal returns a refusal as nodes word it.
func Refusal(code codes.Code, reason, message, hint string) error {
	return Detailed(code, message, &agentplanev1.ErrorDetail{Reason: reason, Hint: hint})
}

// Detailed returns a refusal with the given detail.
func Detailed(code codes.Code, message string, d *agentplanev1.ErrorDetail) error {
	st, err := status.New(code, message).WithDetails(d)
	if err != nil {
		return err
	}
	return st.Err()
}

func caller(ctx context.Context, v *identity.Verifier) (identity.Peer, error) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return identity.Peer{}, fmt.Errorf("no peer")
	}
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok {
		return identity.Peer{}, fmt.Errorf("no TLS")
	}
	return v.Peer(info.State)
}

// authorize does what a node's interceptor does, for operators alone.
func (n *Node) authorize(ctx context.Context, method string) error {
	name := protoreflect.FullName(strings.ReplaceAll(strings.TrimPrefix(method, "/"), "/", "."))
	d, err := protoregistry.GlobalFiles.FindDescriptorByName(name)
	if err != nil {
		return status.Error(codes.Unimplemented, err.Error())
	}
	permission, _ := proto.GetExtension(d.Options(), agentplanev1.E_Permission).(string)
	if permission == "public" {
		return nil
	}
	who, err := caller(ctx, n.verifier)
	if err != nil || who.Anonymous() {
		return Refusal(codes.Unauthenticated, "no_certificate", "no certificate was shown", "agentctl login TOKEN@ADDR")
	}
	n.cluster.State.mu.Lock()
	defer n.cluster.State.mu.Unlock()
	if !n.cluster.State.keys[who.ID.Name].Equal(who.Key) {
		return Refusal(codes.PermissionDenied, "not_registered", fmt.Sprintf("operator %q is not registered with this key", who.ID.Name), "")
	}
	if permission == "renew" {
		return nil
	}
	if who.RenewOnly() {
		return Refusal(codes.Unauthenticated, "expired", "the certificate has expired", "renew it")
	}
	for _, o := range n.cluster.State.operators {
		if o.Name == who.ID.Name && (o.Role == "admin" || strings.HasSuffix(permission, ".read") || o.Role == "runner" && permission == "templates.run") {
			return nil
		}
	}
	return Refusal(codes.PermissionDenied, "denied", fmt.Sprintf("operator %q may not %s", who.ID.Name, permission), "ask an admin for a role that may")
}

type clusterService struct {
	agentplanev1.UnimplementedClusterServiceServer
	service
}

func (c clusterService) Info(ctx context.Context, _ *agentplanev1.InfoRequest) (*agentplanev1.InfoResponse, error) {
	who, err := caller(ctx, c.node.verifier)
	if err != nil {
		return nil, err
	}
	c.state.mu.Lock()
	defer c.state.mu.Unlock()
	role := ""
	for _, o := range c.state.operators {
		if o.Name == who.ID.Name {
			role = o.Role
		}
	}
	return &agentplanev1.InfoResponse{
		ClusterId: c.state.bundle.ClusterId, Incarnation: c.state.bundle.Incarnation, Now: time.Now().UnixNano(),
		AppliedIndex: c.state.index, FeatureLevel: 1, Bundle: c.state.bundle, LeaderId: c.state.members[0].Id,
		Caller: who.ID.Name, Role: role, Version: "test",
	}, nil
}

func (c clusterService) Status(_ context.Context, req *agentplanev1.StatusRequest) (*agentplanev1.StatusResponse, error) {
	c.state.mu.Lock()
	defer c.state.mu.Unlock()
	if c.state.leaderless && !req.GetStale() {
		return nil, Refusal(codes.Unavailable, "no_leader", "the cluster has no leader", "")
	}
	agents := map[string]uint32{}
	for _, a := range c.state.agents {
		agents[a.Health]++
	}
	voters := uint32(len(c.state.members))
	return &agentplanev1.StatusResponse{
		ClusterId: c.state.bundle.ClusterId, Incarnation: c.state.bundle.Incarnation, LeaderId: c.state.members[0].Id,
		LeaderEpoch: 1 << 52, Term: 2, AppliedIndex: c.state.index, Now: time.Now().UnixNano(), Members: c.state.members,
		Voters: voters, Tolerates: (voters - 1) / 2, Problems: c.state.problems, FeatureLevel: 1,
		AnsweredBy: c.node.ID, Agents: agents, Process: process,
	}, nil
}

// process is what each node says of its own.
var process = &agentplanev1.Process{ResidentBytes: 64 << 20, OpenFiles: 31, Goroutines: 120}

// CheckState answers the same hash on each node, unless it has drifted.
func (c clusterService) CheckState(context.Context, *agentplanev1.CheckStateRequest) (*agentplanev1.CheckStateResponse, error) {
	c.state.mu.Lock()
	defer c.state.mu.Unlock()
	hash := sha256.Sum256(fmt.Append(nil, c.state.drifted[c.node.ID]))
	return &agentplanev1.CheckStateResponse{NodeId: c.node.ID, AppliedIndex: c.state.index, Hash: hash[:], Process: process}, nil
}

func (c clusterService) ListMembers(context.Context, *agentplanev1.ListMembersRequest) (*agentplanev1.ListMembersResponse, error) {
	c.state.mu.Lock()
	defer c.state.mu.Unlock()
	return &agentplanev1.ListMembersResponse{Members: c.state.members}, nil
}

func (c clusterService) RemoveMember(_ context.Context, req *agentplanev1.RemoveMemberRequest) (*agentplanev1.RemoveMemberResponse, error) {
	c.state.mu.Lock()
	defer c.state.mu.Unlock()
	i := slices.IndexFunc(c.state.members, func(m *agentplanev1.Member) bool { return m.Id == req.Member || m.Name == req.Member })
	if i < 0 {
		return nil, Refusal(codes.NotFound, "no_member", fmt.Sprintf("there is no node %q", req.Member), "see agentctl cluster members")
	}
	c.state.members = slices.Delete(slices.Clone(c.state.members), i, i+1)
	c.state.changedLocked()
	return &agentplanev1.RemoveMemberResponse{}, nil
}

func (c clusterService) TransferLeadership(_ context.Context, req *agentplanev1.TransferLeadershipRequest) (*agentplanev1.TransferLeadershipResponse, error) {
	c.state.mu.Lock()
	defer c.state.mu.Unlock()
	for i, m := range c.state.members {
		if m.Id == req.To || m.Name == req.To || req.To == "" && i == 1 {
			for j := range c.state.members {
				c.state.members[j] = clone(c.state.members[j])
				c.state.members[j].Leader = i == j
			}
			c.state.changedLocked()
			return &agentplanev1.TransferLeadershipResponse{LeaderId: m.Id}, nil
		}
	}
	return nil, Refusal(codes.NotFound, "no_member", fmt.Sprintf("there is no node %q", req.To), "")
}

// ListKeys answers the keys; a rotation takes one step each time.
func (c clusterService) ListKeys(context.Context, *agentplanev1.ListKeysRequest) (*agentplanev1.ListKeysResponse, error) {
	c.state.mu.Lock()
	defer c.state.mu.Unlock()
	ring := c.state.ring
	switch {
	case len(ring) < 2:
	case ring[1].State == agentplanev1.GossipKeyState_GOSSIP_KEY_STATE_NEXT:
		now, old := clone(ring[1]), clone(ring[0])
		now.State, old.State = agentplanev1.GossipKeyState_GOSSIP_KEY_STATE_IN_USE, agentplanev1.GossipKeyState_GOSSIP_KEY_STATE_LEAVING
		c.state.ring = []*agentplanev1.GossipKey{now, old}
	default:
		c.state.ring = ring[:1]
	}
	return &agentplanev1.ListKeysResponse{Keys: ring}, nil
}

func (c clusterService) RotateKey(_ context.Context, req *agentplanev1.RotateKeyRequest) (*agentplanev1.RotateKeyResponse, error) {
	c.state.mu.Lock()
	defer c.state.mu.Unlock()
	last := c.state.ring[len(c.state.ring)-1]
	if len(c.state.ring) == 1 && req.From == last.Id {
		last = &agentplanev1.GossipKey{Id: fmt.Sprintf("fedcba98765432%02d", last.MadeAt+1), State: agentplanev1.GossipKeyState_GOSSIP_KEY_STATE_NEXT, MadeAt: last.MadeAt + 1}
		c.state.ring = append(slices.Clone(c.state.ring), last)
	}
	return &agentplanev1.RotateKeyResponse{Id: last.Id, Done: len(c.state.ring) == 1}, nil
}

type fleetService struct {
	agentplanev1.UnimplementedFleetServiceServer
	service
}

func noAgent(name string) error {
	return Refusal(codes.NotFound, "no_agent", fmt.Sprintf("there is no agent %q", name), "see agentctl agents list")
}

func (f fleetService) ListAgents(_ context.Context, req *agentplanev1.ListAgentsRequest) (*agentplanev1.ListAgentsResponse, error) {
	f.state.mu.Lock()
	defer f.state.mu.Unlock()
	matched, err := f.state.matchLocked(req.Selector)
	return &agentplanev1.ListAgentsResponse{Agents: matched}, err
}

func (f fleetService) GetAgent(_ context.Context, req *agentplanev1.GetAgentRequest) (*agentplanev1.GetAgentResponse, error) {
	f.state.mu.Lock()
	defer f.state.mu.Unlock()
	if a := f.state.agentLocked(req.Agent); a != nil {
		return &agentplanev1.GetAgentResponse{Agent: a}, nil
	}
	return nil, noAgent(req.Agent)
}

func (f fleetService) WatchAgents(req *agentplanev1.WatchAgentsRequest, stream grpc.ServerStreamingServer[agentplanev1.WatchAgentsResponse]) error {
	for first := true; ; first = false {
		f.state.mu.Lock()
		matched, err := f.state.matchLocked(req.Selector)
		r := &agentplanev1.WatchAgentsResponse{Agents: matched, Index: f.state.index, Snapshot: first}
		changed := f.state.changed
		f.state.mu.Unlock()
		if err != nil {
			return err
		}
		if err := stream.Send(r); err != nil {
			return err
		}
		select {
		case <-changed:
		case <-stream.Context().Done():
			return stream.Context().Err()
		}
	}
}

// edit replaces an agent, so that answers on their way keep the old one.
func (f fleetService) edit(name string, change func(*agentplanev1.Agent) error) (*agentplanev1.Agent, error) {
	f.state.mu.Lock()
	defer f.state.mu.Unlock()
	a := f.state.agentLocked(name)
	if a == nil {
		return nil, noAgent(name)
	}
	next := clone(a)
	if err := change(next); err != nil {
		return nil, err
	}
	f.state.agents = slices.Clone(f.state.agents)
	f.state.agents[slices.Index(f.state.agents, a)] = next
	f.state.changedLocked()
	return next, nil
}

func (f fleetService) SetLabels(_ context.Context, req *agentplanev1.SetLabelsRequest) (*agentplanev1.SetLabelsResponse, error) {
	a, err := f.edit(req.Agent, func(a *agentplanev1.Agent) error {
		if req.ExpectedVersion != 0 && req.ExpectedVersion != a.LabelsVersion {
			return Refusal(codes.Aborted, "version", fmt.Sprintf("labels of %q have version %d, not %d", a.Name, a.LabelsVersion, req.ExpectedVersion), "")
		}
		if a.Labels == nil {
			a.Labels = map[string]string{}
		}
		for k, v := range req.Set {
			a.Labels[k] = v
		}
		for _, k := range req.Remove {
			delete(a.Labels, k)
		}
		a.LabelsVersion++
		return nil
	})
	return &agentplanev1.SetLabelsResponse{Agent: a}, err
}

func (f fleetService) RemoveAgent(_ context.Context, req *agentplanev1.RemoveAgentRequest) (*agentplanev1.RemoveAgentResponse, error) {
	f.state.mu.Lock()
	defer f.state.mu.Unlock()
	a := f.state.agentLocked(req.Agent)
	if a == nil {
		return nil, noAgent(req.Agent)
	}
	f.state.agents = slices.DeleteFunc(slices.Clone(f.state.agents), func(o *agentplanev1.Agent) bool { return o == a })
	f.state.changedLocked()
	return &agentplanev1.RemoveAgentResponse{}, nil
}

func (f fleetService) ReadmitAgent(_ context.Context, req *agentplanev1.ReadmitAgentRequest) (*agentplanev1.ReadmitAgentResponse, error) {
	a, err := f.edit(req.Agent, func(a *agentplanev1.Agent) error {
		a.Health, a.HealthReason = "ONLINE", ""
		return nil
	})
	return &agentplanev1.ReadmitAgentResponse{Agent: a}, err
}

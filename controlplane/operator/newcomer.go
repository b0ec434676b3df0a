package operator

import (
	"cmp"
	"context"
	"fmt"

	"google.golang.org/grpc/codes"

	"github.com/agentplane/agentplane/fsm"
	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/client"
	"github.com/agentplane/agentplane/proto/identity"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

// newcomer is who asks to be let in, once it has shown that the token is its own.
type newcomer struct {
	id    identity.ID
	key   identity.PublicKey
	token *raftlogv1.Token
	from  string
}

// named refuses a certificate request that names somebody else than is asked for.
func (e *Enrolment) named(n newcomer, kind identity.Kind, name string) error {
	if n.id.Kind != kind || n.id.Name != name {
		return e.refuse(codes.InvalidArgument, "other_name", "the certificate request is for %s %q, the call for %s %.128q", n.id.Kind, n.id.Name, kind, name)
	}
	return nil
}

func (e *Enrolment) enrollAgent(ctx context.Context, n newcomer, as *agentplanev1.EnrollAgent) (*agentplanev1.EnrollResponse, error) {
	if err := e.named(n, identity.KindAgent, as.GetAgentId()); err != nil {
		return nil, err
	}
	m := &raftlogv1.EnrollAgent{
		AgentId: n.id.Name, Name: as.GetName(), PublicKey: n.key, TokenId: n.token.GetId(), From: n.from, Version: as.GetVersion(),
	}
	if m.Name == "" {
		m.Name = m.AgentId
	}
	if !printable(m.Name) {
		return nil, e.refuse(codes.InvalidArgument, "name", "the agent's name %.100q has a character that cannot be printed", m.Name)
	}
	for _, l := range as.GetLabels() {
		m.Labels = append(m.Labels, &raftlogv1.Label{Name: l.GetName(), Value: l.GetValue()})
	}
	_, v, err := e.propose(ctx, &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_EnrollAgent{EnrollAgent: m}})
	if err != nil {
		return nil, err
	}
	a, _ := v.Agent(m.AgentId)
	if !n.key.Equal(a.GetPublicKey()) {
		return nil, e.takenAway(identity.KindAgent, m.AgentId)
	}
	answer, err := e.certified(v, identity.KindAgent, m.AgentId, n.key)
	if err != nil {
		return nil, err
	}
	// A command may name its agents by this name: the agent must know it as its own.
	answer.Name = a.GetName()
	answer.Notes = e.namesakes(v, a)
	return answer, nil
}

// namesakes says that others have the name of an agent: names need not be unique, and who is
// meant by one may be another than somebody thinks.
func (e *Enrolment) namesakes(v *fsm.View, a *raftlogv1.Agent) []string {
	n := -1
	for range v.AgentsByName(a.GetName()) {
		n++
	}
	if n < 1 {
		return nil
	}
	e.o.Logger.Warn("an agent has a name that others have", "agent_id", a.GetId(), "name", a.GetName(), "others", n)
	return []string{fmt.Sprintf("other agents have the name %q, %d of them: a selector on it means all, and where one is to be named its id is needed; --name gives another", a.GetName(), n)}
}

func (e *Enrolment) enrollOperator(ctx context.Context, n newcomer, as *agentplanev1.EnrollOperator) (*agentplanev1.EnrollResponse, error) {
	// When the token fixes the name the newcomer need not know it; then its request
	// is about the key alone.
	name := as.GetName()
	if name == "" {
		name = n.token.GetOperatorName()
	} else if err := e.named(n, identity.KindOperator, name); err != nil {
		return nil, err
	}
	if n.id.Kind != identity.KindOperator {
		return nil, e.named(n, identity.KindOperator, name)
	}
	if name == "" {
		return nil, e.refuseHint(codes.InvalidArgument, "no_name", "say it with --name", "token %q fixes no name for the operator, and none was given", n.token.GetId())
	}
	_, v, err := e.propose(ctx, &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_EnrollOperator{EnrollOperator: &raftlogv1.EnrollOperator{
		Name: name, PublicKey: n.key, TokenId: n.token.GetId(), From: n.from,
	}}})
	if err != nil {
		return nil, err
	}
	o, _ := v.Operator(name)
	if !n.key.Equal(o.GetPublicKey()) || o.GetRevokedAt() != 0 {
		return nil, e.takenAway(identity.KindOperator, name)
	}
	answer, err := e.certified(v, identity.KindOperator, name, n.key)
	if err != nil {
		return nil, err
	}
	answer.Role = o.GetRole()
	return answer, nil
}

// enrollNode makes a node known and trusted. It signs its own certificate.
func (e *Enrolment) enrollNode(ctx context.Context, v *fsm.View, n newcomer, as *agentplanev1.EnrollNode) (*agentplanev1.EnrollResponse, error) {
	if err := e.named(n, identity.KindNode, as.GetNodeId()); err != nil {
		return nil, err
	}
	row := &raftlogv1.Node{
		Id: n.id.Name, Name: as.GetName(), Address: as.GetAddress(), GossipAddress: as.GetGossipAddress(), PublicKey: n.key,
		CaCertificate: as.GetCaCertificate(), FeatureLevel: as.GetFeatureLevel(), Version: as.GetVersion(), StartCounter: as.GetStartCounter(),
	}
	if err := e.trustworthy(v, row); err != nil {
		return nil, err
	}
	// Before anything is written: a member that nobody reaches is a voter too few.
	if err := e.o.Reach(ctx, row.GetAddress(), n.key); err != nil {
		me, _ := v.Node(e.o.NodeID)
		return nil, e.refuseHint(codes.FailedPrecondition, "unreachable_address",
			"start the node again with an --advertise HOST:PORT at which the other nodes reach it, and see that no firewall is in between",
			"you advertise %s, and node %q cannot reach it: %v", row.GetAddress(), cmp.Or(me.GetName(), e.o.NodeID), err)
	}
	_, v, err := e.propose(ctx, &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_RegisterNode{
		RegisterNode: &raftlogv1.RegisterNode{Node: row, TokenId: n.token.GetId()},
	}})
	if err != nil {
		return nil, err
	}
	have, _ := v.Node(row.Id)
	if !registered(have) || !n.key.Equal(have.GetPublicKey()) {
		return nil, e.takenAway(identity.KindNode, row.Id)
	}
	answer := &agentplanev1.EnrollResponse{
		Bundle: BundleOf(v), Name: have.GetName(), Now: e.now(v), FeatureLevel: v.Cluster().GetFeatureLevel(), Candidate: have.GetCandidate(),
	}
	for _, k := range v.Cluster().GetKeyring() {
		answer.GossipKeyring = append(answer.GossipKeyring, k.GetKey())
	}
	return answer, nil
}

// trustworthy refuses a node with which the bundle would not be one any more: a
// bundle that nobody can read would lock everybody out.
func (e *Enrolment) trustworthy(v *fsm.View, row *raftlogv1.Node) error {
	if err := identity.ValidateName(row.GetName()); err != nil {
		return e.refuseHint(codes.InvalidArgument, "name", "choose one with --name", "the node's %v", err)
	}
	if err := identity.ValidateAddress(row.GetAddress()); err != nil {
		return e.refuseHint(codes.InvalidArgument, "address", "set it with --advertise", "%v", err)
	}
	if row.GetGossipAddress() != "" {
		if err := identity.ValidateAddress(row.GetGossipAddress()); err != nil {
			return e.refuseHint(codes.InvalidArgument, "address", "set it with --gossip-advertise", "gossip %v", err)
		}
	}
	if len(row.GetVersion()) > fsm.MaxValueBytes {
		return e.refuse(codes.InvalidArgument, "too_long", "the version may have %d bytes", fsm.MaxValueBytes)
	}
	b := BundleOf(v)
	b.Nodes = append(b.Nodes, bundleNode(row))
	for i, n := range b.Nodes[:len(b.Nodes)-1] {
		if n.Id == row.GetId() { // it asks again
			b.Nodes = append(b.Nodes[:i], b.Nodes[i+1:]...)
			break
		}
	}
	trusted, err := client.TrustBundle(b)
	if err == nil {
		_, err = trusted.Marshal()
	}
	if err != nil {
		return e.refuse(codes.InvalidArgument, "untrustworthy", "node %q cannot be trusted: %v", row.GetName(), err)
	}
	return nil
}

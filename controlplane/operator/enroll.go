package operator

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"strings"

	"google.golang.org/grpc/codes"

	"github.com/agentplane/agentplane/fsm"
	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/client"
	"github.com/agentplane/agentplane/proto/identity"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

// EnrollService lets newcomers in.
type EnrollService struct {
	agentplanev1.UnimplementedEnrollServiceServer
	*service
}

// ProveBundle answers the trust bundle with a proof by the token's derived key. Any
// node may: the bundle protects itself. A token that is spent, expired or revoked
// still proves, so that its holder learns why it is refused, from Enroll and after
// having shown the secret.
func (e *EnrollService) ProveBundle(ctx context.Context, req *agentplanev1.ProveBundleRequest) (*agentplanev1.ProveBundleResponse, error) {
	if n := len(req.GetNonce()); n != identity.NonceBytes {
		return nil, e.refuse(codes.InvalidArgument, "nonce", "the nonce has %d bytes, want %d", n, identity.NonceBytes)
	}
	v := e.o.Machine.View()
	token, found := v.Token(req.GetTokenId())
	if !found {
		// It may have been made a moment ago, through another node.
		var err error
		if v, err = e.read(ctx, false); err != nil {
			return nil, err
		}
		if token, found = v.Token(req.GetTokenId()); !found {
			return nil, e.badToken(req.GetTokenId())
		}
	}
	trusted, err := client.TrustBundle(BundleOf(v))
	if err != nil {
		return nil, e.internal("bundle", err)
	}
	bundle, err := trusted.Marshal()
	if err != nil {
		return nil, e.internal("bundle", err)
	}
	proof, err := record(token).Prove(identity.Statement{
		Bundle: bundle, ClusterID: trusted.ClusterID, Incarnation: trusted.Incarnation, Nonce: req.GetNonce(),
	})
	if err != nil {
		return nil, e.internal("prove", err)
	}
	return &agentplanev1.ProveBundleResponse{Bundle: bundle, Proof: proof}, nil
}

func record(t *raftlogv1.Token) identity.TokenRecord {
	return identity.TokenRecord{ID: t.GetId(), ProofKey: identity.NewSecret(t.GetProofKey()), AuthenticatorHash: t.GetAuthenticatorHash()}
}

// badToken is the one refusal of everybody who has not shown that the token is
// theirs, whatever the cluster knows of it. What is not of the form of an id is not
// quoted: it may be a whole token.
func (e *EnrollService) badToken(id string) error {
	which := "the token"
	if tokenID(id) {
		which = fmt.Sprintf("token %q", id)
	}
	return e.refuseHint(codes.PermissionDenied, "bad_token", `make one with "agentctl tokens create"; was this one copied whole, and is it of this cluster?`,
		"%s is none of this cluster, or its secret is wrong", which)
}

// internal is for what cannot be while the state is in order. The cause is for the
// log of the node.
func (e *EnrollService) internal(what string, err error) error {
	e.o.Logger.Error("enrolment failed", "step", what, "err", err)
	return e.refuseHint(codes.Internal, "internal", "see the log of this node", "this node could not do the step %q", what)
}

// newcomer is who asks to be let in, once it has shown that the token is its own.
type newcomer struct {
	id    identity.ID
	key   identity.PublicKey
	token *raftlogv1.Token
	from  string
}

// Enroll registers the newcomer's key against a token and answers what it needs.
// The same key may ask again and gets the same answer, but for the certificate,
// which is a fresh one over the same key.
func (e *EnrollService) Enroll(ctx context.Context, req *agentplanev1.EnrollRequest) (*agentplanev1.EnrollResponse, error) {
	v := e.o.Machine.View()
	token, found := v.Token(req.GetTokenId())
	rec := record(token)
	if !found {
		rec.AuthenticatorHash = make([]byte, sha256.Size) // to take as long
	}
	if right := rec.Check(identity.NewSecret(req.GetAuthenticator())); !right || !found {
		return nil, e.badToken(req.GetTokenId())
	}
	id, key, err := identity.ParseRequest(req.GetCsr())
	if err != nil {
		return nil, e.refuse(codes.InvalidArgument, "bad_csr", "%v", err)
	}
	if id.Cluster != v.Cluster().GetClusterId() {
		return nil, e.refuse(codes.InvalidArgument, "wrong_cluster", "the certificate request is for cluster %q, this is cluster %q", id.Cluster, v.Cluster().GetClusterId())
	}
	if want := kindOf(req); want != 0 && want != token.GetKind() {
		return nil, e.refuse(codes.FailedPrecondition, "token_kind", "token %q is for a newcomer of kind %s, not %s",
			token.GetId(), kindWord(token.GetKind()), kindWord(want))
	}
	_, _, _, from := e.o.Caller(ctx)
	n := newcomer{id: id, key: key, token: token, from: from}
	switch as := req.GetAs().(type) {
	case *agentplanev1.EnrollRequest_Agent:
		return e.enrollAgent(ctx, n, as.Agent)
	case *agentplanev1.EnrollRequest_Node:
		return e.enrollNode(ctx, v, n, as.Node)
	case *agentplanev1.EnrollRequest_Operator:
		return e.enrollOperator(ctx, n, as.Operator)
	default:
		return nil, e.refuse(codes.InvalidArgument, "no_kind", "the request says neither agent, node nor operator")
	}
}

func kindOf(req *agentplanev1.EnrollRequest) raftlogv1.TokenKind {
	switch req.GetAs().(type) {
	case *agentplanev1.EnrollRequest_Agent:
		return raftlogv1.TokenKind_TOKEN_KIND_AGENT
	case *agentplanev1.EnrollRequest_Node:
		return raftlogv1.TokenKind_TOKEN_KIND_NODE
	case *agentplanev1.EnrollRequest_Operator:
		return raftlogv1.TokenKind_TOKEN_KIND_OPERATOR
	default:
		return 0
	}
}

func kindWord(k raftlogv1.TokenKind) string {
	return strings.ToLower(strings.TrimPrefix(k.String(), "TOKEN_KIND_"))
}

// named refuses a certificate request that names somebody else than is asked for.
func (e *EnrollService) named(n newcomer, kind identity.Kind, name string) error {
	if n.id.Kind != kind || n.id.Name != name {
		return e.refuse(codes.InvalidArgument, "other_name", "the certificate request is for %s %q, the call for %s %.128q", n.id.Kind, n.id.Name, kind, name)
	}
	return nil
}

func (e *EnrollService) enrollAgent(ctx context.Context, n newcomer, as *agentplanev1.EnrollAgent) (*agentplanev1.EnrollResponse, error) {
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
	if a, _ := v.Agent(m.AgentId); !n.key.Equal(a.GetPublicKey()) {
		return nil, e.takenAway(identity.KindAgent, m.AgentId)
	}
	return e.certified(v, identity.KindAgent, m.AgentId, n.key)
}

func (e *EnrollService) enrollOperator(ctx context.Context, n newcomer, as *agentplanev1.EnrollOperator) (*agentplanev1.EnrollResponse, error) {
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
func (e *EnrollService) enrollNode(ctx context.Context, v *fsm.View, n newcomer, as *agentplanev1.EnrollNode) (*agentplanev1.EnrollResponse, error) {
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
func (e *EnrollService) trustworthy(v *fsm.View, row *raftlogv1.Node) error {
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

// takenAway says that what was just registered is not there any more.
func (e *EnrollService) takenAway(kind identity.Kind, name string) error {
	return e.refuseHint(codes.Aborted, "taken_away", `make another token with "agentctl tokens create"`, "%s %q was registered, and removed or given another key since", kind, name)
}

// certified answers a certificate over a key that was found registered.
func (e *EnrollService) certified(v *fsm.View, kind identity.Kind, name string, key identity.PublicKey) (*agentplanev1.EnrollResponse, error) {
	certificate, err := e.o.Issuer.Issue(string(kind), name, key)
	if err != nil {
		return nil, e.internal("issue", err)
	}
	return &agentplanev1.EnrollResponse{
		Certificate: certificate, CaCertificate: e.o.Issuer.CACertificate(), Bundle: BundleOf(v), Name: name, Now: e.now(v),
	}, nil
}

// Renew answers a fresh certificate for the key that the handshake proved and the
// registry holds. The key stays: another one takes a token.
func (e *EnrollService) Renew(ctx context.Context, req *agentplanev1.RenewRequest) (*agentplanev1.RenewResponse, error) {
	name, kind, proved, _ := e.o.Caller(ctx)
	v := e.o.Machine.View()
	var have []byte
	switch identity.Kind(kind) {
	case identity.KindAgent:
		a, _ := v.Agent(name)
		have = a.GetPublicKey()
	case identity.KindOperator:
		if o, _ := v.Operator(name); o.GetRevokedAt() == 0 {
			have = o.GetPublicKey()
		}
	case identity.KindNode:
		return nil, e.refuse(codes.FailedPrecondition, "own_ca", "node %q renews its certificate by its own CA", name)
	default:
		return nil, e.refuseHint(codes.Unauthenticated, "no_certificate", `log in with "agentctl login TOKEN@ADDR"`, "no certificate was shown")
	}
	if len(proved) == 0 || !bytes.Equal(have, proved) {
		return nil, e.refuseHint(codes.PermissionDenied, "not_registered", "enrol it again with a new token", "%s %q is not registered with the key that was proved", kind, name)
	}
	id, key, err := identity.ParseRequest(req.GetCsr())
	if err != nil {
		return nil, e.refuse(codes.InvalidArgument, "bad_csr", "%v", err)
	}
	if want := (identity.ID{Cluster: v.Cluster().GetClusterId(), Kind: identity.Kind(kind), Name: name}); id != want {
		return nil, e.refuse(codes.InvalidArgument, "other_name", "the certificate request is for %s, the caller is %s", id, want)
	}
	if !key.Equal(proved) {
		return nil, e.refuseHint(codes.InvalidArgument, "other_key", "enrol it again with a new token", "the certificate request has another key than %s %q proved", kind, name)
	}
	answer, err := e.certified(v, id.Kind, name, key)
	if err != nil {
		return nil, err
	}
	return &agentplanev1.RenewResponse{Certificate: answer.GetCertificate(), CaCertificate: answer.GetCaCertificate(), Bundle: answer.GetBundle()}, nil
}

package clienttest

import (
	"context"
	"fmt"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/client"
	"github.com/agentplane/agentplane/proto/identity"
)

type tokenService struct {
	agentplanev1.UnimplementedTokenServiceServer
	service
}

func (t tokenService) CreateToken(_ context.Context, req *agentplanev1.CreateTokenRequest) (*agentplanev1.CreateTokenResponse, error) {
	record := identity.TokenRecord{ID: req.Id, ProofKey: identity.NewSecret(req.ProofKey), AuthenticatorHash: req.AuthenticatorHash}
	if err := record.Validate(); err != nil {
		return nil, Refusal(codes.InvalidArgument, "bad_token", err.Error(), "")
	}
	s := t.state
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, old := range s.tokens {
		if old.token.Id == req.Id {
			same := old.token.Kind == req.Kind && old.token.MaxUses == req.MaxUses && old.token.Role == req.Role
			if !same || !old.record.ProofKey.Equal(record.ProofKey) {
				return nil, Refusal(codes.AlreadyExists, "conflict", fmt.Sprintf("token %s stands with another content", req.Id), "leave --id away")
			}
			return &agentplanev1.CreateTokenResponse{Token: clone(old.token)}, nil
		}
	}
	s.changedLocked()
	now := time.Now()
	made := &agentplanev1.Token{
		Id: req.Id, Kind: req.Kind, MaxUses: req.MaxUses, CreatedAt: now.UnixNano(), ExpiresAt: now.Add(time.Duration(req.Ttl)).UnixNano(),
		CreatedBy: "admin", Labels: req.Labels, Role: req.Role, OperatorName: req.OperatorName, NonVoter: req.NonVoter, State: "valid",
	}
	s.tokens = append(s.tokens, &token{token: made, record: record})
	return &agentplanev1.CreateTokenResponse{Token: clone(made)}, nil
}

func (t tokenService) ListTokens(context.Context, *agentplanev1.ListTokensRequest) (*agentplanev1.ListTokensResponse, error) {
	t.state.mu.Lock()
	defer t.state.mu.Unlock()
	r := &agentplanev1.ListTokensResponse{}
	for _, o := range t.state.tokens {
		r.Tokens = append(r.Tokens, clone(o.token))
	}
	return r, nil
}

func (t tokenService) RevokeToken(_ context.Context, req *agentplanev1.RevokeTokenRequest) (*agentplanev1.RevokeTokenResponse, error) {
	t.state.mu.Lock()
	defer t.state.mu.Unlock()
	for _, o := range t.state.tokens {
		if o.token.Id == req.Id {
			o.token.State, o.token.RevokedAt = "revoked", time.Now().UnixNano()
			t.state.changedLocked()
			return &agentplanev1.RevokeTokenResponse{}, nil
		}
	}
	return nil, Refusal(codes.NotFound, "no_token", fmt.Sprintf("there is no token %q", req.Id), "see agentctl tokens list")
}

type operatorService struct {
	agentplanev1.UnimplementedOperatorServiceServer
	service
}

func (o operatorService) ListOperators(context.Context, *agentplanev1.ListOperatorsRequest) (*agentplanev1.ListOperatorsResponse, error) {
	o.state.mu.Lock()
	defer o.state.mu.Unlock()
	return &agentplanev1.ListOperatorsResponse{Operators: slices.Clone(o.state.operators)}, nil
}

func (o operatorService) RevokeOperator(_ context.Context, req *agentplanev1.RevokeOperatorRequest) (*agentplanev1.RevokeOperatorResponse, error) {
	o.state.mu.Lock()
	defer o.state.mu.Unlock()
	if _, ok := o.state.keys[req.Name]; !ok {
		return nil, Refusal(codes.NotFound, "no_operator", fmt.Sprintf("there is no operator %q", req.Name), "see agentctl operators list")
	}
	delete(o.state.keys, req.Name)
	o.state.changedLocked()
	return &agentplanev1.RevokeOperatorResponse{}, nil
}

type enrollService struct {
	agentplanev1.UnimplementedEnrollServiceServer
	service
}

func (s *State) tokenLocked(id string) (*token, error) {
	for _, o := range s.tokens {
		if o.token.Id == id {
			return o, nil
		}
	}
	return nil, Refusal(codes.NotFound, "no_token", fmt.Sprintf("token %s is not of this cluster", id), "make one with agentctl tokens create")
}

func (e enrollService) ProveBundle(_ context.Context, req *agentplanev1.ProveBundleRequest) (*agentplanev1.ProveBundleResponse, error) {
	e.state.mu.Lock()
	defer e.state.mu.Unlock()
	o, err := e.state.tokenLocked(req.TokenId)
	if err != nil {
		return nil, err
	}
	trusted, err := client.TrustBundle(e.state.bundle)
	if err != nil {
		return nil, err
	}
	data, err := trusted.Marshal()
	if err != nil {
		return nil, err
	}
	proof, err := o.record.Prove(identity.Statement{Bundle: data, ClusterID: trusted.ClusterID, Incarnation: trusted.Incarnation, Nonce: req.Nonce})
	return &agentplanev1.ProveBundleResponse{Bundle: data, Proof: proof}, err
}

func (e enrollService) Enroll(_ context.Context, req *agentplanev1.EnrollRequest) (*agentplanev1.EnrollResponse, error) {
	id, key, err := identity.ParseRequest(req.Csr)
	if err != nil {
		return nil, Refusal(codes.InvalidArgument, "bad_csr", err.Error(), "")
	}
	s := e.state
	s.mu.Lock()
	defer s.mu.Unlock()
	o, err := s.tokenLocked(req.TokenId)
	if err != nil {
		return nil, err
	}
	if !o.record.Check(identity.NewSecret(req.Authenticator)) {
		return nil, Refusal(codes.PermissionDenied, "bad_token", "the token's secret is wrong", "")
	}
	if o.token.State == "revoked" {
		return nil, Refusal(codes.PermissionDenied, "token_revoked", fmt.Sprintf("token %s was revoked", req.TokenId), "")
	}
	name := o.token.OperatorName
	if name == "" {
		name = req.GetOperator().GetName()
	}
	if name == "" {
		return nil, Refusal(codes.InvalidArgument, "no_name", "the token fixes no name", "say it with --name")
	}
	if !slices.ContainsFunc(o.users, key.Equal) {
		if len(o.users) >= int(o.token.MaxUses) {
			return nil, Refusal(codes.PermissionDenied, "token_used", fmt.Sprintf("token %s was used up", req.TokenId), "")
		}
		o.users = append(o.users, key)
		o.token.Used++
		s.registerLocked(name, o.token.Role, key)
	}
	id.Name = name
	now := time.Now()
	return &agentplanev1.EnrollResponse{
		Certificate:   e.node.ca.issue(e.node.cluster.t, id, key, now.Add(-time.Minute), now.Add(30*24*time.Hour)),
		CaCertificate: e.node.ca.cert.Raw, Bundle: clone(s.bundle), Name: name, Role: o.token.Role, Now: now.UnixNano(),
	}, nil
}

func (e enrollService) Renew(ctx context.Context, req *agentplanev1.RenewRequest) (*agentplanev1.RenewResponse, error) {
	who, err := caller(ctx, e.node.verifier)
	if err != nil {
		return nil, err
	}
	id, key, err := identity.ParseRequest(req.Csr)
	if err != nil || id != who.ID || !key.Equal(who.Key) {
		return nil, Refusal(codes.InvalidArgument, "bad_csr", "the request is not for the caller's name and key", "")
	}
	now := time.Now()
	return &agentplanev1.RenewResponse{
		Certificate:   e.node.ca.issue(e.node.cluster.t, id, key, now.Add(-time.Minute), now.Add(30*24*time.Hour)),
		CaCertificate: e.node.ca.cert.Raw, Bundle: e.state.Bundle(),
	}, nil
}

type localService struct {
	agentplanev1.UnimplementedLocalServiceServer
	cluster *Cluster
	inits   int
}

func (l *localService) Init(_ context.Context, req *agentplanev1.InitRequest) (*agentplanev1.InitResponse, error) {
	id, key, err := identity.ParseRequest(req.OperatorCsr)
	if err != nil {
		return nil, Refusal(codes.InvalidArgument, "bad_csr", err.Error(), "")
	}
	node := l.cluster.Nodes[0]
	// The cluster's id was not known to the caller.
	id.Cluster, id.Name = l.cluster.ID, req.OperatorName
	l.cluster.State.register(req.OperatorName, "admin", key)
	l.inits++
	now := time.Now()
	b := l.cluster.State.Bundle()
	return &agentplanev1.InitResponse{
		ClusterId: l.cluster.ID, Incarnation: b.Incarnation, Existed: l.inits > 1,
		Certificate:   node.ca.issue(l.cluster.t, id, key, now.Add(-time.Minute), now.Add(30*24*time.Hour)),
		CaCertificate: node.ca.cert.Raw, Bundle: b, Role: "admin", NodeId: node.ID,
	}, nil
}

func (l *localService) Join(req *agentplanev1.JoinRequest, stream grpc.ServerStreamingServer[agentplanev1.JoinResponse]) error {
	if _, err := identity.ParseToken(req.Token); err != nil {
		return Refusal(codes.InvalidArgument, "bad_token", err.Error(), "")
	}
	steps := []*agentplanev1.JoinResponse{
		{Step: "enrolled", Text: fmt.Sprintf("enrolled at %v", req.Addresses)},
		{Step: "added", Text: "added as a non-voter", Done: req.NoWait, ClusterId: l.cluster.ID, NodeId: "id-new"},
	}
	if !req.NoWait {
		steps = append(steps, &agentplanev1.JoinResponse{Step: "voter", Text: "voter", Done: true, Voter: true, ClusterId: l.cluster.ID, NodeId: "id-new"})
	}
	for _, s := range steps {
		if err := stream.Send(s); err != nil {
			return err
		}
	}
	return nil
}

func (l *localService) LocalStatus(context.Context, *agentplanev1.LocalStatusRequest) (*agentplanev1.LocalStatusResponse, error) {
	r := &agentplanev1.LocalStatusResponse{NodeId: l.cluster.Nodes[0].ID, State: "waiting"}
	if l.inits > 0 {
		r.ClusterId, r.State = l.cluster.ID, "member"
	}
	return r, nil
}

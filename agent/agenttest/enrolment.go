package agenttest

import (
	"context"
	"slices"
	"time"

	"google.golang.org/grpc/codes"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/identity"
)

type enrolment struct {
	agentplanev1.UnimplementedEnrollServiceServer
	node *Node
}

func (e enrolment) ProveBundle(_ context.Context, req *agentplanev1.ProveBundleRequest) (*agentplanev1.ProveBundleResponse, error) {
	c := e.node.cluster
	c.mu.Lock()
	token, known := c.tokens[req.GetTokenId()]
	c.mu.Unlock()
	if !known {
		return nil, refusal(codes.NotFound, "no_token", "there is no such token")
	}
	trusted, err := c.trusted()
	if err != nil {
		return nil, err
	}
	data, err := trusted.Marshal()
	if err != nil {
		return nil, err
	}
	proof, err := token.Record().Prove(identity.Statement{Bundle: data, ClusterID: trusted.ClusterID, Incarnation: trusted.Incarnation, Nonce: req.GetNonce()})
	return &agentplanev1.ProveBundleResponse{Bundle: data, Proof: proof}, err
}

func (e enrolment) Enroll(_ context.Context, req *agentplanev1.EnrollRequest) (*agentplanev1.EnrollResponse, error) {
	c := e.node.cluster
	id, key, err := identity.ParseRequest(req.GetCsr())
	if err != nil {
		return nil, refusal(codes.InvalidArgument, "bad_csr", err.Error())
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if token, known := c.tokens[req.GetTokenId()]; !known || !token.Record().Check(identity.NewSecret(req.GetAuthenticator())) {
		return nil, refusal(codes.PermissionDenied, "bad_token", "the token's secret is wrong")
	}
	m := c.agents[id.Name]
	switch {
	case m == nil:
		m = &member{id: id.Name, name: req.GetAgent().GetName(), key: key, labels: req.GetAgent().GetLabels()}
		c.agents[id.Name] = m
		c.changedLocked()
	case slices.ContainsFunc(m.old, key.Equal):
		return nil, refusal(codes.PermissionDenied, "old_key", "its copies have this key too: make a new key")
	case len(m.key) == 0:
		m.key = key
		c.changedLocked()
	case !m.key.Equal(key):
		return nil, refusal(codes.AlreadyExists, "taken", "another key has this id")
	}
	der, err := c.issueLocked(e.node, id, key)
	return &agentplanev1.EnrollResponse{Certificate: der, CaCertificate: e.node.ca.cert.Raw, Bundle: c.bundle, Name: m.name, Now: time.Now().UnixNano()}, err
}

func (e enrolment) Renew(ctx context.Context, req *agentplanev1.RenewRequest) (*agentplanev1.RenewResponse, error) {
	c := e.node.cluster
	who, err := e.node.caller(ctx)
	if err != nil {
		return nil, err
	}
	id, key, err := identity.ParseRequest(req.GetCsr())
	if err != nil || !key.Equal(who.Key) {
		return nil, refusal(codes.InvalidArgument, "bad_csr", "the request is not for the caller's key")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	m := c.agents[id.Name]
	if m == nil || !m.key.Equal(key) {
		return nil, refusal(codes.PermissionDenied, "not_registered", "this key is not registered")
	}
	der, err := c.issueLocked(e.node, id, key)
	m.renewals++
	c.changedLocked()
	return &agentplanev1.RenewResponse{Certificate: der, CaCertificate: e.node.ca.cert.Raw, Bundle: c.bundle}, err
}

func (c *Cluster) issueLocked(n *Node, id identity.ID, key identity.PublicKey) ([]byte, error) {
	from := time.Now().Add(-c.age)
	return n.ca.issue(id, key, from, from.Add(c.life))
}

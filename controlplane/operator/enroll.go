package operator

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/agentplane/agentplane/fsm"
	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/client"
	"github.com/agentplane/agentplane/proto/identity"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

// Enrolment lets newcomers in.
type Enrolment struct {
	agentplanev1.UnimplementedEnrollServiceServer
	*service
}

// ProveBundle answers the trust bundle with a proof by the token's derived key. Any
// node may: the bundle protects itself. A token that is spent, expired or revoked
// still proves, so that its holder learns why it is refused, from Enroll and after
// having shown the secret.
func (e *Enrolment) ProveBundle(ctx context.Context, req *agentplanev1.ProveBundleRequest) (*agentplanev1.ProveBundleResponse, error) {
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
func (e *Enrolment) badToken(id string) error {
	which := "the token"
	if tokenID(id) {
		which = fmt.Sprintf("token %q", id)
	}
	return e.refuseHint(codes.PermissionDenied, "bad_token", `make one with "agentctl tokens create"; was this one copied whole, and is it of this cluster?`,
		"%s is none of this cluster, or its secret is wrong", which)
}

// internal is for what cannot be while the state is in order. The cause is for the
// log of the node.
func (e *Enrolment) internal(what string, err error) error {
	e.o.Logger.Error("enrolment failed", "step", what, "err", err)
	return e.refuseHint(codes.Internal, "internal", "see the log of this node", "this node could not do the step %q", what)
}

// Enroll registers the newcomer's key against a token and answers what it needs.
// The same key may ask again and gets the same answer, but for the certificate,
// which is a fresh one over the same key.
func (e *Enrolment) Enroll(ctx context.Context, req *agentplanev1.EnrollRequest) (*agentplanev1.EnrollResponse, error) {
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
		return nil, e.refuseHint(codes.PermissionDenied, "token_kind", anotherToken(want), "token %q is for a newcomer of kind %s, not %s",
			token.GetId(), kindWord(token.GetKind()), kindWord(want))
	}
	_, _, _, from := e.o.Caller(ctx)
	n := newcomer{id: id, key: key, token: token, from: from}
	var answer *agentplanev1.EnrollResponse
	switch as := req.GetAs().(type) {
	case *agentplanev1.EnrollRequest_Agent:
		answer, err = e.enrollAgent(ctx, n, as.Agent)
	case *agentplanev1.EnrollRequest_Node:
		answer, err = e.enrollNode(ctx, v, n, as.Node)
	case *agentplanev1.EnrollRequest_Operator:
		answer, err = e.enrollOperator(ctx, n, as.Operator)
	default:
		return nil, e.refuse(codes.InvalidArgument, "no_kind", "the request says neither agent, node nor operator")
	}
	return answer, e.spentToken(err, kindOf(req))
}

// spentToken turns the refusal of a token that lets nobody in any more into what a
// newcomer is told: denied, and what its operator is to type.
func (e *Enrolment) spentToken(err error, kind raftlogv1.TokenKind) error {
	switch agentplanev1.DetailOf(err).GetReason() {
	case "token_used", "token_expired", "token_revoked", "no_token":
		d := agentplanev1.DetailOf(err)
		return e.refuseHint(codes.PermissionDenied, d.GetReason(), anotherToken(kind), "%s", status.Convert(err).Message())
	}
	return err
}

func anotherToken(kind raftlogv1.TokenKind) string {
	return fmt.Sprintf("make another one with \"agentctl tokens create --kind %s\"", kindWord(kind))
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

// takenAway says that what was just registered is not there any more.
func (e *Enrolment) takenAway(kind identity.Kind, name string) error {
	return e.refuseHint(codes.Aborted, "taken_away", `make another token with "agentctl tokens create"`, "%s %q was registered, and removed or given another key since", kind, name)
}

// certified answers a certificate over a key that was found registered.
func (e *Enrolment) certified(v *fsm.View, kind identity.Kind, name string, key identity.PublicKey) (*agentplanev1.EnrollResponse, error) {
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
func (e *Enrolment) Renew(ctx context.Context, req *agentplanev1.RenewRequest) (*agentplanev1.RenewResponse, error) {
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

// NodeRemoved answers by this node's own state: a removal is for ever, so that an old
// one says nothing wrong.
func (e *Enrolment) NodeRemoved(_ context.Context, req *agentplanev1.NodeRemovedRequest) (*agentplanev1.NodeRemovedResponse, error) {
	v := e.o.Machine.View()
	n, found := v.Node(req.GetNodeId())
	return &agentplanev1.NodeRemovedResponse{
		Removed:     found && !registered(n) && bytes.Equal(n.GetPublicKey(), req.GetPublicKey()),
		Incarnation: incarnation(v.Cluster()),
	}, nil
}

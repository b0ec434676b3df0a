package operator

import (
	"context"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc/codes"

	"github.com/agentplane/agentplane/fsm"
	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/identity"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

const (
	defaultTokenTTL = time.Hour
	// MaxTokenTTL bounds how long a token may be used.
	MaxTokenTTL = 365 * 24 * time.Hour
)

// Tokens makes join tokens.
type Tokens struct {
	agentplanev1.UnimplementedTokenServiceServer
	*service
}

// CreateToken registers what is derived from a token's secret. The same id with the
// same content answers what stands.
func (t *Tokens) CreateToken(ctx context.Context, req *agentplanev1.CreateTokenRequest) (*agentplanev1.CreateTokenResponse, error) {
	if p := checkToken(req); p != nil {
		return nil, t.refuse(codes.InvalidArgument, p.reason, "%s", p.text)
	}
	row := &raftlogv1.Token{
		Id: req.GetId(), Kind: raftlogv1.TokenKind(req.GetKind()), ProofKey: req.GetProofKey(), AuthenticatorHash: req.GetAuthenticatorHash(),
		MaxUses: max(1, req.GetMaxUses()), CreatedBy: t.callerName(ctx), OnlyTheseLabels: req.GetOnlyTheseLabels(),
		Role: req.GetRole(), OperatorName: req.GetOperatorName(),
		Candidate: req.GetKind() == agentplanev1.TokenKind_TOKEN_KIND_NODE && !req.GetNonVoter(),
	}
	for _, l := range req.GetLabels() {
		row.Labels = append(row.Labels, &raftlogv1.Label{Name: l.GetName(), Value: l.GetValue()})
	}
	ttl := req.GetTtl()
	if ttl == 0 {
		ttl = int64(defaultTokenTTL)
	}
	_, v, err := t.propose(ctx, &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_CreateToken{
		CreateToken: &raftlogv1.CreateToken{Token: row, Ttl: ttl},
	}})
	if err != nil {
		return nil, err
	}
	made, _ := v.Token(req.GetId()) // rows of tokens stay for long
	return &agentplanev1.CreateTokenResponse{Token: tokenRow(v, made, t.now(v))}, nil
}

// checkToken says what is wrong with a request by itself. It never quotes what is
// derived from the secret.
func checkToken(req *agentplanev1.CreateTokenRequest) *problem {
	if !tokenID(req.GetId()) {
		return problemf("token", "the token's id is not a lower-case UUID")
	}
	record := identity.TokenRecord{ID: req.GetId(), ProofKey: identity.NewSecret(req.GetProofKey()), AuthenticatorHash: req.GetAuthenticatorHash()}
	if err := record.Validate(); err != nil {
		return &problem{"token", err.Error()}
	}
	kind := req.GetKind()
	agent, node, operator := kind == agentplanev1.TokenKind_TOKEN_KIND_AGENT, kind == agentplanev1.TokenKind_TOKEN_KIND_NODE, kind == agentplanev1.TokenKind_TOKEN_KIND_OPERATOR
	ttl := time.Duration(req.GetTtl())
	switch {
	case !agent && !node && !operator:
		return problemf("kind", "token kind %d is none of node, agent, operator", kind)
	case ttl < 0 || ttl > MaxTokenTTL:
		return problemf("ttl", "ttl %v is not between 0 (the default %v) and %v", ttl, defaultTokenTTL, MaxTokenTTL)
	case req.GetMaxUses() > fsm.MaxTokenUses:
		return problemf("uses", "%d uses are above the maximum %d: make several tokens", req.GetMaxUses(), fsm.MaxTokenUses)
	case !agent && req.GetMaxUses() > 1:
		return problemf("uses", "%d uses: only a token for agents may have more than one", req.GetMaxUses())
	case !agent && (len(req.GetLabels()) > 0 || req.GetOnlyTheseLabels()):
		return problemf("labels", "labels belong to a token for agents")
	case len(req.GetLabels()) > fsm.MaxLabels:
		return problemf("labels", "%d labels are above the maximum %d", len(req.GetLabels()), fsm.MaxLabels)
	case !operator && (req.GetRole() != "" || req.GetOperatorName() != ""):
		return problemf("role", "a role and a name belong to a token for operators")
	case operator && !validRole(req.GetRole()):
		return problemf("role", "role %.40q is none of viewer, runner, operator, admin", req.GetRole())
	case !node && req.GetNonVoter():
		return problemf("non_voter", "only a token for nodes may say non-voter")
	}
	if req.GetOperatorName() != "" {
		if err := identity.ValidateName(req.GetOperatorName()); err != nil {
			return &problem{"name", err.Error()}
		}
	}
	return nil
}

// tokenID says that s has the form of a token's id. Nothing else is ever quoted in
// its place: people paste whole tokens.
func tokenID(s string) bool {
	u, err := uuid.Parse(s)
	return err == nil && u.String() == s
}

func validRole(role string) bool {
	return role == fsm.RoleViewer || role == fsm.RoleRunner || role == fsm.RoleOperator || role == fsm.RoleAdmin
}

// ListTokens answers all tokens by id. Their secrets are not known here.
func (t *Tokens) ListTokens(ctx context.Context, req *agentplanev1.ListTokensRequest) (*agentplanev1.ListTokensResponse, error) {
	v, err := t.read(ctx, req.GetStale())
	if err != nil {
		return nil, err
	}
	answer, now := &agentplanev1.ListTokensResponse{}, t.now(v)
	for row := range v.Tokens() {
		answer.Tokens = append(answer.Tokens, tokenRow(v, row, now))
	}
	return answer, nil
}

// RevokeToken ends a token; who has used it stays.
func (t *Tokens) RevokeToken(ctx context.Context, req *agentplanev1.RevokeTokenRequest) (*agentplanev1.RevokeTokenResponse, error) {
	if !tokenID(req.GetId()) {
		return nil, t.refuseHint(codes.InvalidArgument, "token", hints["no_token"], "%s is not the id of a token: it is the part between the dots", identity.ShownToken(req.GetId()))
	}
	if _, _, err := t.propose(ctx, &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_RevokeToken{
		RevokeToken: &raftlogv1.RevokeToken{Id: req.GetId()},
	}}); err != nil {
		return nil, err
	}
	return &agentplanev1.RevokeTokenResponse{}, nil
}

func tokenRow(v *fsm.View, t *raftlogv1.Token, now int64) *agentplanev1.Token {
	r := &agentplanev1.Token{
		Id: t.GetId(), Kind: agentplanev1.TokenKind(t.GetKind()), MaxUses: t.GetMaxUses(), Used: t.GetUsed(),
		CreatedAt: t.GetCreatedAt(), ExpiresAt: t.GetExpiresAt(), RevokedAt: t.GetRevokedAt(), CreatedBy: t.GetCreatedBy(),
		Role: t.GetRole(), OperatorName: t.GetOperatorName(),
		NonVoter: t.GetKind() == raftlogv1.TokenKind_TOKEN_KIND_NODE && !t.GetCandidate(), State: tokenState(t, now),
	}
	for _, l := range t.GetLabels() {
		r.Labels = append(r.Labels, &agentplanev1.Label{Name: l.GetName(), Value: l.GetValue()})
	}
	for u := range v.TokenUses(t.GetId()) {
		r.Uses = append(r.Uses, &agentplanev1.TokenUse{Identity: u.GetIdentity(), From: u.GetFrom(), At: u.GetAt()})
	}
	return r
}

func tokenState(t *raftlogv1.Token, now int64) string {
	switch {
	case t.GetRevokedAt() != 0:
		return "revoked"
	case t.GetUsed() >= t.GetMaxUses():
		return "used"
	case now >= t.GetExpiresAt():
		return "expired"
	default:
		return "valid"
	}
}

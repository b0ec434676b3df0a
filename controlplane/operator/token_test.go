package operator

import (
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/identity"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

const (
	nodeKind     = agentplanev1.TokenKind_TOKEN_KIND_NODE
	agentKind    = agentplanev1.TokenKind_TOKEN_KIND_AGENT
	operatorKind = agentplanev1.TokenKind_TOKEN_KIND_OPERATOR
)

// tokenRequest is what agentctl sends for a token.
func tokenRequest(tok identity.Token, kind agentplanev1.TokenKind) *agentplanev1.CreateTokenRequest {
	rec := tok.Record()
	req := &agentplanev1.CreateTokenRequest{Id: rec.ID, Kind: kind, ProofKey: rec.ProofKey.Reveal(), AuthenticatorHash: rec.AuthenticatorHash}
	if kind == operatorKind {
		req.Role = "viewer"
	}
	return req
}

// token makes a token through the API.
func (w *world) token(kind agentplanev1.TokenKind, edit ...func(*agentplanev1.CreateTokenRequest)) identity.Token {
	w.t.Helper()
	tok := mustToken(w.t)
	req := tokenRequest(tok, kind)
	for _, e := range edit {
		e(req)
	}
	if _, err := w.Tokens.CreateToken(w.t.Context(), req); err != nil {
		w.t.Fatal(err)
	}
	return tok
}

func TestCreateTokenFillsDefaultsAndRepeats(t *testing.T) {
	w := newWorld(t)
	req := tokenRequest(mustToken(t), nodeKind)
	for range 2 {
		r, err := w.Tokens.CreateToken(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		k := r.GetToken()
		if k.GetMaxUses() != 1 || k.GetExpiresAt() != testStart.Add(time.Hour).UnixNano() || k.GetState() != "valid" || k.GetCreatedBy() != "alice" || k.GetNonVoter() {
			t.Fatalf("token %v", k)
		}
		w.pass(time.Minute)
	}
	req.NonVoter = true
	_, err := w.Tokens.CreateToken(t.Context(), req)
	wantRefusal(t, err, codes.AlreadyExists, "token_exists")
	id := w.token(nodeKind, func(r *agentplanev1.CreateTokenRequest) { r.NonVoter = true }).ID()
	if row, _ := w.m.View().Token(id); row.GetCandidate() {
		t.Fatal("a token for a non-voter makes a candidate")
	}
}

func TestCreateTokenRefuses(t *testing.T) {
	for _, c := range []struct {
		name   string
		kind   agentplanev1.TokenKind
		edit   func(*agentplanev1.CreateTokenRequest)
		reason string
	}{
		{"an id that is no UUID", agentKind, func(r *agentplanev1.CreateTokenRequest) { r.Id = "t1" }, "token"},
		{"a short proof key", agentKind, func(r *agentplanev1.CreateTokenRequest) { r.ProofKey = r.ProofKey[:31] }, "token"},
		{"a short hash", agentKind, func(r *agentplanev1.CreateTokenRequest) { r.AuthenticatorHash = nil }, "token"},
		{"no kind", 0, func(*agentplanev1.CreateTokenRequest) {}, "kind"},
		{"a negative ttl", agentKind, func(r *agentplanev1.CreateTokenRequest) { r.Ttl = -1 }, "ttl"},
		{"a ttl of a century", agentKind, func(r *agentplanev1.CreateTokenRequest) { r.Ttl = int64(100 * 365 * 24 * time.Hour) }, "ttl"},
		{"too many uses", agentKind, func(r *agentplanev1.CreateTokenRequest) { r.MaxUses = 1001 }, "uses"},
		{"two nodes", nodeKind, func(r *agentplanev1.CreateTokenRequest) { r.MaxUses = 2 }, "uses"},
		{"labels for a node", nodeKind, func(r *agentplanev1.CreateTokenRequest) { r.Labels = []*agentplanev1.Label{{Name: "a"}} }, "labels"},
		{"too many labels", agentKind, func(r *agentplanev1.CreateTokenRequest) { r.Labels = make([]*agentplanev1.Label, 65) }, "labels"},
		{"a label twice", agentKind, func(r *agentplanev1.CreateTokenRequest) {
			r.Labels = []*agentplanev1.Label{{Name: "a", Value: "1"}, {Name: "a", Value: "2"}}
		}, "twice"},
		{"a role for an agent", agentKind, func(r *agentplanev1.CreateTokenRequest) { r.Role = "admin" }, "role"},
		{"an operator without a role", operatorKind, func(r *agentplanev1.CreateTokenRequest) { r.Role = "" }, "role"},
		{"an operator with a role of its own", operatorKind, func(r *agentplanev1.CreateTokenRequest) { r.Role = "god" }, "role"},
		{"an operator with a name that is none", operatorKind, func(r *agentplanev1.CreateTokenRequest) { r.OperatorName = "../x" }, "name"},
		{"an agent that does not vote", agentKind, func(r *agentplanev1.CreateTokenRequest) { r.NonVoter = true }, "non_voter"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			req := tokenRequest(mustToken(t), c.kind)
			c.edit(req)
			_, err := w.Tokens.CreateToken(t.Context(), req)
			wantRefusal(t, err, codes.InvalidArgument, c.reason)
			for range w.m.View().Tokens() {
				t.Fatal("a token was made")
			}
		})
	}
}

func TestListTokensSaysWhatIsLeftOfThem(t *testing.T) {
	w := newWorld(t)
	want := map[string]string{}
	want[w.token(agentKind, func(r *agentplanev1.CreateTokenRequest) { r.Ttl = int64(24 * time.Hour) }).ID()] = "valid"
	want[w.token(agentKind).ID()] = "expired"
	revoked := w.token(agentKind).ID()
	want[revoked] = "revoked"
	used := w.token(agentKind).ID()
	want[used] = "used"
	w.must(&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_EnrollAgent{EnrollAgent: &raftlogv1.EnrollAgent{AgentId: "a1", Name: "a", PublicKey: mustKey(t).Public(), TokenId: used, From: "10.0.0.5:1"}}})
	for range 2 {
		if _, err := w.Tokens.RevokeToken(t.Context(), &agentplanev1.RevokeTokenRequest{Id: revoked}); err != nil {
			t.Fatal(err)
		}
	}
	w.pass(2 * time.Hour) // and no entry since
	r, err := w.Tokens.ListTokens(t.Context(), nil)
	if err != nil || len(r.GetTokens()) != len(want) {
		t.Fatalf("%v, %v", r, err)
	}
	for _, k := range r.GetTokens() {
		if k.GetState() != want[k.GetId()] {
			t.Errorf("token is %s, want %s", k.GetState(), want[k.GetId()])
		}
		if k.GetId() == used && (k.GetUsed() != 1 || k.GetUses()[0].GetIdentity() != "a1" || k.GetUses()[0].GetFrom() != "10.0.0.5:1") {
			t.Errorf("uses %v", k.GetUses())
		}
	}
}

func TestOperatorsAreListedAndRevoked(t *testing.T) {
	w := newWorld(t)
	key := mustKey(t).Public()
	for name, role := range map[string]string{"root": "admin", "bob": "viewer"} {
		k := mustKey(t).Public()
		if name == "root" {
			k = key
		}
		w.must(&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_EnrollOperator{EnrollOperator: &raftlogv1.EnrollOperator{Name: name, PublicKey: k, Role: role}}})
	}
	for range 2 {
		if _, err := w.Operators.RevokeOperator(t.Context(), &agentplanev1.RevokeOperatorRequest{Name: "bob"}); err != nil {
			t.Fatal(err)
		}
	}
	_, err := w.Operators.RevokeOperator(t.Context(), &agentplanev1.RevokeOperatorRequest{Name: "root"})
	wantRefusal(t, err, codes.FailedPrecondition, "last_admin")
	r, err := w.Operators.ListOperators(t.Context(), nil)
	if err != nil || len(r.GetOperators()) != 2 {
		t.Fatalf("%v, %v", r, err)
	}
	bob, root := r.GetOperators()[0], r.GetOperators()[1]
	if bob.GetName() != "bob" || bob.GetRevokedAt() == 0 || root.GetRevokedAt() != 0 || root.GetFingerprint() != key.Fingerprint() || root.GetRole() != "admin" {
		t.Fatalf("operators %v", r)
	}
}

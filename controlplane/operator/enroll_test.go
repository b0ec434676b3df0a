package operator

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/client"
	"github.com/agentplane/agentplane/proto/identity"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

func request(t testing.TB, key identity.Key, cluster string, kind identity.Kind, name string) []byte {
	t.Helper()
	csr, err := identity.CreateRequest(key, identity.ID{Cluster: cluster, Kind: kind, Name: name})
	if err != nil {
		t.Fatal(err)
	}
	return csr
}

func agentRequest(t testing.TB, tok identity.Token, key identity.Key, id string) *agentplanev1.EnrollRequest {
	return &agentplanev1.EnrollRequest{
		TokenId: tok.ID(), Authenticator: tok.Authenticator().Reveal(), Csr: request(t, key, testCluster, identity.KindAgent, id),
		As: &agentplanev1.EnrollRequest_Agent{Agent: &agentplanev1.EnrollAgent{AgentId: id, Name: "web-1", Version: "1.0", Labels: []*agentplanev1.Label{{Name: "rack", Value: "7"}}}},
	}
}

func nodeRequest(t testing.TB, tok identity.Token, key identity.Key, id string) (*agentplanev1.EnrollRequest, *agentplanev1.EnrollNode) {
	as := &agentplanev1.EnrollNode{
		NodeId: id, Name: "node-" + id, Address: id + ":7460", GossipAddress: id + ":7461", CaCertificate: newCA(t, id).der, FeatureLevel: 1, StartCounter: 2,
	}
	return &agentplanev1.EnrollRequest{
		TokenId: tok.ID(), Authenticator: tok.Authenticator().Reveal(), Csr: request(t, key, testCluster, identity.KindNode, id),
		As: &agentplanev1.EnrollRequest_Node{Node: as},
	}, as
}

func operatorRequest(t testing.TB, tok identity.Token, key identity.Key, csrName, name string) *agentplanev1.EnrollRequest {
	return &agentplanev1.EnrollRequest{
		TokenId: tok.ID(), Authenticator: tok.Authenticator().Reveal(), Csr: request(t, key, testCluster, identity.KindOperator, csrName),
		As: &agentplanev1.EnrollRequest_Operator{Operator: &agentplanev1.EnrollOperator{Name: name}},
	}
}

// certifies fails unless the certificate carries the key under the name.
func certifies(t *testing.T, w *world, r *agentplanev1.EnrollResponse, key identity.Key, want string) {
	t.Helper()
	id, public, cert, err := identity.ParseCertificate(r.GetCertificate())
	if err != nil || id.String() != want || !public.Equal(key.Public()) {
		t.Fatalf("certificate is of %v with %v: %v", id, public, err)
	}
	if err := cert.CheckSignatureFrom(w.ca.cert); err != nil || !bytes.Equal(r.GetCaCertificate(), w.ca.der) {
		t.Fatalf("certificate is not of this node's CA: %v", err)
	}
}

func TestProveBundleIsBelievedByTheTokensHolderAlone(t *testing.T) {
	w := newWorld(t)
	tok := w.token(agentKind)
	nonce, err := identity.NewNonce()
	if err != nil {
		t.Fatal(err)
	}
	prove := func() *agentplanev1.ProveBundleResponse {
		t.Helper()
		r, err := w.Enroll.ProveBundle(t.Context(), &agentplanev1.ProveBundleRequest{TokenId: tok.ID(), Nonce: nonce})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	r := prove()
	trusted, err := client.TrustBundle(BundleOf(w.m.View()))
	if err != nil {
		t.Fatal(err)
	}
	s := identity.Statement{Bundle: r.GetBundle(), ClusterID: trusted.ClusterID, Incarnation: trusted.Incarnation, Nonce: nonce}
	if b, err := tok.OpenBundle(s, r.GetProof()); err != nil || b.Index != trusted.Index || len(b.Nodes) != 1 {
		t.Fatalf("bundle %v: %v", b, err)
	}
	if _, err := mustToken(t).OpenBundle(s, r.GetProof()); !errors.Is(err, identity.ErrBadProof) {
		t.Fatalf("another token believes it: %v", err)
	}
	if w.reads != 0 {
		t.Fatal("a token that is known here made a read round")
	}
	// A token that is spent still proves: its holder learns from Enroll why.
	w.must(&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_RevokeToken{RevokeToken: &raftlogv1.RevokeToken{Id: tok.ID()}}})
	w.pass(2 * time.Hour)
	prove()
}

func TestProveBundleRefusesWithoutTellingWhy(t *testing.T) {
	w := newWorld(t)
	nonce := make([]byte, identity.NonceBytes)
	var seen []string
	for _, id := range []string{mustToken(t).ID(), "", "x", strings.Repeat("y", 1000), mustToken(t).Reveal()} {
		_, err := w.Enroll.ProveBundle(t.Context(), &agentplanev1.ProveBundleRequest{TokenId: id, Nonce: nonce})
		wantRefusal(t, err, codes.PermissionDenied, "bad_token")
		seen = append(seen, strings.ReplaceAll(err.Error(), fmt.Sprintf("token %q", id), "the token"))
	}
	if len(slices.Compact(seen)) != 1 {
		t.Fatalf("the refusals differ: %q", seen)
	}
	// Enroll with a wrong secret looks the same, whatever became of the token.
	valid, revoked, unknown := w.token(agentKind), w.token(agentKind), mustToken(t)
	w.must(&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_RevokeToken{RevokeToken: &raftlogv1.RevokeToken{Id: revoked.ID()}}})
	for _, tok := range []identity.Token{valid, revoked, unknown} {
		for _, auth := range [][]byte{nil, mustToken(t).Authenticator().Reveal(), tok.Record().ProofKey.Reveal(), tok.Record().AuthenticatorHash} {
			_, err := w.Enroll.Enroll(t.Context(), &agentplanev1.EnrollRequest{TokenId: tok.ID(), Authenticator: auth, Csr: []byte("not looked at")})
			wantRefusal(t, err, codes.PermissionDenied, "bad_token")
			if got := strings.ReplaceAll(err.Error(), fmt.Sprintf("token %q", tok.ID()), "the token"); got != seen[0] {
				t.Fatalf("refusal %q differs from %q", got, seen[0])
			}
		}
	}
	_, err := w.Enroll.ProveBundle(t.Context(), &agentplanev1.ProveBundleRequest{TokenId: valid.ID(), Nonce: nonce[:16]})
	wantRefusal(t, err, codes.InvalidArgument, "nonce")
}

func TestEnrollAnAgent(t *testing.T) {
	w := newWorld(t)
	tok, key := w.token(agentKind, func(r *agentplanev1.CreateTokenRequest) {
		r.Labels = []*agentplanev1.Label{{Name: "env", Value: "prod"}}
	}), mustKey(t)
	w.caller = testCaller{from: "10.0.0.5:4711"}
	for range 2 { // the first answer may have been lost
		r, err := w.Enroll.Enroll(t.Context(), agentRequest(t, tok, key, "a1"))
		if err != nil {
			t.Fatal(err)
		}
		certifies(t, w, r, key, "spiffe://c1/agent/a1")
		if r.GetName() != "web-1" || r.GetNow() != w.now.UnixNano() || r.GetBundle().GetClusterId() != testCluster || len(r.GetGossipKeyring()) != 0 {
			t.Fatalf("answer %v", r)
		}
		w.pass(2 * time.Hour) // past the token's end
	}
	a, _ := w.m.View().Agent("a1")
	if env, _ := valueOf(a.GetLabels(), "env"); env != "prod" || a.GetName() != "web-1" || a.GetVersion() != "1.0" || !key.Public().Equal(a.GetPublicKey()) {
		t.Fatalf("agent %v", a)
	}
	if uses := slices.Collect(w.m.View().TokenUses(tok.ID())); len(uses) != 1 || uses[0].GetFrom() != "10.0.0.5:4711" {
		t.Fatalf("uses %v", uses)
	}
}

func TestNamesakesAreToldWhenTheyEnrol(t *testing.T) {
	w := newWorld(t)
	for n, id := range []string{"a1", "a2", "a3"} {
		tok := w.token(agentKind)
		r, err := w.Enroll.Enroll(t.Context(), agentRequest(t, tok, mustKey(t), id))
		if err != nil {
			t.Fatal(err)
		}
		if said := strings.Join(r.GetNotes(), " "); n == 0 && said != "" || n > 0 && !strings.Contains(said, fmt.Sprintf("have the name \"web-1\", %d of them", n)) {
			t.Errorf("agent %d is told %q", n+1, said)
		}
	}
}

func TestEnrollANode(t *testing.T) {
	w := newWorld(t)
	tok, key := w.token(nodeKind), mustKey(t)
	req, _ := nodeRequest(t, tok, key, "n2")
	for range 2 {
		r, err := w.Enroll.Enroll(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		if len(r.GetCertificate()) != 0 || !r.GetCandidate() || r.GetFeatureLevel() != 1 || len(r.GetGossipKeyring()) != 1 || string(r.GetGossipKeyring()[0]) != "ring" {
			t.Fatalf("answer %v", r)
		}
		b, err := client.TrustBundle(r.GetBundle())
		if err != nil {
			t.Fatal(err)
		}
		if n, found := b.Node("n2"); !found || !n.Key.Equal(key.Public()) || len(b.CAs) != 2 {
			t.Fatalf("the bundle does not trust the newcomer: %v", b)
		}
	}
	if n, _ := w.m.View().Node("n2"); n.GetStartCounter() != 2 || n.GetGossipAddress() != "n2:7461" {
		t.Fatalf("node %v", n)
	}
}

func TestEnrollRefusesANodeThatWouldSpoilTheBundle(t *testing.T) {
	for _, c := range []struct {
		name   string
		edit   func(*agentplanev1.EnrollNode)
		reason string
	}{
		{"no CA", func(n *agentplanev1.EnrollNode) { n.CaCertificate = []byte("x") }, "untrustworthy"},
		{"the CA of another node", func(n *agentplanev1.EnrollNode) { n.CaCertificate = newCA(t, "n9").der }, "untrustworthy"},
		{"an address that is none", func(n *agentplanev1.EnrollNode) { n.Address = "nowhere" }, "address"},
		{"a gossip address that is none", func(n *agentplanev1.EnrollNode) { n.GossipAddress = "nowhere" }, "address"},
		{"a name that is none", func(n *agentplanev1.EnrollNode) { n.Name = "a b" }, "name"},
		{"no name", func(n *agentplanev1.EnrollNode) { n.Name = "" }, "name"},
		{"a version that is a book", func(n *agentplanev1.EnrollNode) { n.Version = strings.Repeat("1", 300) }, "too_long"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			req, as := nodeRequest(t, w.token(nodeKind), mustKey(t), "n2")
			c.edit(as)
			_, err := w.Enroll.Enroll(t.Context(), req)
			wantRefusal(t, err, codes.InvalidArgument, c.reason)
			if _, err := client.TrustBundle(BundleOf(w.m.View())); err != nil || len(BundleOf(w.m.View()).Nodes) != 1 {
				t.Fatalf("the bundle: %v", err)
			}
		})
	}
}

func TestANodeThatCannotBeReachedLeavesNothingBehind(t *testing.T) {
	var asked string
	w := newWorld(t, func(o *Options) {
		o.Reach = func(_ context.Context, address string, key []byte) error {
			asked = fmt.Sprintf("%s %d", address, len(key))
			return errors.New("connection refused")
		}
	})
	tok, key := w.token(nodeKind), mustKey(t)
	req, as := nodeRequest(t, tok, key, "n2")
	_, err := w.Enroll.Enroll(t.Context(), req)
	wantRefusal(t, err, codes.FailedPrecondition, "unreachable_address")
	if want := "you advertise " + as.GetAddress() + `, and node "node-a" cannot reach it: connection refused`; !strings.Contains(err.Error(), want) {
		t.Errorf("the refusal says %q, want %q", err, want)
	}
	if want := fmt.Sprintf("%s %d", as.GetAddress(), len(key.Public())); asked != want {
		t.Errorf("reached for %q, want %q", asked, want)
	}
	if _, found := w.m.View().Node("n2"); found {
		t.Error("it is registered")
	}
	if row, _ := w.m.View().Token(tok.ID()); len(row.GetUses()) != 0 {
		t.Errorf("the token was used: %v", row.GetUses())
	}
}

func TestEnrollAnOperator(t *testing.T) {
	w := newWorld(t)
	for _, c := range []struct{ name, fixed, csr, asked string }{
		{"by a name of its own", "", "bob", "bob"},
		{"by the token's name, which it need not know", "carol", "whoever", ""},
		{"by the token's name, which it knows", "dave", "dave", "dave"},
	} {
		t.Run(c.name, func(t *testing.T) {
			tok, key := w.token(operatorKind, func(r *agentplanev1.CreateTokenRequest) { r.OperatorName, r.Role = c.fixed, "operator" }), mustKey(t)
			want := c.asked + c.fixed
			if c.asked != "" {
				want = c.asked
			}
			for range 2 {
				r, err := w.Enroll.Enroll(t.Context(), operatorRequest(t, tok, key, c.csr, c.asked))
				if err != nil || r.GetName() != want || r.GetRole() != "operator" {
					t.Fatalf("%v, %v", r, err)
				}
				certifies(t, w, r, key, "spiffe://c1/operator/"+want)
			}
		})
	}
	_, err := w.Enroll.Enroll(t.Context(), operatorRequest(t, w.token(operatorKind), mustKey(t), "erin", ""))
	wantRefusal(t, err, codes.InvalidArgument, "no_name")
	_, err = w.Enroll.Enroll(t.Context(), operatorRequest(t, w.token(operatorKind), mustKey(t), "erin", "frank"))
	wantRefusal(t, err, codes.InvalidArgument, "other_name")
	_, err = w.Enroll.Enroll(t.Context(), operatorRequest(t, w.token(operatorKind, func(r *agentplanev1.CreateTokenRequest) { r.OperatorName = "gina" }), mustKey(t), "erin", "erin"))
	wantRefusal(t, err, codes.FailedPrecondition, "token_name")
	_, err = w.Enroll.Enroll(t.Context(), operatorRequest(t, w.token(operatorKind), mustKey(t), "bob", "bob"))
	wantRefusal(t, err, codes.AlreadyExists, "name_taken")
}

func TestEnrollRefuses(t *testing.T) {
	for _, c := range []struct {
		name   string
		edit   func(*world, identity.Token, *agentplanev1.EnrollRequest)
		code   codes.Code
		reason string
	}{
		{"a request that is none", func(_ *world, _ identity.Token, r *agentplanev1.EnrollRequest) { r.Csr = []byte("x") }, codes.InvalidArgument, "bad_csr"},
		{"a request for another cluster", func(w *world, _ identity.Token, r *agentplanev1.EnrollRequest) {
			r.Csr = request(w.t, mustKey(w.t), "c2", identity.KindAgent, "a1")
		}, codes.InvalidArgument, "wrong_cluster"},
		{"a request for another agent", func(_ *world, _ identity.Token, r *agentplanev1.EnrollRequest) { r.GetAgent().AgentId = "a2" }, codes.InvalidArgument, "other_name"},
		{"a request for an operator of that name", func(w *world, _ identity.Token, r *agentplanev1.EnrollRequest) {
			r.Csr = request(w.t, mustKey(w.t), testCluster, identity.KindOperator, "a1")
		}, codes.InvalidArgument, "other_name"},
		{"a newcomer that does not say what it is", func(_ *world, _ identity.Token, r *agentplanev1.EnrollRequest) { r.As = nil }, codes.InvalidArgument, "no_kind"},
		{"an operator with an agent's token", func(w *world, tok identity.Token, r *agentplanev1.EnrollRequest) {
			r.As = operatorRequest(w.t, tok, mustKey(w.t), "a1", "a1").As
		}, codes.PermissionDenied, "token_kind"},
		{"a name that cannot be printed", func(_ *world, _ identity.Token, r *agentplanev1.EnrollRequest) { r.GetAgent().Name = "a\x1b[2J" }, codes.InvalidArgument, "name"},
		{"a token that expired", func(w *world, _ identity.Token, _ *agentplanev1.EnrollRequest) { w.pass(2 * time.Hour) }, codes.PermissionDenied, "token_expired"},
		{"a token that was revoked", func(w *world, tok identity.Token, _ *agentplanev1.EnrollRequest) {
			w.must(&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_RevokeToken{RevokeToken: &raftlogv1.RevokeToken{Id: tok.ID()}}})
		}, codes.PermissionDenied, "token_revoked"},
		{"a token that another one used", func(w *world, tok identity.Token, _ *agentplanev1.EnrollRequest) {
			if _, err := w.Enroll.Enroll(w.t.Context(), agentRequest(w.t, tok, mustKey(w.t), "a7")); err != nil {
				w.t.Fatal(err)
			}
		}, codes.PermissionDenied, "token_used"},
		{"a name whose key is another", func(w *world, _ identity.Token, _ *agentplanev1.EnrollRequest) { w.agent("a1", "x", false) }, codes.AlreadyExists, "other_key"},
		{"a CA that fails", func(w *world, _ identity.Token, _ *agentplanev1.EnrollRequest) { w.ca.fail = errors.New("disk") }, codes.Internal, "internal"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			tok := w.token(agentKind)
			req := agentRequest(t, tok, mustKey(t), "a1")
			c.edit(w, tok, req)
			_, err := w.Enroll.Enroll(t.Context(), req)
			wantRefusal(t, err, c.code, c.reason)
		})
	}
}

func TestNoRefusalOrLogLineHoldsASecret(t *testing.T) {
	var log bytes.Buffer
	w := newWorld(t, func(o *Options) { o.Logger = hclog.New(&hclog.LoggerOptions{Output: &log, Level: hclog.Trace}) })
	tok, key := w.token(agentKind), mustKey(t)
	text := tok.Reveal()
	secrets := [][]byte{
		[]byte(text[strings.LastIndexByte(text, '.')+1:]), tok.Authenticator().Reveal(), tok.Record().ProofKey.Reveal(), tok.Record().AuthenticatorHash,
	}
	var said strings.Builder
	note := func(err error) {
		t.Helper()
		if err == nil {
			t.Fatal("want a refusal")
		}
		fmt.Fprintf(&said, "%v %v\n", err, status.Convert(err).Proto())
	}
	create := tokenRequest(tok, agentKind)
	create.MaxUses = 9
	_, err := w.Tokens.CreateToken(t.Context(), create)
	note(err)
	create.ProofKey = create.ProofKey[:31]
	_, err = w.Tokens.CreateToken(t.Context(), create)
	note(err)
	create.ProofKey, create.AuthenticatorHash = tok.Record().ProofKey.Reveal(), append(tok.Record().AuthenticatorHash, 1)
	_, err = w.Tokens.CreateToken(t.Context(), create)
	note(err)
	req := agentRequest(t, tok, key, "a1")
	req.Authenticator = append(tok.Authenticator().Reveal(), 0)
	_, err = w.Enroll.Enroll(t.Context(), req)
	note(err)
	req.TokenId, req.Authenticator = text, tok.Authenticator().Reveal() // the whole token where its id belongs
	_, err = w.Enroll.Enroll(t.Context(), req)
	note(err)
	_, err = w.Enroll.ProveBundle(t.Context(), &agentplanev1.ProveBundleRequest{TokenId: text, Nonce: make([]byte, identity.NonceBytes)})
	note(err)
	_, err = w.Tokens.RevokeToken(t.Context(), &agentplanev1.RevokeTokenRequest{Id: text})
	note(err)
	create.Id = text
	_, err = w.Tokens.CreateToken(t.Context(), create)
	note(err)
	w.ca.fail = errors.New("disk")
	_, err = w.Enroll.Enroll(t.Context(), agentRequest(t, tok, key, "a1"))
	note(err)
	w.ca.fail = nil
	_, err = w.Enroll.Enroll(t.Context(), agentRequest(t, tok, mustKey(t), "a2"))
	note(err)
	all := said.String() + log.String()
	for n, s := range secrets {
		for _, form := range []string{string(s), hex.EncodeToString(s), base64.RawURLEncoding.EncodeToString(s), base64.StdEncoding.EncodeToString(s), fmt.Sprint(s)} {
			if strings.Contains(all, form[:min(len(form), 12)]) { // nor a part of it
				t.Errorf("secret %d was said:\n%s", n, all)
			}
		}
	}
}

func TestRenew(t *testing.T) {
	w := newWorld(t)
	tok, key, other := w.token(agentKind), mustKey(t), mustKey(t)
	if _, err := w.Enroll.Enroll(t.Context(), agentRequest(t, tok, key, "a1")); err != nil {
		t.Fatal(err)
	}
	w.must(&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_EnrollOperator{EnrollOperator: &raftlogv1.EnrollOperator{Name: "root", PublicKey: mustKey(t).Public(), Role: "admin"}}},
		&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_EnrollOperator{EnrollOperator: &raftlogv1.EnrollOperator{Name: "bob", PublicKey: key.Public(), Role: "viewer"}}})
	agent, operator := testCaller{kind: "agent", name: "a1", key: key.Public()}, testCaller{kind: "operator", name: "bob", key: key.Public()}
	for _, c := range []struct {
		name   string
		caller testCaller
		csr    []byte
		code   codes.Code
		reason string
	}{
		{"an agent", agent, request(t, key, testCluster, identity.KindAgent, "a1"), codes.OK, ""},
		{"an operator", operator, request(t, key, testCluster, identity.KindOperator, "bob"), codes.OK, ""},
		{"with another key", agent, request(t, other, testCluster, identity.KindAgent, "a1"), codes.InvalidArgument, "other_key"},
		{"for another agent", agent, request(t, key, testCluster, identity.KindAgent, "a2"), codes.InvalidArgument, "other_name"},
		{"for another kind", agent, request(t, key, testCluster, identity.KindNode, "a1"), codes.InvalidArgument, "other_name"},
		{"for another cluster", agent, request(t, key, "c2", identity.KindAgent, "a1"), codes.InvalidArgument, "other_name"},
		{"with a request that is none", agent, []byte("x"), codes.InvalidArgument, "bad_csr"},
		{"with a key that is not registered", testCaller{kind: "agent", name: "a1", key: other.Public()}, request(t, other, testCluster, identity.KindAgent, "a1"), codes.PermissionDenied, "not_registered"},
		{"an agent that is not there", testCaller{kind: "agent", name: "a9", key: key.Public()}, request(t, key, testCluster, identity.KindAgent, "a9"), codes.PermissionDenied, "not_registered"},
		{"nobody's key for nobody", testCaller{kind: "agent", name: "a9"}, request(t, key, testCluster, identity.KindAgent, "a9"), codes.PermissionDenied, "not_registered"},
		{"a node", testCaller{kind: "node", name: "n1", key: key.Public()}, nil, codes.FailedPrecondition, "own_ca"},
		{"somebody without a certificate", testCaller{}, nil, codes.Unauthenticated, "no_certificate"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w.caller = c.caller
			r, err := w.Enroll.Renew(t.Context(), &agentplanev1.RenewRequest{Csr: c.csr})
			if c.code != codes.OK {
				wantRefusal(t, err, c.code, c.reason)
				return
			}
			if err != nil || r.GetBundle().GetClusterId() != testCluster {
				t.Fatalf("%v, %v", r, err)
			}
			certifies(t, w, &agentplanev1.EnrollResponse{Certificate: r.GetCertificate(), CaCertificate: r.GetCaCertificate()}, key, "spiffe://c1/"+c.caller.kind+"/"+c.caller.name)
		})
	}
	w.must(&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_RevokeOperator{RevokeOperator: &raftlogv1.RevokeOperator{Name: "bob"}}})
	w.caller = operator
	_, err := w.Enroll.Renew(t.Context(), &agentplanev1.RenewRequest{Csr: request(t, key, testCluster, identity.KindOperator, "bob")})
	wantRefusal(t, err, codes.PermissionDenied, "not_registered")
}

func TestARemovedNodeIsToldSo(t *testing.T) {
	w := newWorld(t)
	w.node("n2", "node-b", true)
	row, _ := w.m.View().Node("n2")
	ask := func(id string, key []byte) bool {
		t.Helper()
		r, err := w.Enroll.NodeRemoved(t.Context(), &agentplanev1.NodeRemovedRequest{NodeId: id, PublicKey: key})
		if err != nil || r.GetIncarnation().GetNumber() != w.m.View().Cluster().GetIncarnation().GetNumber() {
			t.Fatalf("%v, %v", r, err)
		}
		return r.GetRemoved()
	}
	if ask("n2", row.GetPublicKey()) || ask("nobody", row.GetPublicKey()) {
		t.Error("a node that was not removed is told that it was")
	}
	w.must(&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_RemoveNode{RemoveNode: &raftlogv1.RemoveNode{NodeId: "n2"}}})
	if !ask("n2", row.GetPublicKey()) {
		t.Error("a removed node is not told so")
	}
	if ask("n2", []byte("another key")) {
		t.Error("somebody else is told")
	}
}

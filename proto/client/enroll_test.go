package client_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/client"
	"github.com/agentplane/agentplane/proto/client/clienttest"
	"github.com/agentplane/agentplane/proto/identity"
)

func makeToken(t *testing.T, cluster *clienttest.Cluster, name string) identity.Token {
	t.Helper()
	token, err := identity.NewToken()
	if err != nil {
		t.Fatal(err)
	}
	record := token.Record()
	c := newClient(t, cluster.Options())
	_, err = agentplanev1.NewTokenServiceClient(c).CreateToken(t.Context(), &agentplanev1.CreateTokenRequest{
		Id: record.ID, Kind: agentplanev1.TokenKind_TOKEN_KIND_OPERATOR, ProofKey: record.ProofKey.Reveal(),
		AuthenticatorHash: record.AuthenticatorHash, MaxUses: 1, Ttl: int64(time.Hour), Role: "admin", OperatorName: name,
	})
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func enrolment(key identity.Key, token identity.Token, addresses ...string) client.Enrolment {
	return client.Enrolment{
		Addresses: addresses, Token: token,
		Request: func(cluster string) ([]byte, error) {
			return identity.CreateRequest(key, identity.ID{Cluster: cluster, Kind: identity.KindOperator, Name: "eve"})
		},
		As: func(r *agentplanev1.EnrollRequest) {
			r.As = &agentplanev1.EnrollRequest_Operator{Operator: &agentplanev1.EnrollOperator{}}
		},
		Options: quick(client.Options{Unreachable: 100 * time.Millisecond}),
	}
}

func newKey(t *testing.T) identity.Key {
	t.Helper()
	key, err := identity.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func TestEnrolledKeyMayCall(t *testing.T) {
	cluster := clienttest.NewCluster(t, 2)
	token, key := makeToken(t, cluster, "eve"), newKey(t)
	cluster.Nodes[0].Kill()
	for try := range 2 { // a lost answer bricks nobody
		answer, err := client.Enroll(t.Context(), enrolment(key, token, cluster.Addresses()...))
		if err != nil {
			t.Fatalf("try %d: %v", try, err)
		}
		cert, err := identity.NewCertificate(key, answer.Certificate)
		if err != nil {
			t.Fatal(err)
		}
		c := newClient(t, quick(client.Options{Bundle: answer.Bundle, Certificate: client.Static(cert)}))
		if err := members(t, c); err != nil {
			t.Errorf("try %d: the enrolled key is refused: %v", try, err)
		}
	}
	_, err := client.Enroll(t.Context(), enrolment(newKey(t), token, cluster.Nodes[1].Address))
	if status.Code(err) != codes.PermissionDenied || !strings.Contains(err.Error(), "used up") {
		t.Errorf("another key: %v, want that the token was used", err)
	}
}

// Somebody in between who does not know the token gets its id and a nonce, and
// nothing else.
func TestWrongProofStopsEnrolment(t *testing.T) {
	cluster, liar := clienttest.NewCluster(t, 1), clienttest.NewCluster(t, 1)
	token := makeToken(t, cluster, "eve")
	// The liar has a token of the same id and another secret.
	fake, err := identity.NewTokenWithID(token.ID())
	if err != nil {
		t.Fatal(err)
	}
	record := fake.Record()
	c := newClient(t, liar.Options())
	if _, err := agentplanev1.NewTokenServiceClient(c).CreateToken(t.Context(), &agentplanev1.CreateTokenRequest{
		Id: record.ID, Kind: agentplanev1.TokenKind_TOKEN_KIND_OPERATOR, ProofKey: record.ProofKey.Reveal(),
		AuthenticatorHash: record.AuthenticatorHash, MaxUses: 1, Ttl: int64(time.Hour), OperatorName: "eve",
	}); err != nil {
		t.Fatal(err)
	}
	_, err = client.Enroll(t.Context(), enrolment(newKey(t), token, liar.Nodes[0].Address))
	if !errors.Is(err, identity.ErrBadProof) {
		t.Errorf("error = %v, want ErrBadProof", err)
	}
	for _, call := range liar.Nodes[0].Calls() {
		if call.Method == agentplanev1.EnrollService_Enroll_FullMethodName {
			t.Error("the liar was sent the authenticator")
		}
	}
	if _, err := client.Enroll(t.Context(), enrolment(newKey(t), token, liar.Nodes[0].Address, cluster.Nodes[0].Address)); err != nil {
		t.Errorf("with a second, honest address: %v", err)
	}
}

func TestEnrolmentSaysWhatIsWrong(t *testing.T) {
	cluster := clienttest.NewCluster(t, 1)
	foreign, err := identity.NewToken()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.Enroll(t.Context(), enrolment(newKey(t), foreign, cluster.Addresses()...)); status.Code(err) != codes.NotFound {
		t.Errorf("foreign token: %v, want NotFound", err)
	}
	cluster.Nodes[0].Kill()
	_, err = client.Enroll(t.Context(), enrolment(newKey(t), foreign, cluster.Addresses()...))
	if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("dead node: %v, want Unavailable: connection refused", err)
	}
}

func TestExpiredCertificateMayRenew(t *testing.T) {
	cluster := clienttest.NewCluster(t, 1)
	me := cluster.Context("late", 48*time.Hour, -24*time.Hour)
	cert, err := me.TLSCertificate()
	if err != nil {
		t.Fatal(err)
	}
	if !client.RenewalDue(me.Certificate, time.Now()) {
		t.Error("an expired certificate is not due")
	}
	opts := cluster.Options()
	opts.Certificate = client.Static(cert)
	c := newClient(t, quick(opts))
	if err := members(t, c); status.Code(err) != codes.Unauthenticated {
		t.Fatalf("expired certificate: %v, want Unauthenticated", err)
	}
	fresh, err := c.Renew(t.Context(), me.Key, me.ID())
	if err != nil {
		t.Fatal(err)
	}
	if client.RenewalDue(fresh.Certificate, time.Now()) {
		t.Error("the fresh certificate is due")
	}
	next, err := identity.NewCertificate(me.Key, fresh.Certificate)
	if err != nil {
		t.Fatal(err)
	}
	*cert = *next // no handshake runs meanwhile
	c.Reconnect()
	if err := members(t, c); err != nil {
		t.Errorf("after renewal: %v", err)
	}
}

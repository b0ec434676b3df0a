package pki

import (
	"context"
	"crypto/tls"
	"errors"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/agentplane/agentplane/proto/identity"
)

func mustLeaf(t testing.TB, opts LeafOptions) *Leaf {
	t.Helper()
	l, err := OpenLeaf(opts)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestLeafKeepsItsKey(t *testing.T) {
	dir := t.TempDir()
	ca, path := mustCA(t, dir, "a", nil), filepath.Join(dir, "node.key")
	first, second := mustLeaf(t, LeafOptions{CA: ca, KeyPath: path}), mustLeaf(t, LeafOptions{CA: ca, KeyPath: path})
	if !first.Key().Equal(second.Key()) {
		t.Fatal("a restart changed the key")
	}
	if first.Key().Equal(ca.key.Public()) {
		t.Fatal("the leaf uses the CA's key")
	}
	if _, err := OpenLeaf(LeafOptions{CA: ca}); err == nil {
		t.Error("opened without a key path")
	}
}

func TestRunRenewsAtHalfLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		ca := mustCA(t, dir, "a", time.Now)
		l := mustLeaf(t, LeafOptions{CA: ca, KeyPath: filepath.Join(dir, "node.key")})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- l.Run(ctx) }()
		peek := func() *tls.Certificate { // without the renewal that a handshake does
			synctest.Wait()
			l.mu.Lock()
			defer l.mu.Unlock()
			return l.cert
		}
		first := peek()
		time.Sleep(time.Until(identity.HalfLife(first.Leaf)) - time.Second)
		if peek() != first {
			t.Error("renewed before half life")
		}
		time.Sleep(2 * renewalCheck)
		second := peek()
		if second == first {
			t.Error("not renewed at half life")
		}
		for range 20 { // for months, without anybody
			time.Sleep(NodeLifetime)
			if c := peek(); time.Now().After(c.Leaf.NotAfter) || identity.RenewalDue(c.Leaf, time.Now().Add(-2*renewalCheck)) {
				t.Fatalf("at %v the certificate ends %v", time.Now(), c.Leaf.NotAfter)
			}
		}
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Run = %v", err)
		}
	})
}

func TestHandshakeAfterSleepShowsAFreshCertificate(t *testing.T) {
	c, dir := &clock{testNow}, t.TempDir()
	ca := mustCA(t, dir, "a", c.now)
	l := mustLeaf(t, LeafOptions{CA: ca, KeyPath: filepath.Join(dir, "node.key")})
	for name, at := range map[string]time.Time{
		"slept past the end":     testNow.AddDate(0, 6, 0),
		"the clock was set back": testNow.AddDate(0, -3, 0),
	} {
		c.t = at
		cert, err := l.GetCertificate(nil)
		if err != nil || at.Before(cert.Leaf.NotBefore) || at.After(cert.Leaf.NotAfter) {
			t.Errorf("%s: certificate %v, %v", name, cert, err)
		}
	}
	// When the CA cannot issue and the old one has ended, nothing is shown.
	c.t = testNow.AddDate(12, 0, 0)
	if _, err := l.GetClientCertificate(nil); err == nil {
		t.Error("an ended certificate was shown")
	}
}

func TestOldLeafServesWhileRenewalFails(t *testing.T) {
	c, dir := &clock{testNow}, t.TempDir()
	ca := mustCA(t, dir, "a", c.now)
	l := mustLeaf(t, LeafOptions{CA: ca, KeyPath: filepath.Join(dir, "node.key"), Lifetime: time.Hour})
	first, err := l.GetCertificate(nil)
	if err != nil {
		t.Fatal(err)
	}
	spoiled := *ca.cert
	spoiled.NotAfter = testNow // as if the CA had ended
	ca.cert = &spoiled
	c.t = testNow.Add(50 * time.Minute)
	if cert, err := l.GetCertificate(nil); err != nil || cert != first {
		t.Fatalf("while valid: %v, %v", cert, err)
	}
	c.t = testNow.Add(2 * time.Hour)
	if cert, err := l.GetCertificate(nil); err == nil {
		t.Fatalf("when ended: %v", cert)
	}
}

func TestLeafIsSafeForConcurrentUse(t *testing.T) {
	dir := t.TempDir()
	var mu sync.Mutex
	now := testNow
	ca := mustCA(t, dir, "a", func() time.Time { mu.Lock(); defer mu.Unlock(); now = now.Add(time.Hour); return now })
	l := mustLeaf(t, LeafOptions{CA: ca, KeyPath: filepath.Join(dir, "node.key"), Lifetime: 24 * time.Hour})
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 20 {
				if _, err := l.GetCertificate(nil); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}

// TestNodesTrustEachOtherThroughTheBundle is the whole way: CAs, leaves, bundle,
// handshake, and the end of trust.
func TestNodesTrustEachOtherThroughTheBundle(t *testing.T) {
	dirA, dirB := t.TempDir(), t.TempDir()
	caA, caB := mustCA(t, dirA, "a", nil), mustCA(t, dirB, "b", nil)
	a := mustLeaf(t, LeafOptions{CA: caA, KeyPath: filepath.Join(dirA, "node.key")})
	b := mustLeaf(t, LeafOptions{CA: caB, KeyPath: filepath.Join(dirB, "node.key")})
	bundle := mustBundle(t, 3, a, caA, caB)
	bundle.Nodes = append(bundle.Nodes, identity.NodeKey{NodeID: "b", Key: b.Key()})
	v, err := identity.NewVerifier(bundle, nil)
	if err != nil {
		t.Fatal(err)
	}
	agentKey := mustKey(t)
	der, err := caB.Issue(Request{ID: identity.ID{Cluster: testCluster, Kind: identity.KindAgent, Name: "web-3"}, Key: agentKey.Public()})
	if err != nil {
		t.Fatal(err)
	}
	agent, err := identity.NewCertificate(agentKey, der)
	if err != nil {
		t.Fatal(err)
	}
	showAgent := func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return agent, nil }

	connect := func(client *tls.Config) (identity.Peer, error) {
		t.Helper()
		return handshake(t, v, v.ServerConfig(a.GetCertificate), client)
	}
	if p, err := connect(v.ClientConfig(identity.ProtocolRaft, "a", b.GetClientCertificate)); err != nil || p.ID != nodeID("b") || p.RenewOnly() {
		t.Fatalf("node b: %+v, %v", p, err)
	}
	if p, err := connect(v.ClientConfig(identity.ProtocolGRPC, "", showAgent)); err != nil || p.RenewOnly() || !p.Key.Equal(agentKey.Public()) {
		t.Fatalf("the agent: %+v, %v", p, err)
	}
	next := bundle.Clone()
	next.Index, next.CAs, next.Nodes = 4, next.CAs[:1], next.Nodes[:1]
	if err := v.Update(next); err != nil {
		t.Fatal(err)
	}
	if _, err := connect(v.ClientConfig(identity.ProtocolRaft, "a", b.GetClientCertificate)); !errors.Is(err, identity.ErrKeyNotRegistered) {
		t.Fatalf("node b after it left: %v", err)
	}
	if p, err := connect(v.ClientConfig(identity.ProtocolGRPC, "", showAgent)); err != nil || !p.CAUnknown {
		t.Fatalf("the agent after its CA left: %+v, %v", p, err)
	}
}

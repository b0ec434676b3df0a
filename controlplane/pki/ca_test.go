package pki

import (
	"crypto/x509"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/agentplane/agentplane/proto/identity"
)

func TestOpenCAMakesAndThenLoads(t *testing.T) {
	dir := t.TempDir()
	first := mustCA(t, dir, "a", func() time.Time { return testNow })
	second := mustCA(t, dir, "a", func() time.Time { return testNow.AddDate(1, 0, 0) })
	if !first.cert.Equal(second.cert) {
		t.Fatal("the second OpenCA gave another certificate")
	}
	for _, name := range []string{"ca.key", "ca.crt"} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v; want mode 0600", name, info, err)
		}
	}
	if years := first.cert.NotAfter.Sub(testNow).Hours() / 24 / 365; years < 10 {
		t.Errorf("the CA lives %.1f years, want 10", years)
	}
	// A crash between key and certificate: the key stays.
	if err := os.Remove(filepath.Join(dir, "ca.crt")); err != nil {
		t.Fatal(err)
	}
	if third := mustCA(t, dir, "a", nil); !third.key.Public().Equal(first.key.Public()) {
		t.Error("a key without certificate was replaced")
	}
}

func TestOpenCARefuses(t *testing.T) {
	for _, tt := range []struct {
		name  string
		node  identity.ID
		bend  func(dir string) error
		fault string
	}{
		{"another node's CA", nodeID("b"), nil, "not the CA of"},
		{"another cluster's CA", identity.ID{Cluster: "other", Kind: identity.KindNode, Name: "a"}, nil, "not the CA of"},
		{"an agent", identity.ID{Cluster: testCluster, Kind: identity.KindAgent, Name: "a"}, nil, "is not a node"},
		{"nobody", identity.ID{}, nil, "cluster id is empty"},
		{"a missing key", nodeID("a"), func(dir string) error { return os.Remove(dir + "/ca.key") }, "no such file"},
		{"another key", nodeID("a"), func(dir string) error { return mustKey(t).Store(dir + "/ca.key") }, "but ca.key beside it is"},
		{"a readable key", nodeID("a"), func(dir string) error { return os.Chmod(dir+"/ca.key", 0o640) }, "chmod 600"},
		{"a truncated certificate", nodeID("a"), func(dir string) error { return os.Truncate(dir+"/ca.crt", 100) }, "want one PEM block"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			mustCA(t, dir, "a", nil)
			if tt.bend != nil {
				if err := tt.bend(dir); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := OpenCA(dir, tt.node, nil); err == nil || !strings.Contains(err.Error(), tt.fault) {
				t.Fatalf("OpenCA = %v, want an error with %q", err, tt.fault)
			}
		})
	}
}

func TestIssueByKind(t *testing.T) {
	ca := mustCA(t, t.TempDir(), "a", func() time.Time { return testNow })
	serials := map[string]bool{}
	for _, tt := range []struct {
		kind     identity.Kind
		lifetime time.Duration
		want     time.Duration
		server   bool
	}{
		{identity.KindNode, 0, NodeLifetime, true},
		{identity.KindAgent, 0, 24 * time.Hour, false},
		{identity.KindOperator, 0, 30 * 24 * time.Hour, false},
		{identity.KindAgent, time.Hour, time.Hour, false},
	} {
		id, key := identity.ID{Cluster: testCluster, Kind: tt.kind, Name: "x"}, mustKey(t).Public()
		der, err := ca.Issue(Request{ID: id, Key: key, Lifetime: tt.lifetime})
		if err != nil {
			t.Fatal(err)
		}
		gotID, gotKey, cert, err := identity.ParseCertificate(der)
		if err != nil || gotID != id || !gotKey.Equal(key) {
			t.Fatalf("certificate of %v for %v, %v", gotID, gotKey, err)
		}
		if got := cert.NotAfter.Sub(testNow); got != tt.want {
			t.Errorf("%s lives %v, want %v", tt.kind, got, tt.want)
		}
		if got := testNow.Sub(cert.NotBefore); got != 5*time.Minute {
			t.Errorf("%s is backdated %v, want 5m", tt.kind, got)
		}
		if len(cert.ExtKeyUsage) == 2 != tt.server {
			t.Errorf("%s may be used for %v", tt.kind, cert.ExtKeyUsage)
		}
		if s := cert.SerialNumber; s.Sign() <= 0 || s.BitLen() > 128 || s.Cmp(big.NewInt(1<<62)) < 0 || serials[s.String()] {
			t.Errorf("serial %v is not random, positive and new", s)
		}
		serials[cert.SerialNumber.String()] = true
	}
}

// A node whose wall clock was set wrong issues what others, whose clocks are right, take.
func TestIssueReachesOutTowardsTheClustersTime(t *testing.T) {
	for name, cluster := range map[string]time.Duration{"behind": 2 * time.Hour, "ahead": -2 * time.Hour, "a year behind": 365 * 24 * time.Hour} {
		own := time.Now().Truncate(time.Second)
		ca, err := OpenCA(t.TempDir(), nodeID("a"), func() identity.Moment { return identity.Moment{Own: own, Cluster: own.Add(cluster)} })
		if err != nil {
			t.Fatal(err)
		}
		key := mustKey(t)
		der, err := ca.Issue(Request{ID: identity.ID{Cluster: testCluster, Kind: identity.KindAgent, Name: "x"}, Key: key.Public()})
		if err != nil {
			t.Fatal(err)
		}
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		lean := min(cluster, AgentLifetime/4)
		from, to := own.Add(min(lean, 0)-leafBackdate), own.Add(AgentLifetime+max(lean, 0))
		if !cert.NotBefore.Equal(from) || !cert.NotAfter.Equal(to) {
			t.Errorf("%s: valid from %v to %v, want %v to %v", name, cert.NotBefore, cert.NotAfter, from, to)
		}
		if identity.RenewalDue(cert, own) {
			t.Errorf("%s: it is due at once", name)
		}
	}
}

func TestIssueRefuses(t *testing.T) {
	c := &clock{testNow}
	ca := mustCA(t, t.TempDir(), "a", c.now)
	good := Request{ID: identity.ID{Cluster: testCluster, Kind: identity.KindAgent, Name: "x"}, Key: mustKey(t).Public()}
	for _, tt := range []struct {
		name  string
		bend  func(*Request)
		fault string
	}{
		{"no name", func(r *Request) { r.ID.Name = "" }, "name is empty"},
		{"another cluster", func(r *Request) { r.ID.Cluster = "other" }, "belongs to another cluster"},
		{"the name of a CA", func(r *Request) { r.ID.Kind = "ca" }, "none of node"},
		{"no key", func(r *Request) { r.Key = nil }, "public key"},
		{"the CA's own key", func(r *Request) { r.Key = ca.key.Public() }, "that of the CA itself"},
		{"a negative life", func(r *Request) { r.Lifetime = -1 }, "lifetime"},
		{"a life without end", func(r *Request) { r.Lifetime = 2 * maxLifetime }, "lifetime"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := good
			tt.bend(&r)
			if _, err := ca.Issue(r); err == nil || !strings.Contains(err.Error(), tt.fault) {
				t.Fatalf("Issue = %v, want an error with %q", err, tt.fault)
			}
		})
	}
	for _, c.t = range []time.Time{testNow.AddDate(-2, 0, 0), testNow.AddDate(11, 0, 0)} {
		if _, err := ca.Issue(good); err == nil || !strings.Contains(err.Error(), "correct the clock") {
			t.Errorf("Issue at %v = %v", c.t, err)
		}
	}
}

func TestLeafLivesWithinItsCA(t *testing.T) {
	c := &clock{testNow}
	ca := mustCA(t, t.TempDir(), "a", c.now)
	key := mustKey(t).Public()
	rapid.Check(t, func(t *rapid.T) {
		span := ca.cert.NotAfter.Sub(ca.cert.NotBefore)
		c.t = ca.cert.NotBefore.Add(time.Duration(rapid.Int64Range(0, int64(span)-1).Draw(t, "at")))
		if rapid.Bool().Draw(t, "near the end") {
			c.t = ca.cert.NotAfter.Add(-time.Duration(rapid.Int64Range(1, int64(time.Hour)).Draw(t, "left")))
		}
		life := time.Duration(rapid.Int64Range(int64(2*time.Second), int64(maxLifetime)).Draw(t, "life"))
		der, err := ca.Issue(Request{ID: nodeID("a"), Key: key, Lifetime: life})
		if err != nil {
			t.Fatal(err)
		}
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		if cert.NotBefore.Before(ca.cert.NotBefore) || cert.NotAfter.After(ca.cert.NotAfter) || cert.NotAfter.After(c.t.Add(life)) || cert.NotBefore.After(c.t) {
			t.Fatalf("issued at %v for %v: valid from %v to %v", c.t, life, cert.NotBefore, cert.NotAfter)
		}
		if capped := cert.NotAfter.Equal(ca.cert.NotAfter); !capped && life > 4*time.Second && identity.RenewalDue(cert, c.t) {
			t.Fatalf("due as soon as it was issued: life %v", life)
		}
	})
}

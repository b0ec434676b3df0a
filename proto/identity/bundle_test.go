package identity

import (
	"bytes"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/json"
	"errors"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestBundleSurvivesTheRoundTrip(t *testing.T) {
	w := newWorld(t)
	w.bundle.CAs[1].NotAfter = testNow.Add(time.Hour)
	data, err := w.bundle.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	got, err := ParseBundle(data)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(w.bundle, got); d != "" {
		t.Error(d)
	}
	again, err := got.Marshal()
	if err != nil || !bytes.Equal(data, again) {
		t.Errorf("the second Marshal gave other bytes (%v)", err)
	}
	if d := cmp.Diff(w.bundle, w.bundle.Clone()); d != "" {
		t.Errorf("Clone: %s", d)
	}
}

func TestOlderReaderIgnoresNewFields(t *testing.T) {
	data, err := newWorld(t).bundle.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	data = bytes.Replace(data, []byte(`{"format":1,`), []byte(`{"format":1,"jwt_keys":["x"],`), 1)
	if _, err := ParseBundle(data); err != nil {
		t.Fatal(err)
	}
	data = bytes.Replace(data, []byte(`{"format":1,`), []byte(`{"format":2,`), 1)
	if _, err := ParseBundle(data); err == nil || !strings.Contains(err.Error(), "format 2") {
		t.Fatalf("ParseBundle of another format = %v", err)
	}
}

func TestBundleRefusesWhatNoClusterHas(t *testing.T) {
	for _, tt := range []struct {
		name  string
		bend  func(*world)
		fault string
	}{
		{"no cluster id", func(w *world) { w.bundle.ClusterID = "" }, "cluster id is empty"},
		{"no incarnation", func(w *world) { w.bundle.Incarnation = Incarnation{} }, "incarnation number 0"},
		{"an incarnation that no epoch can hold", func(w *world) { w.bundle.Incarnation.Number = 4096 }, "incarnation number 4096"},
		{"no incarnation id", func(w *world) { w.bundle.Incarnation.ID = "" }, "incarnation id"},
		{"a node twice", func(w *world) { w.bundle.Nodes[1].NodeID = "a" }, "listed twice"},
		{"two nodes with one key", func(w *world) { w.bundle.Nodes[1].Key = w.keyA.Public() }, "its key is that of node"},
		{"a node without key", func(w *world) { w.bundle.Nodes[0].Key = nil }, "public key"},
		{"a bad node id", func(w *world) { w.bundle.Nodes[0].NodeID = "a/b" }, "has the character"},
		{"a bad address", func(w *world) { w.bundle.Nodes[0].Addresses = []string{"a"} }, "want HOST:PORT"},
		{"a CA twice", func(w *world) { w.bundle.CAs = append(w.bundle.CAs, w.caA.entry()) }, "listed twice"},
		{"a CA under another node's name", func(w *world) { w.bundle.CAs[0].NodeID = "b" }, "is not named"},
		{"a CA of another cluster", func(w *world) { w.bundle.CAs[0] = newTestCA(t, "other", "a", nil).entry() }, "is not named"},
		{"a leaf in the place of a CA", func(w *world) { w.bundle.CAs[0].CertDER = w.leafA.Certificate[0] }, "not that of a CA"},
		{"garbage in the place of a CA", func(w *world) { w.bundle.CAs[0].CertDER = []byte("x") }, "CA 0 of node"},
		{"too many nodes", func(w *world) { w.bundle.Nodes = make([]NodeKey, maxBundleItems+1) }, "above the maximum"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			tt.bend(w)
			if err := w.bundle.Validate(); err == nil || !strings.Contains(err.Error(), tt.fault) {
				t.Fatalf("Validate = %v, want an error with %q", err, tt.fault)
			}
			if _, err := w.bundle.Marshal(); err == nil {
				t.Fatal("Marshal wrote what ParseBundle would refuse")
			}
			if _, err := NewVerifier(w.bundle, Wall(testClock)); err == nil {
				t.Fatal("a Verifier took it")
			}
		})
	}
}

func TestBundleRefusesCAsWithTooMuchPower(t *testing.T) {
	for _, tt := range []struct {
		name string
		bend func(*x509.Certificate)
	}{
		{"may sign other CAs", func(c *x509.Certificate) { c.MaxPathLenZero, c.MaxPathLen = false, 1 }},
		{"without path length", func(c *x509.Certificate) { c.MaxPathLenZero, c.MaxPathLen = false, -1 }},
		{"without name constraint", func(c *x509.Certificate) { c.PermittedURIDomains = nil }},
		{"constrained to another cluster", func(c *x509.Certificate) { c.PermittedURIDomains = []string{"other"} }},
		{"constrained to two clusters", func(c *x509.Certificate) { c.PermittedURIDomains = []string{testCluster, "other"} }},
		{"with a constraint that may be ignored", func(c *x509.Certificate) { c.PermittedDNSDomainsCritical = false }},
		{"named as a node", func(c *x509.Certificate) { c.URIs = []*url.URL{mustURL(t, nodeURI("a"))} }},
		{"with an unknown critical extension", func(c *x509.Certificate) {
			c.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 99999, 1}, Critical: true, Value: []byte{5, 0}}}
		}},
		{"without a name", func(c *x509.Certificate) { c.URIs = nil }},
		{"without the right to sign", func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageDigitalSignature }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ca := newTestCA(t, testCluster, "a", tt.bend)
			b := &Bundle{ClusterID: testCluster, Incarnation: testIncarnation, CAs: []CA{ca.entry()}}
			if err := b.Validate(); err == nil {
				t.Fatal("the CA was taken into a bundle")
			}
		})
	}
	// A CA certificate signed by another CA under its name.
	a, b := newTestCA(t, testCluster, "a", nil), newTestCA(t, testCluster, "a", nil)
	forged := a.issue(t, CAName(testCluster, "a"), b.key, func(c *x509.Certificate) { *c = *caTemplate(t, testCluster, "a") })
	bundle := &Bundle{ClusterID: testCluster, Incarnation: testIncarnation, CAs: []CA{{NodeID: "a", CertDER: forged.Certificate[0]}}}
	if err := bundle.Validate(); err == nil {
		t.Fatal("a CA that did not sign itself was taken")
	}
}

func TestUpdateNeverGoesBack(t *testing.T) {
	for _, tt := range []struct {
		name string
		bend func(*Bundle)
		want error
		uses bool
	}{
		{"a higher index", func(b *Bundle) { b.Index++ }, nil, true},
		{"the same index", func(b *Bundle) {}, nil, false},
		{"a lower index", func(b *Bundle) { b.Index-- }, ErrOlderBundle, false},
		{"a higher incarnation with a lower index", func(b *Bundle) { b.Index, b.Incarnation = 1, Incarnation{3, "y"} }, nil, true},
		{"a lower incarnation with a higher index", func(b *Bundle) { b.Index, b.Incarnation = 99, Incarnation{1, "y"} }, ErrOlderBundle, false},
		{"the same number with another id", func(b *Bundle) { b.Index, b.Incarnation.ID = 99, "z" }, ErrOlderBundle, false},
		{"another cluster", func(b *Bundle) { *b = Bundle{ClusterID: "other", Incarnation: b.Incarnation, Index: 99} }, ErrWrongCluster, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			w.bundle.Incarnation = Incarnation{2, "x"}
			v := w.verifier(t)
			next := w.bundle.Clone()
			next.Nodes = next.Nodes[:1]
			tt.bend(next)
			if err := v.Update(next); !errors.Is(err, tt.want) {
				t.Fatalf("Update = %v, want %v", err, tt.want)
			}
			if used := len(v.Bundle().Nodes) == len(next.Nodes) && v.Bundle().ClusterID == next.ClusterID; used != tt.uses {
				t.Fatalf("bundle in use changed = %v, want %v", used, tt.uses)
			}
			if newer := next.Newer(w.bundle); newer != (tt.name == "a higher index") {
				t.Fatalf("Newer = %v", newer)
			}
		})
	}
}

func TestVerifierKeepsItsOwnCopy(t *testing.T) {
	w := newWorld(t)
	v := w.verifier(t)
	w.bundle.Nodes[0].Key[20] ^= 1
	w.bundle.CAs[0].CertDER[20] ^= 1
	v.Bundle().Nodes[0].NodeID = "x"
	if _, ok := v.Bundle().Node("a"); !ok || v.Bundle().Validate() != nil {
		t.Fatal("the caller changed the bundle in use")
	}
}

func FuzzParseBundle(f *testing.F) {
	data, err := newWorld(f).bundle.Marshal()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add([]byte(`{"format":1,"cluster_id":"c","incarnation":{"number":1,"id":"x"},"index":0,"cas":null,"nodes":[]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		b, err := ParseBundle(data)
		if err != nil {
			return
		}
		again, err := b.Marshal()
		if err != nil {
			// JSON escapes may make the canonical form longer than the input.
			if len(data) > MaxBundleBytes/8 {
				return
			}
			t.Fatalf("parsed, but cannot be marshalled: %v", err)
		}
		c, err := ParseBundle(again)
		if err != nil {
			t.Fatal(err)
		}
		final, err := c.Marshal()
		if err != nil || !bytes.Equal(again, final) {
			t.Fatalf("the form is not canonical (%v)", err)
		}
		if !json.Valid(again) {
			t.Fatal("not JSON")
		}
	})
}

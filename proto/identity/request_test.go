package identity

import (
	"bytes"
	"crypto/rand"
	"crypto/x509"
	"net"
	"net/url"
	"testing"
)

func TestRequestSurvivesTheRoundTrip(t *testing.T) {
	key, want := mustKey(t), ID{testCluster, KindAgent, "web-3"}
	der, err := CreateRequest(key, want)
	if err != nil {
		t.Fatal(err)
	}
	id, pub, err := ParseRequest(der)
	if err != nil || id != want || !pub.Equal(key.Public()) {
		t.Fatalf("ParseRequest = %v, %v, %v; want %v, %v", id, pub, err, want, key)
	}
}

func TestParseRequestRefuses(t *testing.T) {
	key := mustKey(t)
	make := func(template x509.CertificateRequest) []byte {
		der, err := x509.CreateCertificateRequest(rand.Reader, &template, key.Signer())
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	good := make(x509.CertificateRequest{URIs: []*url.URL{mustURL(t, agentURI("a"))}})
	forged := bytes.Clone(good)
	forged[len(forged)-1] ^= 1 // in the signature
	for name, der := range map[string][]byte{
		"nothing":          nil,
		"forged signature": forged,
		"trailing byte":    append(bytes.Clone(good), 0),
		"no name":          make(x509.CertificateRequest{}),
		"two names":        make(x509.CertificateRequest{URIs: []*url.URL{mustURL(t, agentURI("a")), mustURL(t, nodeURI("a"))}}),
		"a host name too":  make(x509.CertificateRequest{URIs: []*url.URL{mustURL(t, agentURI("a"))}, DNSNames: []string{"a"}}),
		"an address":       make(x509.CertificateRequest{IPAddresses: []net.IP{net.IPv4(10, 0, 0, 1)}}),
		"a foreign name":   make(x509.CertificateRequest{URIs: []*url.URL{mustURL(t, "https://x/y")}}),
		"an escaped name":  make(x509.CertificateRequest{URIs: []*url.URL{mustURL(t, "spiffe://c1/node/%61")}}),
		"too long":         append(bytes.Clone(good), bytes.Repeat([]byte{0}, maxRequestBytes)...),
	} {
		if id, _, err := ParseRequest(der); err == nil {
			t.Errorf("%s: accepted as %v", name, id)
		}
	}
}

func FuzzParseRequest(f *testing.F) {
	der, err := CreateRequest(mustKey(f), ID{testCluster, KindNode, "a"})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(der)
	f.Fuzz(func(t *testing.T, der []byte) {
		id, pub, err := ParseRequest(der)
		if err == nil && (id.Validate() != nil || pub.Validate() != nil) {
			t.Fatalf("accepted %v %v", id, pub)
		}
	})
}

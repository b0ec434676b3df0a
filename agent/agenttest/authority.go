package agenttest

import (
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net/url"
	"testing"
	"time"

	"github.com/agentplane/agentplane/proto/identity"
)

// authority is a node's CA.
type authority struct {
	key  identity.Key
	cert *x509.Certificate
}

func newAuthority(t testing.TB, cluster, node string) *authority {
	t.Helper()
	key, err := identity.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	name, err := url.Parse(identity.CAName(cluster, node))
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "CA of " + node},
		NotBefore: time.Now().Add(-24 * time.Hour), NotAfter: time.Now().AddDate(10, 0, 0),
		KeyUsage: x509.KeyUsageCertSign, BasicConstraintsValid: true, IsCA: true, MaxPathLenZero: true,
		URIs: []*url.URL{name}, PermittedDNSDomainsCritical: true, PermittedURIDomains: []string{cluster},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Signer().Public(), key.Signer())
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{key: key, cert: cert}
}

// issue signs a leaf, valid within the span.
func (a *authority) issue(id identity.ID, public identity.PublicKey, from, to time.Time) ([]byte, error) {
	pub, err := public.Parse()
	if err != nil {
		return nil, err
	}
	name, err := url.Parse(id.String())
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), NotBefore: from, NotAfter: to,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true, URIs: []*url.URL{name},
	}
	return x509.CreateCertificate(rand.Reader, template, a.cert, pub, a.key.Signer())
}

package clienttest

import (
	"crypto/rand"
	"crypto/tls"
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
	cluster string
	key     identity.Key
	cert    *x509.Certificate
}

func newKey(t testing.TB) identity.Key {
	t.Helper()
	k, err := identity.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func mustURL(t testing.TB, s string) *url.URL {
	t.Helper()
	u, err := url.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func newAuthority(t testing.TB, cluster, node string) *authority {
	t.Helper()
	key := newKey(t)
	template := &x509.Certificate{
		SerialNumber:                big.NewInt(1),
		Subject:                     pkix.Name{CommonName: "CA of " + node},
		NotBefore:                   time.Now().Add(-24 * time.Hour),
		NotAfter:                    time.Now().AddDate(10, 0, 0),
		KeyUsage:                    x509.KeyUsageCertSign,
		BasicConstraintsValid:       true,
		IsCA:                        true,
		MaxPathLenZero:              true,
		URIs:                        []*url.URL{mustURL(t, identity.CAName(cluster, node))},
		PermittedDNSDomainsCritical: true,
		PermittedURIDomains:         []string{cluster},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Signer().Public(), key.Signer())
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{cluster: cluster, key: key, cert: cert}
}

// issue signs a leaf for the name and the key, valid within the span.
func (a *authority) issue(t testing.TB, id identity.ID, public identity.PublicKey, from, to time.Time) []byte {
	t.Helper()
	pub, err := public.Parse()
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(time.Now().UnixNano()),
		NotBefore:             from,
		NotAfter:              to,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
		URIs:                  []*url.URL{mustURL(t, id.String())},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, pub, a.key.Signer())
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func certificate(t testing.TB, key identity.Key, der []byte) *tls.Certificate {
	t.Helper()
	c, err := identity.NewCertificate(key, der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

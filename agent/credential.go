package agent

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"sync"
	"time"

	"github.com/agentplane/agentplane/proto/identity"
)

const maxCertificateBytes = 64 << 10

// credential is the agent's key with its certificate of the moment.
type credential struct {
	path string
	key  identity.Key
	id   identity.ID

	mu   sync.Mutex // guards cert, and the file
	cert *tls.Certificate
}

// loadCredential reads the certificate of an enrolled agent. An expired one is as good as
// any for asking for another.
func loadCredential(path string, key identity.Key, id identity.ID) (*credential, error) {
	der, err := identity.ReadSecretFile(path, maxCertificateBytes)
	if err != nil {
		return nil, err
	}
	c := &credential{path: path, key: key, id: id}
	if c.cert, err = identity.NewCertificate(key, der); err != nil {
		return nil, fmt.Errorf("read %q: %w", path, err)
	}
	return c, nil
}

// replace puts a certificate to use once it is on disk.
func (c *credential) replace(der []byte) error {
	cert, err := identity.NewCertificate(c.key, der)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := identity.ReplaceFile(c.path, der); err != nil {
		return err
	}
	c.cert = cert
	return nil
}

// certificate answers TLS handshakes.
func (c *credential) certificate(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cert, nil
}

func (c *credential) leaf() *x509.Certificate {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cert.Leaf != nil {
		return c.cert.Leaf
	}
	_, _, leaf, err := identity.ParseCertificate(c.cert.Certificate[0])
	if err != nil {
		return &x509.Certificate{} // which has expired
	}
	return leaf
}

// expired says whether the certificate is of no use but for renewal.
func (c *credential) expired(now time.Time) bool {
	leaf := c.leaf()
	return now.After(leaf.NotAfter) || now.Before(leaf.NotBefore)
}

// due says how long it is until renewal; 0 is now.
func (c *credential) due(now time.Time) time.Duration {
	leaf := c.leaf()
	if identity.RenewalDue(leaf, now) {
		return 0
	}
	return identity.HalfLife(leaf).Sub(now)
}

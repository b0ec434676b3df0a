package agent

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"time"

	"github.com/agentplane/agentplane/proto/identity"
)

const (
	maxCertificateBytes = 64 << 10
	maxKeyBytes         = 16 << 10
)

// credential is the agent's key with its certificate of the moment. Enrolling again takes
// another key: it lies beside the first one until the certificate over it has been put in
// place, and that one file says which of the two keys counts. So a crash at any moment
// leaves a key with its certificate.
type credential struct {
	dir *directory
	id  identity.ID

	mu   sync.Mutex // guards key and cert, and the files
	key  identity.Key
	cert *tls.Certificate
}

// loadCredential reads the certificate of an enrolled agent and the key that it is for.
// An expired one is as good as any for asking for another.
func loadCredential(dir *directory, id identity.ID) (*credential, error) {
	path := dir.file(certificateFile)
	der, err := identity.ReadSecretFile(path, maxCertificateBytes)
	if err != nil {
		return nil, err
	}
	named, public, _, err := identity.ParseCertificate(der)
	switch {
	case err != nil:
		return nil, damaged(path, err)
	case named != id:
		return nil, damaged(dir.file(recordFile), fmt.Errorf("it says that this is %s, but the certificate %q is of %s", id, path, named))
	}
	c := &credential{dir: dir, id: id}
	if c.key, err = dir.keyOf(public); err != nil {
		return nil, err
	}
	c.cert, err = identity.NewCertificate(c.key, der)
	return c, err
}

// keyOf gives the key that the certificate is for, and finishes what a crash has left of
// the change to it.
func (d *directory) keyOf(public identity.PublicKey) (identity.Key, error) {
	key, err := d.loadKey(keyFile)
	if err == nil && public.Equal(key.Public()) {
		return key, nil
	}
	next, nextErr := d.loadKey(nextKeyFile)
	if nextErr == nil && public.Equal(next.Public()) {
		return next, d.nextKeyCounts()
	}
	if err == nil {
		err = damaged(d.file(keyFile), fmt.Errorf("it is key %s, the certificate in %q is for key %s", key.Public(), d.file(certificateFile), public))
	}
	return identity.Key{}, err
}

// loadKey tells a key file that is damaged from one that is missing or not private.
func (d *directory) loadKey(name string) (identity.Key, error) {
	text, err := identity.ReadSecretFile(d.file(name), maxKeyBytes)
	if err != nil {
		return identity.Key{}, err
	}
	key, err := identity.ParseKey(text)
	if err != nil {
		return identity.Key{}, damaged(d.file(name), err)
	}
	return key, nil
}

// openKey loads the key, or makes one that is on disk when it is returned.
func (d *directory) openKey(name string) (identity.Key, error) {
	key, err := d.loadKey(name)
	if !errors.Is(err, fs.ErrNotExist) {
		return key, err
	}
	return identity.OpenKey(d.file(name))
}

// nextKeyCounts gives the next key the name of the one that counts.
func (d *directory) nextKeyCounts() error {
	if err := os.Rename(d.file(nextKeyFile), d.file(keyFile)); err != nil {
		return err
	}
	return identity.SyncDir(d.path)
}

// replace puts a certificate to use once it is on disk.
func (c *credential) replace(der []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	cert, err := identity.NewCertificate(c.key, der)
	if err != nil {
		return err
	}
	if err := identity.ReplaceFile(c.dir.file(certificateFile), der); err != nil {
		return err
	}
	c.cert = cert
	return nil
}

// change puts the next key to use with a certificate over it.
func (c *credential) change(next identity.Key, der []byte) error {
	cert, err := identity.NewCertificate(next, der)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := identity.ReplaceFile(c.dir.file(certificateFile), der); err != nil {
		return err
	}
	c.key, c.cert = next, cert
	return c.dir.nextKeyCounts()
}

func (c *credential) current() identity.Key {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.key
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
func (c *credential) expired(now identity.Moment) bool {
	leaf := c.leaf()
	return now.Outside(leaf.NotBefore, leaf.NotAfter)
}

// due says how long it is until renewal; 0 is now. As a certificate is good until it is out of its
// time by both clocks, it is due when it is so by both: whichever of them is wrong, a fresh one
// is not due at once.
func (c *credential) due(now identity.Moment) time.Duration {
	leaf := c.leaf()
	by := func(t time.Time) time.Duration {
		if identity.RenewalDue(leaf, t) {
			return 0
		}
		return identity.HalfLife(leaf).Sub(t)
	}
	return max(by(now.Own), by(now.Now()))
}

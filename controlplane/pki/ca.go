package pki

import (
	"bytes"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net/url"
	"path/filepath"
	"time"

	"github.com/agentplane/agentplane/proto/identity"
)

// How long certificates live. Agents and nodes renew by themselves, so theirs
// are short; an operator has to be there to renew.
const (
	AgentLifetime    = 24 * time.Hour
	OperatorLifetime = 30 * 24 * time.Hour
	NodeLifetime     = 7 * 24 * time.Hour

	maxLifetime  = 366 * 24 * time.Hour
	caLifetime   = 10 * 366 * 24 * time.Hour
	caBackdate   = 366 * 24 * time.Hour
	leafBackdate = 5 * time.Minute // how far clocks may be apart
)

const (
	caKeyFile    = "ca.key"
	caCertFile   = "ca.crt"
	certPEMType  = "CERTIFICATE"
	maxCertBytes = 16 << 10
)

// CA is the certificate authority of one node.
type CA struct {
	node identity.ID
	key  identity.Key
	cert *x509.Certificate
	// clock is that of certificates; now is the wall clock in it.
	clock identity.Clock
}

func (c *CA) now() time.Time { return c.clock().Own }

// OpenCA loads the CA of the node from the directory, or makes it there when
// there is none. What it returns is on disk. The directory has to be private and
// locked by the caller.
func OpenCA(dir string, node identity.ID, clock identity.Clock) (*CA, error) {
	if clock == nil {
		clock = identity.Wall(time.Now)
	}
	if err := node.Validate(); err != nil {
		return nil, fmt.Errorf("open CA: %w", err)
	}
	if node.Kind != identity.KindNode {
		return nil, fmt.Errorf("open CA: %s is not a node", node)
	}
	ca := &CA{node: node, clock: clock}
	keyPath, certPath := filepath.Join(dir, caKeyFile), filepath.Join(dir, caCertFile)
	text, err := identity.ReadSecretFile(certPath, maxCertBytes)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		// The key is stored first: a certificate always finds its key.
		if ca.key, err = identity.OpenKey(keyPath); err != nil {
			return nil, fmt.Errorf("open CA: %w", err)
		}
		if ca.cert, err = ca.selfSign(); err != nil {
			return nil, fmt.Errorf("open CA: %w", err)
		}
		text := pem.EncodeToMemory(&pem.Block{Type: certPEMType, Bytes: ca.cert.Raw})
		if err := identity.ReplaceFile(certPath, text); err != nil {
			return nil, fmt.Errorf("open CA: %w", err)
		}
		return ca, nil
	case err != nil:
		return nil, fmt.Errorf("open CA: %w", err)
	}
	if ca.key, err = identity.LoadKey(keyPath); err != nil {
		return nil, fmt.Errorf("open CA: %w", err)
	}
	if ca.cert, err = ca.parse(text); err != nil {
		return nil, fmt.Errorf("open CA %q: %w", certPath, err)
	}
	return ca, nil
}

func (c *CA) parse(text []byte) (*x509.Certificate, error) {
	block, rest := pem.Decode(text)
	if block == nil || block.Type != certPEMType || len(bytes.TrimSpace(rest)) > 0 {
		return nil, fmt.Errorf("want one PEM block %q", certPEMType)
	}
	cert, err := identity.CA{NodeID: c.node.Name, CertDER: block.Bytes}.Certificate(c.node.Cluster)
	if err != nil {
		return nil, fmt.Errorf("not the CA of %s: %w", c.node, err)
	}
	key, err := identity.MarshalPublicKey(cert.PublicKey)
	if err != nil {
		return nil, err
	}
	if !key.Equal(c.key.Public()) {
		return nil, fmt.Errorf("it is for key %s, but %s beside it is %s", key, caKeyFile, c.key)
	}
	return cert, nil
}

func (c *CA) selfSign() (*x509.Certificate, error) {
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	uri, err := url.Parse(identity.CAName(c.node.Cluster, c.node.Name))
	if err != nil {
		return nil, err
	}
	now := c.now()
	template := &x509.Certificate{
		SerialNumber:                serial,
		Subject:                     pkix.Name{Organization: []string{"agentplane"}, CommonName: "CA of node " + shorten(c.node.Name)},
		NotBefore:                   now.Add(-caBackdate),
		NotAfter:                    now.Add(caLifetime),
		KeyUsage:                    x509.KeyUsageCertSign,
		BasicConstraintsValid:       true,
		IsCA:                        true,
		MaxPathLenZero:              true,
		URIs:                        []*url.URL{uri},
		PermittedDNSDomainsCritical: true, // makes the constraint below critical
		PermittedURIDomains:         []string{c.node.Cluster},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, c.key.Signer().Public(), c.key.Signer())
	if err != nil {
		return nil, err
	}
	// What nobody would take into a bundle must not be stored either.
	return identity.CA{NodeID: c.node.Name, CertDER: der}.Certificate(c.node.Cluster)
}

// Node returns whose CA it is.
func (c *CA) Node() identity.ID { return c.node }

// Entry returns what the bundle lists of the CA.
func (c *CA) Entry() identity.CA {
	return identity.CA{NodeID: c.node.Name, CertDER: bytes.Clone(c.cert.Raw), NotAfter: c.cert.NotAfter}
}

// Request says what certificate is wanted.
type Request struct {
	ID  identity.ID
	Key identity.PublicKey // found registered for ID, or about to be
	// Lifetime is how long the certificate lives at most; zero means the
	// lifetime of the kind.
	Lifetime time.Duration
}

// Issue returns a certificate in DER form. It ends with the CA's at the latest.
// That the identity may have it is the caller's decision. The same request gives
// another certificate each time; all of them are good.
func (c *CA) Issue(r Request) ([]byte, error) {
	der, err := c.issue(r)
	if err != nil {
		return nil, fmt.Errorf("issue certificate for %s: %w", r.ID, err)
	}
	return der, nil
}

func (c *CA) issue(r Request) ([]byte, error) {
	if err := r.ID.Validate(); err != nil {
		return nil, err
	}
	if r.ID.Cluster != c.node.Cluster {
		return nil, fmt.Errorf("it %w; this is the CA of %s", identity.ErrWrongCluster, c.node)
	}
	public, err := r.Key.Parse()
	if err != nil {
		return nil, err
	}
	if r.Key.Equal(c.key.Public()) {
		return nil, errors.New("the key is that of the CA itself")
	}
	lifetime := r.Lifetime
	usage := []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	switch r.ID.Kind {
	case identity.KindNode:
		usage = append(usage, x509.ExtKeyUsageServerAuth)
		lifetime = defaulted(lifetime, NodeLifetime)
	case identity.KindAgent:
		lifetime = defaulted(lifetime, AgentLifetime)
	case identity.KindOperator:
		lifetime = defaulted(lifetime, OperatorLifetime)
	}
	if lifetime < 0 || lifetime > maxLifetime {
		return nil, fmt.Errorf("lifetime %v is not between 0 and %v", lifetime, maxLifetime)
	}
	from, to, err := validity(c.clock(), lifetime, c.cert)
	if err != nil {
		return nil, err
	}
	uri, err := url.Parse(r.ID.String())
	if err != nil {
		return nil, err
	}
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{Organization: []string{"agentplane"}, CommonName: string(r.ID.Kind) + " " + shorten(r.ID.Name)},
		NotBefore:             from,
		NotAfter:              to,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           usage,
		BasicConstraintsValid: true,
		URIs:                  []*url.URL{uri},
	}
	return x509.CreateCertificate(rand.Reader, template, c.cert, public, c.key.Signer())
}

// validity returns from when to when a leaf issued now is valid: backdated,
// within the CA's own validity. Whole seconds, as certificates have them. A
// short life is backdated less, so that it is not half over when it begins.
//
// It reaches out towards the cluster's time by up to a quarter of its life, so that of a
// node whose wall clock was set wrong others take certificates as well.
func validity(m identity.Moment, lifetime time.Duration, ca *x509.Certificate) (from, to time.Time, err error) {
	now, lean := m.Own, m.Lean(lifetime/4)
	if now.Before(ca.NotBefore) || !now.Before(ca.NotAfter) {
		return from, to, fmt.Errorf("the CA is valid from %s to %s and the clock says %s; correct the clock or replace the CA",
			ca.NotBefore.UTC().Format(time.RFC3339), ca.NotAfter.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	}
	if from = now.Add(min(lean, 0) - min(leafBackdate, lifetime/2)).Truncate(time.Second); from.Before(ca.NotBefore) {
		from = ca.NotBefore
	}
	if to = now.Add(max(lean, 0) + lifetime).Truncate(time.Second); to.After(ca.NotAfter) {
		to = ca.NotAfter
	}
	return from, to, nil
}

func defaulted(d, preset time.Duration) time.Duration {
	if d == 0 {
		return preset
	}
	return d
}

// newSerial returns a random positive number of at most 127 bits.
func newSerial() (*big.Int, error) {
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("make serial number: %w", err)
	}
	return n.Add(n, big.NewInt(1)), nil
}

// shorten keeps a name within the 64 characters that a common name has. It is
// for people only: the URI names.
func shorten(name string) string {
	const most = 48
	if len(name) > most {
		return name[:most]
	}
	return name
}

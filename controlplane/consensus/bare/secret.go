package bare

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"math/big"
	"time"
)

// Secret is the one certificate, with its key, that all processes and clients of one
// run share. It is as long as a node's: Ed25519.
type Secret struct {
	Certificate []byte // DER
	Key         []byte // Ed25519
}

const serverName = "bare"

// NewSecret makes one.
func NewSecret() (Secret, error) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return Secret{}, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{serverName}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(30 * 24 * time.Hour),
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, public, private)
	return Secret{Certificate: der, Key: private}, err
}

// config serves both sides: each proves that it has the key.
func (s Secret) config() (*tls.Config, error) {
	if len(s.Key) != ed25519.PrivateKeySize {
		return nil, errors.New("bare: the key has the wrong size")
	}
	cert, err := x509.ParseCertificate(s.Certificate)
	if err != nil {
		return nil, err
	}
	trusted := x509.NewCertPool()
	trusted.AddCert(cert)
	return &tls.Config{
		MinVersion: tls.VersionTLS13, ServerName: serverName, RootCAs: trusted,
		ClientCAs: trusted, ClientAuth: tls.RequireAndVerifyClientCert,
		Certificates: []tls.Certificate{{Certificate: [][]byte{s.Certificate}, PrivateKey: ed25519.PrivateKey(s.Key), Leaf: cert}},
	}, nil
}

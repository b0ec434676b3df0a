package pki

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/agentplane/agentplane/proto/identity"
)

// renewalCheck is how often Run looks at the clock at least: a wall clock that
// was set, or a machine that slept, shows in no timer.
const renewalCheck = time.Minute

// LeafOptions says what a Leaf is made of.
type LeafOptions struct {
	// CA issues the certificate, for its own node. Required.
	CA *CA
	// KeyPath is the file of the node's key, made when it is missing. Required.
	KeyPath string
	// Lifetime of each certificate; zero means NodeLifetime.
	Lifetime time.Duration
	// Log is told of renewals; nil discards.
	Log *slog.Logger
}

// Leaf is the node's own certificate, always a fresh one.
type Leaf struct {
	opts LeafOptions
	key  identity.Key

	mu   sync.Mutex // guards cert; held while a certificate is issued (no I/O)
	cert *tls.Certificate
}

// OpenLeaf loads or makes the node's key and issues the first certificate.
func OpenLeaf(opts LeafOptions) (*Leaf, error) {
	if opts.CA == nil || opts.KeyPath == "" {
		return nil, errors.New("open leaf: CA and KeyPath are required")
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	key, err := identity.OpenKey(opts.KeyPath)
	if err != nil {
		return nil, fmt.Errorf("open leaf: %w", err)
	}
	l := &Leaf{opts: opts, key: key}
	if _, err := l.current(); err != nil {
		return nil, fmt.Errorf("open leaf: %w", err)
	}
	return l, nil
}

// Key returns the public key that the cluster registers for the node.
func (l *Leaf) Key() identity.PublicKey { return l.key.Public() }

// GetCertificate is for identity.Verifier.ServerConfig.
func (l *Leaf) GetCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	return l.current()
}

// GetClientCertificate is for identity.Verifier.ClientConfig.
func (l *Leaf) GetClientCertificate(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
	return l.current()
}

// Run renews the certificate when it is due, until ctx ends, and then returns
// its error. Handshakes renew it as well; Run makes sure that a failure is said
// long before the certificate ends.
func (l *Leaf) Run(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-timer.C:
		}
		if err := l.renew(); err != nil {
			l.opts.Log.Error("node certificate not renewed", "err", err)
		}
		timer.Reset(renewalCheck)
	}
}

// current returns the certificate, a new one when it is due. While renewing
// fails the old one serves until it ends.
func (l *Leaf) current() (*tls.Certificate, error) {
	err := l.renew()
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.opts.CA.now()
	if err != nil && (l.cert == nil || now.Before(l.cert.Leaf.NotBefore) || now.After(l.cert.Leaf.NotAfter)) {
		return nil, err
	}
	return l.cert, nil
}

// renew puts a new certificate in place when it is due.
func (l *Leaf) renew() error {
	l.mu.Lock()
	if l.cert != nil && !identity.RenewalDue(l.cert.Leaf, l.opts.CA.now()) {
		l.mu.Unlock()
		return nil
	}
	cert, err := l.issue()
	if err == nil {
		l.cert = cert
	}
	l.mu.Unlock()
	if err != nil {
		return err
	}
	l.opts.Log.Info("node certificate issued", "not_after", cert.Leaf.NotAfter, "key", l.key)
	return nil
}

func (l *Leaf) issue() (*tls.Certificate, error) {
	der, err := l.opts.CA.Issue(Request{
		ID: l.opts.CA.Node(), Key: l.key.Public(), Lifetime: defaulted(l.opts.Lifetime, NodeLifetime),
	})
	if err != nil {
		return nil, err
	}
	return identity.NewCertificate(l.key, der)
}

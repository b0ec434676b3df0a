package identity

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"time"
)

// The protocols that share the one port, as ALPN names them.
const (
	ProtocolGRPC = "h2"
	ProtocolRaft = "agentplane-raft/1"
	ProtocolHTTP = "http/1.1"
)

// ServerConfig returns what a node's port listens with. The handshake refuses
// clients as Peer does, and whoever serves the connection asks Peer for the one
// that came through. The certificate is asked for at each handshake.
func (v *Verifier) ServerConfig(certificate func(*tls.ClientHelloInfo) (*tls.Certificate, error)) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		MaxVersion: tls.VersionTLS13,
		Time:       v.clock.own,
		// In the server's order: a client that offers both is given HTTP/1.1.
		NextProtos:     []string{ProtocolRaft, ProtocolHTTP, ProtocolGRPC},
		GetCertificate: certificate,
		// Asked for and not required: a newcomer has none. What comes is judged
		// below, since the library would refuse what may still renew.
		ClientAuth: tls.RequestClientCert,
		VerifyConnection: func(cs tls.ConnectionState) error {
			_, err := v.Peer(cs)
			return err
		},
		SessionTicketsDisabled: true, // each handshake proves the key anew
	}
}

// ClientConfig returns what a connection to a node begins with: for one
// protocol, and when meant is not empty, to that very node. A nil certificate
// stays anonymous, which is enough to enrol.
func (v *Verifier) ClientConfig(protocol, meant string, certificate func(*tls.CertificateRequestInfo) (*tls.Certificate, error)) *tls.Config {
	return &tls.Config{
		MinVersion:           tls.VersionTLS13,
		MaxVersion:           tls.VersionTLS13,
		Time:                 v.clock.own,
		NextProtos:           []string{protocol},
		GetClientCertificate: certificate,
		// Host names mean nothing here; VerifyConnection judges instead.
		InsecureSkipVerify: true,
		VerifyConnection: func(cs tls.ConnectionState) error {
			if err := sameProtocol(cs, protocol); err != nil {
				return err
			}
			_, err := v.Server(cs, meant)
			return err
		},
		SessionTicketsDisabled: true,
	}
}

// UntrustedClientConfig returns what a newcomer asks for the bundle with, before
// it trusts anybody: ANYBODY may answer. Nothing secret goes over such a
// connection, and what comes is believed only after Token.OpenBundle.
func UntrustedClientConfig(protocol string) *tls.Config {
	return &tls.Config{
		MinVersion:         tls.VersionTLS13,
		MaxVersion:         tls.VersionTLS13,
		NextProtos:         []string{protocol},
		InsecureSkipVerify: true,
		VerifyConnection: func(cs tls.ConnectionState) error {
			return sameProtocol(cs, protocol)
		},
		SessionTicketsDisabled: true,
	}
}

func sameProtocol(cs tls.ConnectionState, want string) error {
	if cs.NegotiatedProtocol != want {
		return fmt.Errorf("refuse server: it speaks %.40q, want %q; is it a node of agentplane?", cs.NegotiatedProtocol, want)
	}
	return nil
}

// NewCertificate joins a key with its certificate for use in TLS. It refuses one
// that was issued for another key or is not of agentplane's form.
func NewCertificate(key Key, der []byte) (*tls.Certificate, error) {
	_, public, cert, err := ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	if key.IsZero() {
		return nil, errors.New("use certificate: there is no key")
	}
	if !public.Equal(key.Public()) {
		return nil, fmt.Errorf("use certificate: it is for key %s, not for %s", public, key.Public())
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key.Signer(), Leaf: cert}, nil
}

// ParseCertificate reads a leaf certificate without judging who issued it.
func ParseCertificate(der []byte) (ID, PublicKey, *x509.Certificate, error) {
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return ID{}, nil, nil, fmt.Errorf("parse certificate: %w", err)
	}
	id, key, err := readLeaf(cert)
	if err != nil {
		return ID{}, nil, nil, fmt.Errorf("parse certificate: %w: %w", ErrBadCertificate, err)
	}
	return id, key, cert, nil
}

// RenewalDue says whether the certificate has lived half of its life, or whether
// the clock was set back to before it: pure, so that a table tests it.
func RenewalDue(cert *x509.Certificate, now time.Time) bool {
	return now.Before(cert.NotBefore) || !now.Before(HalfLife(cert))
}

// HalfLife returns the middle of the certificate's validity.
func HalfLife(cert *x509.Certificate) time.Time {
	return cert.NotBefore.Add(cert.NotAfter.Sub(cert.NotBefore) / 2)
}

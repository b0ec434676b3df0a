package peer

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strings"
	"syscall"

	"github.com/agentplane/agentplane/proto/client"
	"github.com/agentplane/agentplane/proto/identity"
)

// Introduce lets a port without an identity prove the node's key to whoever asks for
// raft, and nothing more: the connection is closed after the handshake. So the cluster
// can see, before it takes the node in, that the address which the node advertises leads
// to this node ([Reach]).
func (p *Port) Introduce(certificate func(*tls.ClientHelloInfo) (*tls.Certificate, error)) {
	p.introduced.Store(&tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: []string{identity.ProtocolRaft},
		GetCertificate: certificate, SessionTicketsDisabled: true,
	})
}

// introduction is the configuration of a handshake that asks for raft, where the node is
// introduced; nil lets the port go on as it is.
func (p *Port) introduction(hello *tls.ClientHelloInfo) (*tls.Config, error) {
	for _, protocol := range hello.SupportedProtos {
		if protocol == identity.ProtocolRaft {
			return p.introduced.Load(), nil
		}
	}
	return nil, nil
}

// Reach finds out whether a node that is about to join is reached at its address: what
// answers there must prove the key. Nothing is said to it. connect may be nil, which is a
// net.Dialer. The error is one clause, for the operator of that node.
func Reach(ctx context.Context, connect client.Dial, address string, key identity.PublicKey) error {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	if connect == nil {
		connect = new(net.Dialer).DialContext
	}
	raw, err := connect(ctx, "tcp", address)
	if err != nil {
		return reachError(err)
	}
	defer raw.Close()
	conn := tls.Client(raw, identity.UntrustedClientConfig(identity.ProtocolRaft))
	if err := conn.HandshakeContext(ctx); err != nil {
		return fmt.Errorf("what answers there is not this node: %w", err)
	}
	// The handshake has proved the key of the certificate, which is all that counts.
	_, proved, _, err := identity.ParseCertificate(conn.ConnectionState().PeerCertificates[0].Raw)
	if err != nil || !bytes.Equal(proved, key) {
		return errors.New("another node answers there")
	}
	return nil
}

// reachError leaves out of a dialer's error what the sentence around it has.
func reachError(err error) error {
	var dns *net.DNSError
	switch {
	case errors.As(err, &dns):
		return errors.New(strings.TrimPrefix(dns.Error(), "lookup "))
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("nothing answers within %v", dialTimeout)
	case errors.Is(err, syscall.ECONNREFUSED):
		return errors.New("connection refused")
	}
	return err
}

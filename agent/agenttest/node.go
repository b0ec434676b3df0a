package agenttest

import (
	"context"
	"crypto/tls"
	"net"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/peer"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/identity"
)

// Node is one server.
type Node struct {
	ID, Address string

	cluster  *Cluster
	ca       *authority
	leaf     *tls.Certificate
	verifier *identity.Verifier
	listener net.Listener

	mu     sync.Mutex
	server *grpc.Server
	done   chan struct{}
}

func newNode(t testing.TB, c *Cluster, id string) *Node {
	t.Helper()
	n := &Node{ID: id, cluster: c, ca: newAuthority(t, c.ID, id)}
	key, err := identity.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	der, err := n.ca.issue(identity.ID{Cluster: c.ID, Kind: identity.KindNode, Name: id}, key.Public(), time.Now().Add(-time.Hour), time.Now().Add(24*time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	if n.leaf, err = identity.NewCertificate(key, der); err != nil {
		t.Fatal(err)
	}
	if n.listener, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	n.Address = n.listener.Addr().String()
	c.bundle.Nodes = append(c.bundle.Nodes, &agentplanev1.BundleNode{Id: id, Name: id, Address: n.Address, PublicKey: key.Public(), CaCertificate: n.ca.cert.Raw})
	return n
}

func (n *Node) trust() {
	trusted, err := n.cluster.trusted()
	if err != nil {
		n.cluster.t.Fatal(err)
	}
	if n.verifier, err = identity.NewVerifier(trusted, nil); err != nil {
		n.cluster.t.Fatal(err)
	}
}

func (n *Node) serve() {
	cfg := n.verifier.ServerConfig(func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return n.leaf, nil })
	s := grpc.NewServer(
		grpc.Creds(credentials.NewTLS(cfg)),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second}),
	)
	agentplanev1.RegisterEnrollServiceServer(s, enrolment{node: n})
	agentplanev1.RegisterAgentServiceServer(s, sessions{node: n})
	done := make(chan struct{})
	n.mu.Lock()
	n.server, n.done = s, done
	n.mu.Unlock()
	l := n.listener
	go func() {
		defer close(done)
		_ = s.Serve(l)
	}()
}

// Kill ends the node: connections are broken, new ones refused.
func (n *Node) Kill() {
	n.mu.Lock()
	s, done := n.server, n.done
	n.server = nil
	n.mu.Unlock()
	if s != nil {
		s.Stop()
		<-done
	}
}

// Restart serves on the same address again.
func (n *Node) Restart() {
	l, err := net.Listen("tcp", n.Address)
	if err != nil {
		n.cluster.t.Fatal(err)
	}
	n.listener = l
	n.serve()
}

// caller is who the handshake has proved.
func (n *Node) caller(ctx context.Context) (identity.Peer, error) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return identity.Peer{}, refusal(codes.Unauthenticated, "no_peer", "nobody")
	}
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok {
		return identity.Peer{}, refusal(codes.Unauthenticated, "no_tls", "no TLS")
	}
	return n.verifier.Peer(info.State)
}

func refusal(code codes.Code, reason, text string) error {
	return agentplanev1.Refusal(code, &agentplanev1.ErrorDetail{Reason: reason}, "%s", text)
}

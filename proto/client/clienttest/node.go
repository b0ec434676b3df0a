package clienttest

import (
	"context"
	"crypto/tls"
	"net"
	"strconv"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/client"
	"github.com/agentplane/agentplane/proto/identity"
)

// Fault is what a node does to one call. An error is answered in the call's
// place; after says that the work is done first.
type Fault func(ctx context.Context, method string) (err error, after bool)

// Node is one server.
type Node struct {
	ID, Name, Address string

	cluster  *Cluster
	ca       *authority
	key      identity.Key
	leaf     *tls.Certificate
	verifier *identity.Verifier
	listener *gatedListener
	gate     *gate

	mu     sync.Mutex
	server *grpc.Server
	fault  Fault
	calls  []Call
}

// Call is one call that a node was asked.
type Call struct {
	Method   string
	MinIndex uint64
	Stale    bool
}

func newNode(t testing.TB, c *Cluster, name string) *Node {
	t.Helper()
	id := "id-" + name
	n := &Node{ID: id, Name: name, cluster: c, ca: newAuthority(t, c.ID, id), key: newKey(t), gate: newGate()}
	full := identity.ID{Cluster: c.ID, Kind: identity.KindNode, Name: id}
	n.leaf = certificate(t, n.key, n.ca.issue(t, full, n.key.Public(), time.Now().Add(-time.Hour), time.Now().Add(24*time.Hour)))
	n.listen(t, "127.0.0.1:0")
	return n
}

func (n *Node) listen(t testing.TB, address string) {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	n.listener = &gatedListener{Listener: l, gate: n.gate, conns: map[net.Conn]struct{}{}}
	n.Address = l.Addr().String()
}

func (n *Node) trust(b *agentplanev1.Bundle) {
	n.cluster.t.Helper()
	trusted, err := client.TrustBundle(b)
	if err != nil {
		n.cluster.t.Fatal(err)
	}
	if n.verifier == nil {
		n.verifier, err = identity.NewVerifier(trusted, nil)
	} else {
		err = n.verifier.Update(trusted)
	}
	if err != nil {
		n.cluster.t.Fatal(err)
	}
}

func (n *Node) serve() {
	cfg := n.verifier.ServerConfig(func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return n.leaf, nil })
	s := grpc.NewServer(
		grpc.Creds(credentials.NewTLS(cfg)),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second}),
		grpc.UnaryInterceptor(n.unary),
		grpc.StreamInterceptor(n.stream),
	)
	api := service{node: n, state: n.cluster.State}
	agentplanev1.RegisterClusterServiceServer(s, clusterService{service: api})
	agentplanev1.RegisterFleetServiceServer(s, fleetService{service: api})
	agentplanev1.RegisterCommandServiceServer(s, commandService{service: api})
	agentplanev1.RegisterBlobServiceServer(s, blobService{service: api})
	agentplanev1.RegisterTokenServiceServer(s, tokenService{service: api})
	agentplanev1.RegisterOperatorServiceServer(s, operatorService{service: api})
	agentplanev1.RegisterScheduleServiceServer(s, scheduleService{service: api})
	agentplanev1.RegisterEnrollServiceServer(s, enrollService{service: api})
	agentplanev1.RegisterTemplateServiceServer(s, templateService{service: api})
	agentplanev1.RegisterLockServiceServer(s, lockService{service: api})
	n.mu.Lock()
	n.server = s
	n.mu.Unlock()
	l := n.listener
	go func() { _ = s.Serve(l) }() // ends with Kill
}

// Kill ends the node as kill -9 does: connections are reset, new ones refused.
func (n *Node) Kill() {
	n.mu.Lock()
	s := n.server
	n.server = nil
	n.mu.Unlock()
	if s == nil {
		return
	}
	_ = n.listener.Close()
	n.listener.cut()
	n.gate.lift()
	s.Stop()
}

// Restart serves on the same address again.
func (n *Node) Restart() {
	n.listen(n.cluster.t, n.Address)
	n.serve()
}

// Freeze stops the node as SIGSTOP does.
func (n *Node) Freeze() { n.gate.shut() }

// Thaw lets a frozen node go on.
func (n *Node) Thaw() { n.gate.lift() }

// Break makes the node do f to every call but those of Info with stale set, which
// are how clients look for a sign of life; nil ends that.
func (n *Node) Break(f Fault) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.fault = f
}

// Calls returns what the node was asked so far.
func (n *Node) Calls() []Call {
	n.mu.Lock()
	defer n.mu.Unlock()
	return append([]Call(nil), n.calls...)
}

func (n *Node) record(ctx context.Context, method string, req any) Fault {
	call := Call{Method: method}
	if md, ok := metadata.FromIncomingContext(ctx); ok {
		for _, v := range md.Get(client.MinIndexKey) {
			call.MinIndex, _ = strconv.ParseUint(v, 10, 64)
		}
	}
	if s, ok := req.(interface{ GetStale() bool }); ok {
		call.Stale = s.GetStale()
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.calls = append(n.calls, call)
	if method == agentplanev1.ClusterService_Info_FullMethodName && call.Stale {
		return nil
	}
	return n.fault
}

func (n *Node) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	fault := n.record(ctx, info.FullMethod, req)
	defer func() {
		index := strconv.FormatUint(n.cluster.State.Index(), 10)
		_ = grpc.SetTrailer(ctx, metadata.Pairs(client.AppliedIndexKey, index, client.LeaderAgeKey, "1500"))
	}()
	if fault != nil {
		if err, after := fault(ctx, info.FullMethod); err != nil {
			if after {
				_, _ = handler(ctx, req)
			}
			return nil, err
		}
	}
	if err := n.authorize(ctx, info.FullMethod); err != nil {
		return nil, err
	}
	return handler(ctx, req)
}

func (n *Node) stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	if fault := n.record(ss.Context(), info.FullMethod, nil); fault != nil {
		if err, _ := fault(ss.Context(), info.FullMethod); err != nil {
			return err
		}
	}
	if err := n.authorize(ss.Context(), info.FullMethod); err != nil {
		return err
	}
	return handler(srv, ss)
}

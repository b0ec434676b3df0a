package peer

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"go.uber.org/goleak"

	"github.com/agentplane/agentplane/controlplane/pki"
	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/identity"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world is a cluster's trust, shared by all nodes of a test.
type world struct {
	t      *testing.T
	mu     sync.Mutex
	bundle identity.Bundle
	nodes  map[string]*node
}

// node is one node's port and what it shows there.
type node struct {
	id       string
	port     *Port
	ident    Identity
	prefaces Prefaces
	w        *world
	gone     chan string
	strange  chan struct{}
	preface  *agentplanev1.Preface
}

func newWorld(t *testing.T) *world {
	return &world{t: t, nodes: make(map[string]*node), bundle: identity.Bundle{
		ClusterID: "c", Incarnation: identity.Incarnation{Number: 1, ID: "00"}, Index: 1,
	}}
}

// Address, NodeAt and Nodes make it a Book, of node a.
func (w *world) Address(id string) (string, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	n, ok := w.bundle.Node(id)
	if !ok {
		return "", false
	}
	return n.Addresses[0], true
}

func (w *world) NodeAt(address string) (string, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, n := range w.bundle.Nodes {
		if n.Addresses[0] == address {
			return n.NodeID, true
		}
	}
	return "", false
}

func (w *world) Nodes() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var ids []string
	for _, n := range w.bundle.Nodes {
		if n.NodeID != "a" {
			ids = append(ids, n.NodeID)
		}
	}
	return ids
}

// add makes a node whose port runs until the test ends.
func (w *world) add(id string) *node {
	w.t.Helper()
	ca, err := pki.OpenCA(w.t.TempDir(), identity.ID{Cluster: "c", Kind: identity.KindNode, Name: id}, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	leaf, err := pki.OpenLeaf(pki.LeafOptions{CA: ca, KeyPath: w.t.TempDir() + "/key"})
	if err != nil {
		w.t.Fatal(err)
	}
	port, err := Listen(nil, "127.0.0.1:0", hclog.NewNullLogger())
	if err != nil {
		w.t.Fatal(err)
	}
	w.mu.Lock()
	w.bundle.CAs = append(w.bundle.CAs, ca.Entry())
	w.bundle.Nodes = append(w.bundle.Nodes, identity.NodeKey{NodeID: id, Key: leaf.Key(), Addresses: []string{port.Addr().String()}})
	w.bundle.Index++
	bundle := w.bundle.Clone()
	w.mu.Unlock()
	v, err := identity.NewVerifier(bundle, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	n := &node{
		id: id, port: port, w: w, gone: make(chan string, 16), strange: make(chan struct{}, 16),
		ident: Identity{Verifier: v, Certificate: leaf.GetCertificate},
		preface: &agentplanev1.Preface{
			ClusterId: "c", Incarnation: &agentplanev1.Incarnation{Number: 1, Id: []byte{0}}, From: id, FeatureLevel: 1,
		},
	}
	n.prefaces = Prefaces{
		Self: func() *agentplanev1.Preface {
			p := n.preface
			return &agentplanev1.Preface{ClusterId: p.GetClusterId(), Incarnation: p.GetIncarnation(), From: p.GetFrom(), FeatureLevel: p.GetFeatureLevel()}
		},
		FeatureLevel: func() uint32 { return 1 },
	}
	port.Use(n.ident)
	w.nodes[id] = n
	w.run(func(ctx context.Context) { _ = port.Run(ctx) })
	w.spread()
	return n
}

// remove takes a node out of trust, everywhere.
func (w *world) remove(id string) {
	w.mu.Lock()
	w.bundle.Nodes = slices.DeleteFunc(slices.Clone(w.bundle.Nodes), func(n identity.NodeKey) bool { return n.NodeID == id })
	w.bundle.CAs = slices.DeleteFunc(slices.Clone(w.bundle.CAs), func(c identity.CA) bool { return c.NodeID == id })
	w.bundle.Index++
	w.mu.Unlock()
	w.spread()
}

func (w *world) spread() {
	w.mu.Lock()
	bundle := w.bundle.Clone()
	w.mu.Unlock()
	for _, n := range w.nodes {
		if err := n.ident.Verifier.Update(bundle); err != nil {
			w.t.Fatal(err)
		}
		n.port.Judge()
	}
}

// run runs f until the test ends, and waits for it.
func (w *world) run(f func(context.Context)) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		f(ctx)
	}()
	w.t.Cleanup(func() {
		cancel()
		<-done
	})
}

func (n *node) stream() *Stream {
	return &Stream{
		Listener: n.port.Listener(identity.ProtocolRaft), Advertise: n.port.Addr().String(), Identity: n.ident, Prefaces: n.prefaces,
		Book: n.w, Gone: func(id string) { n.gone <- id }, Stranger: func() { n.strange <- struct{}{} }, Logger: hclog.NewNullLogger(),
	}
}

// connect dials n's port with a protocol, as another node.
func (n *node) connect(from *node, protocol string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	return dial(ctx, nil, n.port.Addr().String(), from.ident, protocol, n.id)
}

// closedByPeer says that the other side closes the connection soon.
func closedByPeer(c net.Conn) error {
	if err := c.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return err
	}
	_, err := c.Read(make([]byte, 1))
	var timeout net.Error
	if err == nil || (errors.As(err, &timeout) && timeout.Timeout()) {
		return errors.New("the connection stays open")
	}
	return nil
}

func anonymous(n *node, protocol string) (*tls.Conn, error) {
	return tls.DialWithDialer(&net.Dialer{Timeout: 5 * time.Second}, "tcp", n.port.Addr().String(), n.ident.Verifier.ClientConfig(protocol, n.id, nil))
}

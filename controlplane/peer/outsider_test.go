package peer

import (
	"context"
	"testing"
	"time"

	"google.golang.org/grpc"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/identity"
)

// removals answers that everybody was removed.
type removals struct {
	agentplanev1.UnimplementedEnrollServiceServer
}

func (removals) NodeRemoved(context.Context, *agentplanev1.NodeRemovedRequest) (*agentplanev1.NodeRemovedResponse, error) {
	return &agentplanev1.NodeRemovedResponse{Removed: true}, nil
}

// ask serves at a port and asks there as from's outsider, who means node b.
func ask(t *testing.T, from, at *node) error {
	t.Helper()
	s := grpc.NewServer(grpc.Creds(ServerCredentials()))
	agentplanev1.RegisterEnrollServiceServer(s, removals{})
	go func() { _ = s.Serve(at.port.Listener(identity.ProtocolGRPC)) }()
	defer s.Stop()
	conn, err := from.pool().Outsider("b")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	_, err = agentplanev1.NewEnrollServiceClient(conn).NodeRemoved(ctx, &agentplanev1.NodeRemovedRequest{})
	return err
}

func TestANodeThatIsRefusedMayStillAsk(t *testing.T) {
	w := newWorld(t)
	a, b := w.add("a"), w.add("b")
	own := w.bundle.Clone() // which a removed node goes on with
	w.remove("a")
	if err := a.ident.Verifier.Update(&identity.Bundle{ClusterID: own.ClusterID, Incarnation: own.Incarnation, Index: w.bundle.Index + 1, CAs: own.CAs, Nodes: own.Nodes}); err != nil {
		t.Fatal(err)
	}
	if c, err := b.connect(a, identity.ProtocolGRPC); err == nil {
		if err := closedByPeer(c); err != nil {
			t.Fatalf("b takes the certificate of a removed node: %v", err)
		}
		_ = c.Close()
	}
	if err := ask(t, a, b); err != nil {
		t.Errorf("a removed node cannot ask b: %v", err)
	}
}

// Whoever listens at the address of b and is not b is not heard, be it another cluster's
// node of that name.
func TestAnOutsiderBelievesNoStranger(t *testing.T) {
	w, other := newWorld(t), newWorld(t)
	a, b := w.add("a"), w.add("b")
	stranger := other.add("b")
	w.mu.Lock()
	for i := range w.bundle.Nodes {
		if w.bundle.Nodes[i].NodeID == b.id {
			w.bundle.Nodes[i].Addresses = []string{stranger.port.Addr().String()}
		}
	}
	w.bundle.Index++
	w.mu.Unlock()
	w.spread()
	if err := ask(t, a, stranger); err == nil {
		t.Error("a stranger's word was taken")
	}
}

package peer

import (
	"context"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
)

// Output answers one message.
func (terms) Output(s grpc.BidiStreamingServer[agentplanev1.PeerServiceOutputRequest, agentplanev1.PeerServiceOutputResponse]) error {
	return s.Send(&agentplanev1.PeerServiceOutputResponse{CaughtUp: true})
}

// A stream of the peer service begins with prefaces as a call does: old cannot command
// new, whichever of the two is old.
func TestStreamsOfThePeerServiceBeginWithPrefaces(t *testing.T) {
	for _, c := range []struct {
		name  string
		spoil func(a, b *node)
		says  string
	}{
		{"both are well", func(*node, *node) {}, ""},
		{"the caller is of another cluster", func(a, _ *node) { a.preface.ClusterId = "d" }, "cluster"},
		{"the server lives in an older incarnation", func(_, b *node) { b.preface.Incarnation = &agentplanev1.Incarnation{Number: 0, Id: []byte{0}} }, "incarnation"},
		{"the server says nothing", func(_, b *node) { b.prefaces = Prefaces{} }, "0 prefaces"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			a, b := w.add("a"), w.add("b")
			c.spoil(a, b)
			serve := b.serve
			if b.prefaces.Self == nil {
				serve = func() *grpc.Server { return b.serveWith() }
			}
			defer serve().Stop()
			pool := a.pool()
			w.run(func(ctx context.Context) { _ = pool.Run(ctx) })
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			defer cancel()
			peer, err := pool.Client("b")
			if err != nil {
				t.Fatal(err)
			}
			s, err := peer.Output(ctx, grpc.WaitForReady(true))
			if err != nil {
				t.Fatal(err)
			}
			m, err := s.Recv()
			switch {
			case c.says == "" && (err != nil || !m.GetCaughtUp()):
				t.Errorf("answered %v, %v", m, err)
			case c.says != "" && (status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), c.says)):
				t.Errorf("answered %v, %v; want a refusal that says %q", m, err, c.says)
			}
		})
	}
}

package dispatch

import (
	"context"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

// TestOverGRPC proves on real streams what the fake ones only imitate: a handler that
// returns frees Recv and Send, the status arrives after the last message, and a reader
// that does not read stops nobody.
func TestOverGRPC(t *testing.T) {
	bubble(t, func(t *testing.T, l *testLog) {
		n := l.node(0, func(o *Options) {
			o.Caller = func(context.Context) (string, []byte, error) { return agentName(0), agentKey(0), nil }
		})
		listener := bufconn.Listen(1 << 20)
		server := grpc.NewServer()
		agentplanev1.RegisterAgentServiceServer(server, n.Dispatcher)
		go func() { _ = server.Serve(listener) }()
		conn, err := grpc.NewClient("passthrough:///node", grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }))
		if err != nil {
			t.Fatal(err)
		}
		defer server.Stop()
		defer conn.Close()
		client := agentplanev1.NewAgentServiceClient(conn)
		open := func(edit func(*agentplanev1.Hello)) (agentplanev1.AgentService_SessionClient, *agentplanev1.SessionResponse) {
			stream, err := client.Session(context.Background())
			if err != nil {
				t.Fatal(err)
			}
			first, err := stream.Recv()
			if err != nil {
				t.Fatal(err)
			}
			s := &fakeSession{fakeAgent: newAgent(t, 0), id: random()}
			h := s.hello(first.GetChallenge().GetSessionEpoch())
			if edit != nil {
				edit(h)
			}
			if err := stream.Send(&agentplanev1.SessionRequest{Message: &agentplanev1.SessionRequest_Hello{Hello: h}}); err != nil {
				t.Fatal(err)
			}
			m, err := stream.Recv()
			if err != nil {
				t.Fatal(err)
			}
			return stream, m
		}

		stream, m := open(func(h *agentplanev1.Hello) { h.ClusterId = "other" })
		if m.GetRefused().GetReason() != "wrong_cluster" {
			t.Fatalf("got %v, want Refused(wrong_cluster)", m)
		}
		if _, err := stream.Recv(); status.Code(err) != codes.FailedPrecondition {
			t.Fatalf("after Refused came %v", err)
		}

		// An agent that beats and never reads, with more to be told than gRPC buffers.
		for range 40 {
			l.submit(func(m *raftlogv1.SubmitCommand) { m.Envelope = make([]byte, 100_000) }, 0)
		}
		stream, m = open(func(h *agentplanev1.Hello) { h.Slots = 40 })
		epoch := m.GetWelcome().GetSessionEpoch()
		if epoch == 0 {
			t.Fatalf("got %v, want Welcome", m)
		}
		if err := stream.Send(&agentplanev1.SessionRequest{Message: &agentplanev1.SessionRequest_Ready{Ready: &agentplanev1.Ready{SessionEpoch: epoch}}}); err != nil {
			t.Fatal(err)
		}
		for range 10 {
			_ = stream.Send(&agentplanev1.SessionRequest{Message: &agentplanev1.SessionRequest_Heartbeat{Heartbeat: &agentplanev1.Heartbeat{SessionEpoch: epoch}}})
			settle(2 * time.Second)
		}
		if got := n.Stats(); got.Slow != 1 || got.Streams != 0 {
			t.Fatalf("an agent that does not read is still there: %+v", got)
		}
		for err = nil; err == nil; {
			_, err = stream.Recv()
		}
		if status.Code(err) != codes.ResourceExhausted {
			t.Errorf("its stream ended with %v", err)
		}

		stream, m = open(nil)
		if m.GetWelcome() == nil {
			t.Fatalf("got %v, want Welcome", m)
		}
		if err := stream.Send(&agentplanev1.SessionRequest{Message: &agentplanev1.SessionRequest_Goodbye{Goodbye: &agentplanev1.Goodbye{}}}); err != nil {
			t.Fatal(err)
		}
		for err = nil; err == nil; {
			_, err = stream.Recv()
		}
		if err != io.EOF {
			t.Errorf("after Goodbye the stream ended with %v", err)
		}
		settle(time.Second)
		if got := l.session(0).GetState(); got != raftlogv1.SessionState_SESSION_STATE_LEFT {
			t.Errorf("the session is %v", got)
		}
		conn.Close()
		server.Stop()
		n.stop()
		synctest.Wait()
	})
}

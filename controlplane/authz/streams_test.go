package authz

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/agentplane/agentplane/fsm"
	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

const watchAgents = "/agentplane.v1.FleetService/WatchAgents"

type serverStream struct {
	grpc.ServerStream
	ctx context.Context
}

func (s serverStream) Context() context.Context { return s.ctx }

// watch opens a stream that lasts until its context ends, and answers with its error.
func watch(ctx context.Context, g *Gate, c Caller) <-chan error {
	ended := make(chan error, 1)
	go func() {
		ended <- g.Stream(nil, serverStream{ctx: WithCaller(ctx, c)}, &grpc.StreamServerInfo{FullMethod: watchAgents},
			func(_ any, ss grpc.ServerStream) error {
				<-ss.Context().Done()
				return errors.New("the caller is gone")
			})
	}()
	return ended
}

func open(t *testing.T, name string, ended <-chan error) {
	t.Helper()
	select {
	case err := <-ended:
		t.Errorf("the stream of %s ended: %v", name, err)
	default:
	}
}

func wantRevoked(t *testing.T, ended <-chan error) {
	t.Helper()
	select {
	case err := <-ended:
		if status.Code(err) != codes.PermissionDenied || agentplanev1.DetailOf(err).GetReason() != "operator_revoked" {
			t.Errorf("the stream ended with %v, want operator_revoked", err)
		}
	default:
		t.Error("the stream of a revoked operator goes on")
	}
}

func (r *registry) revoke(name string) {
	r.apply(&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_RevokeOperator{RevokeOperator: &raftlogv1.RevokeOperator{Name: name}}})
}

func operatorCaller(name string) Caller {
	return Caller{Kind: "operator", Name: name, Key: []byte(name)}
}

func TestStreamsEndWithTheRightToThem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRegistry(t)
		g := New(Options{View: r.m.View, CatchUp: func(context.Context) error { return nil }})
		ctx, cancel := context.WithCancel(context.Background())
		early := watch(ctx, g, operatorCaller("viewer")) // before Run
		synctest.Wait()
		done := make(chan error, 1)
		go func() { done <- g.Run(ctx, r.m) }()
		viewer, admin, local := watch(ctx, g, operatorCaller("viewer")), watch(ctx, g, operatorCaller("admin")), watch(ctx, g, Caller{Kind: "local"})
		synctest.Wait()
		open(t, "viewer", early)
		open(t, "viewer", viewer)
		r.revoke("viewer")
		synctest.Wait()
		wantRevoked(t, early)
		wantRevoked(t, viewer)
		open(t, "admin", admin)
		open(t, "local", local)
		if n := len(g.streams.of("", true)); n != 1 {
			t.Errorf("%d streams of operators are remembered, want the admin's", n)
		}
		cancel()
		if err := <-admin; status.Code(err) == codes.PermissionDenied {
			t.Errorf("a stream that its caller left ended with %v", err)
		}
		if err := <-done; err != nil {
			t.Errorf("Run = %v", err)
		}
		if err := <-local; status.Code(err) == codes.PermissionDenied {
			t.Errorf("the stream of the local socket ended with %v", err)
		}
	})
}

// A revocation is noticed although the feed no longer holds it.
func TestStreamsEndAfterACompaction(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRegistryOf(t, fsm.Options{FeedChanges: 1})
		g := New(Options{View: r.m.View, CatchUp: func(context.Context) error { return nil }})
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		viewer := watch(ctx, g, operatorCaller("viewer"))
		go func() { _ = g.Run(ctx, r.m) }()
		synctest.Wait()
		r.apply(
			&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_RevokeOperator{RevokeOperator: &raftlogv1.RevokeOperator{Name: "viewer"}}},
			&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_PutSetting{PutSetting: &raftlogv1.PutSetting{Key: "k", Value: "v"}}},
		)
		synctest.Wait()
		wantRevoked(t, viewer)
	})
}

// A stream that was let in by a state from before the revocation ends, although the
// feed's reader has passed it when the stream is added.
func TestAStreamIsJudgedOnceMoreWhenItBegins(t *testing.T) {
	r := newRegistry(t)
	before := r.m.View()
	r.revoke("viewer")
	looked := 0
	g := New(Options{CatchUp: func(context.Context) error { return nil }, View: func() *fsm.View {
		if looked++; looked == 1 {
			return before
		}
		return r.m.View()
	}})
	ended := watch(t.Context(), g, operatorCaller("viewer"))
	if err := <-ended; agentplanev1.DetailOf(err).GetReason() != "operator_revoked" {
		t.Errorf("the stream ended with %v, want operator_revoked", err)
	}
}

package operator

import (
	"context"
	"strconv"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"

	"github.com/agentplane/agentplane/fsm"
	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/client"
)

// maxIndexWait bounds how long a call waits for what its caller has seen elsewhere.
const maxIndexWait = 3 * time.Second

// AppliedIndex returns interceptors that put the applied index into the trailer of
// every answer, refusals included, with how long ago this node heard of a leader, and
// make a call wait until this node's state holds what the caller has seen elsewhere.
// A node that lags too far says so, and the caller goes to another one. leaderSeen is
// zero when no leader was heard of since this node started.
func AppliedIndex(m *fsm.Machine, leaderSeen func() time.Time) (grpc.UnaryServerInterceptor, grpc.StreamServerInterceptor) {
	trailer := func() metadata.MD {
		index, _ := m.Published()
		md := metadata.Pairs(client.AppliedIndexKey, strconv.FormatUint(index, 10))
		if seen := leaderSeen(); !seen.IsZero() {
			md.Set(client.LeaderAgeKey, strconv.FormatInt(max(0, time.Since(seen).Milliseconds()), 10))
		}
		return md
	}
	unary := func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		err := waitIndex(ctx, m)
		var answer any
		if err == nil {
			answer, err = handler(ctx, req)
		}
		_ = grpc.SetTrailer(ctx, trailer()) // fails only outside of a server
		return answer, err
	}
	stream := func(srv any, s grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
		err := waitIndex(s.Context(), m)
		if err == nil {
			err = handler(srv, s)
		}
		s.SetTrailer(trailer())
		return err
	}
	return unary, stream
}

// waitIndex waits for the index that the request names.
func waitIndex(ctx context.Context, m *fsm.Machine) error {
	md, _ := metadata.FromIncomingContext(ctx)
	asked := md.Get(client.MinIndexKey)
	if len(asked) == 0 {
		return nil
	}
	index, err := strconv.ParseUint(asked[len(asked)-1], 10, 64)
	at, _ := m.Published()
	switch {
	case err != nil:
		return agentplanev1.Refusal(codes.InvalidArgument, &agentplanev1.ErrorDetail{Reason: "min_index", AppliedIndex: at},
			"metadata %s is %.40q, which is no index", client.MinIndexKey, asked[len(asked)-1])
	case at >= index:
		return nil
	}
	wait, cancel := context.WithTimeout(ctx, maxIndexWait)
	defer cancel()
	if err := m.WaitPublished(wait, index); err != nil {
		at, _ = m.Published()
		return agentplanev1.Refusal(codes.Unavailable, &agentplanev1.ErrorDetail{
			Reason: "catching_up", Hint: "run the command again, or ask another node", AppliedIndex: at,
		}, "this node is behind what another one has shown: %v", err)
	}
	return nil
}

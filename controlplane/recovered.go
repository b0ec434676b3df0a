package controlplane

import (
	"context"
	"runtime/debug"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
)

// recovered answers a call whose handler panics, instead of ending the node: what a
// caller sends must not decide whether the others are served. The state machine is
// not called from here; where it panics, the node ends.
func (m *member) recovered(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (answer any, err error) {
	defer m.recover(info.FullMethod, &err)
	return handler(ctx, req)
}

func (m *member) recoveredStream(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) (err error) {
	defer m.recover(info.FullMethod, &err)
	return handler(srv, stream)
}

func (m *member) recover(method string, err *error) {
	if cause := recover(); cause != nil {
		m.logger.Error("a handler panicked; this is a bug", "method", method, "panic", cause, "stack", string(debug.Stack()))
		*err = agentplanev1.Refusal(codes.Internal, &agentplanev1.ErrorDetail{
			Reason: "panic", OutcomeUnknown: true, Hint: "report the stack that stands in the node's log",
		}, "the node failed while it handled %s", method)
	}
}

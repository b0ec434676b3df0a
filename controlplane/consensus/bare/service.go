package bare

import (
	"context"
	"errors"

	"github.com/hashicorp/raft"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

const (
	serviceName  = "agentplane.bare.v1.BareService"
	applyMethod  = "/" + serviceName + "/Apply"
	statusMethod = "/" + serviceName + "/Status"
)

// service answers two calls; it is written out by hand since it is no part of the API.
type service struct {
	raft    *raft.Raft
	batcher *batcher
	machine *machine
}

// server is what grpc checks a service against.
type server interface {
	apply(ctx context.Context, payload *wrapperspb.BytesValue) (*emptypb.Empty, error)
	status(ctx context.Context, _ *emptypb.Empty) (*structpb.Struct, error)
}

var serviceDesc = grpc.ServiceDesc{
	ServiceName: serviceName, HandlerType: (*server)(nil),
	Methods: []grpc.MethodDesc{
		{MethodName: "Apply", Handler: func(srv any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
			in := &wrapperspb.BytesValue{}
			if err := decode(in); err != nil {
				return nil, err
			}
			return srv.(server).apply(ctx, in)
		}},
		{MethodName: "Status", Handler: func(srv any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
			in := &emptypb.Empty{}
			if err := decode(in); err != nil {
				return nil, err
			}
			return srv.(server).status(ctx, in)
		}},
	},
}

func (s *service) apply(ctx context.Context, payload *wrapperspb.BytesValue) (*emptypb.Empty, error) {
	err := s.batcher.apply(ctx, payload.GetValue())
	switch {
	case err == nil:
		return &emptypb.Empty{}, nil
	case errors.Is(err, raft.ErrNotLeader):
		return nil, status.Error(codes.FailedPrecondition, err.Error())
	default:
		return nil, status.Error(codes.Unavailable, err.Error())
	}
}

func (s *service) status(context.Context, *emptypb.Empty) (*structpb.Struct, error) {
	sum := s.machine.read()
	return structpb.NewStruct(map[string]any{
		"leader": s.raft.State() == raft.Leader, "term": float64(s.raft.CurrentTerm()), "payloads": float64(sum.Payloads),
	})
}

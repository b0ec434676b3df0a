package controlplane

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/agentplane/agentplane/controlplane/authz"
	"github.com/agentplane/agentplane/controlplane/consensus"
	"github.com/agentplane/agentplane/controlplane/forward"
	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/identity"
)

// calls runs unary calls where they belong: on the leader when the method says so,
// by one hop. It is the innermost interceptor, and it answers what peers forward.
type calls struct {
	gate      *authz.Gate
	forwarder *forward.Forwarder
	office    func() (leader string, address string, here bool)
	remote    func(ctx context.Context, nodeID string, req *agentplanev1.ForwardRequest) (*agentplanev1.ForwardResponse, error)
	methods   map[string]method
}

// method is a unary method that may be run by its name.
type method struct {
	server any
	desc   grpc.MethodDesc
}

// serve registers a service with the gRPC server and for forwarding.
func (c *calls) serve(s *grpc.Server, desc *grpc.ServiceDesc, server any) {
	s.RegisterService(desc, server)
	for _, m := range desc.Methods {
		c.methods["/"+desc.ServiceName+"/"+m.MethodName] = method{server: server, desc: m}
	}
}

// interceptor runs calls of this node's own clients.
func (c *calls) interceptor(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	defer callEnds()
	rule, _ := c.gate.Rule(info.FullMethod)
	if !rule.OnLeader {
		return handler(ctx, req)
	}
	message, ok := req.(proto.Message)
	if !ok {
		return nil, fmt.Errorf("controlplane: request of %s is no message", info.FullMethod)
	}
	var answer any
	err := c.forwarder.Call(ctx,
		func(ctx context.Context) (err error) {
			answer, err = handler(ctx, req)
			return err
		},
		func(ctx context.Context, leader string) error {
			b, err := proto.Marshal(message)
			if err != nil {
				return fmt.Errorf("controlplane: marshal the request of %s: %w", info.FullMethod, err)
			}
			caller := authz.From(ctx)
			r, err := c.remote(ctx, leader, &agentplanev1.ForwardRequest{
				Method: info.FullMethod, Request: b, From: caller.From,
				Identity: &agentplanev1.Identity{Kind: caller.Kind, Name: caller.Name, PublicKey: caller.Key},
			})
			if err != nil {
				return err
			}
			m, err := newAnswer(info.FullMethod)
			if err != nil {
				return err
			}
			answer = m
			return proto.Unmarshal(r.GetResponse(), m)
		})
	if err != nil {
		return nil, refusal(err)
	}
	return answer, nil
}

// newAnswer returns an empty answer of the method.
func newAnswer(full string) (proto.Message, error) {
	name := protoreflect.FullName(strings.ReplaceAll(strings.TrimPrefix(full, "/"), "/", "."))
	d, err := protoregistry.GlobalFiles.FindDescriptorByName(name)
	if err != nil {
		return nil, fmt.Errorf("controlplane: method %s: %w", full, err)
	}
	m, ok := d.(protoreflect.MethodDescriptor)
	if !ok {
		return nil, fmt.Errorf("controlplane: %s is no method", full)
	}
	t, err := protoregistry.GlobalTypes.FindMessageByName(m.Output().FullName())
	if err != nil {
		return nil, fmt.Errorf("controlplane: answer of %s: %w", full, err)
	}
	return t.New().Interface(), nil
}

// forwarded runs a call that a peer passed on. It goes no further.
func (c *calls) forwarded(ctx context.Context, req *agentplanev1.ForwardRequest) (*agentplanev1.ForwardResponse, error) {
	m, ok := c.methods[req.GetMethod()]
	rule, _ := c.gate.Rule(req.GetMethod())
	if !ok || !rule.OnLeader {
		return nil, agentplanev1.Refusal(codes.PermissionDenied, &agentplanev1.ErrorDetail{Reason: "not_forwardable"},
			"method %q is not one that nodes forward", req.GetMethod())
	}
	switch identity.Kind(req.GetIdentity().GetKind()) {
	case identity.KindOperator, "": // "" may only enrol
	default: // least of all somebody's local socket: a node is no admin of the others
		return nil, agentplanev1.Refusal(codes.PermissionDenied, &agentplanev1.ErrorDetail{Reason: "not_forwardable"},
			"calls of a caller of kind %q are not forwarded", req.GetIdentity().GetKind())
	}
	if leader, address, here := c.office(); !here {
		return nil, agentplanev1.Refusal(codes.Unavailable,
			&agentplanev1.ErrorDetail{Reason: forward.ReasonNotLeader, LeaderId: leader, LeaderAddress: address}, "this node does not lead")
	}
	ctx = authz.WithCaller(ctx, authz.Caller{
		Kind: req.GetIdentity().GetKind(), Name: req.GetIdentity().GetName(), Key: req.GetIdentity().GetPublicKey(),
		From: req.GetFrom(), Forwarded: true,
	})
	ctx, err := c.gate.Admit(ctx, req.GetMethod())
	if err != nil {
		return nil, err
	}
	decode := func(into any) error { return proto.Unmarshal(req.GetRequest(), into.(proto.Message)) }
	answer, err := m.desc.Handler(m.server, ctx, decode, nil)
	if err != nil {
		return nil, err
	}
	b, err := proto.Marshal(answer.(proto.Message))
	if err != nil {
		return nil, fmt.Errorf("controlplane: marshal the answer of %s: %w", req.GetMethod(), err)
	}
	return &agentplanev1.ForwardResponse{Response: b}, nil
}

// refusal turns the errors of the way to the leader into what clients understand.
// Errors of handlers carry a status already.
func refusal(err error) error {
	if agentplanev1.DetailOf(err) != nil && !errors.Is(err, forward.ErrUnknown) && !errors.Is(err, forward.ErrNoLeader) {
		return err
	}
	const hint = `a majority of the voters must be up; see "agentctl cluster status --why"`
	switch {
	case errors.Is(err, forward.ErrUnknown):
		return agentplanev1.Refusal(codes.Unavailable, &agentplanev1.ErrorDetail{
			Reason: "outcome_unknown", OutcomeUnknown: true,
			Hint: "it may or may not have taken effect: ask for it by its id, or repeat the call with the same --id",
		}, "%v", err)
	case errors.Is(err, forward.ErrNoLeader):
		return agentplanev1.Refusal(codes.Unavailable, &agentplanev1.ErrorDetail{Reason: "no_leader", Hint: hint}, "%v", err)
	case errors.Is(err, consensus.ErrNotLeader):
		return agentplanev1.Refusal(codes.Unavailable, &agentplanev1.ErrorDetail{Reason: forward.ReasonNotLeader, Hint: hint}, "%v", err)
	case errors.Is(err, consensus.ErrBacklog):
		return agentplanev1.Refusal(codes.ResourceExhausted, &agentplanev1.ErrorDetail{Reason: "backlog", RetryAfterMs: 500}, "%v", err)
	case errors.Is(err, context.DeadlineExceeded):
		return agentplanev1.Refusal(codes.Unavailable, &agentplanev1.ErrorDetail{Reason: "timed_out", Hint: hint}, "%v", err)
	}
	return err
}

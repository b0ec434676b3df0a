package agent

import (
	"context"
	"errors"
	"io"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/agentplane/agentplane/agent/output"
	"github.com/agentplane/agentplane/agent/session"
	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/client"
	"github.com/agentplane/agentplane/proto/identity"
)

const (
	connectTimeout = 5 * time.Second
	// maxMessageBytes bounds what a node may send at once; an envelope is below 1 MiB.
	maxMessageBytes = 4 << 20
)

// opener reaches one node at a time, each over a connection of its own.
type opener struct {
	dial       client.Dial
	clock      identity.Clock
	trust      *trust
	credential *credential
	renewer    *renewer
}

// Open opens a session stream to the very node.
func (o *opener) Open(ctx context.Context, n session.Node) (session.Stream, func(), error) {
	c, err := o.connect(ctx, n)
	if err != nil {
		return nil, nil, err
	}
	s, err := agentplanev1.NewAgentServiceClient(c).Session(ctx, grpc.MaxCallRecvMsgSize(maxMessageBytes))
	if err != nil {
		_ = c.Close()
		return nil, nil, err
	}
	return s, func() { _ = c.Close() }, nil
}

// OpenOutput opens a stream of output to the very node, over a connection of its own: what
// is large must not get in the way of heartbeats.
func (o *opener) OpenOutput(ctx context.Context, n session.Node) (output.Stream, func(), error) {
	c, err := o.connect(ctx, n)
	if err != nil {
		return nil, nil, err
	}
	s, err := agentplanev1.NewAgentServiceClient(c).Output(ctx)
	if err != nil {
		_ = c.Close()
		return nil, nil, err
	}
	return s, func() { _ = c.Close() }, nil
}

// OpenFetch reaches the very node for what commands bring along, over a connection of its
// own, as output has.
func (o *opener) OpenFetch(ctx context.Context, n session.Node) (agentplanev1.AgentServiceClient, func(), error) {
	c, err := o.connect(ctx, n)
	if err != nil {
		return nil, nil, err
	}
	return agentplanev1.NewAgentServiceClient(c), func() { _ = c.Close() }, nil
}

func (o *opener) connect(ctx context.Context, n session.Node) (*noted, error) {
	if err := o.renewer.ready(ctx); err != nil {
		return nil, o.note(err)
	}
	c, err := client.New(client.Options{
		Addresses:      []string{n.Address},
		Bundle:         o.trust.without(),
		Certificate:    o.credential.certificate,
		Dial:           o.dial,
		Clock:          o.clock,
		ConnectTimeout: connectTimeout,
		Unreachable:    time.Nanosecond, // another node is the better try
		// Heartbeats notice a frozen node; probes would be one call per second and agent.
		ProbeAfter: 24 * time.Hour,
	})
	if err != nil {
		return nil, err
	}
	return &noted{c, o}, nil
}

// note has the certificate renewed when a node does not accept it: it may have expired by
// the node's clock, or its CA may have left. Where the key itself is not registered, which
// a node says only after it has asked the others, renewal is no help and the session hears
// of it.
func (o *opener) note(err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		return err
	}
	switch e := client.AsError(err); {
	case unregistered(err):
		return &session.RefusedError{Reason: "removed", Detail: e.Message, Hint: e.Hint}
	case slices.Contains(hopeless, e.Reason): // of what was asked, not of who asks
	case e.Code == codes.Unauthenticated, e.Code == codes.PermissionDenied:
		o.renewer.distrusted()
	}
	return err
}

// unregistered says that the cluster does not have this agent with this key.
func unregistered(err error) bool {
	e := client.AsError(err)
	return e.Code == codes.PermissionDenied && (e.Reason == "not_registered" || e.Reason == "removed") // at once, or amid a session
}

// noted is a connection whose errors the opener hears of, whatever is called: while a session
// stands, its certificate may go out of use for all that begins later.
type noted struct {
	*client.Client
	opener *opener
}

func (c *noted) Invoke(ctx context.Context, method string, args, reply any, opts ...grpc.CallOption) error {
	return c.opener.note(c.Client.Invoke(ctx, method, args, reply, opts...))
}

func (c *noted) NewStream(ctx context.Context, desc *grpc.StreamDesc, method string, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	s, err := c.Client.NewStream(ctx, desc, method, opts...)
	if err != nil {
		return nil, c.opener.note(err)
	}
	return notedStream{s, c.opener}, nil
}

type notedStream struct {
	grpc.ClientStream
	opener *opener
}

func (s notedStream) RecvMsg(m any) error { return s.opener.note(s.ClientStream.RecvMsg(m)) }

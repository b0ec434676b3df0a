package peer

import (
	"context"

	"google.golang.org/grpc"
)

// ServerStreamInterceptor is ServerInterceptor for streams: the preface is judged before
// the handler runs.
func (p Prefaces) ServerStreamInterceptor(srv any, s grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	if isPeerMethod(info.FullMethod) {
		if err := p.receive(s.Context()); err != nil {
			return err
		}
	}
	return handler(srv, s)
}

// clientStreamInterceptor sends this node's preface, and judges the peer's before the
// first message from there is given to anybody. What is sent before that is for a node
// that judges this one before it looks at anything.
func (p Prefaces) clientStreamInterceptor(nodeID string) grpc.StreamClientInterceptor {
	return func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
		ctx, err := p.say(ctx, nodeID)
		if err != nil {
			return nil, err
		}
		s, err := open(ctx, desc, cc, method, opts...)
		if err != nil {
			return nil, err
		}
		return &judgedStream{ClientStream: s, prefaces: p, nodeID: nodeID}, nil
	}
}

// judgedStream is a stream to a peer whose preface is not known before it answers.
type judgedStream struct {
	grpc.ClientStream
	prefaces Prefaces
	nodeID   string
	judged   bool // one goroutine at a time receives
}

func (s *judgedStream) RecvMsg(m any) error {
	if !s.judged {
		header, err := s.Header()
		if err != nil {
			return err
		}
		if header == nil { // refused without one; the status says why
			return s.ClientStream.RecvMsg(m)
		}
		if err := s.prefaces.hear(s.nodeID, header); err != nil {
			return err
		}
		s.judged = true
	}
	return s.ClientStream.RecvMsg(m)
}

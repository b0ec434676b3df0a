package output

import (
	"context"
	"errors"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
)

// StoreOutput takes copies from another node. It answers each message when it is on the
// disk, in order, while the next ones come in: they share fsyncs.
func (s *Service) StoreOutput(stream grpc.BidiStreamingServer[agentplanev1.StoreOutputRequest, agentplanev1.StoreOutputResponse]) error {
	ctx, cancel := context.WithCancelCause(stream.Context())
	defer cancel(nil)
	ops := make(chan *op, sentAtOnce)
	go func() { // ends with the handler, which ends Recv
		for {
			m, err := stream.Recv()
			if err != nil {
				cancel(err)
				return
			}
			var ends *Ends
			if m.GetLast() {
				e := endsOf(m.GetEnds())
				ends = &e
			}
			o, err := s.o.Store.submit(ctx, copied(Key{m.GetInvocationId(), m.GetAttempt()}, m.GetChunks(), ends))
			if err != nil {
				cancel(err)
				return
			}
			select {
			case ops <- o:
			case <-ctx.Done():
				return
			}
		}
	}()
	for {
		var o *op
		select {
		case o = <-ops:
		case <-ctx.Done():
			return ended(ctx)
		}
		held, err := s.o.Store.wait(ctx, o)
		var hole *HoleError
		if err != nil && !errors.As(err, &hole) {
			if ctx.Err() != nil {
				return ended(ctx)
			}
			return refusal(codes.Unavailable, "store", "the copy cannot be stored: %v", err)
		}
		if err := stream.Send(&agentplanev1.StoreOutputResponse{
			InvocationId: o.key.Invocation, Attempt: o.key.Attempt, Held: held.Ends.proto(), Totals: held.Totals, Refused: held.Refused,
		}); err != nil {
			return err
		}
	}
}

// ended is how a stream ends whose other side has ended it.
func ended(ctx context.Context) error {
	err := context.Cause(ctx)
	if err == nil || agentplanev1.DetailOf(err) != nil {
		return err
	}
	return refusal(codes.Unavailable, "stream_ended", "%v", err)
}

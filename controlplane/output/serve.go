package output

import (
	"context"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
)

// maxPlaces bounds how many attempts one peer reads over one stream.
const maxPlaces = 64 << 10

// PeerOutput is Output of the PeerService: it sends what this node has of the attempts
// that the peer asks for, and what comes.
func (s *Service) PeerOutput(stream grpc.BidiStreamingServer[agentplanev1.PeerServiceOutputRequest, agentplanev1.PeerServiceOutputResponse]) error {
	ctx, cancel := context.WithCancelCause(stream.Context())
	defer cancel(nil)
	sub := s.o.Store.subscribe()
	var mu sync.Mutex // guards over: nothing is added once the handler has closed sub
	over := false
	defer func() {
		mu.Lock()
		over = true
		mu.Unlock()
		sub.close()
	}()
	go func() { // ends with the handler, which ends Recv
		places := 0
		for {
			m, err := stream.Recv()
			if err != nil {
				cancel(err)
				return
			}
			mu.Lock()
			if over {
				mu.Unlock()
				return
			}
			for _, p := range m.GetDrop() {
				sub.drop(Key{p.GetInvocationId(), p.GetAttempt()})
				places--
			}
			for _, p := range m.GetAdd() {
				sub.add(Key{p.GetInvocationId(), p.GetAttempt()}, endsOf(p.GetEnds()))
				places++
			}
			mu.Unlock()
			if places > maxPlaces {
				cancel(refusal(codes.ResourceExhausted, "too_many", "more than %d attempts are read over one stream", maxPlaces))
				return
			}
		}
	}()
	for {
		b, err := sub.next(ctx)
		if ctx.Err() != nil {
			return ended(ctx)
		}
		if err != nil {
			// The peer will look elsewhere.
			s.log.Error("output cannot be read", "attempt", b.Key.String(), "err", err)
			b = Batch{Key: b.Key, Absent: true}
		}
		if err := stream.Send(&agentplanev1.PeerServiceOutputResponse{
			InvocationId: b.Key.Invocation, Attempt: b.Key.Attempt, Chunks: b.Chunks, CaughtUp: b.CaughtUp, Absent: b.Absent, Totals: b.Totals,
		}); err != nil {
			return err
		}
	}
}

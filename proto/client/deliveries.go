package client

import (
	"context"
	"sync/atomic"

	"google.golang.org/grpc/stats"
)

// delivery notes of one try whether its request was handed to the connection.
type delivery struct{ sent atomic.Bool }

type deliveryKey struct{}

// deliveries is a stats handler that keeps the delivery in the context true.
type deliveries struct{}

func (deliveries) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context { return ctx }

func (deliveries) HandleRPC(ctx context.Context, s stats.RPCStats) {
	d, ok := ctx.Value(deliveryKey{}).(*delivery)
	if !ok {
		return
	}
	switch s := s.(type) {
	case *stats.Begin:
		// grpc repeats by itself only what the server certainly did not look at.
		if s.IsTransparentRetryAttempt {
			d.sent.Store(false)
		}
	case *stats.OutPayload:
		d.sent.Store(true)
	}
}

func (deliveries) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }
func (deliveries) HandleConn(context.Context, stats.ConnStats)                       {}

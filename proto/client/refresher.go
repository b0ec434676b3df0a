package client

import (
	"context"
	"sync/atomic"
)

// reasonExpired is the word with which a node refuses a certificate that was good once.
const reasonExpired = "certificate_expired"

// refresher gets a fresh certificate, once for all calls that were refused with the same
// one.
type refresher struct {
	count *atomic.Uint64 // how often it has
	turn  chan struct{}  // holds one for whoever refreshes; nobody waits under a lock
}

func newRefresher() refresher {
	return refresher{count: new(atomic.Uint64), turn: make(chan struct{}, 1)}
}

type refreshingKey struct{}

// refresh reports whether a fresher certificate than the used one, by its count, is in
// use. A call that get makes is not refreshed itself.
func (r refresher) refresh(ctx context.Context, used uint64, get func(context.Context) error) bool {
	if ctx.Value(refreshingKey{}) != nil {
		return false
	}
	select {
	case r.turn <- struct{}{}:
		defer func() { <-r.turn }()
	case <-ctx.Done():
		return false
	}
	if r.count.Load() != used {
		return true
	}
	if get(context.WithValue(ctx, refreshingKey{}, true)) != nil {
		return false
	}
	r.count.Add(1)
	return true
}

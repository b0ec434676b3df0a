package sim

import (
	"context"
	"sync"
)

// A trade is what operators do in a life beside what they do in all of them. Each costs
// some, so that no life has two.
type trade int

const (
	tradeLocks trade = iota
	tradeTemplates
	tradeOutput
	trades
)

// stock makes what the life's trade needs, before anything breaks.
func (o *operators) stock(ctx context.Context) error {
	switch o.w.trade {
	case tradeLocks:
		return o.makeLocks(ctx)
	default:
		return nil
	}
}

// ply has operators do what the life's trade is until ctx ends.
func (o *operators) ply(ctx context.Context, wg *sync.WaitGroup) {
	switch o.w.trade {
	case tradeLocks:
		wg.Go(func() { o.lease(ctx) })
		for n := range rivals {
			wg.Go(func() { o.contend(ctx, n) })
		}
	case tradeTemplates:
		for n := range editors {
			wg.Go(func() { o.edit(ctx, n) })
		}
	case tradeOutput:
		wg.Go(func() { o.followOutput(ctx) })
	}
}

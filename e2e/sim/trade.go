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
	tradeSteps
)

// turns are the trades as seeds take turns with them. The first three are those of all lives
// before there were steps, so that most seeds that are written down somewhere live as they did.
var turns = []trade{tradeLocks, tradeTemplates, tradeOutput, tradeSteps, tradeSteps, tradeOutput}

func tradeOf(seed uint64) trade { return turns[seed%uint64(len(turns))] }

// stock makes what the life's trade needs, before anything breaks.
func (o *operators) stock(ctx context.Context) error {
	switch o.w.trade {
	case tradeLocks:
		return o.makeLocks(ctx)
	case tradeSteps:
		return o.makeContents()
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
	case tradeSteps:
		wg.Go(func() { o.confirm(ctx) })
	}
}

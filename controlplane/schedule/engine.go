package schedule

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/agentplane/agentplane/fsm"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

const (
	// maxBatch, maxBatchBytes and maxBatchTargets bound one proposal: the bytes stay below
	// the smallest bound that an entry may have, with what they are wrapped in.
	maxBatch        = 64
	maxBatchBytes   = 240 << 10
	maxBatchTargets = 10_000
	// maxKeys bounds the schedules that one mutation ends or purges.
	maxKeys = 500
	// tick is how often the clock is looked at, at the least.
	tick = time.Second
	// lookAgain is how soon a schedule is looked at again whose proposal was refused.
	lookAgain = 200 * time.Millisecond
	// purgeEvery is how often ended schedules are looked through.
	purgeEvery = time.Minute
)

// Engine fires schedules while this node leads.
type Engine struct{ o Options }

// New returns an Engine. It touches nothing outside.
func New(o Options) (*Engine, error) {
	if err := o.complete(); err != nil {
		return nil, err
	}
	return &Engine{o: o}, nil
}

// Run is the life of one term: it returns nil when ctx, the term, has ended, and never
// because a proposal failed.
func (e *Engine) Run(ctx context.Context) error {
	var running sync.WaitGroup
	defer running.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()

	_, cursor := e.o.Machine.ViewAndWatch()
	feed := make(chan fsm.News)
	running.Go(func() { e.o.Machine.Follow(ctx, cursor, feed, fsm.TableSchedules) })

	l := &term{Engine: e, books: make(map[string]*book)}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-feed: // which of them is seen by their rows
		case <-timer.C:
		case <-ctx.Done():
			return nil
		}
		timer.Reset(l.work(ctx))
	}
}

// term is what one leader remembers. It belongs to the goroutine of Run.
type term struct {
	*Engine
	books   map[string]*book
	purgeAt time.Time

	backoff time.Duration
	retryAt time.Time
}

// work proposes what is due and answers after how long to work again.
func (l *term) work(ctx context.Context) time.Duration {
	if wait := time.Until(l.retryAt); wait > 0 {
		return min(wait, tick)
	}
	for ctx.Err() == nil {
		b := l.gather()
		if len(b.mutations) == 0 {
			return b.wait
		}
		outcomes, err := l.propose(ctx, b.mutations)
		if err != nil {
			if ctx.Err() != nil {
				break
			}
			clear(l.books) // what took effect is seen by the state
			l.backoff = min(max(2*l.backoff, 100*time.Millisecond), 5*time.Second)
			l.retryAt = time.Now().Add(l.backoff)
			l.o.Logger.Warn("proposal failed, looking again", "after", l.backoff, "err", err)
			return l.backoff
		}
		l.backoff = 0
		for n, settle := range b.settle {
			settle(outcomes[n])
		}
	}
	return tick
}

var errDeposed = errors.New("the entry came from a deposed leader and changed nothing")

// propose puts mutations into one entry. An entry that was not applied is an error; every
// other outcome is left to the caller.
func (l *term) propose(ctx context.Context, mutations []*raftlogv1.Mutation) ([]*raftlogv1.Outcome, error) {
	outcomes, err := l.o.Proposer.Propose(ctx, mutations...)
	if err != nil {
		return nil, err
	}
	if len(outcomes) != len(mutations) {
		return nil, fmt.Errorf("%d mutations were answered by %d outcomes", len(mutations), len(outcomes))
	}
	for _, o := range outcomes {
		if o.GetCode() == raftlogv1.Code_CODE_NOT_APPLIED {
			return nil, errDeposed
		}
	}
	return outcomes, nil
}

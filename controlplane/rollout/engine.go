package rollout

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
	// maxBatch bounds the mutations of one proposal. With all that one may hold it has
	// about 150 KB, which the smallest bound of an entry allows.
	maxBatch = 128
	// expireMax bounds the commands that one entry expires. With one target each they
	// keep an entry as small as a release of ten times more.
	expireMax = 1000
	// leasesMax bounds the leases that one entry ends.
	leasesMax = 1000
	// lookAgain is how soon something is looked at again whose proposal was refused,
	// holdAgain something that the state does not release although it waits.
	lookAgain = 200 * time.Millisecond
	holdAgain = 30 * time.Second
)

// Engine brings commands to their end while this node leads.
type Engine struct{ o Options }

// New returns an Engine. It touches nothing outside.
func New(o Options) (*Engine, error) {
	if err := o.complete(); err != nil {
		return nil, err
	}
	return &Engine{o: o}, nil
}

// Run is the life of one term: it returns nil when ctx, the term, has ended, and
// never because a proposal failed.
func (e *Engine) Run(ctx context.Context) error {
	e.begin().run(ctx)
	return nil
}

// begin begins a term.
func (e *Engine) begin() *term {
	return &term{Engine: e, books: newBooks(), patience: Patience{e.o.LostAfter}, answers: make(chan answer)}
}

func (l *term) run(ctx context.Context) {
	var running sync.WaitGroup
	defer running.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()

	view, cursor := l.o.Machine.ViewAndWatch()
	l.take(fsm.News{List: view})
	feed := make(chan fsm.News)
	running.Go(func() {
		l.o.Machine.Follow(ctx, cursor, feed, fsm.TableSessions, fsm.TableCommands, fsm.TableInvocations)
	})

	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case n := <-feed:
			l.take(n)
		case a := <-l.answers:
			l.settle(ctx, a)
		case <-timer.C:
		case <-ctx.Done():
			return
		}
		timer.Reset(l.work(ctx, &running))
	}
}

// term is what one leader remembers. It belongs to the goroutine of Run.
type term struct {
	*Engine
	patience Patience
	clock    clock
	books    *books
	purgeAt  time.Time
	tokensAt time.Time // when to look for tokens to purge
	leasesAt time.Time // when to look for leases to end

	purgesFirst bool // in the batch that was gathered last

	backoff time.Duration
	retryAt time.Time

	proposed *batch // that has no answer yet; there is one at a time
	answers  chan answer
}

// answer is what became of the batch that was proposed.
type answer struct {
	outcomes []*raftlogv1.Outcome
	err      error
}

// look returns the state and the time, which belong together.
func (l *term) look() (*fsm.View, time.Time) {
	view, now := l.o.Machine.View(), time.Now()
	l.clock.look(view.Now(), now, l.proposed != nil)
	return view, now
}

// take takes what the feed brought.
func (l *term) take(n fsm.News) {
	view, now := l.look()
	if n.List != nil {
		l.books.list(n.List, now, l.clock.awake, l.clock.cluster())
		return
	}
	for _, c := range n.Changes {
		switch c.Table {
		case fsm.TableCommands:
			row, _ := c.Row.(*raftlogv1.Command)
			l.books.command(c.Key, row, now, l.clock.cluster())
		case fsm.TableSessions:
			l.books.session(c.Key, view, now, l.clock.awake)
		case fsm.TableInvocations:
			// A deleted row leaves no id, and was final before.
			if row, _ := c.Row.(*raftlogv1.Invocation); row != nil {
				l.books.invocation(row.GetId(), row, view, now, l.clock.awake)
			}
		}
	}
}

// work proposes what is due, unless an earlier proposal has no answer yet, and answers
// after how long to work again. The feed is read meanwhile: whoever waits for answers
// instead falls behind it when there is much to do, and must list everything anew.
func (l *term) work(ctx context.Context, running *sync.WaitGroup) time.Duration {
	view, now := l.look()
	switch {
	case l.proposed != nil:
		return tick
	case now.Before(l.retryAt):
		return min(l.retryAt.Sub(now), tick)
	}
	b := l.gather(view, now)
	if len(b.mutations) == 0 {
		return l.books.queue.wait(now, tick)
	}
	l.proposed = b
	running.Go(func() {
		outcomes, err := l.propose(ctx, b.mutations)
		select {
		case l.answers <- answer{outcomes, err}:
		case <-ctx.Done():
		}
	})
	return tick
}

// settle takes the answer to what was proposed.
func (l *term) settle(ctx context.Context, a answer) {
	b := l.proposed
	l.proposed = nil
	_, now := l.look()
	switch {
	case a.err == nil:
		l.backoff = 0
		for n, settle := range b.settle {
			settle(a.outcomes[n], now)
		}
	case ctx.Err() != nil:
		b.putBack(l, now)
	default:
		b.putBack(l, now)
		l.backoff = min(max(2*l.backoff, 100*time.Millisecond), 5*time.Second)
		l.retryAt = now.Add(l.backoff)
		l.o.Logger.Warn("proposal failed, looking again", "after", l.backoff, "err", a.err)
	}
}

var errDeposed = errors.New("the entry came from a deposed leader and changed nothing")

// propose puts mutations into one entry. An entry that was not applied is an error;
// every other outcome is left to the caller.
func (l *term) propose(ctx context.Context, mutations []*raftlogv1.Mutation) ([]*raftlogv1.Outcome, error) {
	outcomes, err := l.o.Proposer.Propose(ctx, mutations...)
	if err != nil {
		return nil, err
	}
	if len(outcomes) != len(mutations) {
		return nil, fmt.Errorf("%d mutations were answered by %d outcomes", len(mutations), len(outcomes))
	}
	for _, o := range outcomes {
		switch o.GetCode() {
		case raftlogv1.Code_CODE_NOT_APPLIED:
			return nil, errDeposed
		case raftlogv1.Code_CODE_INVALID:
			return nil, fmt.Errorf("the state calls a proposal malformed: %s", o.GetDetail())
		}
	}
	return outcomes, nil
}

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
	// maxBatch bounds the mutations of one proposal.
	maxBatch = 128
	// expireMax bounds the invocations that one mutation expires.
	expireMax = 1000
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
	var running sync.WaitGroup
	defer running.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()

	view, cursor := e.o.Machine.ViewAndWatch()
	l := &term{Engine: e, books: newBooks(), patience: Patience{e.o.LostAfter}}
	l.take(fsm.News{List: view})
	feed := make(chan fsm.News)
	running.Go(func() {
		e.o.Machine.Follow(ctx, cursor, feed, fsm.TableSessions, fsm.TableCommands, fsm.TableInvocations)
	})

	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case n := <-feed:
			l.take(n)
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
	patience Patience
	clock    clock
	books    *books
	purgeAt  time.Time
	tokensAt time.Time // when to look for tokens to purge

	backoff time.Duration
	retryAt time.Time
}

// look returns the state and the time, which belong together.
func (l *term) look() (*fsm.View, time.Time) {
	view, now := l.o.Machine.View(), time.Now()
	l.clock.look(view.Now(), now)
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

// work proposes what is due, and answers after how long to work again.
func (l *term) work(ctx context.Context) time.Duration {
	_, now := l.look()
	if now.Before(l.retryAt) {
		return min(l.retryAt.Sub(now), tick)
	}
	more, err := l.step(ctx)
	if err == nil {
		var again bool
		again, err = l.purge(ctx)
		if err == nil && !again {
			again, err = l.purgeTokens(ctx)
		}
		more = more || again
	}
	_, now = l.look()
	switch {
	case err != nil && ctx.Err() == nil:
		l.backoff = min(max(2*l.backoff, 100*time.Millisecond), 5*time.Second)
		l.retryAt = now.Add(l.backoff)
		l.o.Logger.Warn("proposal failed, looking again", "after", l.backoff, "err", err)
		return min(l.backoff, tick)
	case err != nil:
		return tick
	}
	l.backoff = 0
	if more {
		return 0
	}
	return l.books.queue.wait(now, tick)
}

// step looks at what is due and puts one batch of decisions into an entry.
func (l *term) step(ctx context.Context) (more bool, err error) {
	view, now := l.look()
	var items []*item
	var batch []*raftlogv1.Mutation
	budget := uint32(l.o.ReleaseMax)
	for len(batch) < maxBatch && budget > 0 {
		i := l.books.queue.due(now)
		if i == nil {
			break
		}
		mut, rows := l.decide(view, i, now, budget)
		if mut != nil {
			items, batch = append(items, i), append(batch, mut)
			budget -= min(rows, budget)
		}
	}
	if len(batch) == 0 {
		return false, nil
	}
	outcomes, err := l.propose(ctx, batch)
	_, now = l.look()
	if err != nil {
		for _, i := range items {
			l.books.queue.put(i, now)
		}
		return false, err
	}
	for n, i := range items {
		l.books.queue.put(i, now.Add(again(batch[n], outcomes[n])))
		if lost := batch[n].GetLoseAttempt(); lost != nil && outcomes[n].GetCode() == raftlogv1.Code_CODE_OK {
			l.o.Logger.Info("attempt is given up", "invocation_id", lost.GetKey().GetInvocationId(), "attempt", lost.GetKey().GetAttempt(), "reason", lost.GetReason())
		}
	}
	return true, nil
}

// again is how soon to look at something that was decided and answered. What the
// entry ended is forgotten when the feed tells.
func again(mut *raftlogv1.Mutation, o *raftlogv1.Outcome) time.Duration {
	switch {
	case mut.GetLoseAttempt() != nil:
		return tick
	case o.GetCode() != raftlogv1.Code_CODE_OK:
		return lookAgain // the state has moved, or the cluster's time has not
	case o.GetCount() == 0:
		return holdAgain // what waits is held
	default:
		return 0
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

// purge removes one batch of old commands.
func (l *term) purge(ctx context.Context) (more bool, err error) {
	view, now := l.look()
	if now.Before(l.purgeAt) {
		return false, nil
	}
	l.purgeAt = now.Add(tick)
	excess := view.CommandCount() - len(l.books.commands) - l.o.RetainCount
	ids := Purge(view.FinishedCommands(), l.clock.cluster(), l.o.Retain, excess)
	if len(ids) == 0 {
		return false, nil
	}
	outcomes, err := l.propose(ctx, []*raftlogv1.Mutation{{Kind: &raftlogv1.Mutation_PurgeCommands{PurgeCommands: &raftlogv1.PurgeCommands{CommandIds: ids}}}})
	if err != nil {
		return false, fmt.Errorf("purge %d commands: %w", len(ids), err)
	}
	if outcomes[0].GetCount() == 0 {
		l.purgeAt = now.Add(time.Minute) // none of them may go yet
		return false, nil
	}
	l.purgeAt = now
	l.o.Logger.Debug("commands purged", "commands", outcomes[0].GetCount(), "oldest_command_id", ids[0])
	return true, nil
}

// purgeTokens removes one batch of tokens that are over.
func (l *term) purgeTokens(ctx context.Context) (more bool, err error) {
	view, now := l.look()
	if now.Before(l.tokensAt) {
		return false, nil
	}
	l.tokensAt = now.Add(time.Minute) // none of them is in a hurry
	ids := PurgeTokens(view.TokensByEnd(), l.clock.cluster(), l.o.RetainTokens, l.o.RetainTokenCount)
	if len(ids) == 0 {
		return false, nil
	}
	outcomes, err := l.propose(ctx, []*raftlogv1.Mutation{{Kind: &raftlogv1.Mutation_PurgeTokens{PurgeTokens: &raftlogv1.PurgeTokens{TokenIds: ids}}}})
	if err != nil {
		l.tokensAt = now
		return false, fmt.Errorf("purge %d tokens: %w", len(ids), err)
	}
	if outcomes[0].GetCount() == 0 {
		return false, nil
	}
	l.tokensAt = now
	l.o.Logger.Info("tokens purged", "tokens", outcomes[0].GetCount(), "first_token_id", ids[0])
	return true, nil
}

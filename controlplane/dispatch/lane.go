package dispatch

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

const (
	laneBatchBytes   = 256 << 10 // half of what one entry takes
	laneQueue        = 1 << 16
	laneQueueBytes   = 64 << 20
	laneTimeout      = 10 * time.Second
	laneWorkers      = 2
	perMutationBytes = 16
)

var (
	errBacklog   = errors.New("too many proposals of this node wait")
	errGone      = errors.New("the session ended before this was proposed")
	errNotLeader = errors.New("the entry changed nothing: its leader was deposed")
)

// A task is one mutation on its way into the log.
type task struct {
	mutation *raftlogv1.Mutation
	bytes    int
	// gone, when not nil, says that nobody wants it any more.
	gone func() bool
	// done is called once, by a worker, and must not wait. After an error it is not
	// known whether the mutation took effect.
	done func(*raftlogv1.Outcome, error)
}

// A lane coalesces the proposals of all sessions: what queues while a worker waits for
// the log goes in one call, and more where it gathers. Tasks start in the order in which
// they were offered; with one worker they also take effect in it.
type lane struct {
	proposer Proposer
	count    *counters
	batch    int           // the most mutations of one call
	wake     chan struct{} // has a value when the queue may hold something
	turn     chan struct{} // held by the worker that takes the next batch
	gather   *gathering    // nil: nothing waits for company

	mu    sync.Mutex // guards what follows
	queue []task
	head  int
	bytes int
}

func newLane(p Proposer, c *counters, batch int) *lane {
	return &lane{proposer: p, count: c, batch: batch, wake: make(chan struct{}, 1), turn: make(chan struct{}, 1)}
}

// offer queues the task, or answers errBacklog; it never waits. After an error done is
// not called.
func (l *lane) offer(t task) error {
	t.bytes = proto.Size(t.mutation) + perMutationBytes
	if t.bytes > raftlogv1.MaxMutationBytes {
		return fmt.Errorf("a mutation of %d bytes is above the maximum %d", t.bytes, raftlogv1.MaxMutationBytes)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.queue)-l.head >= laneQueue || l.bytes+t.bytes > laneQueueBytes {
		l.count.proposalsBacklog.Add(1)
		return errBacklog
	}
	l.queue = append(l.queue, t)
	l.bytes += t.bytes
	if l.gather != nil {
		l.gather.arrived(time.Now())
	}
	l.wakeOne()
	return nil
}

func (l *lane) wakeOne() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// do proposes one mutation and waits for its outcome.
func (l *lane) do(ctx context.Context, m *raftlogv1.Mutation) (*raftlogv1.Outcome, error) {
	type answer struct {
		outcome *raftlogv1.Outcome
		err     error
	}
	ch := make(chan answer, 1)
	err := l.offer(task{
		mutation: m,
		gone:     func() bool { return ctx.Err() != nil },
		done:     func(o *raftlogv1.Outcome, err error) { ch <- answer{o, err} },
	})
	if err != nil {
		return nil, err
	}
	select {
	case a := <-ch:
		return a.outcome, a.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// work proposes batches until ctx ends. Tasks that are queued then are left: their
// owners end with the same context.
func (l *lane) work(ctx context.Context) error {
	for {
		select {
		case l.turn <- struct{}{}:
		case <-ctx.Done():
			return ctx.Err()
		}
		batch, err := l.next(ctx)
		<-l.turn
		if err != nil {
			return err
		}
		l.propose(ctx, batch)
	}
}

// next waits for a batch. Whoever calls it has the turn.
func (l *lane) next(ctx context.Context) ([]task, error) {
	for {
		if hold := l.hold(); hold > 0 {
			t := time.NewTimer(hold)
			select {
			case <-l.wake: // it may be full now
			case <-t.C:
			case <-ctx.Done():
			}
			t.Stop()
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			continue
		}
		l.company()
		batch, dropped := l.take()
		for _, t := range dropped {
			t.done(nil, errGone)
		}
		if len(batch) > 0 {
			return batch, nil
		}
		if len(dropped) > 0 {
			continue
		}
		select {
		case <-l.wake:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// hold answers how long what is queued shall wait for more.
func (l *lane) hold() time.Duration {
	if l.gather == nil {
		return 0
	}
	if queued := l.length(); queued > 0 && queued < l.batch {
		return l.gather.hold(time.Now())
	}
	return 0
}

// company lets sessions that are about to offer something do so: the first of a thousand
// that one change woke shall not go alone. It takes no time when there are none.
func (l *lane) company() {
	for queued := 0; ; runtime.Gosched() {
		was := queued
		if queued = l.length(); queued <= was || queued >= l.batch {
			return
		}
	}
}

func (l *lane) length() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.queue) - l.head
}

// take removes the next batch from the queue, and what nobody wants any more.
func (l *lane) take() (batch, dropped []task) {
	l.mu.Lock()
	defer l.mu.Unlock()
	bytes := 0
	for l.head < len(l.queue) && len(batch) < l.batch {
		t := l.queue[l.head]
		wanted := t.gone == nil || !t.gone()
		if wanted && len(batch) > 0 && bytes+t.bytes > laneBatchBytes {
			break
		}
		l.queue[l.head] = task{}
		l.head++
		l.bytes -= t.bytes
		if wanted {
			batch = append(batch, t)
			bytes += t.bytes
		} else {
			dropped = append(dropped, t)
		}
	}
	if l.gather != nil && len(batch) > 0 {
		l.gather.went(time.Now())
	}
	switch {
	case l.head == len(l.queue):
		l.queue, l.head = l.queue[:0], 0
		if cap(l.queue) > 4096 {
			l.queue = nil
		}
	default:
		if l.head > 4096 && l.head > len(l.queue)/2 {
			l.queue = append([]task(nil), l.queue[l.head:]...)
			l.head = 0
		}
		l.wakeOne() // another worker may take the rest
	}
	return batch, dropped
}

func (l *lane) propose(ctx context.Context, batch []task) {
	mutations := make([]*raftlogv1.Mutation, len(batch))
	for i, t := range batch {
		mutations[i] = t.mutation
	}
	ctx, cancel := context.WithTimeout(ctx, laneTimeout)
	defer cancel()
	outcomes, err := l.proposer.Propose(ctx, mutations...)
	if err == nil && len(outcomes) != len(batch) {
		err = fmt.Errorf("%d outcomes for %d mutations", len(outcomes), len(batch))
	}
	for i, t := range batch {
		switch {
		case err != nil:
			l.count.proposalsFailed.Add(1)
			t.done(nil, err)
		case outcomes[i].GetCode() == raftlogv1.Code_CODE_NOT_APPLIED:
			l.count.proposalsFailed.Add(1)
			t.done(nil, errNotLeader)
		default:
			t.done(outcomes[i], nil)
		}
	}
}

package consensus

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/hashicorp/raft"
	"google.golang.org/protobuf/proto"

	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

// batcher moves the proposals of one office into entries; doc.go says how. It is
// made when the take-office entry has applied, so no entry is stamped before.
type batcher struct {
	bounds bounds
	epoch  uint64
	now    func() int64
	apply  func(entry []byte) raft.ApplyFuture
	// classify says what an error of raft means to the proposer.
	classify func(error) error
	// broken is told what must not happen: the state answered nonsense.
	broken func(error)

	// turn is held by the worker that takes a batch until raft has taken the entry:
	// entries follow each other in the order of the queue.
	turn chan struct{}
	wake chan struct{} // has a value when the queue may have become non-empty
	shut chan struct{} // closed with closed

	mu     sync.Mutex // guards what follows; never held across anything that waits
	queue  []*proposal
	head   int // of queue
	muts   int // in the queue
	bytes  int
	closed error // why nothing is taken any more

	workers sync.WaitGroup
}

type bounds struct {
	batchMutations, batchBytes int
	queueMutations, queueBytes int
}

// proposal is one Propose call. Its owner is the batcher's queue under mu, then the
// worker that took it; done is closed after outcomes and err are set.
type proposal struct {
	muts     []*raftlogv1.Mutation
	bytes    int
	taken    bool
	done     chan struct{}
	outcomes []*raftlogv1.Outcome
	err      error
}

// entryOverhead is what one mutation's tag and length take in its entry, at most.
const entryOverhead = 8

func newBatcher(b bounds, epoch uint64) *batcher {
	return &batcher{
		bounds: b,
		epoch:  epoch,
		turn:   make(chan struct{}, 1),
		wake:   make(chan struct{}, 1),
		shut:   make(chan struct{}),
	}
}

// run starts n workers on goroutines that start begins. They end after close, when
// raft has answered what it has.
func (b *batcher) run(n int, start func(func()) bool) {
	for range n {
		b.workers.Add(1)
		if !start(func() { defer b.workers.Done(); b.work() }) {
			b.workers.Done()
		}
	}
}

// idle returns a channel that is closed when every worker has ended; call it after
// close.
func (b *batcher) idle() <-chan struct{} {
	ch := make(chan struct{})
	go func() {
		b.workers.Wait()
		close(ch)
	}()
	return ch
}

func (b *batcher) propose(ctx context.Context, muts []*raftlogv1.Mutation) ([]*raftlogv1.Outcome, error) {
	p, err := b.enqueue(muts)
	if err != nil {
		return nil, err
	}
	select {
	case <-p.done:
		return p.outcomes, p.err
	case <-ctx.Done():
	}
	if b.withdraw(p) {
		return nil, fmt.Errorf("propose: nothing was sent: %w", ctx.Err())
	}
	select {
	case <-p.done: // it ended at the same moment
		return p.outcomes, p.err
	default:
		return nil, fmt.Errorf("propose: %w: %w", ErrUnknown, ctx.Err())
	}
}

func (b *batcher) enqueue(muts []*raftlogv1.Mutation) (*proposal, error) {
	if len(muts) == 0 {
		return nil, fmt.Errorf("propose: %w: no mutation is given", ErrTooLarge)
	}
	if len(muts) > b.bounds.batchMutations {
		return nil, fmt.Errorf("propose: %w: %d mutations, at most %d are allowed", ErrTooLarge, len(muts), b.bounds.batchMutations)
	}
	p := &proposal{muts: muts, done: make(chan struct{})}
	for i, m := range muts {
		n := proto.Size(m)
		if n > raftlogv1.MaxMutationBytes {
			return nil, fmt.Errorf("propose: %w: mutation %d has %d bytes, at most %d are allowed", ErrTooLarge, i, n, raftlogv1.MaxMutationBytes)
		}
		p.bytes += n + entryOverhead
	}
	if p.bytes > b.bounds.batchBytes && len(muts) > 1 {
		return nil, fmt.Errorf("propose: %w: %d bytes in one call, at most %d are allowed", ErrTooLarge, p.bytes, b.bounds.batchBytes)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.closed != nil:
		return nil, b.closed
	case boundsQueue && b.muts+len(muts) > b.bounds.queueMutations:
		return nil, fmt.Errorf("propose: %w: %d mutations wait, at most %d are allowed", ErrBacklog, b.muts, b.bounds.queueMutations)
	case boundsQueue && b.bytes+p.bytes > b.bounds.queueBytes:
		return nil, fmt.Errorf("propose: %w: %d bytes wait, at most %d are allowed", ErrBacklog, b.bytes, b.bounds.queueBytes)
	}
	b.queue = append(b.queue, p)
	b.muts += len(muts)
	b.bytes += p.bytes
	b.wakeOne()
	return p, nil
}

func (b *batcher) wakeOne() {
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

// withdraw takes p out of the queue, or answers false when a worker has it.
func (b *batcher) withdraw(p *proposal) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if p.taken {
		return false
	}
	for i := b.head; i < len(b.queue); i++ {
		if b.queue[i] == p {
			b.queue = slices.Delete(b.queue, i, i+1)
			b.muts -= len(p.muts)
			b.bytes -= p.bytes
			return true
		}
	}
	return false
}

func (b *batcher) work() {
	for {
		b.turn <- struct{}{}
		batch := b.take()
		if batch == nil {
			<-b.turn
			return
		}
		entry, err := b.seal(batch)
		if err != nil {
			<-b.turn
			b.fail(batch, err)
			continue
		}
		pointOf("leader-before", batch)
		f := b.apply(entry)
		pointOf("leader-handed", batch)
		<-b.turn
		if !acknowledgesEarly(batch) {
			b.deliver(batch, f)
		}
	}
}

// pointOf names a point in the way of each mutation of a batch.
func pointOf(where string, batch []*proposal) {
	if !dies {
		return
	}
	for _, p := range batch {
		for _, m := range p.muts {
			kind := fmt.Sprintf("%T", m.GetKind())
			point(where + kind[strings.LastIndexByte(kind, '_'):])
		}
	}
}

// take waits for proposals and takes as many as fit into one entry, in order and
// without passing over one. It returns nil after close.
func (b *batcher) take() []*proposal {
	for {
		if batch, closed := b.takeQueued(); batch != nil || closed {
			return batch
		}
		select {
		case <-b.wake:
		case <-b.shut:
		}
	}
}

func (b *batcher) takeQueued() (batch []*proposal, closed bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	muts, bytes := 0, 0
	end := b.head
	for ; end < len(b.queue); end++ {
		p := b.queue[end]
		if end > b.head && (muts+len(p.muts) > b.bounds.batchMutations || bytes+p.bytes > b.bounds.batchBytes) {
			break
		}
		muts += len(p.muts)
		bytes += p.bytes
		p.taken = true
	}
	if end == b.head {
		return nil, b.closed != nil
	}
	batch = append(batch, b.queue[b.head:end]...)
	clear(b.queue[b.head:end])
	b.head = end
	b.muts -= muts
	b.bytes -= bytes
	switch {
	case b.head == len(b.queue):
		b.queue, b.head = b.queue[:0], 0
	case b.head > len(b.queue)/2: // keeps the queue's memory in step with its length
		n := copy(b.queue, b.queue[b.head:])
		clear(b.queue[n:])
		b.queue, b.head = b.queue[:n], 0
	}
	if b.head < len(b.queue) {
		b.wakeOne()
	}
	return batch, false
}

func (b *batcher) seal(batch []*proposal) ([]byte, error) {
	e := &raftlogv1.Entry{Format: raftlogv1.EntryFormat, LeaderEpoch: b.epoch, Now: b.now()}
	for _, p := range batch {
		e.Mutations = append(e.Mutations, p.muts...)
	}
	return raftlogv1.Seal(e)
}

// deliver waits for raft's answer and gives each proposal its outcomes.
func (b *batcher) deliver(batch []*proposal, f raft.ApplyFuture) {
	if err := f.Error(); err != nil {
		b.fail(batch, b.classify(err))
		return
	}
	pointOf("leader-after", batch)
	n := 0
	for _, p := range batch {
		n += len(p.muts)
	}
	outcomes, ok := f.Response().([]*raftlogv1.Outcome)
	if !ok || len(outcomes) != n {
		err := fmt.Errorf("%w: the state answered entry %d of %d mutations with %T of %d outcomes", ErrUnknown, f.Index(), n, f.Response(), len(outcomes))
		b.fail(batch, err)
		b.broken(err)
		return
	}
	for _, p := range batch {
		p.outcomes, outcomes = outcomes[:len(p.muts):len(p.muts)], outcomes[len(p.muts):]
		close(p.done)
	}
}

func (b *batcher) fail(batch []*proposal, err error) {
	for _, p := range batch {
		p.err = fmt.Errorf("propose: %w", err)
		close(p.done)
	}
}

// close refuses what comes and what waits with err; nothing happened to those.
func (b *batcher) close(err error) {
	b.mu.Lock()
	if b.closed != nil {
		b.mu.Unlock()
		return
	}
	b.closed = fmt.Errorf("propose: %w", err)
	waiting := b.queue[b.head:]
	for _, p := range waiting {
		p.taken = true
	}
	b.queue, b.head, b.muts, b.bytes = nil, 0, 0, 0
	close(b.shut)
	b.mu.Unlock()
	b.fail(waiting, err)
}

func (b *batcher) length() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.muts
}

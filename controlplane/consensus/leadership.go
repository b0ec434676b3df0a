package consensus

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/raft"

	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

// term is one office with what serves it.
type term struct {
	Office
	batch *batcher
	clock *clock
}

// leadership begins and ends terms as raft says. It never waits for anything else,
// because raft waits for it.
func (h *Host) leadership(ctx context.Context) {
	end := func() {}
	ended := make(chan struct{})
	close(ended)
	for {
		select {
		case <-ctx.Done():
			h.stopping.Store(true)
			end()
			<-ended
			return
		case leads := <-h.notify:
			end()
			end = func() {}
			if !leads {
				continue
			}
			termCtx, cancel := context.WithCancel(ctx)
			previous, number := ended, h.raft.CurrentTerm()
			ended = make(chan struct{})
			end = cancel
			go func(ended chan struct{}) {
				defer close(ended)
				defer cancel()
				<-previous // one life at a time
				h.lead(termCtx, number)
			}(ended)
		}
	}
}

// lead takes office and serves until ctx ends with the term.
func (h *Host) lead(ctx context.Context, number uint64) {
	t, err := h.takeOffice(ctx, number)
	if err != nil {
		h.giveUp(ctx, number, fmt.Errorf("take office in term %d: %w", number, err))
		return
	}
	t.batch.run(h.opts.MaxInFlight, h.tasks.Go)
	h.office.Store(t)
	h.subs.signal()
	h.log.Info("took office", "term", t.Term, "epoch", t.Epoch, "index", t.Index)

	officeCtx, cancel := context.WithCancelCause(ctx)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		h.keepTime(officeCtx, t)
	}()
	ran, ended := make(chan error, 1), make(chan struct{})
	go func() {
		defer close(ended)
		if h.opts.RunOffice == nil {
			ran <- nil
			return
		}
		ran <- h.opts.RunOffice(officeCtx, t.Office)
	}()
	running := true
	select {
	case err := <-ran:
		running = false
		if err != nil && ctx.Err() == nil {
			h.giveUp(ctx, number, fmt.Errorf("leader-only loops of term %d ended: %w", number, err))
		}
		<-ctx.Done()
	case <-ctx.Done():
	}
	cancel(nil)
	h.office.CompareAndSwap(t, nil)
	h.subs.signal()
	t.batch.close(h.leaving())
	if running && !within(ended, h.opts.OfficeEndsWithin, nil) {
		h.fatal(fmt.Errorf("leader-only loops of term %d go on %s after its end", number, h.opts.OfficeEndsWithin))
		<-ended
	}
	<-watched
	within(t.batch.idle(), h.drainTime(), h.failed)
	h.log.Info("left office", "term", t.Term, "epoch", t.Epoch)
}

// leaving is what proposals are answered that wait when the term ends.
func (h *Host) leaving() error {
	if h.stopping.Load() {
		return ErrShutdown
	}
	return h.notLeader()
}

// takeOffice proposes the take-office entry and returns once the state holds it.
func (h *Host) takeOffice(ctx context.Context, number uint64) (*term, error) {
	offset, err := h.measureUntil(ctx, number)
	if err != nil {
		return nil, err
	}
	if h.will.judgeClock(offset) && h.raft.CurrentTerm() == number {
		// Nobody has to lead by a wrong clock when another can.
		err := h.Transfer(ctx, "")
		if err == nil || ctx.Err() != nil {
			return nil, errors.Join(errHandedOver, err)
		}
		h.log.Warn("leads although its clock is far from the median, because nobody else can", "err", err)
	}
	median := h.wallAt(offset)
	data, err := raftlogv1.Seal(&raftlogv1.Entry{
		Format: raftlogv1.EntryFormat,
		Now:    median,
		Mutations: []*raftlogv1.Mutation{{Kind: &raftlogv1.Mutation_TakeOffice{TakeOffice: &raftlogv1.TakeOffice{
			NodeId: string(h.opts.NodeID),
			Term:   number,
		}}}},
	})
	if err != nil {
		return nil, err
	}
	outcome, err := h.applyTakeOffice(ctx, data)
	if err != nil {
		return nil, err
	}
	_, office := h.opts.Machine.Published()
	switch {
	case outcome.GetCode() != raftlogv1.Code_CODE_OK:
		return nil, fmt.Errorf("the state answered %s: %s", outcome.GetCode(), outcome.GetDetail())
	case office.GetNodeId() != string(h.opts.NodeID), office.GetTerm() != number:
		return nil, fmt.Errorf("the state says that %q leads in term %d", office.GetNodeId(), office.GetTerm())
	}
	t := &term{
		Office: Office{Epoch: office.GetEpoch(), Term: number, Index: outcome.GetIndex()},
		// The state's time is at least the entry's, and may be ahead of every clock
		// when an earlier median was wrong.
		clock: newClock(max(median, h.opts.Machine.Now()), h.wallAt(offset)),
	}
	b := newBatcher(bounds{
		batchMutations: h.opts.MaxBatchMutations,
		batchBytes:     h.opts.MaxBatchBytes,
		queueMutations: h.opts.MaxQueueMutations,
		queueBytes:     h.opts.MaxQueueBytes,
	}, t.Epoch)
	b.now = t.clock.Now
	b.apply = h.offer
	b.classify = h.classify
	b.broken = h.fatal
	t.batch = b
	return t, nil
}

var errHandedOver = errors.New("leadership was handed over")

// measureUntil measures until it succeeds or the term ends. A leader whose peers do
// not answer can serve no read either: it tries to hand over meanwhile.
func (h *Host) measureUntil(ctx context.Context, number uint64) (time.Duration, error) {
	for tries := 1; ; tries++ {
		offset, err := h.measure(ctx)
		if err == nil {
			return offset, nil
		}
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-time.After(clockGrace):
		}
		if tries%5 == 0 && h.raft.CurrentTerm() == number {
			h.log.Warn("cannot take office: voters do not answer", "term", number, "err", err)
			_ = h.Transfer(ctx, "")
		}
	}
}

// applyTakeOffice applies the entry and tries again as long as raft takes none: an
// earlier transfer may be on its way. One that is on its way for ever is raft#696, also
// when it began in an earlier term.
func (h *Host) applyTakeOffice(ctx context.Context, data []byte) (*raftlogv1.Outcome, error) {
	start := time.Now()
	for {
		outcome, err := h.applyAlone(ctx, data)
		switch {
		case errors.Is(err, raft.ErrLeadershipTransferInProgress) && time.Since(start) > 4*h.opts.Profile.Election:
			err = fmt.Errorf("leadership transfer is still in progress after %s (raft#696): this node would refuse every entry", time.Since(start))
			h.fatal(err)
			return nil, err
		case !errors.Is(err, raft.ErrLeadershipTransferInProgress) && !errors.Is(err, raft.ErrEnqueueTimeout):
			return outcome, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(h.opts.Profile.Election / 10):
		}
	}
}

// applyAlone applies one entry of one mutation and waits for its own future.
func (h *Host) applyAlone(ctx context.Context, data []byte) (*raftlogv1.Outcome, error) {
	done := make(chan raft.ApplyFuture, 1)
	if !h.tasks.Go(func() {
		f := h.raft.Apply(data, enqueueTimeout)
		_ = f.Error()
		done <- f
	}) {
		return nil, ErrShutdown
	}
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case f := <-done:
		if err := f.Error(); err != nil {
			return nil, err
		}
		outcomes, ok := f.Response().([]*raftlogv1.Outcome)
		if !ok || len(outcomes) != 1 {
			return nil, fmt.Errorf("the state answered %T of %d outcomes, want one", f.Response(), len(outcomes))
		}
		return outcomes[0], nil
	}
}

// giveUp hands leadership of the term over, and ends the process when this node must
// not lead and nobody takes over. It returns when the term has ended or the process
// is given up.
func (h *Host) giveUp(ctx context.Context, number uint64, cause error) {
	if ctx.Err() != nil {
		return
	}
	h.log.Warn("gives up leadership", "err", cause)
	if h.raft.CurrentTerm() == number && h.raft.State() == raft.Leader {
		err := h.Transfer(ctx, "")
		if err != nil && ctx.Err() == nil && h.raft.CurrentTerm() == number && h.raft.State() == raft.Leader {
			h.fatal(fmt.Errorf("%w; and nobody took over: %w", cause, err))
		}
	}
	select {
	case <-ctx.Done():
	case <-h.failed:
	}
}

// keepTime corrects the office's clock until ctx ends, and hands over when this
// node's own clock is far from the others'.
func (h *Host) keepTime(ctx context.Context, t *term) {
	tick := time.NewTicker(h.opts.CheckInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		offset, err := h.measure(ctx)
		if err != nil {
			continue // the next tick, or raft's lease, will tell
		}
		t.clock.aim(h.wallAt(offset))
		h.will.judgeClock(offset)
	}
}

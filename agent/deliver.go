package agent

import (
	"cmp"
	"context"
	"errors"

	"github.com/agentplane/agentplane/agent/execute"
	"github.com/agentplane/agentplane/agent/journal"
	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/blob"
)

// deliver answers a claim from the journal, refuses it, starts it, or lets it wait for a
// slot.
func (w *worker) deliver(ctx context.Context, d *agentplanev1.Deliver) {
	w.mu.Lock()
	grant := w.grant
	w.mu.Unlock()
	if comparesGrants && (d.GetSessionEpoch() != grant.Epoch || d.GetIncarnation() != grant.Incarnation.GetNumber()) {
		return // of a session that has ended meanwhile; it comes again
	}
	k := journal.Key{InvocationID: d.GetInvocationId(), Attempt: d.GetAttempt()}
	if w.known(k, d.GetFence()) {
		return
	}
	floor, _ := w.o.Book.now().Floor()
	o, no := judge(d, stage{
		clusterID: w.o.ClusterID, agentID: w.o.AgentID, name: w.o.Name, incarnation: grant.Incarnation.GetNumber(),
		now: w.o.Now(), floor: floor, policy: w.o.Policy,
	})
	if no == nil {
		_, brought := blob.CheckBrought(o.spec)
		if err := cmp.Or(brought, w.spec(o).Validate()); err != nil {
			no = rejectf(reasonInvalid, "%v", err)
		}
	}
	switch {
	case w.begun(k) && (no == nil || no.reason == reasonExpired || no.reason == reasonPolicy):
		w.start(ctx, o) // which finds it, and starts nothing
	case no != nil:
		w.never(o.intent, journal.Rejected, no.reason, no.detail)
	case w.fetches(ctx, o):
	case w.hasSlot():
		w.start(ctx, o)
	case !w.enqueue(o):
		w.never(o.intent, journal.Rejected, reasonNoSlot, "more attempts were claimed than this agent has slots")
	}
}

// known answers for an attempt that has an answer, or is about to have one.
func (w *worker) known(k journal.Key, fence uint64) bool {
	j := w.o.Book.now()
	if r, ok := j.Lookup(k); ok {
		if fence != 0 && r.Fence != fence {
			// Canceled before it was delivered, or claimed anew after a recovery: the cluster
			// takes an answer under the fence that it asks with.
			w.mu.Lock()
			w.fences[k] = fence
			w.mu.Unlock()
		}
		if _, p, ok := w.lookup(j, k); ok {
			w.tell(j, k, p)
		}
		return true
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if r := w.refused[k]; r != nil {
		w.offer(r)
		return true
	}
	for _, o := range w.waiting {
		if o.key() == k {
			return true
		}
	}
	return w.fetching[k] != nil
}

func (w *worker) hasSlot() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.running) < w.o.Slots
}

// enqueue lets an order wait for a slot, unless as many as there are slots wait already:
// nodes claim for free slots only.
func (w *worker) enqueue(o *order) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.waiting) >= w.o.Slots {
		return false
	}
	w.waiting = append(w.waiting, o)
	return true
}

// startWaiting starts what waits while there are slots. Time has passed, so the window is
// looked at again.
func (w *worker) startWaiting(ctx context.Context) {
	for ctx.Err() == nil && w.hasSlot() {
		w.mu.Lock()
		if len(w.waiting) == 0 {
			w.mu.Unlock()
			return
		}
		o := w.waiting[0]
		w.waiting = w.waiting[1:]
		w.mu.Unlock()
		if o.intent.NotAfter <= w.o.Now() {
			w.never(o.intent, journal.Rejected, reasonExpired, "it found no free slot before "+stamp(o.intent.NotAfter))
			continue
		}
		if w.fetches(ctx, o) {
			continue
		}
		w.start(ctx, o)
	}
}

// start journals the intent and starts the supervisor. Nothing is started that is not in
// the journal.
func (w *worker) start(ctx context.Context, o *order) {
	o.intent.At = w.o.Now()
	w.o.Book.expect(o.intent)
	defer w.o.Book.forget(o.key())
	run, err := w.o.Runner.Start(ctx, w.spec(o))
	var known *journal.KnownError
	switch {
	case err == nil:
		w.o.Logger.Info("attempt started", "invocation_id", o.intent.InvocationID, "attempt", o.intent.Attempt, "command_id", o.intent.CommandID)
		w.follow(ctx, o.key(), &attempt{run: run, fence: o.intent.Fence}, o.steps())
	case ctx.Err() != nil:
		// Ending; nothing was journalled, and it comes again with the next session.
	case errors.As(err, &known):
		w.known(o.key(), o.intent.Fence)
	case errors.Is(err, execute.ErrExists):
		// The journal had lost it, the directory has not: whatever happened, it is over or
		// still running.
		if run, err = w.o.Runner.Adopt(execute.Attempt{InvocationID: o.intent.InvocationID, Number: o.intent.Attempt}); err == nil {
			w.follow(ctx, o.key(), &attempt{run: run, fence: o.intent.Fence}, o.steps())
		}
	case errors.Is(err, journal.ErrForgotten):
		w.never(o.intent, journal.Rejected, reasonForgotten, err.Error())
	case errors.Is(err, execute.ErrInvalid), errors.Is(err, journal.ErrInvalid):
		w.never(o.intent, journal.Rejected, reasonInvalid, err.Error())
	case w.begun(o.key()):
		w.o.Logger.Warn("an attempt that was begun cannot be journalled again", "invocation_id", o.intent.InvocationID, "attempt", o.intent.Attempt, "err", err)
	default:
		w.never(o.intent, journal.Rejected, reasonNoJournal, err.Error())
	}
}

// begun says that there is a directory of the attempt. When the journal knows nothing of it,
// that was put back to an earlier state.
func (w *worker) begun(k journal.Key) bool {
	_, there := w.o.Runner.Touched(execute.Attempt{InvocationID: k.InvocationID, Number: k.Attempt})
	return there
}

// never journals that the attempt has not started and will not, and tells it.
func (w *worker) never(in journal.Intent, s journal.State, reason, detail string) {
	log := w.o.Logger.With("invocation_id", in.InvocationID, "attempt", in.Attempt)
	in.At = w.o.Now()
	j := w.o.Book.now()
	err := j.Never(in, s, reason, detail)
	var known *journal.KnownError
	switch {
	case err == nil, errors.As(err, &known):
		log.Info("attempt not started", "state", string(s), "reason", reason, "detail", detail)
		w.known(in.Key, in.Fence)
		return
	case errors.Is(err, journal.ErrInvalid):
		// Its ids are no ids: nothing could ever be journalled under them, so it cannot be
		// started either, and the cluster has no use for a report.
		log.Error("delivery passed over", "err", err)
		return
	}
	if s == journal.Rejected {
		reason, detail = reasonNoJournal, err.Error()
	}
	log.Error("attempt not started, and the journal cannot be written", "state", string(s), "reason", reason, "err", err)
	if in.Fence == 0 {
		return // there is nobody to tell
	}
	// It has no number, as it is in no journal: it is told also when there is another one.
	r := reportOf(journal.Record{Intent: in, Never: true, Result: journal.Result{State: s, Reason: reason, Detail: detail, ExitCode: -1}}, 0, 0)
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.refused) >= maxRefused {
		return // not told, so that it need not be remembered
	}
	w.refused[in.Key] = r
	w.offer(r)
}

// cancel ends a running attempt, forbids one that has not started, and says of one that
// has ended that it was too late.
func (w *worker) cancel(c *agentplanev1.CancelAttempt) {
	k := journal.Key{InvocationID: c.GetInvocationId(), Attempt: c.GetAttempt()}
	w.mu.Lock()
	if c.GetSessionEpoch() != w.grant.Epoch {
		w.mu.Unlock()
		return
	}
	a := w.running[k]
	if a != nil {
		a.canceled = true
	}
	o := w.unqueueLocked(k)
	w.mu.Unlock()
	switch {
	case a != nil:
		if err := a.run.Cancel(); err != nil {
			w.o.Logger.Error("cancel failed; it comes again", "invocation_id", k.InvocationID, "attempt", k.Attempt, "err", err)
		}
		return
	case o != nil:
		w.never(o.intent, journal.Canceled, "canceled", "it was canceled before it started")
		return
	}
	if r, ok := w.o.Book.now().Lookup(k); ok {
		w.tellEnd(k, !r.Never)
		return
	}
	if w.begun(k) {
		return // its delivery adopts it, and the cancel comes again
	}
	// Unknown: it must not start when its delivery comes after all. The time of submission
	// is not known; now is later, and thus keeps the journal's floor on the safe side.
	now := w.o.Now()
	w.never(journal.Intent{Key: k, Submitted: now, NotAfter: now}, journal.Canceled, "canceled", "it was canceled before it was delivered")
}

func (w *worker) unqueueLocked(k journal.Key) *order {
	for i, o := range w.waiting {
		if o.key() == k {
			w.waiting = append(w.waiting[:i:i], w.waiting[i+1:]...)
			return o
		}
	}
	return w.stopFetchLocked(k)
}

// ask answers from the journal. What the journal has never heard of is LOST, and never
// starts.
func (w *worker) ask(q *agentplanev1.Ask) {
	k := journal.Key{InvocationID: q.GetInvocationId(), Attempt: q.GetAttempt()}
	if w.known(k, q.GetFence()) || w.begun(k) {
		return // what has begun its delivery adopts
	}
	now := w.o.Now()
	w.never(journal.Intent{Key: k, Fence: q.GetFence(), Submitted: now, NotAfter: now}, journal.Lost, "unknown", "the journal has never heard of it")
}

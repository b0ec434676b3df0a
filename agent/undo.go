package agent

import (
	"errors"
	"fmt"
	"time"

	"github.com/agentplane/agentplane/agent/execute"
	"github.com/agentplane/agentplane/agent/journal"
	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
)

// A keeper is a Run whose attempt can wait for a confirmation.
type keeper interface{ Keep(by string) error }

// keep confirms what waits for it; of anything else it is told how it stands.
func (w *worker) keep(m *agentplanev1.KeepAttempt) {
	k := journal.Key{InvocationID: m.GetInvocationId(), Attempt: m.GetAttempt()}
	w.mu.Lock()
	if m.GetSessionEpoch() != w.grant.Epoch {
		w.mu.Unlock()
		return
	}
	a := w.running[k]
	w.mu.Unlock()
	log := w.o.Logger.With("invocation_id", k.InvocationID, "attempt", k.Attempt)
	if a != nil {
		run, ok := a.run.(keeper)
		if !ok {
			return
		}
		switch err := run.Keep(m.GetBy()); {
		case err == nil:
			log.Info("attempt confirmed", "by", m.GetBy())
			return // its end is told
		case errors.Is(err, journal.ErrTooLate), errors.Is(err, journal.ErrNotArmed), errors.Is(err, execute.ErrCanceled):
			log.Info("attempt not confirmed", "by", m.GetBy(), "err", err)
		default:
			log.Error("the confirmation cannot be journalled; it comes again", "err", err)
			return
		}
	}
	j := w.o.Book.now()
	if _, p, ok := w.lookup(j, k); ok {
		w.tell(j, k, p)
	}
}

// undoSpec is what takes back what the programs of an order do; nil when nothing does.
func undoSpec(spec *agentplanev1.CommandSpec) *execute.Undo {
	u := spec.GetUndo()
	if u == nil {
		return nil
	}
	return &execute.Undo{
		Argv: u.GetArgv(), Script: u.GetScript(), Timeout: time.Duration(u.GetRunTimeout()), Within: time.Duration(u.GetWithin()),
		ByContact: u.GetBy() == agentplanev1.ConfirmBy_CONFIRM_BY_CONTACT,
	}
}

// undoOf is how the undo of an attempt stands, by the journal; nil when it has none, or its
// programs have not ended.
func undoOf(r journal.Record) *agentplanev1.Undo {
	p := &agentplanev1.Undo{Until: r.Guard.Until}
	if n := len(r.Steps); n > 0 && r.Steps[n-1].Number > r.Steps[n-1].Of {
		step := r.Steps[n-1]
		p.Phase, p.Cause = agentplanev1.UndoPhase_UNDO_PHASE_RUNNING, step.Name
		if res := step.Result; step.Ended() {
			p.Phase, p.State = agentplanev1.UndoPhase_UNDO_PHASE_DONE, apiState(res.State)
			p.ExitCode, p.Signal, p.Reason, p.Detail = res.ExitCode, uint32(res.Signal), res.Reason, res.Detail
			p.StartedAt, p.EndedAt = res.StartedAt, res.EndedAt
		}
		return p
	}
	switch g := r.Guard; {
	case !g.Armed:
		return nil
	case !g.Kept:
		p.Phase = agentplanev1.UndoPhase_UNDO_PHASE_ARMED
	default:
		p.Phase = agentplanev1.UndoPhase_UNDO_PHASE_CONFIRMED
		if g.Contact {
			p.Detail = fmt.Sprintf("node %s has answered a new connection", g.By)
		}
	}
	return p
}

// Arm journals that the attempt waits for a confirmation, for so long from now on.
func (b *book) Arm(a execute.Attempt, g execute.Guard, left time.Duration) error {
	now := b.time()
	err := once(b.now().Arm(keyOf(a), journal.Guard{
		BootID: g.BootID, Deadline: int64(g.Deadline), Until: now + int64(left), Again: g.Again, At: now,
	}))
	if err == nil && b.stepped != nil {
		b.stepped(keyOf(a))
	}
	return err
}

// Keep journals that the attempt was confirmed, once.
func (b *book) Keep(a execute.Attempt, by string, contact bool) error {
	return once(b.now().Keep(keyOf(a), by, contact, b.time()))
}

// Guard gives how the wait of an attempt for a confirmation stands.
func (b *book) Guard(a execute.Attempt) (g execute.Guard, ok bool) {
	r, _ := b.now().Lookup(keyOf(a))
	if !r.Guard.Armed {
		return execute.Guard{}, false
	}
	return execute.Guard{
		BootID: r.Guard.BootID, Deadline: time.Duration(r.Guard.Deadline), Again: r.Guard.Again, Kept: r.Guard.Kept,
	}, true
}

package agent

import (
	"cmp"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/agentplane/agentplane/agent/execute"
	"github.com/agentplane/agentplane/agent/journal"
	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
)

// lookup gives the attempt's record and what is to be reported of it.
//
// The journal number in a report tells the end of an attempt from what was said before: a
// report of RUNNING names one from before the record was read, the report of an end one
// from after. However the journal grows meanwhile, the first is below the number of the
// result and the second is not.
func (w *worker) lookup(j *journal.Journal, k journal.Key) (journal.Record, *agentplanev1.Report, bool) {
	before := j.Seq()
	r, ok := j.Lookup(k)
	if !ok {
		return r, nil, false
	}
	return r, w.report(j, r, before), true
}

// report is what the record says, and what is known beside it; before is a journal number
// from before the record was read. It takes note of an end that is told the first time.
func (w *worker) report(j *journal.Journal, r journal.Record, before uint64) *agentplanev1.Report {
	seq := before
	if r.Ended() {
		seq = j.Seq()
	}
	p := reportOf(r, seq, w.o.Settings().Output.RaftBytes)
	w.mu.Lock()
	a := w.running[r.Key]
	if f := w.fences[r.Key]; f != 0 {
		p.Fence = f
	}
	if r.Ended() {
		t := w.told[r.Key]
		if t == nil {
			t = &told{seq: seq, at: time.Now()}
			if !r.Confirmed {
				w.told[r.Key] = t
			}
		}
		p.CancelTooLate = t.tooLate
	}
	w.mu.Unlock()
	if a != nil && !r.Ended() {
		if since, ok := a.run.Running(); ok {
			p.StartedAt = since.UnixNano()
		}
		w.announce(p, a.run)
	}
	return p
}

// announce says in the report of what runs that the program has ended, and that the reboot
// which it announced is waited for.
func (w *worker) announce(p *agentplanev1.Report, r Run) {
	run, can := r.(interface{ AwaitsReboot() (time.Duration, bool) })
	if !can || p.GetUndo() != nil {
		return
	}
	left, waits := run.AwaitsReboot()
	if !waits {
		return
	}
	p.Reason = execute.ReasonRebootAnnounced
	p.Detail = "the program has ended and announced a reboot of the host, which is waited for until " + stamp(w.o.Now()+int64(left))
	if n := len(p.Steps); n > 0 {
		p.Steps[n-1].Reason = p.Reason
	}
}

// tell offers what the journal says of an attempt to the session. What finds no room is told
// later. The cluster takes nothing without the claim's fence.
func (w *worker) tell(j *journal.Journal, k journal.Key, p *agentplanev1.Report) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if t := w.told[k]; t != nil {
		t.at = time.Now()
	}
	switch {
	case p.GetFence() == 0: // canceled before it was delivered; the delivery tells the fence
	case j.ID() != w.o.Book.now().ID(): // see Standing
	default:
		w.offer(p)
	}
}

// offer never blocks.
func (w *worker) offer(p *agentplanev1.Report) {
	select {
	case w.reports <- p:
	default: // no session, or a slow one: Hello or tend tell it
	}
}

// recall takes back what no session has taken, but for refusals that are in no journal.
func (w *worker) recall() {
	w.mu.Lock() // whoever tells of a journal does so before, or finds that there is another one
	defer w.mu.Unlock()
	for range len(w.reports) {
		select {
		case p := <-w.reports:
			if p.GetJournalSeq() == 0 {
				w.offer(p)
			}
		default:
			return
		}
	}
}

func (w *worker) tellRunning(k journal.Key) {
	j := w.o.Book.now()
	if r, p, ok := w.lookup(j, k); ok && !r.Ended() {
		w.tell(j, k, p)
	}
}

// tellEnd tells an end, and when a cancel was asked whether it came too late.
func (w *worker) tellEnd(k journal.Key, canceled bool) {
	j := w.o.Book.now()
	r, p, ok := w.lookup(j, k)
	if !ok {
		return
	}
	switch r.Result.State {
	case journal.Succeeded, journal.Failed, journal.TimedOut:
		p.CancelTooLate = p.CancelTooLate || canceled
	}
	w.mu.Lock()
	if t := w.told[k]; t != nil {
		t.tooLate = p.GetCancelTooLate()
	}
	w.mu.Unlock()
	w.tell(j, k, p)
	point("agent-told")
}

// confirm journals that results are applied: the one given and those that wait behind it.
// It gives the first message that is none.
func (w *worker) confirm(c *agentplanev1.Confirm) *agentplanev1.SessionResponse {
	var keys []journal.Key
	var next *agentplanev1.SessionResponse
	for c != nil {
		k := journal.Key{InvocationID: c.GetInvocationId(), Attempt: c.GetAttempt()}
		w.mu.Lock()
		if t := w.told[k]; t != nil && c.GetJournalSeq() >= t.seq {
			keys = append(keys, k)
		}
		delete(w.refused, k) // the cluster has it: it sends it no more
		w.mu.Unlock()
		select {
		case next = <-w.inbox:
			c = next.GetConfirm()
		default:
			next, c = nil, nil
		}
	}
	if len(keys) == 0 {
		return next
	}
	point("agent-before-confirmed")
	if err := w.o.Book.now().Confirm(keys...); err != nil {
		w.o.Logger.Error("confirmations not journalled; the results are told again", "results", len(keys), "err", err)
		return next
	}
	point("agent-confirmed")
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, k := range keys {
		delete(w.told, k)
		delete(w.fences, k)
	}
	return next
}

// tend mends the journal and tells again what has not been confirmed for a while.
func (w *worker) tend() {
	if err := w.o.Book.mend(); err != nil {
		w.o.Logger.Error("the journal cannot be written: nothing is started", "err", err)
	}
	j := w.o.Book.now()
	for _, k := range w.waits() {
		// That it waits may have found no room; somebody has to know of it in time.
		if r, p, ok := w.lookup(j, k); ok && !r.Ended() && (p.GetUndo() != nil || p.GetReason() != "") {
			w.tell(j, k, p)
		}
	}
	for _, k := range w.overdue() {
		_, p, ok := w.lookup(j, k)
		if ok {
			w.tell(j, k, p)
			continue
		}
		w.mu.Lock() // forgotten
		delete(w.told, k)
		w.mu.Unlock()
	}
}

// waits lists what runs, or waits for a confirmation: there are as many as slots at most, and
// what was adopted.
func (w *worker) waits() []journal.Key {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Collect(maps.Keys(w.running))
}

// overdue lists ends that were told half a minute ago and are not confirmed.
func (w *worker) overdue() []journal.Key {
	w.mu.Lock()
	defer w.mu.Unlock()
	var keys []journal.Key
	for k, t := range w.told {
		if time.Since(t.at) >= resendAfter && len(keys) < outboxSize/2 {
			keys = append(keys, k)
		}
	}
	return keys
}

const (
	keptDirectories = 256
	keptFor         = 24 * time.Hour
)

// sweep forgets what is over, and removes directories of attempts that are not needed any
// more: see the package comment.
func (w *worker) sweep() {
	j := w.o.Book.now()
	if now, known := w.o.Clock.Now(); known {
		if _, err := j.Forget(now); err != nil {
			w.o.Logger.Error("old records not forgotten", "err", err)
			return
		}
	}
	all, err := w.o.Runner.Attempts()
	if err != nil {
		w.o.Logger.Error("attempts not swept", "err", err)
		return
	}
	var done, unsent []journal.Record
	for _, a := range all {
		k := journal.Key{InvocationID: a.InvocationID, Attempt: a.Number}
		r, ok := j.Lookup(k)
		if r.Ended() {
			w.forgetSecrets(a)
		}
		switch {
		case !ok && w.runs(k): // of an earlier journal, and it may have to be undone
		case !ok && !w.mayCome(a):
			w.remove(a)
		case !ok:
		case r.Ended() && r.Confirmed && w.o.Output.waits(r.Key):
			unsent = append(unsent, r)
		case r.Ended() && r.Confirmed:
			done = append(done, r)
		}
	}
	w.removeDone(done)
	w.removeUnsent(unsent)
}

// mayCome says that an attempt of which the journal knows nothing may be delivered again: it
// was begun lately, and an older journal was put back. What was submitted before the journal's
// floor does not come; as hosts' clocks differ, it stays for a while all the same.
func (w *worker) mayCome(a execute.Attempt) bool {
	touched, there := w.o.Runner.Touched(a)
	if now, known := w.o.Clock.Now(); known && now-touched.UnixNano() >= int64(w.o.Settings().Journal.Retention) {
		return false
	}
	floor, known := w.o.Book.now().Floor()
	return there && !(known && floor-touched.UnixNano() > int64(keptFor))
}

// runs says whether the attempt is followed.
func (w *worker) runs(k journal.Key) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.running[k] != nil
}

// forgetSecrets removes the secrets of an attempt that has ended. They are left when agentd has
// died just after it journalled the result.
func (w *worker) forgetSecrets(a execute.Attempt) {
	r, can := w.o.Runner.(interface {
		ForgetSecrets(execute.Attempt) error
	})
	if !can {
		return
	}
	if err := r.ForgetSecrets(a); err != nil {
		w.o.Logger.Warn("secrets not removed", "invocation_id", a.InvocationID, "attempt", a.Number, "err", err)
	}
}

func (w *worker) removeDone(done []journal.Record) {
	surplus := len(done) - keptDirectories
	for _, r := range byAge(done) {
		old := w.o.Now()-r.Result.At > int64(keptFor)
		if surplus <= 0 && !old {
			return
		}
		surplus--
		w.remove(execute.Attempt{InvocationID: r.InvocationID, Number: r.Attempt})
	}
}

// removeUnsent bounds the output that no node has taken for long.
func (w *worker) removeUnsent(unsent []journal.Record) {
	for n, r := range byAge(unsent) {
		if len(unsent)-n <= keptDirectories {
			return
		}
		w.o.Logger.Warn("output is thrown away that no node has taken", "invocation_id", r.InvocationID, "attempt", r.Attempt,
			"bytes", r.Result.StdoutBytes+r.Result.StderrBytes, "kept", keptDirectories)
		w.o.Output.forget(r.Key)
		w.remove(execute.Attempt{InvocationID: r.InvocationID, Number: r.Attempt})
	}
}

func (w *worker) remove(a execute.Attempt) {
	if err := w.o.Runner.Remove(a); err != nil && !errors.Is(err, execute.ErrRunning) {
		w.o.Logger.Warn("attempt's directory not removed", "invocation_id", a.InvocationID, "attempt", a.Number, "err", err)
	}
}

// byAge sorts records, the oldest first.
func byAge(records []journal.Record) []journal.Record {
	slices.SortFunc(records, func(a, b journal.Record) int { return cmp.Compare(a.Seq, b.Seq) })
	return records
}

package execute

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/agentplane/agentplane/proto/blob"
)

var (
	// ErrNoRecord says that the journal does not know the attempt: it is of an earlier one.
	ErrNoRecord = errors.New("the journal does not know the attempt")
	// ErrKept says that the attempt was confirmed, so that its undo may not begin.
	ErrKept = errors.New("the attempt is confirmed")
	// ErrCanceled says that a cancel was asked, so that the attempt may not be confirmed.
	ErrCanceled = errors.New("the attempt is canceled")
)

// Reasons of an attempt whose programs succeeded and whose undo has run.
const (
	ReasonUndone     = "undone"      // FAILED, or CANCELED: it took back what they did
	ReasonUndoFailed = "undo_failed" // FAILED: it did not succeed
)

// Causes of an undo: one word for programs. The journal has it as the name of the step.
const (
	CauseNotConfirmed = "not_confirmed" // no operator confirmed it in time
	CauseNoContact    = "no_contact"    // the cluster was not reached in time
	CauseCanceled     = "canceled"      // what was under way, or waited, was canceled
	CauseReboot       = "reboot"        // the host was started anew a second time while it waited
	CauseFailed       = "failed"
	CauseTimedOut     = "timed_out"
	CauseLost         = "lost"
)

// An Undo is a program that takes back what those of an attempt did, unless that is
// confirmed in time.
type Undo struct {
	Argv      []string // or
	Script    []byte
	Timeout   time.Duration // the spec's when 0
	Within    time.Duration // after the programs' end, by the host's uptime
	ByContact bool          // Options.Contact confirms it, and nobody else
}

// A Guard is what the journal knows of the wait for a confirmation.
type Guard struct {
	BootID   string
	Deadline time.Duration // uptime of that boot
	Again    bool          // the wait has begun once more
	Kept     bool          // it was confirmed
}

const (
	// lookEvery bounds how long a guard sleeps: timers stand still while the host does.
	lookEvery = 5 * time.Second
	// contactAfter is how long after the programs' end contact is sought: what they have set
	// going has a moment to take effect. contactMost bounds the pause between two tries, and
	// contactFor one try.
	contactAfter = time.Second
	contactMost  = 10 * time.Second
	contactFor   = 10 * time.Second
	// firstAgain and mostAgain bound the pauses between tries to start the undo.
	firstAgain = 50 * time.Millisecond
	mostAgain  = 8 * time.Second
	// soleStep is the name of the only program of an attempt that has steps for the sake of
	// its undo.
	soleStep = ""
	// undoName is what the undo is called beside the steps.
	undoName = "undo"
)

// undoTries is how often an undo that could not be started is tried again, at once and then
// with growing pauses: for half a minute. Tests have less time.
var undoTries = 10

// guarding gives a spec with an undo its program as the only step, since that has a record
// of its own then.
func (s Spec) guarding() Spec {
	if s.Undo != nil && len(s.Steps) == 0 {
		s.Steps = []Step{{Name: soleStep, Argv: s.Argv, Script: s.Script}}
		s.Argv, s.Script = nil, nil
	}
	return s
}

// undo is the spec of the undo, which runs because of cause.
func (s Spec) undo(cause string) Spec {
	one := s
	one.Argv, one.Script, one.Steps, one.Undo = s.Undo.Argv, s.Undo.Script, nil, nil
	one.Files, one.Stdin, one.Input = nil, "", blob.Ref{} // they are of the first step
	one.number, one.name, one.cause = uint32(len(s.Steps))+1, undoName, cause
	one.OutputBytes = s.shareBytes()
	one.Timeout = cmp.Or(s.Undo.Timeout, s.Timeout)
	return one
}

// goesOn says that an attempt goes on although the journal is another one by now: it has an
// undo, which may not depend on that.
func (run *Run) goesOn(err error) bool {
	return errors.Is(err, ErrNoRecord) && run.usePlan() == nil && run.plan.Undo != nil
}

// undoing says that the step at hand is the undo.
func (run *Run) undoing() bool { return run.step.Number > run.step.Of }

// guard brings an attempt whose programs have come to over to its end: at once; or, of one
// with an undo, when it is confirmed, for which it waits. nil says that the undo was started
// instead, and is the step at hand.
//
// Nothing here needs the cluster, nor the journal of another life: whether the undo is
// started a second time the directory decides, as of any step.
func (run *Run) guard(ctx context.Context, over Result) (*Result, error) {
	if !run.begun() {
		return &over, nil
	}
	cause := causeOf(over.State)
	switch err := run.usePlan(); {
	case errors.Is(err, errDamaged):
		if !run.hasUndo() {
			return &over, nil
		}
		if over.State == Succeeded {
			cause = CauseLost
		}
		return run.startUndo(over, cause, err)
	case err != nil:
		return nil, err // it is tried again
	}
	u := run.plan.Undo
	if u == nil {
		return &over, nil
	}
	if over.State == Succeeded {
		var err error
		if cause, err = run.await(ctx, u); err != nil {
			return nil, err
		}
		if cause == "" {
			return &over, nil
		}
	}
	return run.startUndo(over, cause, nil)
}

// startUndo makes the undo the step at hand and starts it, unless that cannot be done; or it
// gives over, since the attempt was confirmed at the last moment.
func (run *Run) startUndo(over Result, cause string, cannot error) (*Result, error) {
	if begins, err := run.decideUndo(over, cause); err != nil {
		return nil, err
	} else if !begins {
		return &over, nil
	}
	run.d.fault("after-step-intent")
	if cannot != nil {
		run.refuse(cannot)
	} else {
		run.beginUndo()
	}
	return nil, nil
}

// decideUndo makes the undo the step at hand, which is durable then. false says that the
// attempt was confirmed before that.
func (run *Run) decideUndo(over Result, cause string) (bool, error) {
	run.decide.Lock()
	defer run.decide.Unlock()
	if run.confirmed && looksWhetherKept {
		return false, nil
	}
	next := StepRecord{Number: run.step.Of + 1, Of: run.step.Of, Name: cause}
	switch err := run.r.journal.StepIntent(run.a, next); {
	case errors.Is(err, ErrKept):
		return false, nil
	case err != nil && !run.goesOn(err):
		return false, err
	}
	run.waiting, run.over = false, &over
	run.at(next)
	return true, nil
}

func (run *Run) beginUndo() {
	if err := run.begin(run.asked()); err != nil && !errors.Is(err, ErrExists) {
		run.refuse(err)
	}
}

// asked is the spec of the step at hand.
func (run *Run) asked() Spec {
	if run.undoing() {
		return run.plan.undo(run.step.Name)
	}
	return run.plan.step(run.step.Number)
}

// hasUndo says of an attempt whose plan is damaged whether it has an undo.
func (run *Run) hasUndo() bool {
	_, armed := run.r.journal.Guard(run.a)
	return armed || run.step.Name == soleStep || run.r.directory(run.a).has(fileUndo)
}

// again starts an undo once more that provably has not run, since agentd or its supervisor
// died before that, or the host could not. Of other steps that is the end; an undo is what a
// host is left to, and its directory, in which nobody lives and no program was let go, is as
// good as none.
func (run *Run) again(ctx context.Context) (bool, error) {
	if !run.undoing() && (undosAlone || run.step.Number == 0) || run.noted || run.ended.Started && letGoOnce || run.ended.State != Lost && run.ended.State != Rejected || run.tries >= undoTries {
		return false, nil
	}
	switch err := run.usePlan(); {
	case errors.Is(err, errDamaged):
		return false, nil
	case err != nil:
		return false, err
	}
	if pause := min(firstAgain<<run.tries, mostAgain); run.tries > 0 && !pauseFor(ctx, pause) {
		return false, ctx.Err()
	}
	run.tries++
	gone := filepath.Join(run.r.dir, gonePrefix+filepath.Base(string(run.d)))
	err := os.RemoveAll(gone)
	if err == nil {
		err = os.Rename(string(run.d), gone)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return true, nil // and once more
	}
	_ = os.RemoveAll(gone) // or with the next start
	run.at(run.step)
	run.beginUndo()
	return true, nil
}

// begun says whether there is anything to undo: a program of the attempt has run, or may
// have, or a file may have been put in its place.
func (run *Run) begun() bool {
	// A further step has one before it that has succeeded.
	return run.step.Number > 1 || run.ended.Started || run.r.directory(run.a).has(filePlacing)
}

func causeOf(s State) string {
	switch s {
	case TimedOut:
		return CauseTimedOut
	case Canceled:
		return CauseCanceled
	case Lost:
		return CauseLost
	default:
		return CauseFailed
	}
}

// await waits for a confirmation and gives "" when it has come, or why it has not.
func (run *Run) await(ctx context.Context, u *Undo) (cause string, err error) {
	run.decide.Lock()
	run.waiting = true
	run.decide.Unlock()
	if u.ByContact && run.r.contact != nil {
		seek, stop := context.WithCancel(ctx)
		sought := make(chan struct{})
		go func() {
			defer close(sought)
			run.seek(seek)
		}()
		defer func() {
			stop()
			<-sought
		}()
	}
	for {
		g, over, err := run.armed(u)
		if err != nil {
			return "", err
		}
		left := g.Deadline - run.r.uptime()
		switch {
		case (g.Kept || run.isConfirmed()) && looksWhetherKept:
			return "", nil
		case over:
			return CauseReboot, nil
		case run.cancelAsked():
			return CauseCanceled, nil
		case left <= 0 && u.ByContact:
			return CauseNoContact, nil
		case left <= 0:
			return CauseNotConfirmed, nil
		}
		if err := run.pause(ctx, min(left, lookEvery)); err != nil {
			return "", err
		}
	}
}

// armed gives how the wait for a confirmation stands, which begins now if it has not, and
// once more when the host was started anew. over says that it was a second time.
func (run *Run) armed(u *Undo) (g Guard, over bool, err error) {
	boot, err := run.r.bootID()
	if err != nil {
		return Guard{}, false, err
	}
	g, known := run.r.journal.Guard(run.a)
	switch {
	case known:
		run.held = &g
	case run.held != nil:
		g, known = *run.held, true // the journal is another one by now
	}
	switch {
	case known && (g.Kept || g.BootID == boot):
		return g, false, nil
	case known && g.Again:
		return g, true, nil
	}
	now := run.r.uptime()
	next := Guard{BootID: boot, Deadline: now + u.Within, Again: known}
	if !known {
		var since time.Duration
		if since, next.Again = run.endedAt(boot, now); !next.Again {
			next.Deadline = since + u.Within
		}
	}
	run.d.fault("before-arm")
	if err := run.r.journal.Arm(run.a, next, next.Deadline-now); err != nil && !run.goesOn(err) {
		return Guard{}, false, err
	}
	run.d.fault("after-arm")
	run.held = &next
	return next, false, nil
}

// endedAt is the uptime at which the step at hand has ended. again says that it was under
// another boot, unless the program has announced that.
func (run *Run) endedAt(boot string, now time.Duration) (at time.Duration, again bool) {
	var exit Result
	var st started
	switch {
	case run.ended.Reason == ReasonRebooted, run.d.read(fileStarted, typeStarted, &st) != nil:
		return now, false
	case st.BootID != boot:
		return now, true
	case run.d.read(fileExit, typeExit, &exit) != nil || exit.Uptime <= 0:
		return now, false
	default:
		return min(exit.Uptime, now), false
	}
}

// Keep confirms what the attempt did, as the operator by has. It is journalled when Keep
// returns nil, unless the journal is another one by now. After a cancel that is ErrCanceled; the
// journal refuses what does not wait for it, and what comes too late.
func (run *Run) Keep(by string) error { return run.keep(by, false) }

func (run *Run) keep(by string, contact bool) error {
	if err := run.decideKeep(by, contact); err != nil {
		return fmt.Errorf("keep %s: %w", run.a, err)
	}
	run.r.directory(run.a).fault("after-keep")
	select {
	case run.kept <- struct{}{}:
	default: // it is looked already
	}
	return nil
}

func (run *Run) decideKeep(by string, contact bool) error {
	run.decide.Lock()
	defer run.decide.Unlock()
	if run.cancelAsked() && !run.confirmed {
		return ErrCanceled
	}
	err := run.r.journal.Keep(run.a, by, contact)
	if err != nil && !(errors.Is(err, ErrNoRecord) && run.waiting) {
		return err
	}
	run.confirmed = true
	return nil
}

func (run *Run) isConfirmed() bool {
	run.decide.Lock()
	defer run.decide.Unlock()
	return run.confirmed
}

// seek reaches for the cluster until it has answered once, which confirms the attempt, or
// until ctx ends.
func (run *Run) seek(ctx context.Context) {
	for wait := contactAfter; pauseFor(ctx, wait); wait = min(2*wait, contactMost) {
		try, cancel := context.WithTimeout(ctx, contactFor)
		node, err := run.r.contact(try)
		cancel()
		if err == nil && run.keep(node, true) == nil {
			return
		}
	}
}

func pauseFor(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// undone is how an attempt ends whose undo, the step at hand, has ended.
func (run *Run) undone() Result {
	u := *run.ended
	if run.over == nil {
		over := run.before()
		run.over = &over
	}
	end, cause := *run.over, run.step.Name
	if end.State == Rejected {
		end.State = Failed // something of it was done, and is undone
	}
	if end.State == Succeeded {
		end.State, end.Reason, end.Detail = Failed, ReasonUndone, ""
		switch {
		case u.State != Succeeded:
			end.Reason = ReasonUndoFailed
		case cause == CauseCanceled:
			end.State = Canceled
		}
	}
	switch cause {
	case CauseNotConfirmed:
		end.say("it was not confirmed in time")
	case CauseNoContact:
		end.say("the cluster was not reached in time")
	case CauseReboot:
		end.say("the host was started anew twice before it was confirmed")
	case CauseCanceled:
		if run.over.State == Succeeded {
			end.say("it was canceled before it was confirmed")
		}
	}
	if u.State == Succeeded {
		end.say("the undo has succeeded")
	} else {
		end.say("the undo is %s (%s): %s", u.State, u.Reason, u.Detail)
	}
	if !u.EndedAt.IsZero() {
		end.EndedAt = u.EndedAt
	}
	return end
}

// before is to what the programs had come when the undo was begun, by the journal.
func (run *Run) before() Result {
	var last StepRecord
	for _, s := range run.r.journal.Steps(run.a) {
		if s.Number <= s.Of {
			last = s
		}
	}
	if last.Result.State == Succeeded && last.Number < last.Of && run.step.Name == CauseCanceled {
		return last.canceledAfter()
	}
	return last.end()
}

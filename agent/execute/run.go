package execute

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"time"
)

// Run is one attempt, started or adopted. Wait is called until it gives the result; the
// other methods may be called meanwhile.
type Run struct {
	r *Runner
	a Attempt

	// look guards what follows, which Wait alone changes; it is held for a moment.
	look     sync.Mutex
	d        directory     // of the step at hand
	step     StepRecord    // the step at hand; Number is 0 of an attempt that has none
	canceled bool          // cancels is closed
	settled  bool          // the step at hand has ended
	rebootBy time.Duration // uptime until which its announced reboot is waited for; 0 when it is not

	cancels chan struct{}
	kept    chan struct{} // holds one: it was confirmed

	// decide is held while it is journalled that the attempt is kept, or is to be undone; it
	// guards what follows, which decides when the journal is another one by now.
	decide    sync.Mutex
	waiting   bool // for a confirmation
	confirmed bool // it has come

	mu     sync.Mutex // held by Wait; guards what follows
	reaps  func()     // reaps the step's supervisor, when it was started in this life of agentd
	plan   *Spec      // what all steps are, when it is known
	ended  *Result    // how the step at hand has ended
	unread time.Time  // since when the record of that cannot be read; zero when it can
	noted  bool       // that is journalled
	over   *Result    // to what the programs had come when the undo began
	held   *Guard     // as it was journalled last
	tries  int        // to start the undo, after the first
	result *Result    // the attempt's, as soon as it is known
	done   bool       // it is journalled
}

func (r *Runner) newRun(a Attempt) *Run {
	return &Run{r: r, a: a, d: r.directory(a), cancels: make(chan struct{}), kept: make(chan struct{}, 1)}
}

// Attempt names it.
func (run *Run) Attempt() Attempt { return run.a }

// refuse ends the step at hand: the host could not try.
func (run *Run) refuse(err error) {
	run.d.forget()
	run.endStep(notPrepared(err))
}

// Cancel asks the supervisor to end the program: TERM, grace, KILL; no further step begins.
// What waits for a confirmation is undone; an undo that has begun goes on to its end. It may be called any number of times, and says nothing about the outcome, which is the
// result's to tell.
func (run *Run) Cancel() error {
	run.look.Lock()
	if !run.canceled {
		run.canceled = true
		close(run.cancels)
	}
	d, undoing := run.d, run.undoing()
	run.look.Unlock()
	if undoing || !d.has(fileLock) {
		return nil // there never was a supervisor
	}
	return d.cancel()
}

// cancelAsked says whether a cancel was asked, in this life of agentd or in an earlier one.
func (run *Run) cancelAsked() bool {
	run.look.Lock()
	defer run.look.Unlock()
	return run.canceled || run.d.has(fileCancel)
}

// Running says whether the first program was let go, or is about to be, and when.
func (run *Run) Running() (since time.Time, ok bool) {
	var st started
	if err := run.r.directory(run.a).read(fileStarted, typeStarted, &st); err != nil {
		return time.Time{}, false
	}
	return st.At, true
}

// Announced says whether the program at hand has announced a reboot of the host, which has not
// come and may be near: the program runs still, or its end awaits that.
func (run *Run) Announced() bool {
	run.look.Lock()
	defer run.look.Unlock()
	return !run.settled && run.d.has(fileReboot)
}

// AwaitsReboot says whether the program at hand has ended, and only the reboot that it
// announced shows how, and for how long that is still waited for.
func (run *Run) AwaitsReboot() (left time.Duration, ok bool) {
	run.look.Lock()
	defer run.look.Unlock()
	return run.rebootBy - run.r.uptime(), !run.settled && run.rebootBy != 0
}

// awaitReboot notes until when the reboot is waited for, and tells that once.
func (run *Run) awaitReboot(by time.Duration) {
	run.look.Lock()
	fresh := run.rebootBy == 0
	run.rebootBy = by
	run.look.Unlock()
	if fresh && run.r.waits != nil {
		run.r.waits(run.a)
	}
}

// endStep notes how the step at hand has ended.
func (run *Run) endStep(res Result) {
	run.look.Lock()
	defer run.look.Unlock()
	run.ended, run.settled = &res, true
}

// Wait waits for the end of the attempt, ends what a dead supervisor left, journals the
// result and gives it. An error says that there is no journalled result: ctx ended, or
// the journal failed; then nothing may be told, and Wait may be called again.
func (run *Run) Wait(ctx context.Context) (Result, error) {
	run.mu.Lock()
	defer run.mu.Unlock()
	if run.result == nil {
		res, err := run.advance(ctx)
		if err != nil {
			return Result{}, fmt.Errorf("wait for %s: %w", run.a, err)
		}
		run.result = &res
	}
	if !run.done {
		fault("before-finish")
		if err := run.r.journal.Finish(run.a, *run.result); err != nil {
			return Result{}, fmt.Errorf("journal the result of %s: %w", run.a, err)
		}
		fault("after-finish")
		run.done = true
		_ = run.r.directory(run.a).forgetLater() // or ForgetSecrets does
	}
	return *run.result, nil
}

// The lock is tried again after a pause that grows from shortPause. A supervisor that begins
// or ends shows no sign of its life for some milliseconds: a quick program is over then, so
// that pauses stay short until startingFor has passed.
const (
	shortPause    = time.Millisecond
	startingPause = 5 * time.Millisecond
	longPause     = 100 * time.Millisecond
	startingFor   = time.Second
)

func (run *Run) wait(ctx context.Context) (Result, error) {
	pause, begin := shortPause, time.Now()
	for {
		lock, held, err := run.d.tryLock()
		if err != nil {
			return Result{}, err
		}
		if !held {
			res, err := run.conclude()
			if lock != nil {
				_ = lock.Close()
			}
			if err != nil {
				return Result{}, err
			}
			run.reap()
			return res, nil
		}
		lived, err := run.r.supervisors.Watch(ctx, string(run.d), pause)
		switch {
		case err != nil:
			return Result{}, err
		case lived:
			pause, begin = shortPause, time.Now()
		case time.Since(begin) < startingFor:
			pause = min(2*pause, startingPause)
		default:
			pause = min(2*pause, longPause)
		}
	}
}

// reap is for a supervisor that is gone.
func (run *Run) reap() {
	if run.reaps != nil {
		run.reaps()
		run.reaps = nil
	}
}

// conclude tells the result of an attempt without a living supervisor. The caller holds
// the lock, if there is one, so that none can come to life. What cannot be read may be
// read the next time: an error says so for as long as it is worth trying.
func (run *Run) conclude() (Result, error) {
	var res Result
	err := run.d.read(fileExit, typeExit, &res)
	if err == nil {
		return res, nil
	}
	wants := err
	if !unread(wants) { // without an exit what was let go has to be known, to end what is left of it
		wants = run.d.read(fileStarted, typeStarted, new(started))
	}
	if unread(wants) {
		if run.unread.IsZero() {
			run.unread = time.Now()
		}
		if time.Since(run.unread) < exitRetryFor {
			return Result{}, wants
		}
	}
	res = run.lost()
	switch {
	case !errors.Is(err, fs.ErrNotExist):
		res.say("its record cannot be used: %v", err)
	case run.d.has(fileLock):
		// For whoever looks at the directory later; the journal is what counts.
		_ = run.d.write(fileExit, typeExit, res, true)
	}
	return res, nil
}

// lost ends what is left of the attempt and says why it is LOST.
func (run *Run) lost() Result {
	run.d.forget()
	res := Result{State: Lost, ExitCode: -1}
	boot, err := run.r.bootID()
	if err != nil {
		res.say("%v", err)
	}
	var sf specFile
	var st started
	asked := run.d.read(fileSpec, typeSpec, &sf) == nil
	sf.sweepPlaces()
	// Unless there is provably none the program may have been let go: an undo that was is
	// not started again.
	told := run.d.read(fileStarted, typeStarted, &st)
	res.Started = !errors.Is(told, fs.ErrNotExist)
	switch {
	case err == nil && told == nil && st.BootID != boot && run.d.has(fileReboot):
		res.rebooted()
	case asked && sf.BootID != boot || told == nil && st.BootID != boot || !asked && run.d.emptied(fileSpec):
		res.Reason = ReasonReboot
		res.say("the host was started anew")
	case run.reaps != nil || run.d.has(fileBegun) || res.Started:
		res.Reason = ReasonSupervisorGone
		res.say("the supervisor ended without a result")
		if words, err := os.ReadFile(run.d.path(fileLog)); err == nil && len(words) > 0 {
			res.say("it said %.200q", words)
		}
	default:
		res.Reason = ReasonAgentRestart
		res.say("agentd ended before the attempt had a supervisor")
	}
	if told != nil {
		return res
	}
	res.StartedAt = st.At
	if hit, left := run.r.supervisors.Sweep(string(run.d), run.a, boot); hit > 0 || left > 0 {
		res.say("%d processes that it left behind were killed, %d are still there", hit, left)
	}
	if res.Reason == ReasonSupervisorGone && run.d.has(fileReboot) {
		res.announce(st.BootID, run.r.uptime()) // a host that goes down may kill the supervisor first
	}
	run.d.salvage(&res)
	return res
}

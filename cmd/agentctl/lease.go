package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"google.golang.org/grpc/codes"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/client"
)

const (
	// lockWait is for how long a node is asked to wait for a place.
	lockWait = 5 * time.Second
	// askAgain is how soon a node is asked again that does not wait.
	askAgain = 200 * time.Millisecond
	// releaseWithin bounds giving a place back when everything is over; then it expires.
	releaseWithin = 5 * time.Second
	noLock        = "no_lock"
	lockTaken     = "locked"
)

// lease is a place that this process holds.
type lease struct {
	locks *session
	name  string
	id    string
	ttl   time.Duration
	fence uint64
	// good is until when the place is ours, by this machine's monotonic clock: counted
	// from before the node was asked, so that it is never later than by the cluster's.
	good time.Time
}

// Exit codes of a program that was not started, as env, nice and timeout have them.
const (
	exitNotExecutable = 126
	exitNoProgram     = 127
)

// notStarted says why a program on this machine was not.
func notStarted(program string, err error) error {
	// What the system does not find after a look at the path is what its first line names.
	if lookup, ok := errors.AsType[*exec.Error](err); ok && (errors.Is(lookup, exec.ErrNotFound) || errors.Is(lookup, fs.ErrNotExist)) {
		return &failure{
			code: exitNoProgram, err: fmt.Errorf("there is no program %q on this machine", program),
			hint: "write its path, or mend PATH; a line of the shell is written as: sh -c 'LINE'",
		}
	}
	return &failure{
		code: exitNotExecutable, err: fmt.Errorf("program %q cannot be started: %w", program, err),
		hint: "see whether it may be executed (chmod +x), and whether what its first line names is there",
	}
}

// holdAndRun runs the program on this machine while a place is held.
func (a *app) holdAndRun(ctx context.Context, s *session, name, label string, f *lockRunFlags, argv []string) error {
	now, err := s.Now(ctx)
	if err != nil {
		return err
	}
	id, err := a.chosenID(now.UnixNano())
	if err != nil {
		return err
	}
	l := &lease{locks: s, name: name, id: id, ttl: f.ttl}
	if err := a.acquire(ctx, l, label, f, strings.Join(argv, " ")); err != nil {
		if code, _ := classify(err); ctx.Err() != nil || code == exitUnknown {
			a.giveBack(ctx, l) // it may have been granted all the same
		}
		if ctx.Err() != nil {
			return &failure{
				code: exitError, err: fmt.Errorf("interrupted while it waited for a place of lock %s; the program was not started", name),
				hint: fmt.Sprintf("see who holds it with \"agentctl lock get %s\"", name),
			}
		}
		return err
	}
	lost, err := a.runUnder(ctx, l, f, argv)
	a.giveBack(ctx, l)
	if lost != nil {
		return &failure{
			code: exitConflict, err: fmt.Errorf("the place of lock %s was lost, and the program was told to end: %w", name, lost),
			hint: fmt.Sprintf("somebody else may hold it: see \"agentctl lock get %s\"; what it protects may compare the fence, which was %d", name, l.fence),
		}
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		code := exit.ExitCode()
		if code < 0 { // by a signal, as shells say it
			code = 128 + int(exit.Sys().(syscall.WaitStatus).Signal())
		}
		return &failure{code: code, err: fmt.Errorf("the program ended with %w", exit), hint: fmt.Sprintf("the place of lock %s was held to its end, and is given back", name)}
	}
	return err
}

// giveBack gives back the place, also when this process was told to end.
func (a *app) giveBack(ctx context.Context, l *lease) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), min(releaseWithin, a.flags.requestTimeout))
	defer cancel()
	if err := l.locks.ReleaseLock(ctx, l.name, l.id); err != nil {
		a.talk("the place of lock %s could not be given back, and ends by itself in %v: %v", l.name, l.ttl, err)
	}
}

// acquire waits for a place. The lease is the same in every try, so that an answer which
// was lost costs nothing.
func (a *app) acquire(ctx context.Context, l *lease, label string, f *lockRunFlags, note string) error {
	began, said, limit := time.Now(), false, f.limit
	if label != "" {
		limit = max(limit, 1)
	}
	for {
		wait := min(lockWait, a.flags.requestTimeout/2)
		if !said {
			wait = 0 // so that a person hears for what
		} else if f.wait > 0 {
			wait = min(wait, max(0, f.wait-time.Since(began)))
		}
		asked := time.Now()
		fence, err := l.locks.AcquireLock(ctx, &agentplanev1.AcquireLockRequest{
			Name: l.name, LeaseId: l.id, Agent: f.agent, Ttl: int64(f.ttl), Note: note, Limit: limit, PerLabel: label, WaitMs: uint32(wait.Milliseconds()),
		})
		switch {
		case err == nil && time.Since(asked) < f.ttl:
			l.fence, l.good = fence, asked.Add(f.ttl)
			return l.renew(ctx) // the answer may have been for the first of several tries
		case err == nil:
			continue // it came too late to be sure: ask again
		case reasonOf(err) == noLock && limit == 0:
			limit = 1 // nobody has said otherwise
			a.talk("there was no lock %s: it is made with 1 place, and goes with its last holder", l.name)
			continue
		case reasonOf(err) == "lock_exists" && f.limit == 0 && label == "":
			limit = 0 // somebody was faster
			continue
		case reasonOf(err) != lockTaken:
			return hintUnknown(err, "agentctl lock get "+l.name)
		case f.wait > 0 && time.Since(began) >= f.wait:
			return &failure{code: exitUnavailable, err: fmt.Errorf("there was no place of lock %s for %v: %w", l.name, f.wait, err), hint: fmt.Sprintf("see who holds it with \"agentctl lock get %s\"", l.name)}
		}
		if !said {
			a.talk("waiting for a place of lock %s: %v", l.name, err)
			said = true
		}
		if time.Since(asked) < wait/2 { // the node has as many who wait as it takes
			select {
			case <-time.After(askAgain + rand.N(askAgain)):
			case <-ctx.Done():
			}
		}
	}
}

// reasonOf is the stable word of a refusal.
func reasonOf(err error) string {
	if e, ok := errors.AsType[*client.Error](err); ok {
		return e.Reason
	}
	return ""
}

// renew lets the place be ours for its time from now.
func (l *lease) renew(ctx context.Context) error {
	asked := time.Now()
	ctx, cancel := context.WithDeadline(ctx, l.good)
	defer cancel()
	if err := l.locks.RenewLock(ctx, l.name, l.id); err != nil {
		return err
	}
	l.good = asked.Add(l.ttl)
	return nil
}

// keep renews the place until ctx ends, or answers why it is lost.
func (l *lease) keep(ctx context.Context) error {
	pause := l.ttl / 3
	for {
		t := time.NewTimer(min(pause, max(0, time.Until(l.good))))
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return nil
		}
		err := l.renew(ctx)
		pause = l.ttl / 3
		e, _ := errors.AsType[*client.Error](err)
		switch {
		case ctx.Err() != nil:
			return nil
		case err == nil:
		case e != nil && (e.Code == codes.NotFound || e.Code == codes.FailedPrecondition || e.Code == codes.PermissionDenied):
			return err
		case !time.Now().Before(l.good):
			return fmt.Errorf("it could not be renewed for %v: %w", l.ttl, err)
		default:
			pause = min(l.ttl/10, time.Second)
		}
	}
}

// runUnder runs the program until it ends, is interrupted, or the place is lost.
func (a *app) runUnder(ctx context.Context, l *lease, f *lockRunFlags, argv []string) (lost, err error) {
	life, end := context.WithCancelCause(ctx)
	defer end(nil)
	c := exec.CommandContext(life, argv[0], argv[1:]...) //nolint:gosec // to run it is what was asked for
	c.Stdin, c.Stdout, c.Stderr = a.stdin, a.stdout, a.stderr
	c.Env = append(os.Environ(), "AGENTPLANE_LOCK="+l.name, fmt.Sprintf("AGENTPLANE_LOCK_FENCE=%d", l.fence))
	c.Cancel, c.WaitDelay = func() error { return c.Process.Signal(syscall.SIGTERM) }, f.killGrace
	if err := c.Start(); err != nil {
		return nil, notStarted(argv[0], err)
	}
	kept := make(chan error, 1)
	go func() {
		err := l.keep(life)
		if err != nil {
			end(err)
		}
		kept <- err
	}()
	err = c.Wait()
	end(nil)
	if errors.Is(err, context.Canceled) {
		err = nil // it ended well after it was told to
	}
	return <-kept, err
}

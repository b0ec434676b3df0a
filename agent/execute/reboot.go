package execute

import (
	"context"
	"time"

	"golang.org/x/sys/unix"
)

// defaultRebootWait is how long an announced reboot is waited for, after the program's end.
const defaultRebootWait = 10 * time.Minute

// uptime is how long the host is up, the time counted in which it slept.
func uptime() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &t); err != nil {
		return 0
	}
	return time.Duration(t.Nano())
}

// announce notes in a result that the program had announced a reboot.
func (r *Result) announce(boot string, up time.Duration) {
	r.Reboot = &Announcement{BootID: boot, Uptime: up}
}

// awaitsReboot says that only the reboot, or that none comes, shows how the program did: it
// has succeeded, or was ended as everything is on a host that goes down.
func (r *Result) awaitsReboot() bool {
	if r.Reboot == nil {
		return false
	}
	switch r.State {
	case Succeeded:
		return true
	case Failed:
		return r.Reason == ReasonSignal
	case Lost:
		return r.Reason == ReasonSupervisorGone
	default:
		return false
	}
}

// rebooted makes of r the result of a program that has announced the reboot that came.
func (r *Result) rebooted() {
	r.State, r.Reason, r.Detail = Succeeded, ReasonRebooted, "the host was started anew, as the program had announced"
	r.ExitCode, r.Signal, r.Reboot = 0, 0, nil
	if r.EndedAt.IsZero() {
		r.EndedAt = time.Now() // when it was seen
	}
}

// settle waits for the reboot that the program at hand has announced, if it is one that
// does, and tells its result. The wait is bounded by the host's uptime, which goes on while
// agentd is started anew. A cancel ends it, unless it is the undo's.
func (run *Run) settle(ctx context.Context, res Result) (Result, error) {
	for res.awaitsReboot() {
		boot, err := run.r.bootID()
		if err != nil {
			return Result{}, err
		}
		left := res.Reboot.Uptime + run.r.rebootWait - run.r.uptime()
		canceled := run.cancelAsked() && !run.undoing()
		switch {
		case boot != res.Reboot.BootID || !awaitsReboots:
			res.rebooted()
		case canceled && res.State == Succeeded:
			res.State, res.Reason, res.Reboot = Canceled, ReasonCanceled, nil
			res.say("canceled while it waited for the reboot that the program had announced")
		case canceled:
			res.Reboot = nil
		case left <= 0:
			if res.Reboot = nil; res.State == Succeeded {
				res.State, res.Reason = Failed, ReasonNoReboot
			}
			res.say("it had announced a reboot, and the host was not started anew within %s", run.r.rebootWait)
		default:
			run.awaitReboot(res.Reboot.Uptime + run.r.rebootWait)
			if err := run.pause(ctx, left); err != nil {
				return Result{}, err
			}
		}
	}
	return res, nil
}

// pause waits for so long, for a cancel, which an undo knows nothing of, or for a confirmation.
func (run *Run) pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	cancels := run.cancels
	if run.undoing() {
		cancels = nil
	}
	select {
	case <-t.C:
	case <-cancels:
	case <-run.kept:
	case <-ctx.Done():
		return ctx.Err()
	}
	return nil
}

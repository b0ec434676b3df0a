package execute

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// SuperviseCommand is the hidden subcommand of agentd that [SuperviseMain] serves.
const SuperviseCommand = "supervise"

const (
	gateCommand = "gate"
	selfPath    = "/proc/self/exe"
	lockFD      = 3 // the supervisor's lock, inherited from agentd

	exitRetryFor   = time.Minute // how long writing the result is tried on a bad disk
	exitRetryEvery = time.Second
)

// SuperviseMain serves "agentd supervise DIR" and returns the exit code. It must be
// called before anything else in main: if len(os.Args) > 1 and os.Args[1] is
// SuperviseCommand, then os.Exit(SuperviseMain(os.Args[2:])). People do not call it.
func SuperviseMain(args []string) int {
	switch {
	case len(args) == 2 && args[0] == gateCommand:
		return gate(directory(args[1]))
	case len(args) == 1:
		if err := supervise(directory(args[0])); err != nil {
			fmt.Fprintf(os.Stderr, "agentd: error: supervise %q: %v\n", args[0], err)
			return 1
		}
		return 0
	default:
		fmt.Fprintln(os.Stderr, "agentd: error: supervise is started by agentd only")
		return 2
	}
}

// supervise runs the attempt of d and writes its result.
func supervise(d directory) error {
	lock, err := inheritedLock(d)
	if err != nil {
		return err
	}
	defer lock.Close()
	d.fault("supervisor-locked")
	// Caught, not ignored: ignoring would pass on to the program.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	if sid, err := unix.Getsid(0); err == nil && sid != os.Getpid() {
		if _, err := unix.Setsid(); err != nil {
			return fmt.Errorf("begin a session: %w", err)
		}
	}
	if err := (&Supervision{d: d}).begin(); err != nil {
		return err
	}
	d.fault("supervisor-begun")

	s, err := newSupervisor(d)
	var res Result
	if err == nil {
		res = s.run()
	} else {
		res = notPrepared(err)
	}
	d.fault("supervisor-reaped")
	d.forget() // a program that never started did not
	err = writeExit(d, res)
	d.fault("supervisor-recorded")
	runtime.KeepAlive(s) // with the fifo that says that this process lives
	return err
}

func notPrepared(err error) Result {
	return Result{State: Rejected, Reason: ReasonNotPrepared, Detail: err.Error(), ExitCode: -1}
}

// inheritedLock is the lock that agentd took for this process. Whoever was not given it
// starts nothing.
func inheritedLock(d directory) (*os.File, error) {
	if err := closeOnExec(lockFD); err != nil {
		return nil, err
	}
	var have, want unix.Stat_t
	if err := unix.Fstat(lockFD, &have); err != nil {
		return nil, fmt.Errorf("no lock was handed over: %w", err)
	}
	if err := unix.Stat(d.path(fileLock), &want); err != nil {
		return nil, fmt.Errorf("look at the lock: %w", err)
	}
	if have.Dev != want.Dev || have.Ino != want.Ino {
		return nil, errors.New("what was handed over is not the lock of this directory")
	}
	// Of the same open file this takes nothing twice; of another it must fail.
	if err := unix.Flock(lockFD, unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, fmt.Errorf("take the lock: %w", err)
	}
	return os.NewFile(lockFD, d.path(fileLock)), nil
}

// writeExit records the result. On a full or failing disk it tries again for a while,
// with a new file each time; then the attempt will be LOST.
func writeExit(d directory, res Result) error {
	end := time.Now().Add(exitRetryFor)
	for {
		err := d.write(fileExit, typeExit, res, true)
		if err == nil {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("write the result: %w", err)
		}
		time.Sleep(exitRetryEvery)
	}
}

package execute

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Supervisors start supervisors and look after them. Those of a host are processes; a
// simulation of hosts has others, which keep the promises of these by means of Supervision.
type Supervisors interface {
	// Start starts the supervisor of a directory. lock is the directory's, locked: the
	// supervisor keeps a copy of the same open file until it is gone, and the caller closes
	// its own. reap is to be called when the supervisor is gone.
	Start(dir string, lock *os.File) (reap func(), err error)
	// Watch returns when the supervisor of a directory seems to be gone, or ctx has ended,
	// which gives its error; and after pause when it cannot be seen. lived says that it was
	// seen alive for longer than that.
	Watch(ctx context.Context, dir string, pause time.Duration) (lived bool, err error)
	// Sweep ends what the supervisor of a directory, which is gone, has left of the attempt's
	// program under this boot: so many processes were hit, and so many are left.
	Sweep(dir string, a Attempt, boot string) (hit, left int)
}

// processes are the supervisors of a host: the executable called again.
type processes struct{ executable string }

// Start starts a process in a session of its own.
func (p processes) Start(dir string, lock *os.File) (reap func(), err error) {
	log, err := os.OpenFile(directory(dir).path(fileLog), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	directory(dir).fault("before-fork")
	cmd := &exec.Cmd{
		Path:        p.executable,
		Args:        []string{"agentd", SuperviseCommand, dir},
		Env:         superviseEnv,
		Dir:         "/",
		Stdout:      log,
		Stderr:      log,
		ExtraFiles:  []*os.File{lock}, // becomes lockFD
		SysProcAttr: &syscall.SysProcAttr{Setsid: true},
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start supervisor: %w", err)
	}
	// The exit code tells nothing that the file exit does not.
	return func() { _ = cmd.Wait() }, nil
}

// Watch waits for the end of the fifo that the supervisor holds open. Before it has opened
// that, and when it has just closed it, Watch returns after pause.
func (processes) Watch(ctx context.Context, dir string, pause time.Duration) (lived bool, err error) {
	begin := time.Now()
	f, err := os.OpenFile(directory(dir).path(fileAlive), os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return false, err
	}
	defer f.Close()
	stop := context.AfterFunc(ctx, func() { _ = f.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	var b [1]byte
	_, _ = f.Read(b[:]) // nobody writes: this ends with the last writer, or the deadline
	left := pause - time.Since(begin)
	if left <= 0 && ctx.Err() == nil {
		return true, nil
	}
	select {
	case <-ctx.Done():
		return false, ctx.Err()
	case <-time.After(left):
		return false, nil
	}
}

// Sweep kills what STARTED names, and what belongs to it.
func (processes) Sweep(dir string, a Attempt, boot string) (hit, left int) {
	var st started
	if err := directory(dir).read(fileStarted, typeStarted, &st); err != nil {
		return 0, 0
	}
	return killLeftover(a, st, boot)
}

// Supervision is what a supervisor does in its directory. agentd's own are processes, which
// do more than that ([SuperviseMain]); with it a simulation has supervisors whose programs are
// functions. Its methods are called by one goroutine, Place before Input before Started before Ended.
type Supervision struct {
	d    directory
	spec specFile
}

// Supervise begins where [Supervisors.Start] was asked to. An error says that this supervisor
// has to go: another one was here before, or there is nothing to run.
func Supervise(dir string) (*Supervision, error) {
	s := &Supervision{d: directory(dir)}
	if err := s.begin(); err != nil {
		return nil, err
	}
	return s, s.d.read(fileSpec, typeSpec, &s.spec)
}

// begin makes the mark that one supervisor alone can make.
func (s *Supervision) begin() error {
	if s.d.has(fileExit) {
		return errors.New("the attempt has ended already")
	}
	begun, err := os.OpenFile(s.d.path(fileBegun), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("a supervisor has begun here before: %w", err)
	}
	return begun.Close()
}

// Program is what to run, with its whole environment and for how long at most.
func (s *Supervision) Program() (argv, env []string, timeout time.Duration) {
	return toStrings(s.spec.Argv), toStrings(s.spec.Env), s.spec.Timeout
}

// Canceled says whether a cancel was asked.
func (s *Supervision) Canceled() bool { return s.d.has(fileCancel) }

// Started makes durable that the program is about to be let go.
func (s *Supervision) Started(at time.Time) error { return s.record(started{At: at}) }

func (s *Supervision) record(st started) error {
	st.BootID = s.spec.BootID
	return s.d.write(fileStarted, typeStarted, st, true)
}

// Ended records the result, of a program that has ended at that uptime of the host, or that
// never was let go.
func (s *Supervision) Ended(res Result, up time.Duration) error {
	s.d.forget()
	if res.Started {
		if res.Uptime = up; s.d.has(fileReboot) {
			res.announce(s.spec.BootID, up)
		}
	}
	err := s.d.write(fileExit, typeExit, res, true)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // nobody wants to know any more
	}
	return err
}

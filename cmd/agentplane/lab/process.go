package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"sync"
	"syscall"
	"time"
)

// Process is one running program, whose output goes to a log file. It may be
// started again after it has ended.
type Process struct {
	Name string
	// Log is the file that gets what it prints, over all of its starts.
	Log string
	// Under is put before the program at its next start: the words of a command that
	// becomes what follows it, like nsenter or env, so that the process stays the one
	// that was started.
	Under []string

	path string
	args []string
	env  []string

	mu   sync.Mutex // guards what follows
	cmd  *exec.Cmd
	done chan struct{} // closed when the process has ended
	err  error
}

// ErrRunning says that the process has not ended yet.
var ErrRunning = errors.New("the process still runs")

// Start starts the process.
func (p *Process) Start() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd != nil && !isClosed(p.done) {
		return fmt.Errorf("start %s: %w", p.Name, ErrRunning)
	}
	log, err := os.OpenFile(p.Log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("start %s: %w", p.Name, err)
	}
	defer log.Close()
	argv := slices.Concat(p.Under, []string{p.path}, p.args)
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stdout, cmd.Stderr, cmd.Env = log, log, p.env
	// A group of its own: Ctrl-C at the terminal is for whoever runs the lab.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", p.Name, err)
	}
	done := make(chan struct{})
	p.cmd, p.done = cmd, done
	go func() {
		err := cmd.Wait()
		p.mu.Lock()
		p.err = err
		p.mu.Unlock()
		close(done)
	}()
	return nil
}

// Use has the next start run another program, with the same arguments.
func (p *Process) Use(program string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd != nil && !isClosed(p.done) {
		return fmt.Errorf("use %s for %s: %w", program, p.Name, ErrRunning)
	}
	p.path = program
	return nil
}

func isClosed(ch <-chan struct{}) bool {
	select {
	case <-ch:
		return true
	default:
		return false
	}
}

// Running says whether the process runs.
func (p *Process) Running() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.cmd != nil && !isClosed(p.done)
}

// PID is the id of the running process, 0 when there is none.
func (p *Process) PID() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd == nil || isClosed(p.done) {
		return 0
	}
	return p.cmd.Process.Pid
}

// Signal sends a signal. It says whether the process was there to get it.
func (p *Process) Signal(s syscall.Signal) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.cmd != nil && !isClosed(p.done) && p.cmd.Process.Signal(s) == nil
}

// Kill ends the process with SIGKILL and waits for its end. It says whether the
// process was alive.
func (p *Process) Kill() bool {
	alive := p.Signal(syscall.SIGKILL)
	p.wait(context.Background())
	return alive
}

// Stop asks the process to end and waits; after the patience it is killed, which is
// an error.
func (p *Process) Stop(patience time.Duration) error {
	if !p.Signal(syscall.SIGTERM) {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if !p.wait(ctx) {
		p.Kill()
		return fmt.Errorf("%s did not end within %v of SIGTERM; see %s", p.Name, patience, p.Log)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err != nil {
		return fmt.Errorf("%s ended with: %w; see %s", p.Name, p.err, p.Log)
	}
	return nil
}

// wait returns whether the process has ended.
func (p *Process) wait(ctx context.Context) bool {
	p.mu.Lock()
	done := p.done
	p.mu.Unlock()
	if done == nil {
		return true
	}
	select {
	case <-done:
		return true
	case <-ctx.Done():
		return false
	}
}

// Await waits until the process has ended by itself, and answers its exit code.
func (p *Process) Await(ctx context.Context) (int, error) {
	if !p.wait(ctx) {
		return 0, fmt.Errorf("%s: %w: %w", p.Name, ErrRunning, ctx.Err())
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.cmd.ProcessState.ExitCode(), nil
}

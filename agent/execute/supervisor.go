package execute

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// lingerFor is how long, after the main process has ended, the rest of the session
	// may go on before it is told to end.
	lingerFor = time.Second
	// lastReadFor is how long output is read that somebody outside the session holds open.
	lastReadFor = 200 * time.Millisecond
	// announceEvery is how often it is looked whether the program has announced a reboot.
	announceEvery = time.Second
)

// supervisor is the life of one program. Its goroutines are two readers of output, one
// waiter, one reader of the control fifo and one of the gate's status; all but the
// control reader end before run returns, and that one ends with the process.
type supervisor struct {
	Supervision
	rec *recorder

	alive    *os.File // held open to the end
	proc     *os.Process
	gate     *os.File // writing end
	status   chan []byte
	outputs  [2]*os.File   // reading ends of stdout and stderr
	drained  chan struct{} // closed when both have ended
	canceled chan struct{} // closed when a cancel was asked
	exited   chan *os.ProcessState

	began  time.Time
	cause  State // TIMED_OUT or CANCELED, when that made the program end
	killAt time.Time

	rebooting bool // it was seen that the program has announced a reboot
}

func newSupervisor(d directory) (*supervisor, error) {
	s := &supervisor{Supervision: Supervision{d: d}, canceled: make(chan struct{})}
	if err := d.read(fileSpec, typeSpec, &s.spec); err != nil {
		return nil, err
	}
	// Both directions open: it never ends, and is there before agentd looks for it.
	var err error
	if s.alive, err = os.OpenFile(d.path(fileAlive), os.O_RDWR, 0); err != nil {
		return nil, err
	}
	control, err := os.OpenFile(d.path(fileControl), os.O_RDWR|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	if s.rec, err = newRecorder(d, s.spec.OutputBytes); err != nil {
		return nil, err
	}
	go s.listen(control)
	return s, nil
}

// listen closes canceled as soon as the mark is there.
func (s *supervisor) listen(control *os.File) {
	var b [16]byte
	for !s.d.has(fileCancel) {
		if _, err := control.Read(b[:]); err != nil {
			return
		}
	}
	close(s.canceled)
}

func (s *supervisor) run() Result {
	if s.d.has(fileCancel) {
		return s.neverRan(Result{State: Canceled, Reason: ReasonCanceled, Detail: "canceled before the program was started", ExitCode: -1})
	}
	if res := s.Place(); res != nil {
		return s.neverRan(*res)
	}
	if err := s.fork(); err != nil {
		return s.neverRan(notPrepared(err))
	}
	s.d.fault("supervisor-forked")
	if err := s.started(); err != nil {
		_ = s.gate.Close() // the gate leaves
		<-s.exited
		<-s.drained
		return s.neverRan(notPrepared(err))
	}
	s.d.fault("supervisor-started")
	s.began = time.Now()
	_, err := s.gate.Write([]byte{1})
	_ = s.gate.Close()
	if err != nil {
		_ = s.proc.Kill()
	}
	s.d.fault("supervisor-released")
	return s.watch()
}

func (s *supervisor) neverRan(res Result) Result {
	s.rec.finish(&res)
	return res
}

// fork makes the gate, which waits to become the program, in a process group of its own.
func (s *supervisor) fork() (err error) {
	var files, childs []*os.File
	defer func() {
		for _, f := range childs {
			_ = f.Close()
		}
		if err != nil {
			for _, f := range files {
				_ = f.Close()
			}
		}
	}()
	pipe := func(childReads bool) (ours *os.File) {
		r, w, perr := os.Pipe()
		if perr != nil {
			err = errors.Join(err, perr)
			return nil
		}
		if childReads {
			r, w = w, r
		}
		files, childs = append(files, r), append(childs, w)
		return r
	}
	s.outputs = [2]*os.File{pipe(false), pipe(false)}
	s.gate = pipe(true)
	status := pipe(false)
	stdin, serr := s.Input()
	if err = errors.Join(err, serr); err != nil {
		return fmt.Errorf("make pipes: %w", err)
	}
	defer stdin.Close()
	s.proc, err = os.StartProcess(selfPath, []string{"agentd", SuperviseCommand, gateCommand, string(s.d)}, &os.ProcAttr{
		Dir:   "/",
		Env:   append([]string{}, superviseEnv...),
		Files: []*os.File{stdin, childs[0], childs[1], childs[2], childs[3]},
		Sys:   &syscall.SysProcAttr{Setpgid: true},
	})
	if err != nil {
		return fmt.Errorf("start the gate: %w", err)
	}
	s.read(status)
	return nil
}

// read starts the readers and the waiter.
func (s *supervisor) read(status *os.File) {
	s.status, s.drained, s.exited = make(chan []byte, 1), make(chan struct{}), make(chan *os.ProcessState, 1)
	go func() {
		defer status.Close()
		b, _ := io.ReadAll(io.LimitReader(status, 64<<10))
		s.status <- b
	}()
	go func() {
		st, _ := s.proc.Wait()
		s.exited <- st
	}()
	var readers sync.WaitGroup
	for i, f := range s.outputs {
		readers.Go(func() {
			b := make([]byte, readBytes)
			for {
				n, err := f.Read(b)
				if n > 0 {
					s.rec.add(uint8(i+1), b[:n])
				}
				if err != nil {
					_ = f.Close()
					return
				}
			}
		})
	}
	go func() {
		readers.Wait()
		close(s.drained)
	}()
}

// started makes STARTED durable.
func (s *supervisor) started() error {
	p, err := readProcess(s.proc.Pid)
	if err != nil {
		return fmt.Errorf("look at the gate: %w", err)
	}
	return s.record(started{PID: p.pid, StartTicks: p.ticks, Session: os.Getpid(), At: time.Now()})
}

// watch waits for the end of the program, or brings it about.
func (s *supervisor) watch() Result {
	timeout := time.NewTimer(s.spec.Timeout)
	defer timeout.Stop()
	look := time.NewTicker(announceEvery)
	defer look.Stop()
	canceled := s.canceled
	var kill <-chan time.Time
	var state *os.ProcessState
	for state == nil {
		select {
		case state = <-s.exited:
		case <-timeout.C:
			kill = s.terminate(TimedOut, kill)
		case <-canceled:
			canceled = nil
			kill = s.terminate(Canceled, kill)
		case <-look.C:
			s.announced()
		case <-kill:
			kill = nil
			s.signalGroup(syscall.SIGKILL)
			killAll(s.inSession)
		}
	}
	return s.conclude(state, time.Since(s.began))
}

// announced says whether the program has announced a reboot, and makes that durable, with
// what it has printed, the first time that it is seen.
func (s *supervisor) announced() bool {
	if !s.rebooting && s.d.has(fileReboot) {
		s.rebooting = true
		s.rec.sync()
		_ = syncDir(string(s.d)) // an orderly reboot syncs as well
	}
	return s.rebooting
}

// terminate asks the program to end, unless it has or was asked before.
func (s *supervisor) terminate(cause State, kill <-chan time.Time) <-chan time.Time {
	p, err := readProcess(s.proc.Pid)
	if s.cause != "" || err != nil || !p.alive() {
		return kill
	}
	s.cause, s.killAt = cause, time.Now().Add(s.spec.KillGrace)
	s.signalGroup(syscall.SIGTERM)
	s.signalGroup(syscall.SIGCONT) // a stopped process cannot end
	return time.After(s.spec.KillGrace)
}

func (s *supervisor) signalGroup(sig syscall.Signal) {
	// The group keeps the number for as long as it has members; without any this is ESRCH.
	_ = syscall.Kill(-s.proc.Pid, sig)
}

func (s *supervisor) inSession(p process) bool {
	return p.session == os.Getpid() && p.pid != os.Getpid()
}

// conclude ends what the program has left behind and makes the result.
func (s *supervisor) conclude(state *os.ProcessState, took time.Duration) Result {
	res := Result{StartedAt: s.began, EndedAt: s.began.Add(took), Duration: took, Started: true, Uptime: uptime()}
	ws, _ := state.Sys().(syscall.WaitStatus)
	ru, _ := state.SysUsage().(*syscall.Rusage)
	res.exited(ws, ru)
	hit, left := s.sweep()
	s.explain(&res, <-s.status)
	switch s.cause {
	case TimedOut:
		res.State, res.Reason = TimedOut, ReasonTimeout
		res.say("it was ended after the run timeout of %s", s.spec.Timeout)
	case Canceled:
		res.State, res.Reason = Canceled, ReasonCanceled
		res.say("it was ended by a cancel")
	}
	if hit > 0 {
		res.say("%d processes that it left behind were killed", hit)
	}
	if left > 0 {
		res.say("%d of them are still there", left)
	}
	if s.announced() {
		res.announce(s.spec.BootID, uptime())
	}
	s.rec.finish(&res)
	return res
}

// explain corrects res when the program never became itself.
func (s *supervisor) explain(res *Result, status []byte) {
	status, let := bytes.CutPrefix(status, []byte(statusExec))
	var f gateFailure
	if json.Unmarshal(status, &f) == nil && f.Reason != "" {
		res.Started, res.StartedAt = false, time.Time{}
		res.State, res.Reason, res.Detail, res.ExitCode, res.Signal = Failed, f.Reason, f.Detail, f.Code, 0
		if f.Reason == ReasonNotPrepared {
			res.State, res.ExitCode = Rejected, -1
		}
		return
	}
	if !let { // it was ended at the gate
		res.Started, res.StartedAt = false, time.Time{}
		if s.cause == "" {
			res.State, res.Reason = Rejected, ReasonNotPrepared
			res.Detail = "the process was ended before it became the program: " + res.Detail
		}
	}
}

// sweep gives the rest of the session a moment, then ends it; and it sees to it that
// the readers end. It says how many had to be killed and how many could not be.
func (s *supervisor) sweep() (hit, left int) {
	if !s.settled(time.Now().Add(lingerFor)) {
		if s.cause == "" {
			s.killAt = time.Now().Add(s.spec.KillGrace)
			rest, _ := members(s.inSession)
			for _, p := range rest {
				_ = p.signal(unix.SIGTERM)
				_ = p.signal(unix.SIGCONT)
			}
		}
		if !s.empty(s.killAt) {
			hit, left = killAll(s.inSession)
		}
	}
	for _, f := range s.outputs {
		_ = f.SetReadDeadline(time.Now().Add(lastReadFor))
	}
	<-s.drained
	return hit, left
}

// settled waits until nobody is left and the output is closed.
func (s *supervisor) settled(until time.Time) bool {
	if !s.empty(until) {
		return false
	}
	select {
	case <-s.drained:
	case <-time.After(time.Until(until)): // somebody outside the session holds it open
	}
	return true
}

// empty waits until the session has no other member than the supervisor.
func (s *supervisor) empty(until time.Time) bool {
	for pause := pollEvery; ; pause = min(2*pause, 10*pollEvery) {
		rest, err := members(s.inSession)
		if err != nil || len(rest) == 0 {
			return true
		}
		if time.Now().After(until) {
			return false
		}
		time.Sleep(pause)
	}
}

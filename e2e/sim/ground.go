package sim

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/agentplane/agentplane/agent"
	"github.com/agentplane/agentplane/agent/execute"
)

// ground is a host on which package execute itself runs programs: it has the attempts'
// directories, on a disk that outlives agentd, and supervisors in memory, each with its
// program. It is the witness of what they start.
//
// A program is the argv of Host's, ["work", DURATION, EXITCODE], and words behind that: what
// it announces (sayReboot, sayNothingCame), and which files it has to find (sayFile=PATH=SUM,
// sayInput=SUM).
type ground struct {
	h   *Host
	dir string // of the attempts
	etc string // where files of commands are put
	// restart starts the host anew, in a moment; set before anything runs.
	restart func()

	mu     sync.Mutex // guards what follows; never held while waiting
	boot   int
	booted time.Time
	jobs   map[string]*job // by directory
	kept   map[execute.Attempt]keptBy
	before int64 // bytes of the journal before the record that may be torn
	wiped  map[execute.Attempt]bool
}

// keptBy is who has confirmed an attempt, by the journal.
type keptBy struct {
	by      string
	contact bool
	// unsure says that agentd died at that: the record may be torn, or come too late for the
	// disk.
	unsure bool
}

// job is one supervisor with its program.
type job struct {
	n     int           // of the program among the starts; -1 before that
	dead  chan struct{} // closed when the supervisor dies without a word
	gone  chan struct{} // closed when it is gone
	term  chan struct{} // closed when the program is to end
	kill  chan struct{} // closed when nothing asks the program
	ended chan struct{} // closed when the program has ended, or never began
	// What follows is guarded by ground.mu.
	dying, killed bool
}

const (
	sayReboot      = "reboot"    // the program announces a reboot of the host and has it come
	sayNothingCame = "no-reboot" // it announces one that does not come
	sayFile        = "file"
	sayInput       = "stdin"

	// rebootWait is how long an announced reboot is waited for.
	rebootWait = 4 * time.Second
	// lookAgain is how often a supervisor looks whether a cancel was asked.
	lookAgain = 50 * time.Millisecond
)

func newGround(h *Host, dir string) (*ground, error) {
	g := &ground{
		h: h, dir: filepath.Join(dir, "attempts"), etc: filepath.Join(dir, "etc"), boot: 1, booted: time.Now(),
		jobs: make(map[string]*job), kept: make(map[execute.Attempt]keptBy), wiped: make(map[execute.Attempt]bool),
	}
	return g, os.MkdirAll(g.etc, 0o700)
}

// open is package execute as one life of agentd has it. dead says that the life is over.
func (g *ground) open(o execute.Options, dead func() bool) (agent.Runner, error) {
	data := filepath.Dir(o.Dir)
	o.Dir, o.RebootWait = g.dir, rebootWait
	o.Journal = ledger{Journal: o.Journal, g: g, dead: dead, size: func() int64 { return journalBytes(data) }}
	o.Supervisors = hands{g, dead}
	o.BootID, o.Uptime = g.bootID, g.uptime
	r, err := execute.Open(o)
	if err != nil {
		return nil, err
	}
	return realRunner{r}, nil
}

func (g *ground) bootID() (string, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return fmt.Sprintf("boot-%d", g.boot), nil
}

func (g *ground) uptime() time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.uptimeLocked()
}

// bootTakes is the uptime of a host that has just been booted.
const bootTakes = time.Second

// uptimeLocked is never zero, which says that it is not known.
func (g *ground) uptimeLocked() time.Duration { return time.Since(g.booted) + bootTakes }

// realRunner is execute's as agent.Runner. It does not hand out output: programs print none.
type realRunner struct{ *execute.Runner }

func (r realRunner) Start(ctx context.Context, s execute.Spec) (agent.Run, error) {
	run, err := r.Runner.Start(ctx, s)
	if err != nil {
		return nil, err
	}
	return run, nil
}

func (r realRunner) Adopt(a execute.Attempt) (agent.Run, error) {
	run, err := r.Runner.Adopt(a)
	if err != nil {
		return nil, err
	}
	return run, nil
}

// hands are the supervisors that one life of agentd can start and see.
type hands struct {
	g    *ground
	dead func() bool
}

// Start is execute.Supervisors'.
func (s hands) Start(dir string, lock *os.File) (reap func(), err error) {
	if err := s.start(dir, lock); err != nil {
		return nil, err
	}
	s.g.h.crashes(afterFork) // what is dead then learns it by its next record
	return func() {}, nil
}

func (s hands) start(dir string, lock *os.File) error {
	g := s.g
	g.mu.Lock()
	defer g.mu.Unlock()
	if s.dead() || g.h.isClosed() {
		return errDead
	}
	fd, err := syscall.Dup(int(lock.Fd()))
	if err != nil {
		return err
	}
	j := &job{n: -1, dead: make(chan struct{}), gone: make(chan struct{}), term: make(chan struct{}), kill: make(chan struct{}), ended: make(chan struct{})}
	g.jobs[dir] = j
	g.h.wg.Go(func() { g.supervise(dir, j, os.NewFile(uintptr(fd), lock.Name())) })
	return nil
}

// Watch is execute.Supervisors'.
func (s hands) Watch(ctx context.Context, dir string, pause time.Duration) (lived bool, err error) {
	s.g.mu.Lock()
	j := s.g.jobs[dir]
	s.g.mu.Unlock()
	var gone <-chan struct{}
	if j != nil {
		select {
		case <-j.gone: // somebody else looks at the lock for a moment
		default:
			gone, pause = j.gone, time.Hour
		}
	}
	t := time.NewTimer(pause)
	defer t.Stop()
	select {
	case <-gone:
		return true, nil
	case <-t.C:
		return gone != nil, nil
	case <-ctx.Done():
		return false, ctx.Err()
	}
}

// Sweep is execute.Supervisors'.
func (s hands) Sweep(dir string, _ execute.Attempt, boot string) (hit, left int) {
	if now, _ := s.g.bootID(); s.dead() || now != boot {
		return 0, 0
	}
	s.g.mu.Lock()
	j := s.g.jobs[dir]
	hit = 0
	if j != nil {
		select {
		case <-j.ended:
		default:
			hit = 1
			j.killLocked()
		}
	}
	s.g.mu.Unlock()
	if j != nil {
		<-j.ended
	}
	return hit, 0
}

func (j *job) killLocked() {
	if !j.killed {
		j.killed = true
		close(j.kill)
	}
}

// supervise does what a supervisor does.
func (g *ground) supervise(dir string, j *job, lock *os.File) {
	defer close(j.gone)
	defer lock.Close()
	if !j.sleeps(forkTakes) {
		close(j.ended)
		return
	}
	s, err := execute.Supervise(dir)
	if err != nil {
		close(j.ended)
		return
	}
	res := s.Place()
	if res == nil && s.Canceled() {
		res = &execute.Result{State: execute.Canceled, Reason: execute.ReasonCanceled, ExitCode: -1}
	}
	var p *errand
	if res == nil {
		if p, err = newProgram(s); err != nil {
			res = &execute.Result{State: execute.Rejected, Reason: execute.ReasonNotPrepared, ExitCode: -1, Detail: err.Error()}
		}
	}
	if res == nil && !j.sleeps(forkTakes) { // it dies with its gate
		close(j.ended)
		return
	}
	if res != nil {
		close(j.ended)
		g.record(s, *res)
		return
	}
	p.start.At = time.Now()
	if err := s.Started(p.start.At); err != nil {
		close(j.ended)
		return
	}
	if !g.begin(j, p) {
		close(j.ended)
		return
	}
	g.h.wg.Go(func() { g.run(j, p) })
	if cause, alive := j.oversee(s, p.timeout); alive {
		res := p.result(cause)
		g.record(s, res)
	}
}

// sleeps says whether the supervisor still lives after so long.
func (j *job) sleeps(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-j.dead:
		return false
	}
}

// oversee waits for the program's end, or brings it about; cause is why then.
func (j *job) oversee(s *execute.Supervision, timeout time.Duration) (cause execute.State, alive bool) {
	late := time.NewTimer(timeout)
	defer late.Stop()
	look := time.NewTicker(lookAgain)
	defer look.Stop()
	end := func(why execute.State) {
		if cause == "" {
			cause = why
			close(j.term)
		}
	}
	for {
		select {
		case <-j.ended:
			return cause, true
		case <-j.dead:
			return "", false
		case <-late.C:
			end(execute.TimedOut)
		case <-look.C:
			if s.Canceled() {
				end(execute.Canceled)
			}
		}
	}
}

// record writes the exit. That nobody wants it any more is no fault.
func (g *ground) record(s *execute.Supervision, res execute.Result) {
	if err := s.Ended(res, g.uptime()); err != nil {
		g.h.trace.Note(g.h.name, "a result is not recorded: %v", err)
	}
}

// errand is a program about to run, or that runs.
type errand struct {
	takes   time.Duration
	code    int
	timeout time.Duration
	says    []string
	reboot  string // the file that announces a reboot
	start   Start
}

// newProgram looks at what the program was given.
func newProgram(s *execute.Supervision) (*errand, error) {
	argv, env, timeout := s.Program()
	in, err := s.Input()
	if err != nil {
		return nil, err
	}
	defer in.Close()
	p := &errand{timeout: timeout, says: argv[min(3, len(argv)):]}
	p.takes, p.code = program(argv)
	vars := make(map[string]string)
	for _, v := range env {
		name, value, _ := strings.Cut(v, "=")
		vars[name] = value
	}
	number, _ := strconv.ParseUint(vars["AGENTPLANE_ATTEMPT"], 10, 32)
	step, _ := strconv.Atoi(vars["AGENTPLANE_STEP"])
	fence, _ := strconv.ParseUint(vars["AGENTPLANE_FENCE"], 10, 64)
	p.reboot = vars["AGENTPLANE_REBOOT"]
	p.start = Start{
		Attempt: execute.Attempt{InvocationID: vars["AGENTPLANE_INVOCATION_ID"], Number: uint32(number)}, Fence: fence, Argv: argv,
		Step: step, Name: vars["AGENTPLANE_STEP_NAME"], Cause: vars["AGENTPLANE_UNDO"],
	}
	if vars["AGENTPLANE_UNDO"] != "" {
		p.start.Step = 0
	}
	for _, word := range p.says {
		what, rest, _ := strings.Cut(word, "=")
		switch path, sum, _ := strings.Cut(rest, "="); what {
		case sayFile:
			b, err := os.ReadFile(path)
			p.start.found(path, sum, b, err)
		case sayInput:
			b, err := io.ReadAll(in)
			p.start.found("standard input", rest, b, err)
		}
	}
	return p, nil
}

// found notes a file that is not what it has to be.
func (s *Start) found(what, want string, b []byte, err error) {
	s.Files++
	switch sum := sha256.Sum256(b); {
	case err != nil:
		s.Wrong = append(s.Wrong, fmt.Sprintf("%s: %v", what, err))
	case hex.EncodeToString(sum[:]) != want:
		s.Wrong = append(s.Wrong, fmt.Sprintf("%s has %d bytes with the hash %x, want %s", what, len(b), sum[:6], want[:12]))
	}
}

// begin lets the program go, unless the host goes down or the supervisor has died.
func (g *ground) begin(j *job, p *errand) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if j.dying {
		return false
	}
	p.start.Boot, p.start.Up = g.boot, g.uptimeLocked()
	g.h.mu.Lock()
	defer g.h.mu.Unlock()
	j.n = len(g.h.starts)
	g.h.starts = append(g.h.starts, p.start)
	g.h.trace.Note(g.h.name, "starts %s step %d%s (fence %d): %v", p.start.Attempt, p.start.Step, p.start.Cause, p.start.Fence, p.start.Argv)
	return true
}

// run is the life of the program. It obeys TERM at once.
func (g *ground) run(j *job, p *errand) {
	end := time.NewTimer(p.takes)
	defer end.Stop()
	how := Verdict{}
	select {
	case <-end.C:
		how.Code = p.code
		if slices.Contains(p.says, sayReboot) || slices.Contains(p.says, sayNothingCame) {
			how.Announced = os.WriteFile(p.reboot, nil, 0o600) == nil
		}
	case <-j.term:
		how.Signal = 15
	case <-j.kill:
		how.Signal = 9
	}
	now, up := time.Now(), g.uptime()
	g.h.mu.Lock()
	s := &g.h.starts[j.n]
	s.End, s.EndUp, s.Verdict = now, up, how
	p.start = *s
	g.h.mu.Unlock()
	g.h.trace.Note(g.h.name, "%s step %d%s ended: %+v", s.Attempt, s.Step, s.Cause, how)
	close(j.ended)
	if how.Announced && slices.Contains(p.says, sayReboot) {
		g.restart()
	}
}

// result is what the supervisor makes of the program's end.
func (p *errand) result(cause execute.State) execute.Result {
	s := p.start
	r := execute.Result{State: execute.Succeeded, Reason: execute.ReasonExit, Started: true, StartedAt: s.At, EndedAt: s.End, Duration: s.End.Sub(s.At)}
	switch {
	case s.Verdict.Signal != 0 && cause == execute.TimedOut:
		r.State, r.Reason, r.ExitCode, r.Signal = execute.TimedOut, execute.ReasonTimeout, -1, s.Verdict.Signal
	case s.Verdict.Signal != 0 && cause == execute.Canceled:
		r.State, r.Reason, r.ExitCode, r.Signal = execute.Canceled, execute.ReasonCanceled, -1, s.Verdict.Signal
	case s.Verdict.Signal != 0:
		r.State, r.Reason, r.ExitCode, r.Signal = execute.Failed, execute.ReasonSignal, -1, s.Verdict.Signal
	case s.Verdict.Code != 0:
		r.State, r.ExitCode = execute.Failed, s.Verdict.Code
	}
	return r
}

// Verdict is how a program has ended, by the witness.
type Verdict struct {
	Code, Signal int
	Announced    bool // a reboot
	Rebooted     bool // which came
}

// die ends at most n supervisors without a word and answers how many there were. Their
// programs go on, unless the host is started anew: then nothing is left.
func (g *ground) die(n int, reboot bool) (killed int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, dir := range slices.Sorted(maps.Keys(g.jobs)) {
		j := g.jobs[dir]
		select {
		case <-j.gone:
			if reboot {
				j.killLocked() // what a dead supervisor has left
			}
			continue
		default:
		}
		if killed < n && !j.dying {
			j.dying = true
			close(j.dead)
			killed++
		}
		if reboot {
			j.killLocked()
		}
	}
	if reboot {
		g.h.mu.Lock()
		for i := range g.h.starts {
			if s := &g.h.starts[i]; s.Boot == g.boot && s.Verdict.Announced {
				s.Verdict.Rebooted = true
			}
		}
		g.h.mu.Unlock()
		g.boot++
		g.booted = time.Now()
		g.h.trace.Note(g.h.name, "boots for the %d. time; %d programs ran", g.boot, killed)
	}
	return killed
}

// forget loses the directories of all attempts. Their supervisors go on.
func (g *ground) forget() error {
	for _, s := range g.h.Starts() {
		g.mu.Lock()
		g.wiped[s.Attempt] = true
		g.mu.Unlock()
	}
	return os.RemoveAll(g.dir)
}

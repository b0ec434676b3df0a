package sim

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/agentplane/agentplane/agent"
	"github.com/agentplane/agentplane/agent/execute"
)

// Host is a model of a host on which an agent starts programs: what package execute
// does with directories, locks and supervisors, it does with records in memory that
// outlive the agent. It is also the witness: nothing of the product sees what it
// counts.
//
// A program is the argv ["work", DURATION, EXITCODE], of which some print: the further
// arguments are how many bytes on stdout and on stderr.
type Host struct {
	name  string
	trace *Trace

	mu        sync.Mutex // guards what follows; never held while waiting
	attempts  map[execute.Attempt]*attempt
	printings map[execute.Attempt]*printing
	ground    *ground // where package execute itself runs programs; nil where this is its model
	starts    []Start
	crash     func(point string) bool // an armed crash, which says whether it came; nil is none
	closed    bool
	wg        sync.WaitGroup // supervisors
}

// Start is one program that was let go.
type Start struct {
	execute.Attempt
	Fence uint64
	At    time.Time
	End   time.Time // zero while it runs
	// What was asked for.
	Argv, Secrets []string

	// Of a program on a ground: the number and name of the step, if it is one, and why it runs,
	// if it is an undo; under which boot of the host, at which uptimes it began and ended, and
	// how; how many files it looked at, and what was wrong with them.
	Step      int
	Name      string
	Cause     string
	Boot      int
	Up, EndUp time.Duration
	Verdict   Verdict
	Files     int
	Wrong     []string
}

// first says that it is the program of its attempt, or the first of them.
func (s Start) first() bool { return s.Step <= 1 && s.Cause == "" }

// ended is when it ended, or the end of all times.
func (s Start) ended() time.Time {
	if s.End.IsZero() {
		return time.Unix(1<<40, 0)
	}
	return s.End
}

// attempt is what lies in the directory of one.
type attempt struct {
	spec    execute.Spec
	made    time.Time
	cancel  chan struct{} // closed when a cancel was asked
	dead    chan struct{} // closed when the supervisor dies without a word
	why     string        // it died
	over    chan struct{} // closed when result stands
	since   time.Time     // of the program; zero before
	result  execute.Result
	cancels sync.Once
}

func newHost(name string, trace *Trace) *Host {
	return &Host{name: name, trace: trace, attempts: make(map[execute.Attempt]*attempt), printings: make(map[execute.Attempt]*printing)}
}

// runner is the host as one life of the agent sees it.
type runner struct {
	h       *Host
	journal execute.Journal
	dead    func() bool // the life is over, though its goroutines may not know yet
}

var _ agent.Runner = (*runner)(nil)

// Start is agent.Runner's: INTENT, directory, supervisor.
func (r *runner) Start(ctx context.Context, s execute.Spec) (agent.Run, error) {
	if err := s.Validate(); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if r.dead() {
		return nil, errDead
	}
	if r.crashed(ctx, "before the intent") {
		return nil, ctx.Err()
	}
	if err := r.journal.Intent(s); err != nil {
		return nil, fmt.Errorf("start %s: %w", s.Attempt, err)
	}
	if r.crashed(ctx, "after the intent") {
		return nil, ctx.Err()
	}
	a, err := r.mkdir(s)
	if err != nil {
		return nil, err
	}
	if r.crashed(ctx, "after the start") {
		return nil, ctx.Err()
	}
	return &run{r, s.Attempt, a}, nil
}

// crashed says whether the agent dies here. Then it waits for the end of its life, so
// that nothing is done after its death.
func (r *runner) crashed(ctx context.Context, point string) bool {
	r.h.mu.Lock()
	crash := r.h.crash
	r.h.mu.Unlock()
	if crash == nil || !crash(point) {
		return false
	}
	<-ctx.Done()
	return true
}

var errDead = errors.New("the agent is dead")

// mkdir is the decision, as in package execute.
func (r *runner) mkdir(s execute.Spec) (*attempt, error) {
	h := r.h
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case r.dead() || h.closed:
		return nil, errDead
	case h.attempts[s.Attempt] != nil:
		return nil, fmt.Errorf("start %s: %w", s.Attempt, execute.ErrExists)
	}
	a := &attempt{spec: s, made: time.Now(), cancel: make(chan struct{}), dead: make(chan struct{}), over: make(chan struct{})}
	h.attempts[s.Attempt] = a
	h.wg.Go(func() { h.supervise(a) })
	return a, nil
}

// forkTakes is how long a supervisor takes to let the program go.
const forkTakes = 2 * time.Millisecond

func (h *Host) supervise(a *attempt) {
	defer close(a.over)
	select {
	case <-time.After(forkTakes):
	case <-a.cancel:
		a.result = execute.Result{State: execute.Canceled, Reason: execute.ReasonCanceled, ExitCode: -1}
		return
	case <-a.dead:
		a.result = execute.Result{State: execute.Lost, Reason: a.why, ExitCode: -1}
		return
	}
	h.mu.Lock()
	a.since = time.Now()
	n := len(h.starts)
	h.starts = append(h.starts, Start{Attempt: a.spec.Attempt, Fence: a.spec.Fence, At: a.since, Argv: a.spec.Argv, Secrets: a.spec.Secrets})
	h.mu.Unlock()
	h.trace.Note(h.name, "starts %s (fence %d): %v", a.spec.Attempt, a.spec.Fence, a.spec.Argv)
	p := h.printing(a.spec.Attempt)
	r := h.live(a, p)
	p.summarize(&r)
	r.Started, r.StartedAt, r.EndedAt = true, a.since, time.Now()
	r.Duration = r.EndedAt.Sub(r.StartedAt)
	h.mu.Lock()
	h.starts[n].End = r.EndedAt
	h.mu.Unlock()
	a.result = r
	h.trace.Note(h.name, "%s ended: %s(%s)", a.spec.Attempt, r.State, r.Reason)
}

// live is the program's life. It obeys TERM at once.
func (h *Host) live(a *attempt, p *printing) execute.Result {
	takes, code := program(a.spec.Argv)
	size, printed := prints(a.spec.Argv), 0
	var next <-chan time.Time
	if size != [2]uint64{} {
		pace := time.NewTicker(max(takes/(pieces+1), time.Millisecond))
		defer pace.Stop()
		next = pace.C
	}
	say := func() {
		printed++
		for i, n := range size {
			p.add(uint8(i+1), n/pieces)
		}
	}
	end := time.NewTimer(takes)
	defer end.Stop()
	timeout := a.spec.Timeout
	if timeout == 0 {
		timeout = 10 * time.Minute
	}
	late := time.NewTimer(timeout)
	defer late.Stop()
	for {
		select {
		case <-next:
			if say(); printed == pieces {
				next = nil
			}
		case <-end.C:
			for next != nil && printed < pieces {
				say()
			}
			if code != 0 {
				return execute.Result{State: execute.Failed, Reason: execute.ReasonExit, ExitCode: code}
			}
			return execute.Result{State: execute.Succeeded, Reason: execute.ReasonExit}
		case <-late.C:
			return execute.Result{State: execute.TimedOut, Reason: execute.ReasonTimeout, ExitCode: -1, Signal: 15}
		case <-a.cancel:
			return execute.Result{State: execute.Canceled, Reason: execute.ReasonCanceled, ExitCode: -1, Signal: 15}
		case <-a.dead:
			return execute.Result{State: execute.Lost, Reason: a.why, ExitCode: -1}
		}
	}
}

// program reads the argv of one.
func program(argv []string) (takes time.Duration, code int) {
	if len(argv) >= 3 {
		takes, _ = time.ParseDuration(argv[1])
		code, _ = strconv.Atoi(argv[2])
	}
	return takes, code
}

// Adopt is agent.Runner's.
func (r *runner) Adopt(a execute.Attempt) (agent.Run, error) {
	r.h.mu.Lock()
	defer r.h.mu.Unlock()
	return &run{r, a, r.h.attempts[a]}, nil
}

// Attempts is agent.Runner's.
func (r *runner) Attempts() ([]execute.Attempt, error) {
	r.h.mu.Lock()
	defer r.h.mu.Unlock()
	all := make([]execute.Attempt, 0, len(r.h.attempts))
	for a := range r.h.attempts {
		all = append(all, a)
	}
	return all, nil
}

// Touched is agent.Runner's.
func (r *runner) Touched(a execute.Attempt) (time.Time, bool) {
	r.h.mu.Lock()
	defer r.h.mu.Unlock()
	d := r.h.attempts[a]
	if d == nil {
		return time.Time{}, false
	}
	return d.made, true
}

// Remove is agent.Runner's.
func (r *runner) Remove(a execute.Attempt) error {
	r.h.mu.Lock()
	defer r.h.mu.Unlock()
	if r.dead() {
		return errDead
	}
	if d := r.h.attempts[a]; d != nil {
		select {
		case <-d.over:
		default:
			return fmt.Errorf("remove %s: %w", a, execute.ErrRunning)
		}
	}
	delete(r.h.attempts, a)
	return nil
}

// run is one attempt as one life of the agent sees it.
type run struct {
	r *runner
	a execute.Attempt
	d *attempt // nil: there is no directory
}

// Wait is agent.Run's.
func (w *run) Wait(ctx context.Context) (execute.Result, error) {
	res := execute.Result{State: execute.Lost, Reason: execute.ReasonAgentRestart, ExitCode: -1}
	if w.d != nil {
		select {
		case <-w.d.over:
			res = w.d.result
		case <-ctx.Done():
			return execute.Result{}, ctx.Err()
		}
	}
	if err := ctx.Err(); err != nil {
		return execute.Result{}, err
	}
	return res, w.r.journal.Finish(w.a, res)
}

// Cancel is agent.Run's.
func (w *run) Cancel() error {
	if w.d != nil {
		w.d.cancels.Do(func() { close(w.d.cancel) })
	}
	return nil
}

// Running is agent.Run's.
func (w *run) Running() (time.Time, bool) {
	if w.d == nil {
		return time.Time{}, false
	}
	w.r.h.mu.Lock()
	defer w.r.h.mu.Unlock()
	return w.d.since, !w.d.since.IsZero()
}

// kill ends supervisors and their programs without a word: at most n of them. It
// answers how many there were.
func (h *Host) kill(n int, why string) int {
	if h.ground != nil {
		return h.ground.die(n, why == execute.ReasonReboot)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	killed := 0
	for _, a := range h.attempts {
		select {
		case <-a.over:
			continue
		default:
		}
		if killed < n && a.why == "" {
			a.why = why
			close(a.dead)
			killed++
		}
	}
	return killed
}

// forget loses the directories of all attempts. Their supervisors go on.
func (h *Host) forget() error {
	if h.ground != nil {
		return h.ground.forget()
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	clear(h.attempts)
	return nil
}

// arm makes the agent crash at the next start of a program.
func (h *Host) arm(crash func(point string) bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.crash = crash
}

// Starts are all programs that were let go.
func (h *Host) Starts() []Start {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]Start(nil), h.starts...)
}

func (h *Host) isClosed() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.closed
}

// close ends what still runs.
func (h *Host) close() {
	h.mu.Lock()
	h.closed = true
	h.mu.Unlock()
	h.kill(1<<30, execute.ReasonReboot)
	h.wg.Wait()
}

package execute

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Journal is the durable record that the runner writes to. Package journal is one,
// through a small adapter where the agent is composed.
type Journal interface {
	// Intent makes durable that the attempt is about to be started. It refuses every
	// attempt that is known in any way; then nothing is started.
	Intent(Spec) error
	// Finish makes the attempt's result durable. When it is so already, it does nothing.
	Finish(Attempt, Result) error

	// StepIntent makes durable that a step of a started attempt is about to be started, and
	// StepFinish how it has ended. When it is so already, they do nothing.
	StepIntent(Attempt, StepRecord) error
	StepFinish(Attempt, StepRecord) error
	// Steps gives the steps of the attempt that have an intent, in their order.
	Steps(Attempt) []StepRecord

	// Arm makes durable that the attempt waits for a confirmation, for so long from now on;
	// Keep that it was confirmed, by an operator or by contact with a node. Of Keep and the
	// intent of the undo, which is the step after the last, whichever comes first stands:
	// the other one is refused, the intent with ErrKept. When it is so already, they do
	// nothing.
	Arm(a Attempt, g Guard, left time.Duration) error
	Keep(a Attempt, by string, contact bool) error
	// Guard gives what was armed last.
	Guard(Attempt) (Guard, bool)
}

// A StepRecord is what the journal knows of a step.
type StepRecord struct {
	Number uint32 // from 1
	Of     uint32 // how many steps the attempt has
	Name   string
	// Result is how it ended, without output; State is empty while it has not.
	Result Result
}

// Options configure a Runner.
type Options struct {
	// Dir holds the attempts' directories; made with mode 0700 when missing. It must be
	// used by one process only, which the journal's lock sees to.
	Dir string
	// Journal is written before a start and before a result is given.
	Journal Journal
	// Executable is agentd; /proc/self/exe when empty, which stays right when the file
	// is replaced by an upgrade.
	Executable string
	// Supervisors start supervisors; nil starts Executable.
	Supervisors Supervisors
	// BootID gives the kernel's name for the time since it was started; nil reads it.
	BootID func() (string, error)
	// Uptime gives how long the host is up, the time counted in which it slept; nil reads it.
	Uptime func() time.Duration
	// Contact gives a node that has answered a new connection. Without it no attempt can be
	// confirmed by contact.
	Contact func(context.Context) (node string, err error)
	// RebootWait is how long a program's announced reboot is waited for; 10 min when 0.
	RebootWait time.Duration
	// Waits is called when an attempt begins to wait for its announced reboot, by Run.Wait; may
	// be nil.
	Waits func(Attempt)
}

// Runner starts and adopts attempts. Its methods may be called at once, for one attempt
// by one caller at a time.
type Runner struct {
	dir         string
	journal     Journal
	supervisors Supervisors
	bootID      func() (string, error)
	uptime      func() time.Duration
	contact     func(context.Context) (node string, err error)
	rebootWait  time.Duration
	waits       func(Attempt)
}

// superviseEnv is the environment of supervisors and gates, which need none. Two
// threads of Go are plenty for them.
var superviseEnv = []string{"GOMAXPROCS=2"}

// gonePrefix begins the name of a directory that is being removed; no id begins so.
const gonePrefix = ".gone-"

// Open makes the directory ready, and removes what an interrupted Remove left. The process
// has 32 threads from then on, so that it can refuse attempts where a host has no room for more.
func Open(o Options) (*Runner, error) {
	dir, err := filepath.Abs(o.Dir)
	if err != nil {
		return nil, fmt.Errorf("open runner: %w", err)
	}
	r := &Runner{
		dir: dir, journal: o.Journal, supervisors: o.Supervisors,
		bootID: o.BootID, uptime: o.Uptime, contact: o.Contact, rebootWait: cmp.Or(o.RebootWait, defaultRebootWait),
		waits: o.Waits,
	}
	if r.supervisors == nil {
		reserveThreads(threads)
		r.supervisors = processes{cmp.Or(o.Executable, selfPath)}
	}
	if r.bootID == nil {
		r.bootID = BootID
	}
	if r.uptime == nil {
		r.uptime = uptime
	}
	if err := r.open(); err != nil {
		return nil, fmt.Errorf("open runner in %q: %w", dir, err)
	}
	return r, nil
}

func (r *Runner) open() error {
	switch err := os.Mkdir(r.dir, 0o700); {
	case err == nil:
		if err := syncDir(filepath.Dir(r.dir)); err != nil {
			return err
		}
	case !errors.Is(err, fs.ErrExist):
		return err
	}
	st, err := os.Stat(r.dir)
	if err != nil {
		return err
	}
	if perm := st.Mode().Perm(); perm&0o077 != 0 {
		return fmt.Errorf("it has mode %#o, others must have no access: chmod 700 it", perm)
	}
	entries, err := os.ReadDir(r.dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), gonePrefix) {
			if err := os.RemoveAll(filepath.Join(r.dir, e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

// directory is that of the attempt, and of its first step.
func (r *Runner) directory(a Attempt) directory { return r.stepDirectory(a, 1) }

func (r *Runner) stepDirectory(a Attempt, step uint32) directory {
	return directory(filepath.Join(r.dir, a.stepName(step)))
}

// following gives the number of the next step after that one, and at most most, that has a
// directory; 0 is none.
func (r *Runner) following(a Attempt, step, most uint32) uint32 {
	for n := step + 1; n <= most; n++ {
		if _, err := os.Lstat(string(r.stepDirectory(a, n))); err == nil {
			return n
		}
	}
	return 0
}

// directories gives that of the attempt, and those of its further steps that there are. All
// but the last are of steps that have ended.
func (r *Runner) directories(a Attempt) []directory {
	all := []directory{r.directory(a)}
	for n := r.following(a, 1, maxStepNumber); n > 0; n = r.following(a, n, maxStepNumber) {
		all = append(all, r.stepDirectory(a, n))
	}
	return all
}

// Start journals the intent and starts the attempt. An error means that nothing was
// started: ErrInvalid, what the journal's Intent gave, or ErrExists (Adopt tells more).
// Once the intent is journalled there is always a Run, which ends with the result
// REJECTED when the host could not even try. ctx is looked at only before the intent.
func (r *Runner) Start(ctx context.Context, s Spec) (*Run, error) {
	if err := s.Validate(); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("start %s: %w", s.Attempt, err)
	}
	s = s.withDefaults().guarding()
	fault("before-intent")
	if err := r.journal.Intent(s); err != nil {
		return nil, fmt.Errorf("start %s: %w", s.Attempt, err)
	}
	fault("after-intent")
	run := r.newRun(s.Attempt)
	if len(s.Steps) > 0 {
		run.plan = &s
		run.at(StepRecord{Number: 1, Of: uint32(len(s.Steps)), Name: s.Steps[0].Name})
		if err := r.journal.StepIntent(s.Attempt, run.step); err != nil {
			res := notPrepared(err)
			run.result = &res
			return run, nil
		}
		fault("after-step-intent")
	}
	if err := run.begin(s.step(1)); errors.Is(err, ErrExists) {
		return nil, fmt.Errorf("start %s: %w", s.Attempt, err)
	} else if err != nil {
		run.refuse(err)
	}
	return run, nil
}

// begin makes the directory of the step at hand and starts its supervisor. mkdir is the
// decision: ErrExists says that it was taken before.
func (run *Run) begin(s Spec) error {
	if err := os.Mkdir(string(run.d), 0o700); err != nil && (startsOnce || !errors.Is(err, fs.ErrExist)) {
		if errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("%w: %q", ErrExists, string(run.d))
		}
		return err
	}
	if err := syncDir(run.r.dir); err != nil {
		return err
	}
	run.d.fault("after-mkdir")
	if err := run.fork(s); err != nil {
		return err
	}
	run.d.fault("after-fork")
	return nil
}

// fork starts the supervisor and hands it the lock.
func (run *Run) fork(s Spec) error {
	boot, err := run.r.bootID()
	if err != nil {
		return err
	}
	if run.plan != nil && run.step.Number == 1 {
		if err := run.d.keepPlan(*run.plan); err != nil {
			return err
		}
	}
	lock, err := run.d.prepare(s, boot)
	if err != nil {
		return err
	}
	defer lock.Close() // the supervisor's copy of the same open file keeps it locked
	run.reaps, err = run.r.supervisors.Start(string(run.d), lock)
	return err
}

// Adopt gives a Run for an attempt whose intent is journalled and whose result is not:
// one that an earlier life of agentd started, or was about to. Wait then goes on where that
// was; nothing is started a second time.
func (r *Runner) Adopt(a Attempt) (*Run, error) {
	if err := a.Validate(); err != nil {
		return nil, err
	}
	run := r.newRun(a)
	if known := r.journal.Steps(a); len(known) > 0 {
		last := known[len(known)-1]
		run.at(last)
		if last.Result.State != "" {
			run.endStep(last.Result)
			run.noted = true
		}
		_ = run.usePlan() // while the journal knows the attempt; else when it is needed
	}
	return run, nil
}

// Attempts gives the attempts that have a directory, in no order. Some may not be in the
// journal, when that was lost or an older one was put back. As long as they may be delivered,
// the directory alone keeps these from being started again.
func (r *Runner) Attempts() ([]Attempt, error) {
	entries, err := os.ReadDir(r.dir)
	if err != nil {
		return nil, fmt.Errorf("list attempts: %w", err)
	}
	var all []Attempt
	seen := make(map[Attempt]bool, len(entries))
	for _, e := range entries {
		if a, _, ok := parseDirName(e.Name()); ok && e.IsDir() && !seen[a] {
			seen[a] = true
			all = append(all, a)
		}
	}
	return all, nil
}

// Touched is when the attempt's directory was changed last, by the host's clock; false when it
// has none, and was not started.
func (r *Runner) Touched(a Attempt) (time.Time, bool) {
	if a.Validate() != nil {
		return time.Time{}, false
	}
	st, err := os.Stat(string(r.directory(a)))
	if err != nil {
		return time.Time{}, false
	}
	return st.ModTime(), true
}

// Output gives what is stored of an attempt's output, in order; offsets show gaps. It may
// be read while the program runs.
func (r *Runner) Output(a Attempt) iter.Seq2[StoredChunk, error] {
	if err := a.Validate(); err != nil {
		return func(yield func(StoredChunk, error) bool) { yield(StoredChunk{}, err) }
	}
	return func(yield func(StoredChunk, error) bool) {
		var earlier printed
		for _, d := range r.directories(a) {
			var last printed
			for c, err := range d.stored() {
				if !yield(c.behind(earlier), err) || err != nil {
					return
				}
				last = c.printed()
			}
			earlier = earlier.plus(d.printed(last))
		}
	}
}

// ForgetSecrets removes the secrets of an attempt whose result is journalled, which Wait does
// too, unless agentd dies before that. It may be called any number of times.
func (r *Runner) ForgetSecrets(a Attempt) error {
	if err := a.Validate(); err != nil {
		return err
	}
	if err := r.directory(a).forgetLater(); err != nil {
		return fmt.Errorf("forget the secrets of %s: %w", a, err)
	}
	return nil
}

// Remove removes an attempt's directories. It is for attempts that the journal has
// forgotten, for a directory is what keeps an attempt from being started again. One
// whose supervisor lives is ErrRunning; one without a directory is no error.
func (r *Runner) Remove(a Attempt) error {
	if err := a.Validate(); err != nil {
		return err
	}
	// The first goes last: it keeps the attempt from being started.
	for _, d := range slices.Backward(r.directories(a)) {
		if err := r.remove(d); err != nil {
			return fmt.Errorf("remove %s: %w", a, err)
		}
	}
	return nil
}

func (r *Runner) remove(d directory) error {
	lock, held, err := d.tryLock()
	switch {
	case err != nil:
		return err
	case held:
		return ErrRunning
	case lock != nil:
		defer lock.Close()
	}
	gone := filepath.Join(r.dir, gonePrefix+filepath.Base(string(d)))
	if err := os.Rename(string(d), gone); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	return os.RemoveAll(gone)
}

package execute

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

// Journal is the durable record that the runner writes to. Package journal is one,
// through a small adapter where the agent is composed.
type Journal interface {
	// Intent makes durable that the attempt is about to be started. It refuses every
	// attempt that is known in any way; then nothing is started.
	Intent(Spec) error
	// Finish makes the attempt's result durable. When it is so already, it does nothing.
	Finish(Attempt, Result) error
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
}

// Runner starts and adopts attempts. Its methods may be called at once, for one attempt
// by one caller at a time.
type Runner struct {
	dir        string
	journal    Journal
	executable string
}

// superviseEnv is the environment of supervisors and gates, which need none. Two
// threads of Go are plenty for them.
var superviseEnv = []string{"GOMAXPROCS=2"}

// gonePrefix begins the name of a directory that is being removed; no id begins so.
const gonePrefix = ".gone-"

// Open makes the directory ready, and removes what an interrupted Remove left.
func Open(o Options) (*Runner, error) {
	dir, err := filepath.Abs(o.Dir)
	if err != nil {
		return nil, fmt.Errorf("open runner: %w", err)
	}
	r := &Runner{dir: dir, journal: o.Journal, executable: cmp.Or(o.Executable, selfPath)}
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

func (r *Runner) directory(a Attempt) directory {
	return directory(filepath.Join(r.dir, a.dirName()))
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
	s = s.withDefaults()
	fault("before-intent")
	if err := r.journal.Intent(s); err != nil {
		return nil, fmt.Errorf("start %s: %w", s.Attempt, err)
	}
	fault("after-intent")
	d := r.directory(s.Attempt)
	run := &Run{r: r, a: s.Attempt, d: d}
	if err := os.Mkdir(string(d), 0o700); err != nil && (startsOnce || !errors.Is(err, fs.ErrExist)) {
		if errors.Is(err, fs.ErrExist) {
			return nil, fmt.Errorf("start %s: %w: %q", s.Attempt, ErrExists, string(d))
		}
		return run.refuse(err), nil
	}
	if err := syncDir(r.dir); err != nil {
		return run.refuse(err), nil
	}
	fault("after-mkdir")
	if err := run.fork(s); err != nil {
		return run.refuse(err), nil
	}
	fault("after-fork")
	return run, nil
}

// fork starts the supervisor and hands it the lock.
func (run *Run) fork(s Spec) error {
	lock, err := run.d.prepare(s)
	if err != nil {
		return err
	}
	defer lock.Close() // the supervisor's copy of the same open file keeps it locked
	log, err := os.OpenFile(run.d.path(fileLog), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	fault("before-fork")
	cmd := &exec.Cmd{
		Path:        run.r.executable,
		Args:        []string{"agentd", SuperviseCommand, string(run.d)},
		Env:         superviseEnv,
		Dir:         "/",
		Stdout:      log,
		Stderr:      log,
		ExtraFiles:  []*os.File{lock}, // becomes lockFD
		SysProcAttr: &syscall.SysProcAttr{Setsid: true},
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start supervisor: %w", err)
	}
	run.cmd = cmd
	return nil
}

// Adopt gives a Run for an attempt whose intent is journalled and whose result is not:
// one that an earlier life of agentd started, or was about to. It starts nothing.
func (r *Runner) Adopt(a Attempt) (*Run, error) {
	if err := a.Validate(); err != nil {
		return nil, err
	}
	return &Run{r: r, a: a, d: r.directory(a)}, nil
}

// Attempts gives the attempts that have a directory, in no order. Some may not be in the
// journal, when that was lost; those may be removed once the new journal has its floor,
// and not before: until then the directory alone keeps them from being started again.
func (r *Runner) Attempts() ([]Attempt, error) {
	entries, err := os.ReadDir(r.dir)
	if err != nil {
		return nil, fmt.Errorf("list attempts: %w", err)
	}
	var all []Attempt
	for _, e := range entries {
		if a, ok := parseDirName(e.Name()); ok && e.IsDir() {
			all = append(all, a)
		}
	}
	return all, nil
}

// Output gives what is stored of an attempt's output, in order; offsets show gaps. It may
// be read while the program runs.
func (r *Runner) Output(a Attempt) iter.Seq2[StoredChunk, error] {
	if err := a.Validate(); err != nil {
		return func(yield func(StoredChunk, error) bool) { yield(StoredChunk{}, err) }
	}
	return r.directory(a).stored()
}

// Remove removes an attempt's directory. It is for attempts that the journal has
// forgotten, for the directory is what keeps an attempt from being started again. One
// whose supervisor lives is ErrRunning; one without a directory is no error.
func (r *Runner) Remove(a Attempt) error {
	if err := a.Validate(); err != nil {
		return err
	}
	d := r.directory(a)
	lock, held, err := d.tryLock()
	switch {
	case err != nil:
		return fmt.Errorf("remove %s: %w", a, err)
	case held:
		return fmt.Errorf("remove %s: %w", a, ErrRunning)
	case lock != nil:
		defer lock.Close()
	}
	gone := filepath.Join(r.dir, gonePrefix+a.dirName())
	if err := os.Rename(string(d), gone); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return fmt.Errorf("remove %s: %w", a, err)
	}
	if err := os.RemoveAll(gone); err != nil {
		return fmt.Errorf("remove %s: %w", a, err)
	}
	return nil
}

package agent

import (
	"context"
	"time"

	"github.com/agentplane/agentplane/agent/execute"
	"github.com/agentplane/agentplane/agent/output"
)

// A Runner starts and adopts attempts, as execute.Runner does. One that keeps output has
// the methods of that, too: Tail, which gives an output.Reader, Result, Keep and Kept.
type Runner interface {
	Start(context.Context, execute.Spec) (Run, error)
	Adopt(execute.Attempt) (Run, error)
	Attempts() ([]execute.Attempt, error)
	// Touched is when the directory of an attempt was changed last; false when there is none.
	Touched(execute.Attempt) (time.Time, bool)
	Remove(execute.Attempt) error
}

// A Run is one attempt, started or adopted, as execute.Run is.
type Run interface {
	Wait(context.Context) (execute.Result, error)
	Cancel() error
	Running() (since time.Time, ok bool)
}

// supervisors are the Runner of a real host.
type supervisors struct{ *execute.Runner }

func (s supervisors) Start(ctx context.Context, spec execute.Spec) (Run, error) {
	run, err := s.Runner.Start(ctx, spec)
	if err != nil {
		return nil, err // no interface around a nil pointer
	}
	return run, nil
}

func (s supervisors) Adopt(a execute.Attempt) (Run, error) {
	run, err := s.Runner.Adopt(a)
	if err != nil {
		return nil, err
	}
	return run, nil
}

// Tail begins to read an attempt's output.
func (s supervisors) Tail(a execute.Attempt) (output.Reader, error) {
	t, err := s.Runner.Tail(a)
	if err != nil {
		return nil, err
	}
	return tailReader{t}, nil
}

// openRunner makes what runs this agent's programs.
func (l *life) openRunner() (Runner, error) {
	o := execute.Options{
		Dir: l.dir.file(attemptsDir), Journal: l.book, Executable: l.o.Executable, BootID: l.o.BootID, Contact: l.contact.try,
		RebootWait: l.o.Settings().Run.RebootWait, Waits: l.book.waits,
	}
	if l.o.Runner != nil {
		return l.o.Runner(o)
	}
	r, err := execute.Open(o)
	if err != nil {
		return nil, err
	}
	return supervisors{r}, nil
}

package execute

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/agentplane/agentplane/proto/blob"
)

// at sets the step at hand, which has not ended.
func (run *Run) at(s StepRecord) {
	run.look.Lock()
	defer run.look.Unlock()
	s.Result = Result{}
	run.step, run.d = s, run.r.stepDirectory(run.a, s.Number)
	run.reaps, run.ended, run.settled, run.noted, run.rebootBy, run.unread = nil, nil, false, false, 0, time.Time{}
}

// advance brings the attempt to its end, one step after the other. After an error it goes
// on where it was.
func (run *Run) advance(ctx context.Context) (Result, error) {
	switch err := run.recall(); {
	case errors.Is(err, errDamaged):
		res, werr := run.wait(ctx)
		if werr != nil {
			return Result{}, werr
		}
		lost := Result{State: Lost, ExitCode: -1, Started: res.Started, StartedAt: res.StartedAt, EndedAt: res.EndedAt}
		lost.say("the first step ended as %s(%s), and no further one was started: %v", res.State, res.Reason, err)
		return lost, nil
	case err != nil:
		return Result{}, err
	}
	for {
		if run.ended == nil {
			res, err := run.wait(ctx)
			if err == nil {
				res, err = run.settle(ctx, res)
			}
			if err != nil {
				return Result{}, err
			}
			run.endStep(res)
		}
		if again, err := run.again(ctx); err != nil {
			return Result{}, err
		} else if again {
			continue
		}
		if run.step.Number == 0 {
			return *run.ended, nil
		}
		if !run.noted {
			run.d.fault("before-step-finish")
			noted := run.step
			noted.Result = *run.ended
			if err := run.r.journal.StepFinish(run.a, noted); err != nil && !run.goesOn(err) {
				return Result{}, err
			}
			run.noted = true
			run.d.fault("after-step-finish")
		}
		over, err := run.next()
		if err == nil && over != nil && !run.undoing() {
			over, err = run.guard(ctx, *over)
		}
		switch {
		case err != nil:
			return Result{}, err
		case over != nil:
			return run.whole(*over), nil
		}
	}
}

// recall has the first step at hand where the journal knows of no step, and the plan beside the
// program tells of some: the journal has lost them, or was put back. What has begun is then
// brought to its end like any other, and is not taken for the whole attempt.
func (run *Run) recall() error {
	if run.step.Number != 0 || run.ended != nil || !run.d.has(filePlan) {
		return nil
	}
	plan, err := run.d.readPlan(run.a)
	if err != nil {
		return fmt.Errorf("the plan of the steps cannot be used: %w", err)
	}
	first := StepRecord{Number: 1, Of: uint32(len(plan.Steps)), Name: plan.Steps[0].Name}
	if err := run.r.journal.StepIntent(run.a, first); err != nil && !run.goesOn(err) {
		return err
	}
	run.at(first)
	run.plan = plan
	return nil
}

// next starts the step that follows the one at hand, which has ended; or it gives how the
// attempt ends, when none follows.
func (run *Run) next() (over *Result, err error) {
	at, number := run.step, run.step.Number+1
	at.Result = *run.ended
	switch {
	case run.undoing():
		end := run.undone()
		return &end, nil
	case at.Result.State != Succeeded, at.Number >= at.Of:
		end := at.end()
		return &end, nil
	case run.cancelAsked():
		end := at.canceledAfter()
		return &end, nil
	}
	switch err := run.usePlan(); {
	case errors.Is(err, errDamaged):
		return &Result{
			State: Failed, Reason: ReasonNotPrepared, ExitCode: -1, EndedAt: at.Result.EndedAt,
			Detail: fmt.Sprintf("step %d of %d was not started: %v", number, at.Of, err),
		}, nil
	case err != nil:
		return nil, err // it is tried again
	}
	following := StepRecord{Number: number, Of: run.step.Of, Name: run.plan.Steps[number-1].Name}
	switch err := run.r.journal.StepIntent(run.a, following); {
	case run.goesOn(err):
		return &Result{ // nobody will be told, but what has run is undone
			State: Lost, ExitCode: -1, EndedAt: at.Result.EndedAt,
			Detail: fmt.Sprintf("step %d of %d was not started: %v", number, at.Of, err),
		}, nil
	case err != nil:
		return nil, err
	}
	run.at(following)
	run.d.fault("after-step-intent")
	if err := run.begin(run.asked()); err != nil && !errors.Is(err, ErrExists) {
		run.refuse(err)
	}
	// A cancel that came since had nobody to tell it to, or has told the supervisor.
	if run.cancelAsked() {
		return nil, run.Cancel()
	}
	return nil, nil
}

// errDamaged says that the plan of an attempt will never be read: it is gone, or is not what
// was written.
var errDamaged = errors.New("it is damaged")

// usePlan makes sure that it is known what all steps are. An error that is not errDamaged is
// one of the moment.
func (run *Run) usePlan() error {
	if run.plan != nil {
		return nil
	}
	plan, err := run.r.directory(run.a).readPlan(run.a)
	if err == nil && len(plan.Steps) != int(run.step.Of) {
		err = fmt.Errorf("%w: it has %d steps, the journal knows of %d", errDamaged, len(plan.Steps), run.step.Of)
	}
	if err != nil {
		return fmt.Errorf("the plan of the steps cannot be used: %w", err)
	}
	run.plan = plan
	return nil
}

// end is how an attempt ends when no step follows this one.
func (s StepRecord) end() Result {
	end := s.Result
	if end.State == Succeeded {
		return end
	}
	if end.State == Rejected && s.Number > 1 {
		end.State = Failed // of the attempt some has run
	}
	if s.Name != soleStep {
		end.Detail = fmt.Sprintf("step %d of %d (%s): %s", s.Number, s.Of, s.Name, end.Detail)
	}
	return end
}

// canceledAfter is how an attempt ends that is canceled when this step has succeeded.
func (s StepRecord) canceledAfter() Result {
	return Result{
		State: Canceled, Reason: ReasonCanceled, ExitCode: -1, EndedAt: s.Result.EndedAt,
		Detail: fmt.Sprintf("canceled before step %d of %d was started", s.Number+1, s.Of),
	}
}

// whole is the result of an attempt that ends with end: beside that it counts what all steps
// did that have begun.
func (run *Run) whole(end Result) Result {
	var sum summary
	var started time.Time
	end.Started, end.StdoutBytes, end.StderrBytes, end.Unstored, end.Duration = false, 0, 0, 0, 0
	end.UserTime, end.SystemTime, end.MaxRSSBytes = 0, 0, 0
	for _, s := range run.r.journal.Steps(run.a) {
		r := s.Result
		if !end.Started && r.Started {
			started = r.StartedAt
		}
		end.Started = end.Started || r.Started
		end.Duration += r.Duration
		end.StdoutBytes += r.StdoutBytes
		end.StderrBytes += r.StderrBytes
		var exit Result // has the rest; without it the output has a gap
		_ = run.r.stepDirectory(run.a, s.Number).read(fileExit, typeExit, &exit)
		sum.join(exit.Head, exit.Tail, r.StdoutBytes+r.StderrBytes)
		end.Unstored += exit.Unstored
		end.UserTime += exit.UserTime
		end.SystemTime += exit.SystemTime
		end.MaxRSSBytes = max(end.MaxRSSBytes, exit.MaxRSSBytes)
	}
	end.StartedAt, end.Head, end.Tail = started, sum.head, sum.tail
	return end
}

// step is the spec of one step, to which its share of the bound of output is left. Of a spec
// without steps it is the spec itself.
func (s Spec) step(number uint32) Spec {
	if len(s.Steps) == 0 {
		return s
	}
	step := s.Steps[number-1]
	one := s
	one.Argv, one.Script, one.Steps, one.Undo = step.Argv, step.Script, nil, nil
	if step.Name != soleStep {
		one.number, one.name = number, step.Name
	}
	one.OutputBytes = s.shareBytes()
	if step.Timeout > 0 {
		one.Timeout = step.Timeout
	}
	if number > 1 {
		one.Files, one.Stdin, one.Input = nil, "", blob.Ref{} // they are of the first
	}
	return one
}

// shareBytes is what of the bound of output is left to each step, and to the undo.
func (s Spec) shareBytes() int64 {
	n := int64(len(s.Steps))
	if s.Undo != nil {
		n++
	}
	return max(s.OutputBytes/n, minOutputBytes)
}

// planFile is what an attempt of several steps was asked to do. It lies in the directory of
// the first, durable before anything is started, so that a later life of agentd can go on.
type planFile struct {
	CommandID   string
	AgentID     string
	Fence       uint64
	TraceParent string
	Env         [][]byte
	Dir         []byte
	Timeout     time.Duration
	KillGrace   time.Duration
	OutputBytes int64
	Steps       []planStep
	Undo        *planUndo `json:",omitempty"`
}

type planUndo struct {
	planStep
	Within    time.Duration
	ByContact bool
}

type planStep struct {
	Name    string
	Argv    [][]byte
	Script  []byte
	Timeout time.Duration
}

// keepPlan stores what the steps are. Their secrets lie in a file of their own, which goes
// when the attempt has its result.
func (d directory) keepPlan(s Spec) error {
	p := planFile{
		CommandID: s.CommandID, AgentID: s.AgentID, Fence: s.Fence, TraceParent: s.TraceParent, Env: toBytes(s.Env), Dir: []byte(s.Dir),
		Timeout: s.Timeout, KillGrace: s.KillGrace, OutputBytes: s.OutputBytes,
	}
	for _, step := range s.Steps {
		p.Steps = append(p.Steps, planStep{Name: step.Name, Argv: toBytes(step.Argv), Script: step.Script, Timeout: step.Timeout})
	}
	if u := s.Undo; u != nil {
		p.Undo = &planUndo{planStep: planStep{Argv: toBytes(u.Argv), Script: u.Script, Timeout: u.Timeout}, Within: u.Within, ByContact: u.ByContact}
	}
	if s.Undo != nil {
		if err := d.mark(fileUndo); err != nil {
			return err
		}
	}
	if len(s.Secrets) > 0 {
		if err := d.write(fileLater, typeSecrets, toBytes(s.Secrets), true); err != nil {
			return err
		}
	}
	return d.write(filePlan, typePlan, p, true)
}

// readPlan reads it again.
func (d directory) readPlan(a Attempt) (*Spec, error) {
	var p planFile
	if err := d.readWhole(filePlan, typePlan, &p); err != nil {
		return nil, err
	}
	s := Spec{
		Attempt: a, CommandID: p.CommandID, AgentID: p.AgentID, Fence: p.Fence, TraceParent: p.TraceParent, Env: toStrings(p.Env), Dir: string(p.Dir),
		Timeout: p.Timeout, KillGrace: p.KillGrace, OutputBytes: p.OutputBytes,
	}
	for _, step := range p.Steps {
		s.Steps = append(s.Steps, Step{Name: step.Name, Argv: toStrings(step.Argv), Script: step.Script, Timeout: step.Timeout})
	}
	if u := p.Undo; u != nil {
		s.Undo = &Undo{Argv: toStrings(u.Argv), Script: u.Script, Timeout: u.Timeout, Within: u.Within, ByContact: u.ByContact}
	}
	var secrets [][]byte
	if err := d.readWhole(fileLater, typeSecrets, &secrets); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	s.Secrets = toStrings(secrets)
	if err := s.Validate(); err != nil {
		return nil, fmt.Errorf("%w: %w", errDamaged, err)
	}
	return &s, nil
}

// readWhole reads a record that must be there. An error that is not errDamaged is one of the
// moment: the host has no file to open, or its disk gave none of it.
func (d directory) readWhole(name string, want byte, v any) error {
	err := d.read(name, want, v)
	if err == nil || unread(err) {
		return err
	}
	return fmt.Errorf("%w: %w", errDamaged, err)
}

// unread says that a record could not be read, which tells nothing of what is there.
func unread(err error) bool {
	_, now := errors.AsType[*fs.PathError](err)
	return now && !errors.Is(err, fs.ErrNotExist)
}

// forgetLater removes the secrets of further steps.
func (d directory) forgetLater() error {
	if err := os.Remove(d.path(fileLater)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// printed is what a step that has ended has printed; last is up to where it was read, which
// is all that is known when there is no result.
func (d directory) printed(last printed) printed {
	var res Result
	if d.read(fileExit, typeExit, &res) != nil {
		return last
	}
	return printed{res.StdoutBytes, res.StderrBytes}
}

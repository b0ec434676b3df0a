package execute

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// What an undo does without: the cache, the program, the plan for a moment, the journal.

// What the command brings along is of its first program: the undo finds what that has made of
// it, and needs no cache.
func TestAnUndoBringsNothingAlong(t *testing.T) {
	cache, to := t.TempDir(), filepath.Join(t.TempDir(), "file")
	s := guarded("cat; cat "+to+"; echo 'changed' > "+to, 200*time.Millisecond)
	s.Undo.Argv[2] = "cat; cat " + to
	s.Files = []File{fileOf(t, cache, "file ", to)}
	s.Stdin, _ = content(t, cache, "input ")
	r, m := newRunner(t)
	run := start(t, r, s)
	must(t, os.RemoveAll(cache))
	res := wait(t, run)
	wantResult(t, res, Failed, ReasonUndone)
	wantSteps(t, m, " SUCCEEDED(exit)", "not_confirmed SUCCEEDED(exit)")
	if out := text2(res.Head, res.Tail); out != "input file changed\n" {
		t.Errorf("they printed %q", out)
	}
}

// Files that were put in place are a change, although no program was let go after that.
func TestFilesInTheirPlacesAreUndone(t *testing.T) {
	for name, c := range map[string]struct {
		fault  string
		change func(s *Spec, to string)
		state  State
		reason string
		undone bool
	}{
		"no such program": {"", func(s *Spec, _ string) { s.Script, s.Argv = nil, []string{"/no/such"} }, Failed, ReasonNotFound, true},
		"a rename that fails after another": {"", func(s *Spec, to string) {
			// The first file takes the place of a link through which the second is reached.
			must(t, os.Symlink(t.TempDir(), filepath.Join(to, "link")))
			s.Files[0].Path, s.Files[1].Path = filepath.Join(to, "link"), filepath.Join(to, "link", "file")
		}, Failed, ReasonNotPlaced, true},
		"nothing is written":     {"", func(s *Spec, to string) { s.Files[1].Path = filepath.Join(to, "none", "file") }, Failed, ReasonNotPlaced, false},
		"a death before renames": {"supervisor-written", nil, Lost, ReasonSupervisorGone, false},
		"a death among renames":  {"supervisor-renamed", nil, Lost, ReasonSupervisorGone, true},
		"a death after them":     {"supervisor-placed", nil, Lost, ReasonSupervisorGone, true},
		"a death at the gate":    {"supervisor-forked", nil, Lost, ReasonSupervisorGone, true},
	} {
		t.Run(name, func(t *testing.T) {
			was := superviseEnv
			superviseEnv = append(slices.Clone(was), envFaults+"="+c.fault)
			defer func() { superviseEnv = was }()
			cache, to := t.TempDir(), t.TempDir()
			s := guarded("echo ran", time.Hour)
			for _, name := range []string{"a", "b"} {
				s.Files = append(s.Files, fileOf(t, cache, name, filepath.Join(to, name)))
			}
			if c.change != nil {
				c.change(&s, to)
			}
			s.Undo.Argv[2] = "echo undone"
			r, _ := newRunner(t)
			res := wait(t, start(t, r, s))
			wantResult(t, res, c.state, c.reason)
			if out := text2(res.Head, res.Tail); (out == "undone\n") != c.undone || !c.undone && out != "" || res.Started != c.undone {
				t.Errorf("it printed %q; result %+v", out, res)
			}
		})
	}
}

// A plan that cannot be read at one moment is read at the next; till then nothing is told.
func TestAPlanIsReadUntilItCanBe(t *testing.T) {
	two := inSteps("echo a", "echo b")
	two.Undo = guarded("", time.Second).Undo
	for name, c := range map[string]struct {
		spec   Spec
		known  []StepRecord // to the journal, of an attempt whose first program has ended
		output string
	}{
		"it waits":             {guarded("echo a", time.Second), []StepRecord{{Number: 1, Of: 1, Result: Result{State: Succeeded, Reason: ReasonExit, Started: true}}}, "a\nundo: not_confirmed undo \n"},
		"a step is to follow":  {two, []StepRecord{{Number: 1, Of: 2, Name: "a", Result: Result{State: Succeeded, Reason: ReasonExit, Started: true}}}, "a\nb\nundo: not_confirmed undo \n"},
		"the undo is to begin": {guarded("echo a", time.Second), []StepRecord{{Number: 1, Of: 1, Result: Result{State: Succeeded, Reason: ReasonExit, Started: true}}, {Number: 2, Of: 1, Name: CauseNotConfirmed}}, "a\nundo: not_confirmed undo \n"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, m := newRunner(t)
			run := start(t, r, c.spec)
			eventually(t, "the program's end", func() bool { return run.d.has(fileExit) })
			m.steps[c.spec.Attempt] = c.known
			plan := run.d.path(filePlan)
			must(t, os.Rename(plan, plan+".aside"))
			must(t, os.Mkdir(plan, 0o700))
			adopted, err := r.Adopt(c.spec.Attempt)
			must(t, err)
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			if res, err := adopted.Wait(ctx); err == nil || ctx.Err() != nil {
				t.Fatalf("Wait without the plan gives %+v, %v", res, err)
			}
			must(t, os.Remove(plan))
			must(t, os.Rename(plan+".aside", plan))
			wantResult(t, wait(t, adopted), Failed, ReasonUndone)
			if out := stored(t, r); out != c.output {
				t.Errorf("it printed %q", out)
			}
		})
	}
}

func TestADamagedPlanLeavesNothingSucceededThatWaits(t *testing.T) {
	two := inSteps("echo a", "echo b")
	two.Undo = guarded("", time.Hour).Undo
	for name, c := range map[string]struct {
		spec   Spec
		damage func(path string) error
		state  State
		reason string
	}{
		"it is gone":                       {guarded("echo a", time.Hour), os.Remove, Failed, ReasonUndoFailed},
		"it is cut":                        {guarded("echo a", time.Hour), func(path string) error { return os.Truncate(path, 20) }, Failed, ReasonUndoFailed},
		"before the second step of two":    {two, os.Remove, Failed, ReasonNotPrepared},
		"of what has nothing to be undone": {inSteps("echo a"), os.Remove, Succeeded, ReasonExit},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, m := newRunner(t)
			run := start(t, r, c.spec)
			eventually(t, "the program's end", func() bool { return run.d.has(fileExit) })
			must(t, c.damage(run.d.path(filePlan)))
			adopted, err := r.Adopt(c.spec.Attempt)
			must(t, err)
			res := wait(t, adopted)
			wantResult(t, res, c.state, c.reason)
			if undo := c.spec.Undo != nil; strings.Contains(res.Detail, "the undo is REJECTED (not_prepared): the plan of the steps cannot be used: it is damaged") != undo || stored(t, r) != "a\n" || m.armed != 0 {
				t.Errorf("result is %+v", res)
			}
		})
	}
}

// The journal of another life does not know the attempt, and can neither arm nor keep it.
func TestAnUndoNeedsNoJournal(t *testing.T) {
	r, m := newRunner(t)
	s := guarded("sleep 0.2", 300*time.Millisecond)
	run := start(t, r, s)
	r.journal = &forgetful{memory: m}
	if _, err := run.Wait(context.Background()); !errors.Is(err, ErrNoRecord) {
		t.Errorf("Wait gives %v, want that nothing can be told", err)
	}
	if got := stored(t, r); got != "undo: not_confirmed undo \n" {
		t.Errorf("it printed %q", got)
	}
}

// A journal that is put aside at a moment of its own changes nothing on the host.
func TestAnUndoNeedsNoJournalWhenever(t *testing.T) {
	// abandoned waits for an end that nobody can be told.
	abandoned := func(t *testing.T, run *Run, output string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		if _, err := run.Wait(ctx); !errors.Is(err, ErrNoRecord) {
			t.Errorf("Wait gives %v, want that nothing can be told", err)
		}
		if got := stored(t, run.r); got != output {
			t.Errorf("it printed %q, want %q", got, output)
		}
	}
	t.Run("between two steps", func(t *testing.T) {
		r, m := newRunner(t)
		s := inSteps("echo a", "echo b")
		s.Undo = guarded("", time.Hour).Undo
		run := start(t, r, s)
		r.journal = &forgetful{memory: m}
		abandoned(t, run, "a\nundo: lost undo \n")
	})
	t.Run("when it was adopted", func(t *testing.T) {
		r, m := newRunner(t)
		release := filepath.Join(t.TempDir(), "go")
		first := start(t, r, guarded("while [ ! -e "+release+" ]; do sleep 0.01; done", 300*time.Millisecond))
		supervisorOf(t, first.d)
		run, err := r.Adopt(first.Attempt())
		must(t, err)
		r.journal = &forgetful{memory: m}
		must(t, os.Remove(run.d.path(filePlan))) // it knows what is to be done
		must(t, os.WriteFile(release, nil, 0o600))
		abandoned(t, run, "undo: not_confirmed undo \n")
	})
	t.Run("and contact confirms", func(t *testing.T) {
		r, m := newRunner(t)
		r.contact = func(context.Context) (string, error) { return "n1", nil }
		s := guarded("sleep 0.2", time.Hour)
		s.Undo.ByContact = true
		run := start(t, r, s)
		r.journal = &forgetful{memory: m}
		if err := run.Keep("ann"); !errors.Is(err, ErrNoRecord) {
			t.Errorf("Keep while the program runs gives %v", err)
		}
		abandoned(t, run, "")
	})
	t.Run("after the confirmation", func(t *testing.T) {
		r, m := newRunner(t)
		run := start(t, r, guarded("true", 500*time.Millisecond))
		leave(t, m, run)
		must(t, run.Keep("ann"))
		r.journal = &forgetful{memory: m}
		abandoned(t, run, "")
	})
	t.Run("after a reboot", func(t *testing.T) {
		m := &memory{intents: map[Attempt]bool{}, results: map[Attempt]Result{}, steps: map[Attempt][]StepRecord{}, guards: map[Attempt]Guard{}}
		r, host := newBench(t, m, filepath.Join(t.TempDir(), "runs"))
		leave(t, m, start(t, r, guarded("true", 10*time.Minute)))
		host.restart("boot-2", time.Minute)
		var run *Run
		for range 2 { // the second finds it armed
			var err error
			run, err = r.Adopt(shell("").Attempt)
			must(t, err)
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			if res, err := run.Wait(ctx); !errors.Is(err, context.DeadlineExceeded) {
				t.Fatalf("it ended: %+v, %v", res, err)
			}
			cancel()
		}
		r.journal = &forgetful{memory: m}
		host.restart("boot-2", 12*time.Minute)
		abandoned(t, run, "undo: not_confirmed undo \n")
	})
}

// forgetful is a journal that has been put aside.
type forgetful struct{ *memory }

func (*forgetful) Finish(Attempt, Result) error            { return ErrNoRecord }
func (*forgetful) StepIntent(Attempt, StepRecord) error    { return ErrNoRecord }
func (*forgetful) StepFinish(Attempt, StepRecord) error    { return ErrNoRecord }
func (*forgetful) Steps(Attempt) []StepRecord              { return nil }
func (*forgetful) Arm(Attempt, Guard, time.Duration) error { return ErrNoRecord }
func (*forgetful) Keep(Attempt, string, bool) error        { return ErrNoRecord }
func (*forgetful) Guard(Attempt) (Guard, bool)             { return Guard{}, false }

package execute

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// guarded is a shell line with an undo, which says why it runs and where it was.
func guarded(line string, within time.Duration) Spec {
	s := shell(line)
	s.KillGrace = time.Second
	s.Undo = &Undo{Argv: []string{"sh", "-c", `echo "undo: $AGENTPLANE_UNDO $AGENTPLANE_STEP_NAME $DB"`}, Within: within}
	return s
}

// waits waits until the attempt waits for a confirmation.
func waits(t testing.TB, m *memory) {
	t.Helper()
	eventually(t, "the wait for a confirmation", func() bool {
		_, ok := m.Guard(shell("").Attempt)
		return ok
	})
}

func result(t testing.TB, run *Run) chan Result {
	ended := make(chan Result, 1)
	go func() {
		res, err := run.Wait(context.Background())
		if err != nil {
			t.Errorf("wait: %v", err)
		}
		ended <- res
	}()
	return ended
}

func TestWhatIsConfirmedStays(t *testing.T) {
	r, m := newRunner(t)
	s := guarded("echo change; echo $AGENTPLANE_STEP", time.Minute)
	s.Secrets = []string{"DB=hunter2"}
	run := start(t, r, s)
	if err := run.Keep("ann"); err == nil && m.armed == 0 {
		t.Error("it was confirmed before its program had ended")
	}
	ended := result(t, run)
	waits(t, m)
	must(t, run.Keep("ann"))
	must(t, run.Keep("ann"))
	res := <-ended
	wantResult(t, res, Succeeded, ReasonExit)
	wantSteps(t, m, " SUCCEEDED(exit)")
	if out := text(res.Head, Stdout); out != "change\n\n" || res.Detail != "" || !res.Started {
		t.Errorf("result is %+v, and it printed %q", res, out)
	}
	if exists(string(r.stepDirectory(s.Attempt, 2))) || exists(r.directory(s.Attempt).path(fileLater)) {
		t.Error("the undo has a directory, or its secrets are left")
	}
}

func TestWhatIsNotConfirmedIsUndone(t *testing.T) {
	r, m := newRunner(t)
	s := guarded("echo change", 200*time.Millisecond)
	s.Secrets = []string{"DB=hunter2"}
	begin := time.Now()
	run := start(t, r, s)
	res := wait(t, run)
	if took := time.Since(begin); took < 200*time.Millisecond {
		t.Errorf("it was undone after %s", took)
	}
	wantResult(t, res, Failed, ReasonUndone)
	wantSteps(t, m, " SUCCEEDED(exit)", "not_confirmed SUCCEEDED(exit)")
	if out := text(res.Head, Stdout); out != "change\nundo: not_confirmed undo hunter2\n" || stored(t, r) != out || res.ExitCode != 0 || res.StdoutBytes != uint64(len(out)) {
		t.Errorf("result is %+v, and it printed %q", res, out)
	}
	if res.Detail != "it was not confirmed in time; the undo has succeeded" {
		t.Errorf("detail is %q", res.Detail)
	}
	if err := run.Keep("ann"); !errors.Is(err, errTooLate) {
		t.Errorf("Keep after it was undone gives %v", err)
	}
	must(t, r.Remove(s.Attempt))
	if entries, _ := os.ReadDir(r.dir); len(entries) > 0 {
		t.Errorf("%v are left", entries)
	}
}

// Whatever began and did not succeed is undone at once, and keeps its own end.
func TestWhatDoesNotSucceedIsUndoneAtOnce(t *testing.T) {
	for name, c := range map[string]struct {
		spec   Spec
		cancel bool
		state  State
		reason string
		code   int
		steps  []string
	}{
		"an exit code": {guarded("exit 3", time.Hour), false, Failed, ReasonExit, 3, []string{" FAILED(exit)", "failed SUCCEEDED(exit)"}},
		"its time": {func() Spec {
			s := guarded("sleep 60", time.Hour)
			s.Timeout, s.Undo.Timeout = time.Second, time.Minute
			return s
		}(), false, TimedOut, ReasonTimeout, -1, []string{" TIMED_OUT(timeout)", "timed_out SUCCEEDED(exit)"}},
		"a cancel": {guarded("echo up; sleep 60", time.Hour), true, Canceled, ReasonCanceled, -1, []string{" CANCELED(canceled)", "canceled SUCCEEDED(exit)"}},
		"the second of two": {func() Spec {
			s := inSteps("echo a", "exit 4")
			s.Undo = guarded("", time.Hour).Undo
			return s
		}(), false, Failed, ReasonExit, 4, []string{"a SUCCEEDED(exit)", "b FAILED(exit)", "failed SUCCEEDED(exit)"}},
		"no program for the second": {func() Spec {
			s := inSteps("echo a", "")
			s.Steps[1] = Step{Name: "b", Argv: []string{"/no/such"}}
			s.Undo = guarded("", time.Hour).Undo
			return s
		}(), false, Failed, ReasonNotFound, 127, []string{"a SUCCEEDED(exit)", "b FAILED(not_found)", "failed SUCCEEDED(exit)"}},
		"no program at all: nothing is to be undone": {func() Spec {
			s := guarded("", time.Hour)
			s.Script, s.Argv = nil, []string{"/no/such"}
			return s
		}(), false, Failed, ReasonNotFound, 127, []string{" FAILED(not_found)"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, m := newRunner(t)
			run := start(t, r, c.spec)
			if c.cancel {
				eventually(t, "the program", func() bool { return stored(t, r) == "up\n" })
				must(t, run.Cancel())
			}
			res := wait(t, run)
			wantResult(t, res, c.state, c.reason)
			wantSteps(t, m, c.steps...)
			if res.ExitCode != c.code || m.armed != 0 || (len(c.steps) > 1) != strings.Contains(res.Detail, "the undo has succeeded") {
				t.Errorf("result is %+v, it was armed %d times", res, m.armed)
			}
		})
	}
}

func TestCancelOfWhatWaitsUndoesIt(t *testing.T) {
	r, m := newRunner(t)
	run := start(t, r, guarded("echo change", time.Hour))
	ended := result(t, run)
	waits(t, m)
	must(t, run.Cancel())
	res := <-ended
	wantResult(t, res, Canceled, ReasonUndone)
	wantSteps(t, m, " SUCCEEDED(exit)", "canceled SUCCEEDED(exit)")
	if res.Detail != "it was canceled before it was confirmed; the undo has succeeded" {
		t.Errorf("detail is %q", res.Detail)
	}
}

// What was canceled is not confirmed any more, also when the cancel has woken nobody yet, and in
// a later life of agentd; what was confirmed stays so.
func TestAConfirmationAfterACancelIsRefused(t *testing.T) {
	r, m := newRunner(t)
	run := start(t, r, guarded("echo change", time.Hour))
	leave(t, m, run)
	must(t, run.Cancel())
	adopted, err := r.Adopt(run.Attempt())
	must(t, err)
	for _, run := range []*Run{run, adopted} {
		if err := run.Keep("ann"); !errors.Is(err, ErrCanceled) {
			t.Errorf("Keep after a cancel gives %v", err)
		}
	}
	wantResult(t, wait(t, adopted), Canceled, ReasonUndone)

	r, m = newRunner(t)
	run = start(t, r, guarded("echo change", time.Hour))
	leave(t, m, run)
	must(t, run.Keep("ann"))
	must(t, run.Cancel())
	must(t, run.Keep("ann"))
	wantResult(t, wait(t, run), Succeeded, ReasonExit)
}

func TestAnUndoIsNotCanceled(t *testing.T) {
	r, m := newRunner(t)
	s := guarded("exit 3", time.Hour)
	s.Undo.Argv[2] = "echo begun; sleep 0.5; echo done"
	run := start(t, r, s)
	ended := result(t, run)
	eventually(t, "the undo", func() bool { return exists(r.stepDirectory(s.Attempt, 2).path(fileStarted)) })
	must(t, run.Cancel())
	res := <-ended
	wantResult(t, res, Failed, ReasonExit)
	wantSteps(t, m, " FAILED(exit)", "failed SUCCEEDED(exit)")
	if out := text(res.Head, Stdout); out != "begun\ndone\n" {
		t.Errorf("it printed %q", out)
	}
}

func TestAnUndoThatFailsIsSaid(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*Spec)
		state  State
		reason string
		detail string
	}{
		"an exit code": {func(s *Spec) { s.Undo.Argv[2] = "exit 5" }, Failed, ReasonUndoFailed, "it was not confirmed in time; the undo is FAILED (exit): the program ended with 5"},
		"its own time": {func(s *Spec) { s.Undo.Argv[2], s.Undo.Timeout = "sleep 60", 100*time.Millisecond }, Failed, ReasonUndoFailed, "it was not confirmed in time; the undo is TIMED_OUT (timeout): "},
		"no program":   {func(s *Spec) { s.Undo.Argv = []string{"/no/such"} }, Failed, ReasonUndoFailed, "it was not confirmed in time; the undo is FAILED (not_found): "},
		"of what failed": {
			func(s *Spec) { s.Script, s.Undo.Argv[2] = []byte("exit 3"), "exit 5" }, Failed, ReasonExit,
			"the program ended with 3; the undo is FAILED (exit): the program ended with 5",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, _ := newRunner(t)
			s := guarded("echo change", 50*time.Millisecond)
			c.change(&s)
			res := wait(t, start(t, r, s))
			wantResult(t, res, c.state, c.reason)
			if !strings.HasPrefix(res.Detail, c.detail) {
				t.Errorf("detail is %q, want %q", res.Detail, c.detail)
			}
		})
	}
}

// A host that cannot start the undo at once starts it as soon as it can.
func TestAnUndoThatCannotBeStartedIsTriedAgain(t *testing.T) {
	r, m := newRunner(t)
	s := guarded("echo change", 100*time.Millisecond)
	agentd := filepath.Join(t.TempDir(), "agentd")
	r.supervisors = processes{agentd}
	must(t, os.Symlink("/proc/self/exe", agentd))
	ended := result(t, start(t, r, s))
	waits(t, m)
	must(t, os.Remove(agentd))
	eventually(t, "a try that failed", func() bool {
		return exists(string(r.stepDirectory(s.Attempt, 2)))
	})
	must(t, os.Symlink("/proc/self/exe", agentd))
	wantResult(t, <-ended, Failed, ReasonUndone)
	wantSteps(t, m, " SUCCEEDED(exit)", "not_confirmed SUCCEEDED(exit)")
}

// bench is a host of which a test says when it boots, and how much longer than this one it is
// up.
type bench struct {
	boot  atomic.Value
	ahead atomic.Int64
}

func (b *bench) uptime() time.Duration { return uptime() + time.Duration(b.ahead.Load()) }

// restart boots the host under another name; it is up for so long.
func (b *bench) restart(name string, up time.Duration) {
	b.boot.Store(name)
	b.ahead.Store(int64(up - uptime()))
}

func newBench(t testing.TB, m *memory, dir string) (*Runner, *bench) {
	t.Helper()
	b := &bench{}
	boot, err := BootID() // what supervisors note
	must(t, err)
	b.boot.Store(boot)
	r, err := Open(Options{
		Dir: dir, Journal: m,
		BootID: func() (string, error) { return b.boot.Load().(string), nil }, Uptime: b.uptime,
	})
	must(t, err)
	return r, b
}

// leave lets an attempt run until it waits, and leaves it as agentd does when it ends.
func leave(t testing.TB, m *memory, run *Run) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	left := make(chan error, 1)
	go func() {
		_, err := run.Wait(ctx)
		left <- err
	}()
	waits(t, m)
	cancel()
	if err := <-left; !errors.Is(err, context.Canceled) {
		t.Fatalf("Wait gives %v", err)
	}
}

func TestTheWaitGoesOnByUptimeAndBeginsAnewOnceWithTheHost(t *testing.T) {
	m := &memory{intents: map[Attempt]bool{}, results: map[Attempt]Result{}, steps: map[Attempt][]StepRecord{}, guards: map[Attempt]Guard{}}
	r, host := newBench(t, m, filepath.Join(t.TempDir(), "runs"))
	s := guarded("echo change", 10*time.Minute)
	leave(t, m, start(t, r, s))
	first, _ := m.Guard(s.Attempt)
	if first.Again || first.Deadline > host.uptime()+10*time.Minute || first.Deadline < host.uptime()+9*time.Minute {
		t.Fatalf("armed as %+v", first)
	}
	again := func(do func()) Guard {
		run, err := r.Adopt(s.Attempt)
		must(t, err)
		ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
		defer cancel()
		do()
		if res, err := run.Wait(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("it ended: %+v, %v", res, err)
		}
		g, _ := m.Guard(s.Attempt)
		return g
	}
	// agentd is started anew: what is left of the wait is left.
	if g := again(func() { host.ahead.Store(int64(9 * time.Minute)) }); g != first {
		t.Errorf("after a restart of agentd it is armed as %+v", g)
	}
	// The host is started anew: the whole of it, by the new uptime.
	g := again(func() { host.restart("boot-2", time.Minute) })
	if left := g.Deadline - 11*time.Minute; g.BootID != "boot-2" || !g.Again || left < 0 || left > time.Minute {
		t.Errorf("after a reboot it is armed as %+v", g)
	}
	if once := again(func() { host.restart("boot-2", 10*time.Minute) }); once != g || m.armed != 2 {
		t.Errorf("it is armed as %+v, %d times", once, m.armed)
	}
	// And once more: nobody can wait for a host that goes on doing that.
	run, err := r.Adopt(s.Attempt)
	must(t, err)
	host.restart("boot-3", time.Minute)
	res := wait(t, run)
	wantResult(t, res, Failed, ReasonUndone)
	wantSteps(t, m, " SUCCEEDED(exit)", "reboot SUCCEEDED(exit)")
	if !strings.HasPrefix(res.Detail, "the host was started anew twice before it was confirmed; the undo") {
		t.Errorf("detail is %q", res.Detail)
	}
}

func TestTheWaitIsOverWhileAgentdIsAway(t *testing.T) {
	m := &memory{intents: map[Attempt]bool{}, results: map[Attempt]Result{}, steps: map[Attempt][]StepRecord{}, guards: map[Attempt]Guard{}}
	r, host := newBench(t, m, filepath.Join(t.TempDir(), "runs"))
	s := guarded("echo change", 10*time.Minute)
	leave(t, m, start(t, r, s))
	host.ahead.Store(int64(2 * time.Hour))
	run, err := r.Adopt(s.Attempt)
	must(t, err)
	wantResult(t, wait(t, run), Failed, ReasonUndone)
}

func TestContactConfirms(t *testing.T) {
	for name, c := range map[string]struct {
		answers func(n int) error
		within  time.Duration
		state   State
		reason  string
		by      string
	}{
		"at once":              {func(int) error { return nil }, time.Minute, Succeeded, ReasonExit, "node n1"},
		"when it comes back":   {func(n int) error { return map[bool]error{true: errors.New("no way")}[n < 2] }, time.Minute, Succeeded, ReasonExit, "node n1"},
		"not when it does not": {func(int) error { return errors.New("no way") }, 2500 * time.Millisecond, Failed, ReasonUndone, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := &memory{intents: map[Attempt]bool{}, results: map[Attempt]Result{}, steps: map[Attempt][]StepRecord{}, guards: map[Attempt]Guard{}}
			tries := 0
			r, err := Open(Options{Dir: filepath.Join(t.TempDir(), "runs"), Journal: m, Contact: func(context.Context) (string, error) {
				tries++
				if _, ok := m.Guard(shell("").Attempt); !ok && tries == 1 {
					t.Error("contact was sought before the program had ended")
				}
				return "n1", c.answers(tries)
			}})
			must(t, err)
			s := guarded("sleep 0.2", c.within)
			s.Undo.ByContact = true
			res := wait(t, start(t, r, s))
			wantResult(t, res, c.state, c.reason)
			if m.by != c.by || tries == 0 {
				t.Errorf("it was confirmed by %q after %d tries", m.by, tries)
			}
			if c.state == Failed && res.Detail != "the cluster was not reached in time; the undo has succeeded" {
				t.Errorf("detail is %q", res.Detail)
			}
		})
	}
}

func TestAnUndoIsValidated(t *testing.T) {
	for name, change := range map[string]func(*Undo){
		"no program":        func(u *Undo) { u.Argv = nil },
		"two programs":      func(u *Undo) { u.Script = []byte("true") },
		"no wait":           func(u *Undo) { u.Within = 0 },
		"a negative time":   func(u *Undo) { u.Timeout = -1 },
		"a zero byte in it": func(u *Undo) { u.Argv = []string{"a\x00"} },
		"too large":         func(u *Undo) { u.Argv, u.Script = nil, make([]byte, maxSpecBytes+1) },
	} {
		s := guarded("true", time.Minute)
		change(s.Undo)
		if err := s.Validate(); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// undoable is a program with an undo, both of which say outside of the product that they
// were started.
func undoable(dir string) Spec {
	witness := func(word string) string {
		return `echo "$AGENTPLANE_INVOCATION_ID $AGENTPLANE_ATTEMPT ` + word + `" >> ` + filepath.Join(dir, "witness") + "\n"
	}
	s := guarded(witness("p"), 300*time.Millisecond)
	if exists(filepath.Join(dir, "keep")) {
		s.Undo.Within = time.Minute
	}
	s.Undo.Argv, s.Undo.Script = nil, []byte(witness("u"))
	if exists(filepath.Join(dir, "secret")) {
		s.Secrets = []string{"DB=hunter2"}
	}
	return s
}

// TestUndoKilledAtEveryPoint kills the agent, the supervisor of the undo, or both, between the
// program's end and the result: the undo runs once where only the agent dies, never twice, and
// never after the confirmation was journalled.
func TestUndoKilledAtEveryPoint(t *testing.T) {
	type end struct {
		state   State
		reason  string
		started []string
	}
	undone := end{Failed, ReasonUndone, []string{"pu"}}
	failed := func(started ...string) end { return end{Failed, ReasonUndoFailed, started} }
	kept := end{Succeeded, ReasonExit, []string{"p"}}
	lost := func(started ...string) end { return end{Lost, ReasonSupervisorGone, started} }
	for name, c := range map[string]struct {
		faults []string
		agent  bool // dies too
		keep   bool
		want   end
	}{
		"agent before the program's mkdir":  {[]string{"after-step-intent"}, true, false, end{Lost, ReasonAgentRestart, []string{""}}},
		"agent after the program's fork":    {[]string{"after-fork"}, true, false, undone},
		"agent before the program's result": {[]string{"before-step-finish"}, true, false, undone},
		"agent after the program's result":  {[]string{"after-step-finish"}, true, false, undone},
		"agent before ARMED":                {[]string{"before-arm"}, true, false, undone},
		"agent after ARMED":                 {[]string{"after-arm"}, true, false, undone},
		"agent after the undo's intent":     {[]string{"after-step-intent.2"}, true, false, undone},
		"agent after the undo's mkdir":      {[]string{"after-mkdir.2"}, true, false, undone},
		"agent before the undo's fork":      {[]string{"before-fork.2"}, true, false, undone},
		"agent after the undo's fork":       {[]string{"after-fork.2"}, true, false, undone},
		"agent before the undo's result":    {[]string{"before-step-finish.2"}, true, false, undone},
		"agent after the undo's result":     {[]string{"after-step-finish.2"}, true, false, undone},
		"agent before result":               {[]string{"before-finish"}, true, false, undone},
		"agent after result":                {[]string{"after-finish"}, true, false, undone},

		"agent armed, then confirmed":   {[]string{"after-arm"}, true, true, kept},
		"agent after the confirmation":  {[]string{"after-keep"}, true, true, kept},
		"agent confirmed, then result":  {[]string{"before-finish"}, true, true, kept},
		"agent confirmed, after result": {[]string{"after-finish"}, true, true, kept},

		"program's supervisor after its note": {[]string{"supervisor-started"}, false, false, lost("u")},
		"program's supervisor after exit":     {[]string{"supervisor-reaped"}, false, false, lost("pu")},
		"undo's supervisor with lock":         {[]string{"supervisor-locked.2"}, false, false, failed("p")},
		"undo's supervisor begun":             {[]string{"supervisor-begun.2"}, false, false, failed("p")},
		"undo's supervisor with gate":         {[]string{"supervisor-forked.2"}, false, false, failed("p")},
		"undo's supervisor after note":        {[]string{"supervisor-started.2"}, false, false, failed("p")},
		"undo's supervisor let go":            {[]string{"supervisor-released.2"}, false, false, failed("p", "pu")},
		"undo's supervisor after exit":        {[]string{"supervisor-reaped.2"}, false, false, failed("pu")},
		"undo's supervisor recorded":          {[]string{"supervisor-recorded.2"}, false, false, undone},
		"both with lock":                      {[]string{"after-fork.2", "supervisor-locked.2"}, true, false, undone},
		"both let go":                         {[]string{"after-fork.2", "supervisor-released.2"}, true, false, failed("p", "pu")},
		"both recorded":                       {[]string{"after-fork.2", "supervisor-recorded.2"}, true, false, undone},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			must(t, os.WriteFile(filepath.Join(dir, "undo"), nil, 0o600))
			if c.keep {
				must(t, os.WriteFile(filepath.Join(dir, "keep"), nil, 0o600))
			}
			out, err := life(t, dir, c.faults...).CombinedOutput()
			if c.agent != killed(err) {
				t.Fatalf("the agent ended with %v: %s", err, out)
			}
			for range 2 {
				got := tell(t, life(t, dir))
				if got.State != string(c.want.state) || got.Reason != c.want.reason {
					t.Fatalf("the agent tells %+v, want %s(%s)", got, c.want.state, c.want.reason)
				}
			}
			if got := stepStarts(t, dir); !slices.Contains(c.want.started, got) {
				t.Fatalf("%q were started, want one of %q", got, c.want.started)
			}
		})
	}
}

// TestUndoKilledAtRandomMoments lets several agents die on the same attempt.
func TestUndoKilledAtRandomMoments(t *testing.T) {
	for i := range 12 {
		t.Run(itoa(i), func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			must(t, os.WriteFile(filepath.Join(dir, "undo"), nil, 0o600))
			for n := range 4 {
				a := life(t, dir)
				must(t, a.Start())
				time.Sleep(time.Duration(i*40+n*17) * time.Millisecond) // the moment is the test's input
				_ = a.Process.Kill()
				_ = a.Wait()
			}
			first, second := tell(t, life(t, dir)), tell(t, life(t, dir))
			got := stepStarts(t, dir)
			if first.State != second.State || first.Reason != second.Reason || !strings.HasPrefix("pu", got) || first.Reason == ReasonUndone && got != "pu" {
				t.Fatalf("%q were started; the agent tells %+v, then %+v", got, first, second)
			}
		})
	}
}

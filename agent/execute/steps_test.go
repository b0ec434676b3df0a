package execute

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// inSteps is a spec of steps that are shell lines, named a, b, c and so on.
func inSteps(lines ...string) Spec {
	s := shell("")
	s.Script = nil
	for n, line := range lines {
		s.Steps = append(s.Steps, Step{Name: string(rune('a' + n)), Script: []byte(line)})
	}
	return s
}

// wantSteps compares what the journal has of the steps: "a SUCCEEDED(exit)".
func wantSteps(t testing.TB, m *memory, want ...string) {
	t.Helper()
	var got []string
	for _, s := range m.Steps(shell("").Attempt) {
		got = append(got, s.Name+" "+string(s.Result.State)+"("+s.Result.Reason+")")
	}
	if !slices.Equal(got, want) {
		t.Fatalf("steps are %q, want %q", got, want)
	}
}

func stored(t testing.TB, r *Runner) string {
	t.Helper()
	var b strings.Builder
	for c, err := range r.Output(shell("").Attempt) {
		must(t, err)
		b.Write(c.Data)
	}
	return b.String()
}

func TestStepsRunOneAfterTheOther(t *testing.T) {
	r, m := newRunner(t)
	s := inSteps(`echo "$AGENTPLANE_STEP $AGENTPLANE_STEP_NAME $FOO $DB"`, `echo "$AGENTPLANE_STEP $AGENTPLANE_STEP_NAME $FOO $DB" >&2; echo x`, `echo "$AGENTPLANE_STEP $0"`)
	s.Env, s.Secrets = []string{"FOO=bar", "AGENTPLANE_STEP=9"}, []string{"DB=hunter2"}
	s.Steps[1].Script, s.Steps[1].Argv = nil, []string{"sh", "-c", string(s.Steps[1].Script)}
	run := start(t, r, s)
	res := wait(t, run)
	wantResult(t, res, Succeeded, ReasonExit)
	wantSteps(t, m, "a SUCCEEDED(exit)", "b SUCCEEDED(exit)", "c SUCCEEDED(exit)")
	out, errs := text(res.Head, Stdout), text(res.Head, Stderr)
	script := string(r.stepDirectory(s.Attempt, 3)) + "/script"
	if out != "1 a bar hunter2\nx\n3 "+script+"\n" || errs != "2 b bar hunter2\n" {
		t.Errorf("stdout is %q, stderr %q", out, errs)
	}
	if res.StdoutBytes != uint64(len(out)) || res.StderrBytes != uint64(len(errs)) || !res.Started || res.Detail != "" || res.StartedAt.IsZero() || res.EndedAt.Before(res.StartedAt) || res.Duration <= 0 {
		t.Errorf("result is %+v", res)
	}
	if got := stored(t, r); got != "1 a bar hunter2\n2 b bar hunter2\nx\n3 "+script+"\n" && got != "1 a bar hunter2\nx\n2 b bar hunter2\n3 "+script+"\n" {
		t.Errorf("stored is %q", got)
	}
	must(t, filepath.WalkDir(r.dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || strings.HasPrefix(d.Name(), fileOutput) || d.Name() == fileExit {
			return err
		}
		b, err := os.ReadFile(path)
		if bytes.Contains(b, []byte("hunter2")) {
			t.Errorf("%s is left and holds a secret", path)
		}
		return err
	}))
	all, err := r.Attempts()
	must(t, err)
	if !slices.Equal(all, []Attempt{s.Attempt}) {
		t.Errorf("attempts are %v", all)
	}
	must(t, r.Remove(s.Attempt))
	if entries, _ := os.ReadDir(r.dir); len(entries) > 0 {
		t.Errorf("%v are left", entries)
	}
}

func TestTheFirstStepThatFailsEndsTheAttempt(t *testing.T) {
	for name, c := range map[string]struct {
		second func(*Spec)
		state  State
		reason string
		code   int
		step   string
		detail string
	}{
		"an exit code": {func(s *Spec) { s.Steps[1].Script = []byte("exit 3") }, Failed, ReasonExit, 3, "b FAILED(exit)", "step 2 of 3 (b): the program ended with 3"},
		"a signal":     {func(s *Spec) { s.Steps[1].Script = []byte("kill -9 $$") }, Failed, ReasonSignal, -1, "b FAILED(signal)", "step 2 of 3 (b): signal 9"},
		"its own time": {func(s *Spec) {
			s.Steps[1] = Step{Name: "b", Argv: []string{"sleep", "60"}, Timeout: 50 * time.Millisecond}
		}, TimedOut, ReasonTimeout, -1, "b TIMED_OUT(timeout)", "step 2 of 3 (b): "},
		"the same time": {func(s *Spec) { s.Steps[1].Script, s.Timeout = []byte("sleep 60"), 300*time.Millisecond }, TimedOut, ReasonTimeout, -1, "b TIMED_OUT(timeout)", "step 2 of 3 (b): "},
		"no program":    {func(s *Spec) { s.Steps[1] = Step{Name: "b", Argv: []string{"/no/such"}} }, Failed, ReasonNotFound, 127, "b FAILED(not_found)", "step 2 of 3 (b): "},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, m := newRunner(t)
			s := inSteps("echo one", "", "echo three")
			c.second(&s)
			res := wait(t, start(t, r, s))
			wantResult(t, res, c.state, c.reason)
			wantSteps(t, m, "a SUCCEEDED(exit)", c.step)
			if res.ExitCode != c.code || !strings.HasPrefix(res.Detail, c.detail) || !res.Started || stored(t, r) != "one\n" {
				t.Errorf("result is %+v", res)
			}
			if exists(string(r.stepDirectory(s.Attempt, 3))) {
				t.Error("the third step has a directory")
			}
		})
	}
}

func TestAStepThatCannotBeTriedIsFailedUnlessItIsTheFirst(t *testing.T) {
	r, m := newRunner(t)
	s := inSteps("echo one", "echo two")
	ready, let := filepath.Join(t.TempDir(), "ready"), filepath.Join(t.TempDir(), "let")
	s.Steps[0].Script = []byte("touch " + ready + "; while [ ! -e " + let + " ]; do sleep 0.01; done")
	run := start(t, r, s)
	eventually(t, "the first step", func() bool { return exists(ready) })
	// A file where the second step's directory has to be made of.
	was := r.supervisors
	r.supervisors = processes{"/no/such/agentd"}
	must(t, os.WriteFile(let, nil, 0o600))
	res := wait(t, run)
	r.supervisors = was
	wantResult(t, res, Failed, ReasonNotPrepared)
	wantSteps(t, m, "a SUCCEEDED(exit)", "b REJECTED(not_prepared)")

	r, m = newRunner(t)
	r.supervisors = processes{"/no/such/agentd"}
	res = wait(t, start(t, r, s))
	wantResult(t, res, Rejected, ReasonNotPrepared)
	wantSteps(t, m, "a REJECTED(not_prepared)")
	if res.Started {
		t.Error("it says that it has started")
	}
}

func TestCancelBetweenAndDuringSteps(t *testing.T) {
	t.Run("during", func(t *testing.T) {
		r, m := newRunner(t)
		run := start(t, r, inSteps("true", "sleep 60", "true"))
		ended := make(chan Result, 1)
		go func() {
			res, _ := run.Wait(context.Background())
			ended <- res
		}()
		supervisorOf(t, r.stepDirectory(run.a, 2))
		must(t, run.Cancel())
		wantResult(t, <-ended, Canceled, ReasonCanceled)
		wantSteps(t, m, "a SUCCEEDED(exit)", "b CANCELED(canceled)")
	})
	t.Run("between", func(t *testing.T) {
		r, m := newRunner(t)
		s := inSteps("true", "true")
		run := start(t, r, s)
		eventually(t, "the first step's end", func() bool { return run.d.has(fileExit) })
		must(t, run.Cancel())
		// The next life of agentd knows of it, too.
		run, err := r.Adopt(s.Attempt)
		must(t, err)
		res := wait(t, run)
		wantResult(t, res, Canceled, ReasonCanceled)
		wantSteps(t, m, "a SUCCEEDED(exit)")
		if !strings.Contains(res.Detail, "before step 2 of 2") || !res.Started {
			t.Errorf("result is %+v", res)
		}
	})
}

func TestADeadJournalHoldsTheNextStepBack(t *testing.T) {
	r, m := newRunner(t)
	run := start(t, r, inSteps("true", "echo two"))
	m.mu.Lock()
	m.stepErr = errors.New("the disk is full")
	m.mu.Unlock()
	for range 2 {
		if _, err := run.Wait(t.Context()); err == nil || !strings.Contains(err.Error(), "the disk is full") {
			t.Fatalf("Wait gives %v", err)
		}
	}
	if exists(string(r.stepDirectory(run.a, 2))) {
		t.Fatal("a step was started that is not journalled")
	}
	m.mu.Lock()
	m.stepErr = nil
	m.mu.Unlock()
	wantResult(t, wait(t, run), Succeeded, ReasonExit)
	wantSteps(t, m, "a SUCCEEDED(exit)", "b SUCCEEDED(exit)")
}

func TestStepsWithoutTheirPlanGoNoFurther(t *testing.T) {
	r, m := newRunner(t)
	s := inSteps("true", "true")
	run := start(t, r, s)
	eventually(t, "the first step's end", func() bool { return run.d.has(fileExit) })
	must(t, os.WriteFile(run.d.path(filePlan), []byte("rot"), 0o600))
	run, err := r.Adopt(s.Attempt)
	must(t, err)
	res := wait(t, run)
	wantResult(t, res, Failed, ReasonNotPrepared)
	wantSteps(t, m, "a SUCCEEDED(exit)")
	if !strings.Contains(res.Detail, "the plan of the steps cannot be used") {
		t.Errorf("detail is %q", res.Detail)
	}
}

func TestStepsAreValidated(t *testing.T) {
	many := inSteps(slices.Repeat([]string{"true"}, MaxSteps+1)...)
	both, none, timeout, name := inSteps("true"), inSteps("true"), inSteps("true"), inSteps("true")
	both.Script = []byte("true")
	none.Steps[0].Script = nil
	timeout.Steps[0].Timeout = -1
	name.Steps[0].Name = "a\x00b"
	for what, s := range map[string]Spec{"too many": many, "steps and a script": both, "an empty step": none, "a negative time": timeout, "a zero byte": name} {
		if err := s.Validate(); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if err := inSteps(slices.Repeat([]string{"true"}, MaxSteps)...).Validate(); err != nil {
		t.Error(err)
	}
}

// TestOutputOfStepsIsOneStream lets steps write while a tail reads, and compares with the
// slow way: all that was written, one after the other.
func TestOutputOfStepsIsOneStream(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		dir, err := os.MkdirTemp(t.TempDir(), "runs")
		must(t, err)
		m := &memory{steps: map[Attempt][]StepRecord{}}
		r := &Runner{dir: dir, journal: m}
		a := shell("").Attempt
		var whole bytes.Buffer
		var streams [3]bytes.Buffer
		var at [3]uint64
		var total uint64
		tail, err := r.Tail(a)
		must(t, err)
		defer tail.Close()
		read := func(chunks []StoredChunk) {
			for _, c := range chunks {
				if c.Offset < total || c.StreamOffset < at[c.Stream] {
					rt.Fatalf("a chunk at %d (%d) after %d (%d)", c.Offset, c.StreamOffset, total, at[c.Stream])
				}
				total, at[c.Stream] = c.Offset+uint64(len(c.Data)), c.StreamOffset+uint64(len(c.Data))
				if !bytes.Equal(c.Data, whole.Bytes()[c.Offset:total]) || !bytes.Equal(c.Data, streams[c.Stream].Bytes()[c.StreamOffset:at[c.Stream]]) {
					rt.Fatalf("other bytes at %d", c.Offset)
				}
			}
		}
		steps := rapid.IntRange(1, 5).Draw(rt, "steps")
		for n := uint32(1); n <= uint32(steps); n++ {
			d := r.stepDirectory(a, n)
			must(t, os.Mkdir(string(d), 0o700))
			if n == 1 {
				must(t, d.write(filePlan, typePlan, planFile{}, false))
			}
			rec, err := newRecorder(d, minOutputBytes)
			must(t, err)
			for range rapid.IntRange(0, 12).Draw(rt, "writes") {
				if rapid.Bool().Draw(rt, "reads") {
					chunks, err := tail.Next(rapid.IntRange(1, 64<<10).Draw(rt, "most"))
					must(t, err)
					read(chunks)
				}
				stream := uint8(rapid.IntRange(1, 2).Draw(rt, "stream"))
				b := bytes.Repeat([]byte{byte(rapid.IntRange('a', 'z').Draw(rt, "byte"))}, rapid.IntRange(1, readBytes).Draw(rt, "size"))
				rec.add(stream, b)
				whole.Write(b)
				streams[stream].Write(b)
			}
			res := Result{State: Succeeded, Started: true}
			switch rapid.IntRange(0, 2).Draw(rt, "end") {
			case 0: // its supervisor died
				must(t, rec.f.Close())
				d.salvage(&res)
			default:
				rec.finish(&res)
			}
			must(t, d.write(fileExit, typeExit, res, false))
			m.steps[a] = append(m.steps[a], StepRecord{Number: n, Of: uint32(steps), Result: Result{State: Succeeded, StdoutBytes: res.StdoutBytes, StderrBytes: res.StderrBytes}})
		}
		for {
			chunks, err := tail.Next(1 << 20)
			must(t, err)
			if len(chunks) == 0 {
				break
			}
			read(chunks)
		}
		if total != uint64(whole.Len()) {
			rt.Fatalf("the tail ends at %d, %d bytes were written", total, whole.Len())
		}
		total, at = 0, [3]uint64{}
		for c, err := range r.Output(a) {
			must(t, err)
			read([]StoredChunk{c})
		}
		if total != uint64(whole.Len()) {
			rt.Fatalf("output ends at %d, %d bytes were written", total, whole.Len())
		}
		run := r.newRun(a)
		res := run.whole(Result{State: Succeeded})
		join := func(chunks []Chunk) (b []byte) {
			for _, c := range chunks {
				b = append(b, c.Data...)
			}
			return b
		}
		head, end := join(res.Head), join(res.Tail)
		if !bytes.HasPrefix(whole.Bytes(), head) || !bytes.HasSuffix(whole.Bytes(), end) || len(head)+len(end) > whole.Len() {
			rt.Fatalf("head (%d) and tail (%d) are not begin and end of %d", len(head), len(end), whole.Len())
		}
		if res.StdoutBytes != uint64(streams[Stdout].Len()) || res.StderrBytes != uint64(streams[Stderr].Len()) {
			rt.Fatalf("counted %d and %d", res.StdoutBytes, res.StderrBytes)
		}
	})
}

// stepped is a program of three steps, each of which says outside of the product that it was
// started. Where dir has a file "announces", the second announces a reboot.
func stepped(dir string) Spec {
	s := inSteps()
	for n, name := range []string{"a", "b", "c"} {
		line := `echo "$AGENTPLANE_INVOCATION_ID $AGENTPLANE_ATTEMPT $AGENTPLANE_STEP_NAME" >> ` + filepath.Join(dir, "witness") + `
echo "$AGENTPLANE_STEP_NAME"
while [ ! -e ` + filepath.Join(dir, "go") + ` ]; do sleep 0.01; done`
		if n == 1 {
			line += "\n[ ! -e " + filepath.Join(dir, "announces") + ` ] || touch "$AGENTPLANE_REBOOT"`
		}
		s.Steps = append(s.Steps, Step{Name: name, Script: []byte(line)})
	}
	s.KillGrace = time.Second
	return s
}

func stepStarts(t *testing.T, dir string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, "witness"))
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return strings.ReplaceAll(strings.ReplaceAll(string(b), "inv-1 1 ", ""), "\n", "")
}

// TestStepsKilledAtEveryPoint kills the agent, the supervisor of a step, or both, at each
// point of a step's life: no step starts twice, none after one that has not succeeded, and
// whoever asks later is told the same.
func TestStepsKilledAtEveryPoint(t *testing.T) {
	type end struct {
		state   State
		reason  string
		started []string // one of these
		steps   string
	}
	const aDone, bDone = "a SUCCEEDED(exit)", "a SUCCEEDED(exit), b SUCCEEDED(exit)"
	ok := end{Succeeded, ReasonExit, []string{"abc"}, bDone + ", c SUCCEEDED(exit)"}
	lost := func(step, reason string, started ...string) end {
		before := map[string]string{"a": "", "b": aDone + ", ", "c": bDone + ", "}[step]
		return end{Lost, reason, started, before + step + " LOST(" + reason + ")"}
	}
	for name, c := range map[string]struct {
		faults []string
		agent  bool // dies too
		want   end
	}{
		"agent after intent": {[]string{"after-intent"}, true, end{Lost, ReasonAgentRestart, []string{""}, ""}},

		"agent after the first intent":  {[]string{"after-step-intent"}, true, lost("a", ReasonAgentRestart, "")},
		"agent after the first mkdir":   {[]string{"after-mkdir"}, true, lost("a", ReasonAgentRestart, "")},
		"agent before the first fork":   {[]string{"before-fork"}, true, lost("a", ReasonAgentRestart, "")},
		"agent after the first fork":    {[]string{"after-fork"}, true, ok},
		"agent before the first result": {[]string{"before-step-finish"}, true, ok},
		"agent after the first result":  {[]string{"after-step-finish"}, true, ok},

		"agent after the second intent":  {[]string{"after-step-intent.2"}, true, lost("b", ReasonAgentRestart, "a")},
		"agent after the second mkdir":   {[]string{"after-mkdir.2"}, true, lost("b", ReasonAgentRestart, "a")},
		"agent before the second fork":   {[]string{"before-fork.2"}, true, lost("b", ReasonAgentRestart, "a")},
		"agent after the second fork":    {[]string{"after-fork.2"}, true, ok},
		"agent before the second result": {[]string{"before-step-finish.2"}, true, ok},
		"agent after the second result":  {[]string{"after-step-finish.2"}, true, ok},

		"agent after the last fork":    {[]string{"after-fork.3"}, true, ok},
		"agent before the last result": {[]string{"before-step-finish.3"}, true, ok},
		"agent after the last result":  {[]string{"after-step-finish.3"}, true, ok},
		"agent before result":          {[]string{"before-finish"}, true, ok},
		"agent after result":           {[]string{"after-finish"}, true, ok},

		"first supervisor begun":     {[]string{"supervisor-begun"}, false, lost("a", ReasonSupervisorGone, "")},
		"second supervisor, lock":    {[]string{"supervisor-locked.2"}, false, lost("b", ReasonSupervisorGone, "a")},
		"second supervisor, begun":   {[]string{"supervisor-begun.2"}, false, lost("b", ReasonSupervisorGone, "a")},
		"second supervisor, gate":    {[]string{"supervisor-forked.2"}, false, lost("b", ReasonSupervisorGone, "a")},
		"second supervisor, note":    {[]string{"supervisor-started.2"}, false, lost("b", ReasonSupervisorGone, "a")},
		"second supervisor, let go":  {[]string{"supervisor-released.2"}, false, lost("b", ReasonSupervisorGone, "a", "ab")},
		"second supervisor, exit":    {[]string{"supervisor-reaped.2"}, false, lost("b", ReasonSupervisorGone, "ab")},
		"second supervisor recorded": {[]string{"supervisor-recorded.2"}, false, ok},
		"last supervisor, exit":      {[]string{"supervisor-reaped.3"}, false, lost("c", ReasonSupervisorGone, "abc")},

		"both, second lock":     {[]string{"after-fork.2", "supervisor-locked.2"}, true, lost("b", ReasonAgentRestart, "a")},
		"both, second begun":    {[]string{"after-fork.2", "supervisor-begun.2"}, true, lost("b", ReasonSupervisorGone, "a")},
		"both, second let go":   {[]string{"after-fork.2", "supervisor-released.2"}, true, lost("b", ReasonSupervisorGone, "a", "ab")},
		"both, second recorded": {[]string{"after-fork.2", "supervisor-recorded.2"}, true, ok},
		"both, each first time": {[]string{"after-step-finish", "supervisor-recorded", "supervisor-recorded.2"}, true, ok},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			must(t, os.WriteFile(filepath.Join(dir, "go"), nil, 0o600))
			must(t, os.WriteFile(filepath.Join(dir, "steps"), nil, 0o600))
			out, err := life(t, dir, c.faults...).CombinedOutput()
			if c.agent != killed(err) {
				t.Fatalf("the agent ended with %v: %s", err, out)
			}
			for range 2 {
				got := tell(t, life(t, dir))
				if got.State != string(c.want.state) || got.Reason != c.want.reason || strings.Join(got.Steps, ", ") != c.want.steps {
					t.Fatalf("the agent tells %+v, want %s(%s) of %s", got, c.want.state, c.want.reason, c.want.steps)
				}
				if printed := strings.ReplaceAll(got.Output, "\n", ""); !strings.HasPrefix("abc", printed) {
					t.Fatalf("the output is %q", printed)
				}
			}
			if got := stepStarts(t, dir); !slices.Contains(c.want.started, got) {
				t.Fatalf("steps %q were started, want one of %q", got, c.want.started)
			}
		})
	}
}

// TestStepsKilledAtRandomMoments lets several agents die on the same attempt.
func TestStepsKilledAtRandomMoments(t *testing.T) {
	for i := range 12 {
		t.Run(itoa(i), func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			must(t, os.WriteFile(filepath.Join(dir, "go"), nil, 0o600))
			must(t, os.WriteFile(filepath.Join(dir, "steps"), nil, 0o600))
			for n := range 4 {
				a := life(t, dir)
				must(t, a.Start())
				time.Sleep(time.Duration(i*13+n*17) * time.Millisecond) // the moment is the test's input
				_ = a.Process.Kill()
				_ = a.Wait()
			}
			first, second := tell(t, life(t, dir)), tell(t, life(t, dir))
			got := stepStarts(t, dir)
			if first.State != second.State || strings.Join(first.Steps, "") != strings.Join(second.Steps, "") || !strings.HasPrefix("abc", got) || first.State == string(Succeeded) && got != "abc" {
				t.Fatalf("steps %q were started; the agent tells %+v, then %+v", got, first, second)
			}
		})
	}
}

// A directory that is there starts nothing, of a step as of an attempt.
func TestAStepWhoseDirectoryIsThereIsNotStarted(t *testing.T) {
	r, m := newRunner(t)
	ran := filepath.Join(t.TempDir(), "ran")
	s := inSteps("true", "touch "+ran, "true")
	must(t, os.Mkdir(string(r.stepDirectory(s.Attempt, 2)), 0o700))
	res := wait(t, start(t, r, s))
	wantResult(t, res, Lost, ReasonAgentRestart)
	wantSteps(t, m, "a SUCCEEDED(exit)", "b LOST(agent_restart)")
	if exists(ran) {
		t.Error("it was started")
	}
}

// A journal that has lost what it had of an attempt's steps, and then takes it up again, may come no
// further than the intent of the whole. The first step is not taken for all of them, and what is to
// be undone is undone.
func TestStepsThatTheJournalHasLost(t *testing.T) {
	for name, c := range map[string]struct {
		spoil  bool
		state  State
		reason string
		steps  []string
	}{
		"the plan tells of them": {false, Succeeded, ReasonExit, []string{"a SUCCEEDED(exit)", "b SUCCEEDED(exit)"}},
		"the plan is damaged":    {true, Lost, "", nil},
	} {
		t.Run(name, func(t *testing.T) {
			r, m := newRunner(t)
			witness := filepath.Join(t.TempDir(), "witness")
			s := inSteps("echo one >>"+witness, "echo two >>"+witness)
			run := start(t, r, s)
			eventually(t, "the end of the first step", func() bool { return run.d.has(fileExit) })
			m.mu.Lock()
			delete(m.steps, s.Attempt)
			m.mu.Unlock()
			if c.spoil {
				must(t, os.WriteFile(run.d.path(filePlan), []byte("{"), 0o600))
			}
			adopted, err := r.Adopt(s.Attempt)
			must(t, err)
			res := wait(t, adopted)
			wantResult(t, res, c.state, c.reason)
			wantSteps(t, m, c.steps...)
			want := "one\n"
			if !c.spoil {
				want += "two\n"
			}
			if got, err := os.ReadFile(witness); err != nil || string(got) != want {
				t.Errorf("what has run is %q (%v), want %q", got, err, want)
			}
		})
	}
}

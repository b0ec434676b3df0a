package execute

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/agentplane/agentplane/agent/journal"
)

// durable makes a Journal of the agent's journal, as the composed agent does.
type durable struct{ j *journal.Journal }

func (d durable) Intent(s Spec) error {
	now := time.Now().UnixNano()
	return d.j.Intent(journal.Intent{
		Key:       journal.Key{InvocationID: s.InvocationID, Attempt: s.Number},
		CommandID: s.CommandID, Fence: s.Fence, Submitted: now, NotAfter: now + int64(time.Minute), At: now,
	})
}

func (d durable) Finish(a Attempt, r Result) error {
	k := journal.Key{InvocationID: a.InvocationID, Attempt: a.Number}
	if known, ok := d.j.Lookup(k); ok && known.Ended() {
		return nil
	}
	chunks := func(in []Chunk) (out []journal.Chunk) {
		for _, c := range in {
			out = append(out, journal.Chunk(c))
		}
		return out
	}
	return d.j.Result(k, journal.Result{
		State: journal.State(r.State), Reason: r.Reason, Detail: r.Detail, Started: r.Started,
		ExitCode: int32(r.ExitCode), Signal: int32(r.Signal), Head: chunks(r.Head), Tail: chunks(r.Tail),
		At: time.Now().UnixNano(),
	})
}

func (d durable) StepIntent(a Attempt, s StepRecord) error {
	return journalled(d.j.StepIntent(keyOf(a), journal.Step{Number: s.Number, Of: s.Of, Name: s.Name, At: time.Now().UnixNano()}))
}

func (d durable) StepFinish(a Attempt, s StepRecord) error {
	r := s.Result
	return journalled(d.j.StepResult(keyOf(a), s.Number, journal.Result{
		State: journal.State(r.State), Reason: r.Reason, Detail: r.Detail, Started: r.Started, ExitCode: int32(r.ExitCode), Signal: int32(r.Signal),
		StdoutBytes: r.StdoutBytes, StderrBytes: r.StderrBytes, At: time.Now().UnixNano(),
	}))
}

func journalled(err error) error {
	if errors.Is(err, journal.ErrKept) {
		return ErrKept
	}
	if errors.As(err, new(*journal.KnownError)) {
		return nil
	}
	return err
}

func (d durable) Steps(a Attempt) (all []StepRecord) {
	r, _ := d.j.Lookup(keyOf(a))
	for _, s := range r.Steps {
		all = append(all, StepRecord{Number: s.Number, Of: s.Of, Name: s.Name, Result: Result{
			State: State(s.Result.State), Reason: s.Result.Reason, Detail: s.Result.Detail, Started: s.Result.Started,
			ExitCode: int(s.Result.ExitCode), Signal: int(s.Result.Signal), StdoutBytes: s.Result.StdoutBytes, StderrBytes: s.Result.StderrBytes,
		}})
	}
	return all
}

func (d durable) Arm(a Attempt, g Guard, _ time.Duration) error {
	return journalled(d.j.Arm(keyOf(a), journal.Guard{BootID: g.BootID, Deadline: int64(g.Deadline), Again: g.Again, At: 1}))
}

func (d durable) Keep(a Attempt, by string, contact bool) error {
	return journalled(d.j.Keep(keyOf(a), by, contact, 1))
}

func (d durable) Guard(a Attempt) (Guard, bool) {
	r, _ := d.j.Lookup(keyOf(a))
	if !r.Guard.Armed {
		return Guard{}, false
	}
	return Guard{BootID: r.Guard.BootID, Deadline: time.Duration(r.Guard.Deadline), Again: r.Guard.Again, Kept: r.Guard.Kept}, true
}

func keyOf(a Attempt) journal.Key {
	return journal.Key{InvocationID: a.InvocationID, Attempt: a.Number}
}

// told is what an agent of a test tells when it has a result.
type told struct {
	State, Reason, Detail string
	Started               bool
	Steps                 []string // NAME STATE(REASON)
	Output                string
}

// agentMain is a whole agent for one attempt: whatever it finds in dir, it goes on from
// there, as agentd does when the attempt is delivered to it.
func agentMain(dir string) int {
	undoTries = 3
	t, err := agent(dir)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if err := json.NewEncoder(os.Stdout).Encode(t); err != nil {
		return 1
	}
	return 0
}

func agent(dir string) (told, error) {
	j, err := journal.Open(filepath.Join(dir, "journal"), journal.Options{ReserveBytes: -1})
	if err != nil {
		return told{}, err
	}
	defer j.Close()
	if _, known := j.Floor(); !known {
		if err := j.SetFloor(1); err != nil {
			return told{}, err
		}
	}
	r, err := Open(Options{Dir: filepath.Join(dir, "runs"), Journal: durable{j}, BootID: func() (string, error) {
		if b, err := os.ReadFile(filepath.Join(dir, "boot")); err == nil {
			return string(b), nil
		}
		return BootID()
	}})
	if err != nil {
		return told{}, err
	}
	s := witnessed(dir)
	if exists(filepath.Join(dir, "steps")) {
		s = stepped(dir)
	}
	if exists(filepath.Join(dir, "undo")) {
		s = undoable(dir)
	}
	k := journal.Key{InvocationID: s.InvocationID, Attempt: s.Number}
	known, ok := j.Lookup(k)
	if !ok || !known.Ended() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		run, err := r.Adopt(s.Attempt)
		if !ok {
			run, err = r.Start(ctx, s)
		}
		if err != nil {
			return told{}, err
		}
		if exists(filepath.Join(dir, "keep")) {
			go func() {
				for run.Keep("ann") != nil {
					time.Sleep(time.Millisecond)
				}
			}()
		}
		if _, err := run.Wait(ctx); err != nil {
			return told{}, err
		}
		known, _ = j.Lookup(k)
	}
	t := told{State: string(known.Result.State), Reason: known.Result.Reason, Detail: known.Result.Detail, Started: known.Result.Started}
	for _, s := range known.Steps {
		t.Steps = append(t.Steps, fmt.Sprintf("%s %s(%s)", s.Name, s.Result.State, s.Result.Reason))
	}
	for c, err := range r.Output(s.Attempt) {
		if err == nil {
			t.Output += string(c.Data)
		}
	}
	return t, nil
}

// witnessed is a program that says outside of the product that it was started, and goes
// on only when it is let.
func witnessed(dir string) Spec {
	s := shell(`echo "$AGENTPLANE_INVOCATION_ID $AGENTPLANE_ATTEMPT" >> ` + filepath.Join(dir, "witness") + `
while [ ! -e ` + filepath.Join(dir, "go") + ` ]; do sleep 0.01; done`)
	s.KillGrace = time.Second
	return s
}

// life is one life of the agent on dir, which dies at faults.
func life(t *testing.T, dir string, faults ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), envAgentD+"="+dir, envFaults+"="+strings.Join(faults, ","), "GORACE=atexit_sleep_ms=0")
	return cmd
}

func tell(t *testing.T, cmd *exec.Cmd) told {
	t.Helper()
	var words strings.Builder
	cmd.Stderr = &words
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("the agent failed: %v %s", err, words.String())
	}
	var got told
	must(t, json.Unmarshal(out, &got))
	return got
}

func witnesses(t *testing.T, dir string) int {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, "witness"))
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if line != "inv-1 1\n" {
			t.Fatalf("the witness says %q", line)
		}
	}
	return strings.Count(string(b), "\n")
}

func killed(err error) bool {
	exit, ok := err.(*exec.ExitError)
	return ok && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL
}

// judge runs the agent twice more and wants the same end both times.
func judge(t *testing.T, dir string, state State, reason string, started bool, starts ...int) {
	t.Helper()
	for range 2 {
		got := tell(t, life(t, dir))
		if got.State != string(state) || got.Reason != reason || got.Started != started {
			t.Fatalf("the agent tells %+v, want %s(%s) started %v", got, state, reason, started)
		}
	}
	if n := witnesses(t, dir); !slices.Contains(starts, n) {
		t.Fatalf("the program was started %d times, want one of %v", n, starts)
	}
	var st started2
	if st.read(dir) {
		eventually(t, "the program's end", func() bool { return gone(st.PID) })
	}
}

type started2 struct{ started }

func (s *started2) read(dir string) bool {
	d := directory(filepath.Join(dir, "runs", witnessed(dir).dirName()))
	return d.read(fileStarted, typeStarted, &s.started) == nil
}

// TestKilledAtEveryPoint kills the agent, its supervisor, or both, at each point of a
// start, and wants at most one start and the one true result.
func TestKilledAtEveryPoint(t *testing.T) {
	type end struct {
		state   State
		reason  string
		started bool
		starts  []int
	}
	ok := end{Succeeded, ReasonExit, true, []int{1}}
	rejected := end{Rejected, ReasonNotPrepared, false, []int{0}}
	never := func(reason string) end { return end{Lost, reason, false, []int{0}} }
	lost := func(starts ...int) end { return end{Lost, ReasonSupervisorGone, true, starts} }
	for name, c := range map[string]struct {
		faults []string
		agent  bool // dies too
		want   end
	}{
		"agent before intent":   {[]string{"before-intent"}, true, ok},
		"agent after intent":    {[]string{"after-intent"}, true, never(ReasonAgentRestart)},
		"agent after mkdir":     {[]string{"after-mkdir"}, true, never(ReasonAgentRestart)},
		"agent before fork":     {[]string{"before-fork"}, true, never(ReasonAgentRestart)},
		"agent after fork":      {[]string{"after-fork"}, true, ok},
		"agent before result":   {[]string{"before-finish"}, true, ok},
		"agent after result":    {[]string{"after-finish"}, true, ok},
		"supervisor with lock":  {[]string{"supervisor-locked"}, false, never(ReasonSupervisorGone)},
		"supervisor begun":      {[]string{"supervisor-begun"}, false, never(ReasonSupervisorGone)},
		"supervisor with gate":  {[]string{"supervisor-forked"}, false, never(ReasonSupervisorGone)},
		"supervisor after note": {[]string{"supervisor-started"}, false, lost(0)},
		"supervisor let go":     {[]string{"supervisor-released"}, false, lost(0, 1)},
		"supervisor after exit": {[]string{"supervisor-reaped"}, false, lost(1)},
		"supervisor recorded":   {[]string{"supervisor-recorded"}, false, ok},
		"both with lock":        {[]string{"after-fork", "supervisor-locked"}, true, never(ReasonAgentRestart)},
		"both begun":            {[]string{"after-fork", "supervisor-begun"}, true, never(ReasonSupervisorGone)},
		"both with gate":        {[]string{"after-fork", "supervisor-forked"}, true, never(ReasonSupervisorGone)},
		"both after note":       {[]string{"after-fork", "supervisor-started"}, true, lost(0)},
		"both let go":           {[]string{"after-fork", "supervisor-released"}, true, lost(0, 1)},
		"both after exit":       {[]string{"after-fork", "supervisor-reaped"}, true, lost(1)},
		"both recorded":         {[]string{"after-fork", "supervisor-recorded"}, true, ok},
		// The agent fsyncs the parent of its directory, then for the attempt's; the
		// supervisor for STARTED, then for the result, which it tries again.
		"no fsync of mkdir":   {[]string{"agent-sync-2-fails"}, false, rejected},
		"no fsync of STARTED": {[]string{"supervisor-sync-1-fails"}, false, rejected},
		"no fsync of result":  {[]string{"supervisor-sync-2-fails"}, false, ok},
		"agent after lost":    {[]string{"before-finish", "supervisor-released"}, true, lost(0, 1)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			must(t, os.WriteFile(filepath.Join(dir, "go"), nil, 0o600))
			out, err := life(t, dir, c.faults...).CombinedOutput()
			if c.agent != killed(err) {
				t.Fatalf("the agent ended with %v: %s", err, out)
			}
			judge(t, dir, c.want.state, c.want.reason, c.want.started, c.want.starts...)
		})
	}
}

// TestKilledWhileTheProgramRuns does the same in the middle of the run.
func TestKilledWhileTheProgramRuns(t *testing.T) {
	for name, c := range map[string]struct {
		agent, supervisor, program bool
		state                      State
		reason                     string
	}{
		"agent":                  {true, false, false, Succeeded, ReasonExit},
		"supervisor":             {false, true, false, Lost, ReasonSupervisorGone},
		"both":                   {true, true, false, Lost, ReasonSupervisorGone},
		"program":                {false, false, true, Failed, ReasonSignal},
		"program, after agent":   {true, false, true, Failed, ReasonSignal},
		"program and supervisor": {true, true, true, Lost, ReasonSupervisorGone},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			first := life(t, dir)
			must(t, first.Start())
			eventually(t, "the witness", func() bool { return witnesses(t, dir) == 1 })
			var st started2
			if !st.read(dir) {
				t.Fatal("the program runs without STARTED")
			}
			if c.agent {
				must(t, first.Process.Kill())
				_ = first.Wait()
			}
			if c.supervisor {
				must(t, syscall.Kill(st.Session, syscall.SIGKILL))
			}
			if c.program {
				must(t, syscall.Kill(-st.PID, syscall.SIGKILL))
			}
			if c.agent && !c.supervisor && !c.program {
				second := life(t, dir) // adopts, and is killed too
				must(t, second.Start())
				must(t, second.Process.Kill())
				_ = second.Wait()
				must(t, os.WriteFile(filepath.Join(dir, "go"), nil, 0o600))
			}
			if !c.agent {
				if err := first.Wait(); err != nil {
					t.Fatal(err)
				}
			}
			judge(t, dir, c.state, c.reason, true, 1)
		})
	}
}

// TestKilledAtRandomMoments leaves the moment to the clock, and lets several agents die
// on the same attempt.
func TestKilledAtRandomMoments(t *testing.T) {
	for i := range 12 {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			must(t, os.WriteFile(filepath.Join(dir, "go"), nil, 0o600))
			for n := range 3 {
				a := life(t, dir)
				must(t, a.Start())
				time.Sleep(time.Duration(i*7+n*11) * time.Millisecond) // the moment is the test's input
				_ = a.Process.Kill()
				_ = a.Wait()
			}
			first, second := tell(t, life(t, dir)), tell(t, life(t, dir))
			n := witnesses(t, dir)
			if !reflect.DeepEqual(first, second) || n > 1 || first.State == string(Succeeded) && n != 1 || !first.Started && n != 0 {
				t.Fatalf("started %d times; the agent tells %+v, then %+v", n, first, second)
			}
		})
	}
}

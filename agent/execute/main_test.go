package execute

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// Environment of processes that tests start.
const (
	envFaults = "EXECUTE_TEST_FAULTS" // points at which the process kills itself
	envAgentD = "EXECUTE_TEST_AGENT"  // be an agent on this directory
)

// envHeadless makes this binary a program whose first thread has ended: the file that it
// names is made before that.
const envHeadless = "EXECUTE_TEST_HEADLESS"

func init() {
	flag := os.Getenv(envHeadless)
	if flag == "" {
		return
	}
	runtime.LockOSThread() // in init this is the first thread
	ready := make(chan struct{})
	go func() {
		runtime.LockOSThread()
		close(ready)
		for {
			_ = syscall.Nanosleep(&syscall.Timespec{Sec: 60}, nil)
		}
	}()
	<-ready
	if err := os.WriteFile(flag, nil, 0o600); err == nil {
		_, _, _ = syscall.RawSyscall(syscall.SYS_EXIT, 0, 0, 0) // this thread alone
	}
}

func TestMain(m *testing.M) {
	faults := strings.Split(os.Getenv(envFaults), ",")
	fault = dieAt(faults)
	failSyncs(faults, len(os.Args) > 1 && os.Args[1] == SuperviseCommand)
	// A process under the race detector sleeps a second before it exits, unless told.
	superviseEnv = append(superviseEnv, envFaults+"="+os.Getenv(envFaults), "GORACE=atexit_sleep_ms=0")
	if len(os.Args) > 1 && os.Args[1] == SuperviseCommand {
		os.Exit(SuperviseMain(os.Args[2:]))
	}
	if dir := os.Getenv(envCrowded); dir != "" {
		os.Exit(crowdedMain(dir))
	}
	if dir := os.Getenv(envAgentD); dir != "" {
		os.Exit(agentMain(dir))
	}
	goleak.VerifyTestMain(m)
}

func dieAt(points []string) func(string) {
	return func(point string) {
		if slices.Contains(points, point) {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
	}
}

// failSyncs lets the n-th fsync of a directory fail for "agent-sync-n-fails" in an agent,
// and for "supervisor-sync-n-fails" in a supervisor.
func failSyncs(faults []string, supervisor bool) {
	who := "agent"
	if supervisor {
		who = "supervisor"
	}
	if len(faults[0]) == 0 {
		return // the counter is for processes that do one thing at a time
	}
	sync, calls := syncDir, 0
	syncDir = func(path string) error {
		calls++
		if slices.Contains(faults, fmt.Sprintf("%s-sync-%d-fails", who, calls)) {
			return syscall.EIO
		}
		return sync(path)
	}
}

// memory is a Journal that forgets nothing until the test ends.
type memory struct {
	mu        sync.Mutex
	intents   map[Attempt]bool
	results   map[Attempt]Result
	steps     map[Attempt][]StepRecord
	guards    map[Attempt]Guard
	armed     int
	by        string
	intentErr error
	stepErr   error
	finishErr error
}

func (m *memory) Intent(s Spec) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.intentErr != nil {
		return m.intentErr
	}
	if m.intents[s.Attempt] {
		return errors.New("known")
	}
	m.intents[s.Attempt] = true
	return nil
}

func (m *memory) Finish(a Attempt, r Result) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.finishErr != nil {
		return m.finishErr
	}
	m.results[a] = r
	return nil
}

func (m *memory) StepIntent(a Attempt, s StepRecord) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.stepErr != nil {
		return m.stepErr
	}
	if s.Number > s.Of && m.guards[a].Kept {
		return ErrKept
	}
	if n := len(m.steps[a]); n > 0 && m.steps[a][n-1].Number == s.Number {
		return nil
	}
	m.steps[a] = append(m.steps[a], s)
	return nil
}

func (m *memory) StepFinish(a Attempt, s StepRecord) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.stepErr != nil {
		return m.stepErr
	}
	last := &m.steps[a][len(m.steps[a])-1]
	if last.Number != s.Number {
		return errors.New("another step is at hand")
	}
	s.Result.Head, s.Result.Tail, s.Result.Reboot = nil, nil, nil
	last.Result = s.Result
	return nil
}

func (m *memory) Steps(a Attempt) []StepRecord {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.steps[a])
}

func (m *memory) Arm(a Attempt, g Guard, _ time.Duration) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.guards[a] = g
	m.armed++
	return m.stepErr
}

var errTooLate = errors.New("too late, or too early")

func (m *memory) Keep(a Attempt, by string, contact bool) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	g, ok := m.guards[a]
	if last := m.steps[a][len(m.steps[a])-1]; !ok || last.Number > last.Of {
		return errTooLate
	}
	g.Kept = true
	if m.guards[a], m.by = g, by; contact {
		m.by = "node " + by
	}
	return nil
}

func (m *memory) Guard(a Attempt) (Guard, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	g, ok := m.guards[a]
	return g, ok
}

func newRunner(t testing.TB) (*Runner, *memory) {
	t.Helper()
	m := &memory{intents: map[Attempt]bool{}, results: map[Attempt]Result{}, steps: map[Attempt][]StepRecord{}, guards: map[Attempt]Guard{}}
	r, err := Open(Options{Dir: filepath.Join(t.TempDir(), "runs"), Journal: m})
	must(t, err)
	return r, m
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// shell is a spec that runs lines with /bin/sh.
func shell(lines string) Spec {
	return Spec{
		Attempt: Attempt{InvocationID: "inv-1", Number: 1}, CommandID: "cmd-1", AgentID: "agent-1", Fence: 7,
		Script: []byte(lines), Timeout: 30 * time.Second, KillGrace: 5 * time.Second,
	}
}

func start(t testing.TB, r *Runner, s Spec) *Run {
	t.Helper()
	run, err := r.Start(t.Context(), s)
	must(t, err)
	return run
}

// wait fails the test when the attempt has not ended within 20 s.
func wait(t testing.TB, run *Run) Result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	res, err := run.Wait(ctx)
	if err != nil {
		t.Fatalf("%v\n%s", err, diagnose(run.d))
	}
	return res
}

// diagnose tells what a supervisor that does not end is doing.
func diagnose(d directory) string {
	var b strings.Builder
	lock, held, err := d.tryLock()
	fmt.Fprintf(&b, "lock held %v (%v)\n", held, err)
	if lock != nil {
		lock.Close()
	}
	names, err := filepath.Glob(d.path("*"))
	fmt.Fprintf(&b, "files %q (%v)\n", names, err)
	var st started
	if d.read(fileStarted, typeStarted, &st) == nil {
		rest, err := members(func(p process) bool { return p.session == st.Session })
		fmt.Fprintf(&b, "session %+v (%v)\n", rest, err)
		_ = syscall.Kill(st.Session, syscall.SIGQUIT) // its goroutines go to the log
		time.Sleep(time.Second)
	}
	words, err := os.ReadFile(d.path(fileLog))
	fmt.Fprintf(&b, "log (%v):\n%s", err, words)
	return b.String()
}

func runOne(t testing.TB, s Spec) Result {
	t.Helper()
	r, _ := newRunner(t)
	return wait(t, start(t, r, s))
}

func text(chunks []Chunk, stream uint8) string {
	var b strings.Builder
	for _, c := range chunks {
		if c.Stream == stream {
			b.Write(c.Data)
		}
	}
	return b.String()
}

// eventually waits for a condition, not for time.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(15 * time.Second); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not within 15 s", what)
		}
	}
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

func gone(pid int) bool {
	p, err := readProcess(pid)
	return err != nil || !p.alive()
}

// supervisorOf waits until the program of run is started, and tells who it is.
func supervisorOf(t testing.TB, d directory) started {
	t.Helper()
	var st started
	eventually(t, "STARTED", func() bool { return d.read(fileStarted, typeStarted, &st) == nil })
	return st
}

// other starts a process that has nothing to do with any attempt.
func other(t testing.TB, attr *syscall.SysProcAttr, argv ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.SysProcAttr = attr
	cmd.Stderr = io.Discard
	must(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return cmd
}

func wantResult(t testing.TB, got Result, state State, reason string) {
	t.Helper()
	if got.State != state || got.Reason != reason {
		t.Fatalf("result is %s(%s) %q, want %s(%s); output %q", got.State, got.Reason, got.Detail, state, reason,
			fmt.Sprint(text(got.Head, Stdout), text(got.Head, Stderr)))
	}
}

package execute

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestProgramGetsWhatItWasPromised(t *testing.T) {
	t.Setenv("AGENTD_SECRET", "must not be seen")
	stray, err := syscall.Dup(int(os.Stderr.Fd())) // as agentd may inherit one
	must(t, err)
	defer syscall.Close(stray)
	s := shell(`
echo "out $AGENTPLANE_COMMAND_ID $AGENTPLANE_INVOCATION_ID $AGENTPLANE_ATTEMPT $AGENTPLANE_FENCE $AGENTPLANE_AGENT_ID"
echo "err $TRACEPARENT $MINE ${AGENTD_SECRET-unset}" >&2
read x || echo "stdin is empty"
pwd
grep -E 'Sig(Ign|Blk)' /proc/self/status
ls -l /proc/$$/fd
grep flags /proc/$$/fdinfo/1
exit 3`)
	s.Env = []string{"MINE=yes", "AGENTPLANE_FENCE=999", "PATH=/bin:/usr/bin"}
	s.TraceParent = "00-abc-def-01"
	s.Dir = t.TempDir()
	res := runOne(t, s)
	wantResult(t, res, Failed, ReasonExit)
	if res.ExitCode != 3 || !res.Started || res.Duration <= 0 || res.StartedAt.IsZero() || res.MaxRSSBytes == 0 {
		t.Fatalf("result is %+v", res)
	}
	out, errs := text(res.Head, Stdout), text(res.Head, Stderr)
	for _, want := range []string{
		"out cmd-1 inv-1 1 7 agent-1\n", "stdin is empty\n", s.Dir + "\n",
		"SigBlk:\t0000000000000000\n",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("stdout lacks %q:\n%s", want, out)
		}
	}
	// Signals 32 and 33 are the C library's own; make, for one, starts what it starts
	// with them ignored.
	if _, mask, ok := strings.Cut(out, "SigIgn:\t"); !ok {
		t.Errorf("stdout lacks SigIgn:\n%s", out)
	} else if ignored, err := strconv.ParseUint(mask[:16], 16, 64); err != nil || ignored&^(3<<31) != 0 {
		t.Errorf("signals %#x are ignored (%v)", ignored, err)
	}
	for line := range strings.Lines(out) {
		// 0, 1, 2, and where a shell keeps its script
		if _, target, ok := strings.Cut(line, " -> "); ok && !strings.Contains(line, " 0 -> /dev/null") &&
			!strings.Contains(line, " 1 -> pipe:") && !strings.Contains(line, " 2 -> pipe:") && !strings.Contains(target, "/inv-1@1/script") {
			t.Errorf("the program has a file that is not its own: %s", line)
		}
	}
	if strings.Contains(out, "04001\n") { // O_NONBLOCK
		t.Errorf("stdout does not block:\n%s", out)
	}
	if errs != "err 00-abc-def-01 yes unset\n" {
		t.Errorf("stderr is %q", errs)
	}
	if res.StdoutBytes != uint64(len(out)) || res.StderrBytes != uint64(len(errs)) {
		t.Errorf("counted %d and %d bytes, got %d and %d", res.StdoutBytes, res.StderrBytes, len(out), len(errs))
	}
}

func TestHowProgramsEnd(t *testing.T) {
	plain := filepath.Join(t.TempDir(), "plain")
	must(t, os.WriteFile(plain, []byte("text"), 0o644))
	argv := func(a ...string) Spec { s := shell(""); s.Script, s.Argv = nil, a; return s }
	in := func(dir string) Spec { s := argv("true"); s.Dir = dir; return s }
	for name, c := range map[string]struct {
		spec    Spec
		state   State
		reason  string
		code    int
		signal  int
		started bool
	}{
		"success":                      {argv("true"), Succeeded, ReasonExit, 0, 0, true},
		"arguments that are not UTF-8": {argv("sh", "-c", `test "$1" = "$(printf '\377')"`, "sh", "\xff"), Succeeded, ReasonExit, 0, 0, true},
		"an exit code":                 {shell("exit 255"), Failed, ReasonExit, 255, 0, true},
		"a signal":                     {shell("kill -USR1 $$"), Failed, ReasonSignal, -1, int(syscall.SIGUSR1), true},
		"its own interpreter":          {shell("#!/bin/cat\nexit 9"), Succeeded, ReasonExit, 0, 0, true},
		"not in PATH":                  {argv("no-such-program"), Failed, ReasonNotFound, 127, 0, false},
		"no such path":                 {argv("/no/such/program"), Failed, ReasonNotFound, 127, 0, false},
		"no such interpreter":          {shell("#!/no/such/interpreter\n"), Failed, ReasonNotFound, 127, 0, false},
		"not executable":               {argv(plain), Failed, ReasonNotExecutable, 126, 0, false},
		"a directory":                  {argv("/"), Failed, ReasonNotExecutable, 126, 0, false},
		"no such working directory":    {in("/no/such/directory"), Failed, ReasonBadDirectory, 126, 0, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			res := runOne(t, c.spec)
			wantResult(t, res, c.state, c.reason)
			if res.ExitCode != c.code || res.Signal != c.signal || res.Started != c.started {
				t.Fatalf("code %d signal %d started %v, want %d %d %v (%s)", res.ExitCode, res.Signal, res.Started, c.code, c.signal, c.started, res.Detail)
			}
			if c.state != Succeeded && res.Detail == "" {
				t.Fatal("a failure without words")
			}
		})
	}
}

func TestTimeout(t *testing.T) {
	t.Run("a program and its child", func(t *testing.T) {
		t.Parallel()
		s := shell("sleep 60 & wait")
		s.Timeout = 200 * time.Millisecond
		res := runOne(t, s)
		wantResult(t, res, TimedOut, ReasonTimeout)
		if res.Signal != int(syscall.SIGTERM) || res.Duration < s.Timeout {
			t.Fatalf("signal %d after %s", res.Signal, res.Duration)
		}
	})
	t.Run("a stopped program ends too", func(t *testing.T) {
		t.Parallel()
		s := shell("kill -STOP $$")
		s.Timeout = 200 * time.Millisecond
		res := runOne(t, s)
		wantResult(t, res, TimedOut, ReasonTimeout)
		if res.Signal != int(syscall.SIGTERM) {
			t.Fatalf("signal %d, want TERM", res.Signal)
		}
	})
}

func TestTerminateSparesWhatHasEnded(t *testing.T) {
	cmd := other(t, &syscall.SysProcAttr{Setpgid: true}, "true")
	eventually(t, "its end", func() bool { return gone(cmd.Process.Pid) }) // a zombie until it is waited for
	s := &supervisor{proc: cmd.Process}
	if kill := s.terminate(Canceled, nil); kill != nil || s.cause != "" {
		t.Fatalf("cause is %q of a program that had ended before", s.cause)
	}
}

func TestSupervisorOutlivesPoliteSignals(t *testing.T) {
	r, _ := newRunner(t)
	flag := filepath.Join(t.TempDir(), "go")
	run := start(t, r, shell("while [ ! -e "+flag+" ]; do sleep 0.01; done"))
	sup := supervisorOf(t, run.d).Session
	if sid, err := unix.Getsid(sup); err != nil || sid != sup {
		t.Fatalf("the supervisor is in session %d, want its own (%v)", sid, err)
	}
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP} {
		must(t, syscall.Kill(sup, sig))
	}
	must(t, os.WriteFile(flag, nil, 0o600))
	wantResult(t, wait(t, run), Succeeded, ReasonExit)
}

func BenchmarkRun(b *testing.B) {
	r, _ := newRunner(b)
	n := 0
	for b.Loop() {
		n++
		s := shell("true")
		s.Number = uint32(n)
		if res := wait(b, start(b, r, s)); res.State != Succeeded {
			b.Fatal(res)
		}
	}
}

func TestCancel(t *testing.T) {
	t.Run("a running program", func(t *testing.T) {
		t.Parallel()
		r, _ := newRunner(t)
		flag := filepath.Join(t.TempDir(), "on")
		run := start(t, r, shell("trap 'echo bye; exit 5' TERM; touch "+flag+"; while :; do sleep 0.01; done"))
		eventually(t, "the program", func() bool { return exists(flag) })
		if _, ok := run.Running(); !ok {
			t.Fatal("the program runs and Running says no")
		}
		for range 3 {
			must(t, run.Cancel())
		}
		res := wait(t, run)
		wantResult(t, res, Canceled, ReasonCanceled)
		if res.ExitCode != 5 || text(res.Head, Stdout) != "bye\n" {
			t.Fatalf("result is %+v", res)
		}
	})
	t.Run("that ignores TERM", func(t *testing.T) {
		t.Parallel()
		r, _ := newRunner(t)
		flag := filepath.Join(t.TempDir(), "on")
		s := shell("trap '' TERM; sh -c 'sleep 60' & touch " + flag + "; while :; do sleep 60; done")
		s.KillGrace = 200 * time.Millisecond
		run := start(t, r, s)
		eventually(t, "the program", func() bool { return exists(flag) })
		must(t, run.Cancel())
		res := wait(t, run)
		wantResult(t, res, Canceled, ReasonCanceled)
		if res.Signal != int(syscall.SIGKILL) || res.Duration < s.KillGrace {
			t.Fatalf("signal %d after %s", res.Signal, res.Duration)
		}
	})
	t.Run("whose first thread has ended", func(t *testing.T) {
		t.Parallel()
		r, _ := newRunner(t)
		self, err := os.Executable()
		must(t, err)
		flag := filepath.Join(t.TempDir(), "on")
		s := shell("")
		s.Script, s.Argv, s.Env = nil, []string{self}, []string{envHeadless + "=" + flag}
		s.KillGrace = 200 * time.Millisecond
		run := start(t, r, s)
		eventually(t, "the program", func() bool { return exists(flag) })
		pid := supervisorOf(t, run.d).PID
		eventually(t, "its first thread's end", func() bool { p, err := readProcess(pid); return err == nil && p.state == 'Z' })
		must(t, run.Cancel())
		wantResult(t, wait(t, run), Canceled, ReasonCanceled)
	})
	t.Run("at once", func(t *testing.T) {
		t.Parallel()
		r, _ := newRunner(t)
		run := start(t, r, shell("sleep 60"))
		must(t, run.Cancel())
		wantResult(t, wait(t, run), Canceled, ReasonCanceled)
	})
	t.Run("before the supervisor looks", func(t *testing.T) {
		t.Parallel()
		r, m := newRunner(t)
		s := shell("touch " + filepath.Join(r.dir, "ran")).withDefaults()
		must(t, m.Intent(s))
		run, err := r.Adopt(s.Attempt)
		must(t, err)
		must(t, run.Cancel()) // no directory: nothing to do
		must(t, os.Mkdir(string(run.d), 0o700))
		must(t, os.WriteFile(run.d.path(fileCancel), nil, 0o600))
		must(t, run.fork(s))
		res := wait(t, run)
		wantResult(t, res, Canceled, ReasonCanceled)
		if res.Started || exists(filepath.Join(r.dir, "ran")) {
			t.Fatalf("a canceled attempt was started: %+v", res)
		}
	})
	t.Run("after the end", func(t *testing.T) {
		t.Parallel()
		r, _ := newRunner(t)
		run := start(t, r, shell("exit 4"))
		eventually(t, "the result", func() bool { return run.d.has(fileExit) })
		must(t, run.Cancel())
		res := wait(t, run)
		wantResult(t, res, Failed, ReasonExit)
		must(t, run.Cancel())
	})
}

func TestWhatIsLeftBehindEnds(t *testing.T) {
	t.Run("it holds the output", func(t *testing.T) {
		t.Parallel()
		begin := time.Now()
		res := runOne(t, shell("sleep 1000 & echo $!"))
		wantResult(t, res, Succeeded, ReasonExit)
		pid, err := strconv.Atoi(strings.TrimSpace(text(res.Head, Stdout)))
		must(t, err)
		if !gone(pid) || time.Since(begin) > 10*time.Second {
			t.Fatalf("process %d is gone: %v, after %s", pid, gone(pid), time.Since(begin))
		}
	})
	t.Run("it ignores TERM, in a group of its own", func(t *testing.T) {
		t.Parallel()
		s := shell("set -m; sh -c \"trap '' TERM; while :; do sleep 1; done\" >/dev/null 2>&1 & echo $!; sleep 0.2")
		s.KillGrace = 200 * time.Millisecond
		res := runOne(t, s)
		wantResult(t, res, Succeeded, ReasonExit)
		pid, err := strconv.Atoi(strings.TrimSpace(text(res.Head, Stdout)))
		must(t, err)
		if !gone(pid) || !strings.Contains(res.Detail, "left behind") {
			t.Fatalf("process %d is gone: %v; detail %q", pid, gone(pid), res.Detail)
		}
	})
	t.Run("it finishes by itself", func(t *testing.T) {
		t.Parallel()
		res := runOne(t, shell("(sleep 0.1; echo late) &"))
		wantResult(t, res, Succeeded, ReasonExit)
		if text(res.Head, Stdout) != "late\n" || res.Detail != "" {
			t.Fatalf("output %q detail %q", text(res.Head, Stdout), res.Detail)
		}
	})
	t.Run("it has left the session", func(t *testing.T) {
		t.Parallel()
		if _, err := exec.LookPath("setsid"); err != nil {
			t.Skip("SKIPPED: the program setsid is missing (package util-linux)")
		}
		begin := time.Now()
		res := runOne(t, shell("setsid sh -c 'echo $$; exec sleep 1000' & sleep 0.2"))
		wantResult(t, res, Succeeded, ReasonExit)
		pid, err := strconv.Atoi(strings.TrimSpace(text(res.Head, Stdout)))
		must(t, err)
		defer func() { _ = syscall.Kill(pid, syscall.SIGKILL) }()
		if gone(pid) || time.Since(begin) > 10*time.Second {
			t.Fatalf("process %d is gone: %v, after %s", pid, gone(pid), time.Since(begin))
		}
	})
}

func TestStartRefuses(t *testing.T) {
	r, m := newRunner(t)
	ran := filepath.Join(t.TempDir(), "ran")
	s := shell("touch " + ran)

	m.intentErr = errors.New("journal is dead")
	if _, err := r.Start(t.Context(), s); !errors.Is(err, m.intentErr) {
		t.Fatalf("error is %v", err)
	}
	m.intentErr = nil
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := r.Start(ended, s); !errors.Is(err, context.Canceled) || len(m.intents) != 0 {
		t.Fatalf("error is %v, intents %v", err, m.intents)
	}
	bad := s
	bad.InvocationID = "../../etc"
	if _, err := r.Start(t.Context(), bad); !errors.Is(err, ErrInvalid) {
		t.Fatalf("error is %v", err)
	}
	if names, err := os.ReadDir(r.dir); err != nil || len(names) != 0 {
		t.Fatalf("a refused start left %v (%v)", names, err)
	}

	// The directory alone is enough to start nothing, whatever the journal says.
	must(t, os.Mkdir(string(r.directory(s.Attempt)), 0o700))
	if _, err := r.Start(t.Context(), s); !errors.Is(err, ErrExists) {
		t.Fatalf("error is %v", err)
	}
	run, err := r.Adopt(s.Attempt)
	must(t, err)
	res := wait(t, run)
	wantResult(t, res, Lost, ReasonAgentRestart)
	if res.Started || exists(ran) {
		t.Fatalf("it was started: %+v", res)
	}
}

func TestHostThatCannotTryRejects(t *testing.T) {
	r, m := newRunner(t)
	r.supervisors = processes{filepath.Join(t.TempDir(), "missing")}
	run := start(t, r, shell("true"))
	res := wait(t, run)
	wantResult(t, res, Rejected, ReasonNotPrepared)
	if res.Started || m.results[run.Attempt()].State != Rejected {
		t.Fatalf("result %+v, journalled %+v", res, m.results)
	}
}

func TestResultIsJournalledBeforeItIsTold(t *testing.T) {
	r, m := newRunner(t)
	run := start(t, r, shell("exit 2"))
	m.finishErr = errors.New("no space")
	if _, err := run.Wait(t.Context()); !errors.Is(err, m.finishErr) {
		t.Fatalf("error is %v", err)
	}
	m.finishErr = nil
	res := wait(t, run)
	wantResult(t, res, Failed, ReasonExit)
	if m.results[run.Attempt()].ExitCode != 2 {
		t.Fatalf("journalled %+v", m.results)
	}
}

func TestWaitCanBeLeftAndTheAttemptAdopted(t *testing.T) {
	r, _ := newRunner(t)
	flag := filepath.Join(t.TempDir(), "go")
	s := shell("while [ ! -e " + flag + " ]; do sleep 0.01; done; echo done")
	run := start(t, r, s)
	supervisorOf(t, run.d)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	begin := time.Now()
	if _, err := run.Wait(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("error is %v", err)
	}
	if took := time.Since(begin); took > 2*time.Second {
		t.Fatalf("Wait took %s after its context had ended", took)
	}
	if err := r.Remove(s.Attempt); !errors.Is(err, ErrRunning) {
		t.Fatalf("removing a running attempt gives %v", err)
	}
	adopted, err := r.Adopt(s.Attempt)
	must(t, err)
	must(t, os.WriteFile(flag, nil, 0o600))
	wantResult(t, wait(t, adopted), Succeeded, ReasonExit)
	wantResult(t, wait(t, run), Succeeded, ReasonExit)

	all, err := r.Attempts()
	if err != nil || len(all) != 1 || all[0] != s.Attempt {
		t.Fatalf("attempts are %v (%v)", all, err)
	}
	for range 2 {
		must(t, r.Remove(s.Attempt))
	}
	if all, err := r.Attempts(); err != nil || len(all) != 0 {
		t.Fatalf("attempts are %v (%v)", all, err)
	}
}

func TestSupervisorWithoutTheLockStartsNothing(t *testing.T) {
	r, _ := newRunner(t)
	ran := filepath.Join(t.TempDir(), "ran")
	s := shell("touch " + ran).withDefaults()
	d := r.directory(s.Attempt)
	must(t, os.Mkdir(string(d), 0o700))
	lock, err := d.prepare(s, "a boot")
	must(t, err)
	defer lock.Close()
	elsewhere, err := os.Create(filepath.Join(t.TempDir(), "lock"))
	must(t, err)
	defer elsewhere.Close()
	own, err := os.OpenFile(d.path(fileLock), os.O_RDWR, 0) // another open file, not locked
	must(t, err)
	defer own.Close()
	for what, files := range map[string][]*os.File{"nothing": nil, "another file": {elsewhere}, "a lock that is taken": {own}} {
		cmd := exec.Command("/proc/self/exe", SuperviseCommand, string(d))
		cmd.ExtraFiles = files
		if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), "agentd: error: supervise") {
			t.Fatalf("with %s it ends with %v: %s", what, err, out)
		}
	}
	// With the lock, but after another has begun.
	must(t, os.WriteFile(d.path(fileBegun), nil, 0o600))
	cmd := exec.Command("/proc/self/exe", SuperviseCommand, string(d))
	cmd.ExtraFiles = []*os.File{lock}
	if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), "begun here before") {
		t.Fatalf("it ends with %v: %s", err, out)
	}
	if exists(ran) || d.has(fileStarted) {
		t.Fatal("the program was started")
	}
}

func TestOpenRemovesHalfRemovedAndWantsPrivacy(t *testing.T) {
	r, m := newRunner(t)
	half := filepath.Join(r.dir, gonePrefix+"inv@1")
	must(t, os.MkdirAll(filepath.Join(half, "x"), 0o700))
	_, err := Open(Options{Dir: r.dir, Journal: m})
	must(t, err)
	if exists(half) {
		t.Fatal("it is still there")
	}
	must(t, os.Chmod(r.dir, 0o755))
	if _, err := Open(Options{Dir: r.dir, Journal: m}); err == nil || !strings.Contains(err.Error(), "chmod 700") {
		t.Fatalf("a readable directory gives %v", err)
	}
}

func TestManyAtOnce(t *testing.T) {
	r, _ := newRunner(t)
	errs := make(chan error)
	const n = 12
	for i := range n {
		go func() {
			s := shell(fmt.Sprintf("echo %d", i))
			s.InvocationID = fmt.Sprintf("inv-%d", i)
			run, err := r.Start(t.Context(), s)
			if err == nil {
				var res Result
				if res, err = run.Wait(t.Context()); err == nil && text(res.Head, Stdout) != fmt.Sprintf("%d\n", i) {
					err = fmt.Errorf("attempt %d gave %+v", i, res)
				}
			}
			errs <- err
		}()
	}
	for range n {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
}

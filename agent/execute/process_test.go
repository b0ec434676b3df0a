package execute

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestAttemptIsAFileName(t *testing.T) {
	for _, id := range []string{"a", "0191-ABC_def.x", strings.Repeat("x", 128), "a..b", "-rf"} {
		a := Attempt{InvocationID: id, Number: 4294967295}
		if err := a.Validate(); err != nil {
			t.Errorf("%q: %v", id, err)
		}
		for _, step := range []uint32{1, 2, 17} {
			if back, n, ok := parseDirName(a.stepName(step)); !ok || back != a || n != step {
				t.Errorf("%q comes back as %+v step %d %v", a.stepName(step), back, n, ok)
			}
		}
	}
	for _, id := range []string{"", ".", "..", ".x", "a/b", "a b", "a@1", "ü", "a\x00", "a\n", strings.Repeat("x", 129)} {
		if err := (Attempt{InvocationID: id}).Validate(); err == nil {
			t.Errorf("%q is allowed", id)
		}
	}
	for _, name := range []string{"a", "a@", "a@-1", "a@01", "a@1@2", "@1", ".gone-a@1", "a@4294967296", "a@1.1", "a@1.0", "a@1.02", "a@1.", "a@1.2.3", "a@1.-2"} {
		if a, _, ok := parseDirName(name); ok {
			t.Errorf("%q is %+v", name, a)
		}
	}
}

func TestSpecIsChecked(t *testing.T) {
	for what, change := range map[string]func(*Spec){
		"nothing to run":    func(s *Spec) { s.Script = nil },
		"an empty program":  func(s *Spec) { s.Script, s.Argv = nil, []string{""} },
		"two things to run": func(s *Spec) { s.Argv = []string{"true"} },
		"a relative dir":    func(s *Spec) { s.Dir = "tmp" },
		"negative timeout":  func(s *Spec) { s.Timeout = -1 },
		"negative grace":    func(s *Spec) { s.KillGrace = -1 },
		"little output":     func(s *Spec) { s.OutputBytes = 1 },
		"a zero byte":       func(s *Spec) { s.Env = []string{"A=\x00"} },
		"no name":           func(s *Spec) { s.Env = []string{"=x"} },
		"no assignment":     func(s *Spec) { s.Env = []string{"x"} },
		"too much":          func(s *Spec) { s.Script = make([]byte, maxSpecBytes+1) },
		"a bad id":          func(s *Spec) { s.InvocationID = "/" },
	} {
		s := shell("true")
		change(&s)
		if err := s.Validate(); err == nil {
			t.Errorf("%s is allowed", what)
		}
	}
	if err := shell("true").Validate(); err != nil {
		t.Error(err)
	}
}

func TestParseStatBelievesNoName(t *testing.T) {
	p, err := parseStat([]byte("7 (a) S 1 1 1 (x) R 3 44 55 0 -1 4 1 0 0 0 0 0 0 0 20 0 1 0 46637 31 4 1"))
	if err != nil || p != (process{pid: 7, state: 'R', group: 44, session: 55, threads: 1, ticks: 46637}) {
		t.Fatalf("%+v %v", p, err)
	}
	self, err := readProcess(os.Getpid())
	if err != nil || self.pid != os.Getpid() || self.group != syscall.Getpgrp() || !self.alive() {
		t.Fatalf("%+v %v", self, err)
	}
}

func TestZombieWithThreadsLives(t *testing.T) {
	for _, c := range []struct {
		state   byte
		threads int
		want    bool
	}{{'R', 1, true}, {'D', 3, true}, {'T', 1, true}, {'Z', 1, false}, {'X', 0, false}, {'Z', 2, true}} {
		if got := (process{state: c.state, threads: c.threads}).alive(); got != c.want {
			t.Errorf("state %c with %d threads: alive is %v", c.state, c.threads, got)
		}
	}
}

func FuzzParseStat(f *testing.F) {
	f.Add([]byte("a) S 1 1 1 (x"))
	f.Add([]byte("000()\x00 0 0"))
	f.Fuzz(func(t *testing.T, b []byte) {
		_, _ = parseStat(b) // whatever it is, no panic
		line := slices.Concat([]byte("7 ("), b, []byte(") R 3 44 55 0 -1 4 1 0 0 0 0 0 0 0 20 0 1 0 46637 31 4 1\n"))
		if p, err := parseStat(line); err != nil || p != (process{pid: 7, state: 'R', group: 44, session: 55, threads: 1, ticks: 46637}) {
			t.Fatalf("the name %q makes it %+v (%v)", b, p, err)
		}
	})
}

// TestInnocentsAreSpared offers the killer processes that only look like the attempt's.
func TestInnocentsAreSpared(t *testing.T) {
	a := Attempt{InvocationID: "inv-1", Number: 1}
	cmd := other(t, &syscall.SysProcAttr{Setsid: true}, "sleep", "100")
	p, err := readProcess(cmd.Process.Pid)
	must(t, err)
	boot, err := BootID()
	must(t, err)
	right := started{PID: p.pid, StartTicks: p.ticks, Session: p.session, BootID: boot}
	for what, change := range map[string]func(*started){
		"another boot":                      func(s *started) { s.BootID = "other" },
		"a pid used again":                  func(s *started) { s.StartTicks-- },
		"a session used again, leader gone": func(s *started) { s.PID = 1 << 30 },
		"another session":                   func(s *started) { s.Session = os.Getpid() },
	} {
		st := right
		change(&st)
		if hit, left := killLeftover(a, st, boot); hit != 0 || left != 0 || gone(p.pid) {
			t.Fatalf("%s: %d hit, %d left, gone %v", what, hit, left, gone(p.pid))
		}
	}
	if hit, _ := killLeftover(a, right, boot); hit != 1 {
		t.Fatalf("the right one was not hit: %d", hit)
	}
}

func TestLeftoverWithoutLeaderIsKnownByItsEnvironment(t *testing.T) {
	a := Attempt{InvocationID: "inv-1", Number: 1}
	run := func(number string) int {
		cmd := exec.Command("sleep", "100")
		cmd.Env = []string{envInvocation + "=inv-1", envAttempt + "=" + number}
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		must(t, cmd.Start())
		t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
		return cmd.Process.Pid
	}
	boot, err := BootID()
	must(t, err)
	for number, hits := range map[string]int{"1": 1, "2": 0, "11": 0} {
		pid := run(number)
		// exec may not have replaced the environment yet
		eventually(t, "sleep", func() bool {
			b, err := os.ReadFile("/proc/" + itoa(pid) + "/cmdline")
			return err == nil && strings.HasPrefix(string(b), "sleep")
		})
		hit, left := killLeftover(a, started{PID: 1 << 30, Session: pid, BootID: boot}, boot)
		if hit != hits || left != 0 {
			t.Fatalf("attempt %s: %d hit, want %d", number, hit, hits)
		}
	}
}

func TestRebootIsSaid(t *testing.T) {
	for _, began := range []bool{false, true} {
		r, _ := newRunner(t)
		s := shell("true").withDefaults()
		d := r.directory(s.Attempt)
		must(t, os.Mkdir(string(d), 0o700))
		lock, err := d.prepare(s, "a boot")
		must(t, err)
		must(t, lock.Close())
		must(t, d.write(fileSpec, typeSpec, s.file("the boot before", d), true))
		cmd := other(t, &syscall.SysProcAttr{Setsid: true}, "sleep", "100")
		if began {
			p, err := readProcess(cmd.Process.Pid)
			must(t, err)
			must(t, d.write(fileStarted, typeStarted, started{p.pid, p.ticks, p.session, "the boot before", time.Now()}, true))
		}
		run, err := r.Adopt(s.Attempt)
		must(t, err)
		res := wait(t, run)
		wantResult(t, res, Lost, ReasonReboot)
		if res.Started != began || gone(cmd.Process.Pid) {
			t.Fatalf("started %v, innocent gone %v", res.Started, gone(cmd.Process.Pid))
		}
	}
}

func TestDamagedRecordsAreLostNotGuessed(t *testing.T) {
	r, _ := newRunner(t)
	run := start(t, r, shell("exit 3"))
	eventually(t, "the result", func() bool { return run.d.has(fileExit) })
	path := run.d.path(fileExit)
	b, err := os.ReadFile(path)
	must(t, err)
	b[len(b)-3] ^= 1
	must(t, os.WriteFile(path, b, 0o600))
	res := wait(t, run)
	wantResult(t, res, Lost, ReasonSupervisorGone)
	if !strings.Contains(res.Detail, "checksum") {
		t.Fatalf("detail is %q", res.Detail)
	}
	if names, err := filepath.Glob(run.d.path("*.tmp")); err != nil || len(names) != 0 {
		t.Fatalf("left are %v (%v)", names, err)
	}
}

// What is not synced is empty after a cut of the power, whose journal kept the name: so it was
// found on a host that lost it (ext4), and called a supervisor that died.
func TestRebootIsSaidOfARecordThatThePowerTook(t *testing.T) {
	r, _ := newRunner(t)
	s := shell("true").withDefaults()
	d := r.directory(s.Attempt)
	must(t, os.Mkdir(string(d), 0o700))
	lock, err := d.prepare(s, "the boot before")
	must(t, err)
	must(t, lock.Close())
	must(t, os.WriteFile(d.path(fileBegun), nil, 0o600))
	must(t, os.Truncate(d.path(fileSpec), 0))
	run, err := r.Adopt(s.Attempt)
	must(t, err)
	res := wait(t, run)
	wantResult(t, res, Lost, ReasonReboot)
	if res.Started {
		t.Errorf("%+v is said to have been started", res)
	}
}

package execute

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// machine is a host that can be booted: a runner of each life of agentd on the same
// directory and journal.
type machine struct {
	t    *testing.T
	r    *Runner
	m    *memory
	boot string
}

func newMachine(t *testing.T, rebootWait time.Duration) *machine {
	r, m := newRunner(t)
	h := &machine{t: t, r: r, m: m, boot: "first"}
	h.agentd(rebootWait)
	return h
}

// agentd starts agentd anew.
func (h *machine) agentd(rebootWait time.Duration) {
	boot := h.boot
	r, err := Open(Options{Dir: h.r.dir, Journal: h.m, RebootWait: rebootWait, BootID: func() (string, error) { return boot, nil }})
	must(h.t, err)
	h.r = r
}

// reboot starts the host anew, and agentd on it.
func (h *machine) reboot() *Run {
	h.boot += "+"
	h.agentd(time.Minute)
	return h.adopt()
}

func (h *machine) adopt() *Run {
	h.t.Helper()
	run, err := h.r.Adopt(shell("").Attempt)
	must(h.t, err)
	return run
}

// leave lets agentd wait until it is known how a step's program has ended, and end itself.
func (h *machine) leave(run *Run, step uint32) {
	h.t.Helper()
	wait := func(d time.Duration) {
		h.t.Helper()
		ctx, cancel := context.WithTimeout(h.t.Context(), d)
		defer cancel()
		if res, err := run.Wait(ctx); !errors.Is(err, context.DeadlineExceeded) {
			h.t.Fatalf("Wait before the reboot gives %+v, %v", res, err)
		}
	}
	eventually(h.t, "the end of the program", func() bool {
		wait(20 * time.Millisecond)
		return h.r.stepDirectory(run.a, step).has(fileExit)
	})
	wait(100 * time.Millisecond)
}

// pull kills the supervisor of a step and its program, as the end of the power does.
func (h *machine) pull(run *Run, step uint32, ready string) {
	h.t.Helper()
	eventually(h.t, "the program", func() bool { return exists(ready) })
	st := supervisorOf(h.t, h.r.stepDirectory(run.a, step))
	must(h.t, syscall.Kill(st.Session, syscall.SIGKILL))
	_ = syscall.Kill(-st.PID, syscall.SIGKILL)
	eventually(h.t, "their end", func() bool { return gone(st.PID) })
}

const announced = `touch "$AGENTPLANE_REBOOT"; `

func TestAnAnnouncedRebootIsFollowedByTheNextStep(t *testing.T) {
	t.Run("the step had ended", func(t *testing.T) {
		h := newMachine(t, time.Minute)
		run := start(t, h.r, inSteps("echo one; "+announced, "echo two"))
		h.leave(run, 1)
		if !run.Announced() {
			t.Error("the announcement is not seen")
		}
		h.agentd(time.Minute) // agentd alone is started anew: it goes on to wait
		h.leave(h.adopt(), 1)
		res := wait(t, h.reboot())
		wantResult(t, res, Succeeded, ReasonExit)
		wantSteps(t, h.m, "a SUCCEEDED(rebooted)", "b SUCCEEDED(exit)")
		if stored(t, h.r) != "one\ntwo\n" || text(res.Head, Stdout) != "one\ntwo\n" {
			t.Errorf("output is %q, in the result %q", stored(t, h.r), text(res.Head, Stdout))
		}
	})
	t.Run("it was killed with everything", func(t *testing.T) {
		h := newMachine(t, time.Minute)
		ready := filepath.Join(t.TempDir(), "ready")
		run := start(t, h.r, inSteps("echo one; "+announced+"touch "+ready+"; sleep 60", "echo two"))
		eventually(t, "its output", func() bool { return stored(t, h.r) == "one\n" })
		h.pull(run, 1, ready)
		res := wait(t, h.reboot())
		wantResult(t, res, Succeeded, ReasonExit)
		wantSteps(t, h.m, "a SUCCEEDED(rebooted)", "b SUCCEEDED(exit)")
		if stored(t, h.r) != "one\ntwo\n" || res.StartedAt.IsZero() {
			t.Errorf("output is %q, result %+v", stored(t, h.r), res)
		}
	})
	t.Run("it was told to end before its supervisor", func(t *testing.T) {
		h := newMachine(t, time.Minute)
		run := start(t, h.r, inSteps(announced+"kill -TERM $$", "echo two"))
		h.leave(run, 1)
		wantResult(t, wait(t, h.reboot()), Succeeded, ReasonExit)
		wantSteps(t, h.m, "a SUCCEEDED(rebooted)", "b SUCCEEDED(exit)")
	})
	t.Run("its supervisor was killed first", func(t *testing.T) {
		h := newMachine(t, time.Minute)
		ready := filepath.Join(t.TempDir(), "ready")
		run := start(t, h.r, inSteps(announced+"touch "+ready+"; sleep 60", "echo two"))
		h.pull(run, 1, ready)
		h.leave(run, 1) // agentd, which lives a moment longer, does not call it LOST
		wantResult(t, wait(t, h.reboot()), Succeeded, ReasonExit)
		wantSteps(t, h.m, "a SUCCEEDED(rebooted)", "b SUCCEEDED(exit)")
	})
	t.Run("the last step", func(t *testing.T) {
		h := newMachine(t, time.Minute)
		run := start(t, h.r, inSteps("echo one", announced))
		h.leave(run, 2)
		wantResult(t, wait(t, h.reboot()), Succeeded, ReasonRebooted)
		wantSteps(t, h.m, "a SUCCEEDED(exit)", "b SUCCEEDED(rebooted)")
	})
	t.Run("a command without steps", func(t *testing.T) {
		h := newMachine(t, time.Minute)
		run := start(t, h.r, shell("echo one; "+announced))
		h.leave(run, 1)
		res := wait(t, h.reboot())
		wantResult(t, res, Succeeded, ReasonRebooted)
		if len(h.m.steps) > 0 || text(res.Head, Stdout) != "one\n" || res.ExitCode != 0 {
			t.Errorf("result is %+v, steps %v", res, h.m.steps)
		}
	})
}

func TestARebootThatWasNotAnnouncedIsLost(t *testing.T) {
	h := newMachine(t, time.Minute)
	ready := filepath.Join(t.TempDir(), "ready")
	run := start(t, h.r, inSteps("touch "+ready+"; sleep 60", "echo two"))
	h.pull(run, 1, ready)
	wantResult(t, wait(t, h.reboot()), Lost, ReasonReboot)
	wantSteps(t, h.m, "a LOST(reboot)")
}

func TestAnnouncedRebootsThatDoNotCome(t *testing.T) {
	ready := filepath.Join(t.TempDir(), "ready")
	for name, c := range map[string]struct {
		line   string
		pull   bool
		state  State
		reason string
	}{
		"it had ended well":       {announced, false, Failed, ReasonNoReboot},
		"it had failed":           {announced + "exit 3", false, Failed, ReasonExit},
		"a signal had ended it":   {announced + "kill -9 $$", false, Failed, ReasonSignal},
		"its supervisor was gone": {announced + "touch " + ready + "; sleep 60", true, Lost, ReasonSupervisorGone},
	} {
		t.Run(name, func(t *testing.T) {
			h := newMachine(t, 300*time.Millisecond)
			run := start(t, h.r, inSteps(c.line, "echo two"))
			if c.pull {
				h.pull(run, 1, ready)
			}
			res := wait(t, run)
			wantResult(t, res, c.state, c.reason)
			wantSteps(t, h.m, "a "+string(c.state)+"("+c.reason+")")
			if said := strings.Contains(res.Detail, "the host was not started anew within 300ms"); said != (c.reason != ReasonExit) {
				t.Errorf("detail is %q", res.Detail)
			}
			if stored(t, h.r) != "" {
				t.Errorf("the next step printed %q", stored(t, h.r))
			}
		})
	}
}

// The wait is bounded by the host's uptime: a life of agentd does not begin it anew.
func TestTheWaitForARebootGoesOnInTheNextLife(t *testing.T) {
	h := newMachine(t, time.Minute)
	run := start(t, h.r, inSteps(announced, "true"))
	h.leave(run, 1)
	h.agentd(50 * time.Millisecond) // less than what has passed
	wantResult(t, wait(t, h.adopt()), Failed, ReasonNoReboot)
}

func TestCancelEndsTheWaitForAReboot(t *testing.T) {
	t.Run("at once", func(t *testing.T) {
		h := newMachine(t, time.Minute)
		run := start(t, h.r, inSteps(announced, "echo two"))
		h.leave(run, 1)
		ended := make(chan Result, 1)
		go func() {
			res, _ := run.Wait(context.Background())
			ended <- res
		}()
		must(t, run.Cancel())
		select {
		case res := <-ended:
			wantResult(t, res, Canceled, ReasonCanceled)
		case <-time.After(10 * time.Second):
			t.Fatal("it goes on to wait")
		}
		wantSteps(t, h.m, "a CANCELED(canceled)")
	})
	t.Run("in the next life", func(t *testing.T) {
		h := newMachine(t, time.Minute)
		run := start(t, h.r, inSteps(announced, "echo two"))
		h.leave(run, 1)
		must(t, run.Cancel())
		h.agentd(time.Minute)
		wantResult(t, wait(t, h.adopt()), Canceled, ReasonCanceled)
	})
	t.Run("the reboot came", func(t *testing.T) {
		h := newMachine(t, time.Minute)
		run := start(t, h.r, inSteps(announced, "echo two"))
		h.leave(run, 1)
		must(t, run.Cancel())
		wantResult(t, wait(t, h.reboot()), Canceled, ReasonCanceled)
		wantSteps(t, h.m, "a SUCCEEDED(rebooted)")
	})
}

func TestARebootThatCameIsNotAnnouncedAnyMore(t *testing.T) {
	h := newMachine(t, time.Minute)
	run := start(t, h.r, guarded(announced, time.Hour))
	h.leave(run, 1)
	if !run.Announced() {
		t.Error("the announcement is not seen")
	}
	run = h.reboot()
	if !run.Announced() {
		t.Error("whether it has come nobody has looked at yet")
	}
	leave(t, h.m, run)
	if run.Announced() {
		t.Error("what waits for a confirmation after its reboot announces another one")
	}
	run = h.adopt()
	if run.Announced() {
		t.Error("it does in the next life of agentd")
	}
	must(t, run.Keep("ann"))
	wantResult(t, wait(t, run), Succeeded, ReasonRebooted)
}

// An undo is not canceled, also while the reboot is awaited that it has announced.
func TestCancelDoesNotEndTheWaitOfAnUndo(t *testing.T) {
	for name, early := range map[string]bool{"one that made it begin": true, "one that comes later": false} {
		t.Run(name, func(t *testing.T) {
			h := newMachine(t, time.Minute)
			s := guarded("exit 3", time.Hour)
			if early {
				s.Script = []byte("echo up; sleep 60")
			}
			s.Undo.Argv[2] = announced + "echo undone"
			run := start(t, h.r, s)
			if early {
				eventually(t, "the program", func() bool { return stored(t, h.r) == "up\n" })
				must(t, run.Cancel())
			}
			h.leave(run, 2)
			must(t, run.Cancel())
			looks := 0
			uptime := h.r.uptime
			h.r.uptime = func() time.Duration { looks++; return uptime() }
			h.leave(run, 2)
			if looks > 20 {
				t.Errorf("it has looked %d times within moments", looks)
			}
			res := wait(t, h.reboot())
			if early {
				wantResult(t, res, Canceled, ReasonCanceled)
				wantSteps(t, h.m, " CANCELED(canceled)", "canceled SUCCEEDED(rebooted)")
			} else {
				wantResult(t, res, Failed, ReasonExit)
				wantSteps(t, h.m, " FAILED(exit)", "failed SUCCEEDED(rebooted)")
			}
		})
	}
}

// TestRebootKilledAtEveryPoint lets agentd die where it goes on after a reboot.
func TestRebootKilledAtEveryPoint(t *testing.T) {
	const all = "a SUCCEEDED(exit), b SUCCEEDED(rebooted), c SUCCEEDED(exit)"
	for name, c := range map[string]struct {
		fault string
		state State
		steps string
		want  string
	}{
		"before the result":      {"before-step-finish.2", Succeeded, all, "abc"},
		"after the result":       {"after-step-finish.2", Succeeded, all, "abc"},
		"after the next intent":  {"after-step-intent.3", Lost, "a SUCCEEDED(exit), b SUCCEEDED(rebooted), c LOST(agent_restart)", "ab"},
		"after the next mkdir":   {"after-mkdir.3", Lost, "a SUCCEEDED(exit), b SUCCEEDED(rebooted), c LOST(agent_restart)", "ab"},
		"after the next fork":    {"after-fork.3", Succeeded, all, "abc"},
		"after the next program": {"before-step-finish.3", Succeeded, all, "abc"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			for _, file := range []string{"go", "steps", "announces"} {
				must(t, os.WriteFile(filepath.Join(dir, file), nil, 0o600))
			}
			must(t, os.WriteFile(filepath.Join(dir, "boot"), []byte("first"), 0o600))
			before := life(t, dir)
			must(t, before.Start())
			second := Attempt{InvocationID: "inv-1", Number: 1}.stepName(2)
			eventually(t, "the end of the second step", func() bool { return exists(filepath.Join(dir, "runs", second, fileExit)) })
			must(t, before.Process.Kill())
			_ = before.Wait()

			must(t, os.WriteFile(filepath.Join(dir, "boot"), []byte("second"), 0o600))
			if out, err := life(t, dir, c.fault).CombinedOutput(); !killed(err) {
				t.Fatalf("the agent ended with %v: %s", err, out)
			}
			for range 2 {
				got := tell(t, life(t, dir))
				if got.State != string(c.state) || strings.Join(got.Steps, ", ") != c.steps {
					t.Fatalf("the agent tells %+v, want %s of %s", got, c.state, c.steps)
				}
			}
			if got := stepStarts(t, dir); got != c.want {
				t.Fatalf("steps %q were started, want %q", got, c.want)
			}
		})
	}
}

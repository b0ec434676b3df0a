package agent

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/agentplane/agentplane/agent/agenttest"
	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
)

// steps is a command of shell lines named a, b, c and so on, each of which leaves a mark.
func (h *host) steps(lines ...string) *agentplanev1.CommandSpec {
	spec := h.cluster.Spec()
	for n, line := range lines {
		argv := h.mark(line)
		argv[2] = strings.Replace(argv[2], `$AGENTPLANE_ATTEMPT"`, `$AGENTPLANE_ATTEMPT $AGENTPLANE_STEP_NAME"`, 1)
		spec.Steps = append(spec.Steps, &agentplanev1.Step{Name: string(rune('a' + n)), Argv: argv})
	}
	return spec
}

// stepMarks are the steps that were started, in their order.
func (h *host) stepMarks() string {
	h.t.Helper()
	b, err := os.ReadFile(h.witness)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		h.t.Fatal(err)
	}
	var all strings.Builder
	for line := range strings.Lines(string(b)) {
		words := strings.Fields(line)
		all.WriteString(words[len(words)-1])
	}
	return all.String()
}

func stepWords(r *agentplanev1.Report) string {
	var words []string
	for _, s := range r.GetSteps() {
		words = append(words, fmt.Sprintf("%d %s %s(%s)", s.GetNumber(), s.GetName(), s.GetState().ShortName(), s.GetReason()))
	}
	return strings.Join(words, ", ")
}

// awaitFile waits for a file, of which nobody tells.
func awaitFile(t *testing.T, path string) {
	t.Helper()
	eventually(t, path+" is made", func() bool {
		_, err := os.Stat(path)
		return err == nil
	})
}

// eventually waits for what nobody tells of.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick, end := time.NewTicker(5*time.Millisecond), time.After(15*time.Second)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-end:
			t.Fatalf("%s: not within 15 s", what)
		}
	}
}

func TestStepsAreToldAsTheyGo(t *testing.T) {
	c := agenttest.NewCluster(t, 1)
	h := newHost(t, c)
	id := h.ready()
	let := filepath.Join(t.TempDir(), "let")
	inv := c.Submit(id, h.steps("echo one", "echo two; while [ ! -e "+let+" ]; do sleep 0.01; done; exit 3", "echo three"))
	c.Until("the second step is told", func() bool {
		for _, r := range c.Reports(inv) {
			if r.GetState() == running && stepWords(r) == "1 a SUCCEEDED(exit), 2 b RUNNING()" {
				return true
			}
		}
		return false
	})
	if err := os.WriteFile(let, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	r := c.Wait(inv)
	if r.GetState() != failed || r.GetExitCode() != 3 || stepWords(r) != "1 a SUCCEEDED(exit), 2 b FAILED(exit)" || !strings.HasPrefix(r.GetDetail(), "step 2 of 3 (b): ") {
		t.Errorf("report is %v", r)
	}
	for _, s := range r.GetSteps() {
		if s.GetStartedAt() == 0 || s.GetEndedAt() < s.GetStartedAt() {
			t.Errorf("step is %v", s)
		}
	}
	if string(r.GetStdout().GetHead()) != "one\ntwo\n" || h.stepMarks() != "ab" {
		t.Errorf("stdout %q, steps %q", r.GetStdout().GetHead(), h.stepMarks())
	}
}

func TestStepsGoOnWhenAgentdIsStartedAnew(t *testing.T) {
	c := agenttest.NewCluster(t, 1)
	h := newHost(t, c)
	id := h.ready()
	let := filepath.Join(t.TempDir(), "let")
	// The first step ends while agentd is away.
	inv := c.Submit(id, h.steps("while [ ! -e "+let+" ]; do sleep 0.01; done", "echo two", "echo three"))
	c.WaitState(inv, running)
	h.stop()
	if err := os.WriteFile(let, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	awaitFile(t, filepath.Join(h.dir, attemptsDir, inv+"@1", "exit"))
	if h.stepMarks() != "a" {
		t.Errorf("steps %q were started while agentd was away", h.stepMarks())
	}
	epoch := c.Agent(id).Epoch
	h.start()
	c.WaitReady(epoch)
	r := c.Wait(inv)
	if r.GetState() != succeeded || stepWords(r) != "1 a SUCCEEDED(exit), 2 b SUCCEEDED(exit), 3 c SUCCEEDED(exit)" || h.stepMarks() != "abc" {
		t.Errorf("report is %v, steps %q were started", r, h.stepMarks())
	}
	c.Redeliver(inv)
	n := len(c.Reports(inv))
	c.Until("it is answered", func() bool { return len(c.Reports(inv)) > n })
	if h.stepMarks() != "abc" {
		t.Errorf("steps %q were started", h.stepMarks())
	}
}

func TestAnAnnouncedRebootIsSaidAndTheNextStepFollows(t *testing.T) {
	c := agenttest.NewCluster(t, 1)
	h := newHost(t, c)
	var boots atomic.Int32
	h.options = func(o *Options) {
		boot := fmt.Sprintf("boot %d", boots.Load())
		o.BootID = func() (string, error) { return boot, nil }
	}
	id := h.ready()
	inv := c.Submit(id, h.steps(`touch "$AGENTPLANE_REBOOT"`, "echo two"))
	c.Until("it is told that the reboot is waited for", func() bool { return awaitsReboot(c, inv, "1 a RUNNING(reboot_announced)") })
	h.stop()
	if bye := c.Agent(id).Goodbye; !bye.GetReboot() {
		t.Errorf("goodbye is %v, want that it says reboot", bye)
	}
	boots.Add(1)
	epoch := c.Agent(id).Epoch
	h.start()
	c.WaitReady(epoch)
	r := c.Wait(inv)
	if r.GetState() != succeeded || stepWords(r) != "1 a SUCCEEDED(rebooted), 2 b SUCCEEDED(exit)" || h.stepMarks() != "ab" {
		t.Errorf("report is %v, steps %q were started", r, h.stepMarks())
	}
	hellos := c.Agent(id).Hellos
	if hello := hellos[len(hellos)-1]; hello.GetBootId() != "boot 1" {
		t.Errorf("hello says boot %q", hello.GetBootId())
	}
}

// awaitsReboot says whether it was told that an attempt has ended but for the reboot that it
// announced.
func awaitsReboot(c *agenttest.Cluster, inv, steps string) bool {
	return slices.ContainsFunc(c.Reports(inv), func(r *agentplanev1.Report) bool {
		return r.GetState() == running && r.GetReason() == "reboot_announced" && strings.Contains(r.GetDetail(), "which is waited for until 2") && stepWords(r) == steps
	})
}

func TestOneProgramSaysThatItAwaitsAReboot(t *testing.T) {
	c := agenttest.NewCluster(t, 1)
	h := newHost(t, c)
	id := h.ready()
	let := filepath.Join(t.TempDir(), "let")
	inv := c.Submit(id, c.Spec("sh", "-c", `while [ ! -e `+let+` ]; do sleep 0.01; done; touch "$AGENTPLANE_REBOOT"`))
	c.WaitState(inv, running)
	if err := os.WriteFile(let, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	c.Until("it is told that the reboot is waited for", func() bool { return awaitsReboot(c, inv, "") })
	c.Cancel(id, inv)
	if r := c.Wait(inv); r.GetState() != canceled || r.GetReason() != "canceled" || !strings.Contains(r.GetDetail(), "waited for the reboot") {
		t.Errorf("report is %v", r)
	}
}

func TestCancelReachesTheStepAtHand(t *testing.T) {
	c := agenttest.NewCluster(t, 1)
	h := newHost(t, c)
	id := h.ready()
	inv := c.Submit(id, h.steps("true", "sleep 60", "true"))
	c.Until("the second step runs", func() bool { return h.stepMarks() == "ab" })
	c.Cancel(id, inv)
	if r := c.Wait(inv); r.GetState() != canceled || r.GetCancelTooLate() || stepWords(r) != "1 a SUCCEEDED(exit), 2 b CANCELED(canceled)" {
		t.Errorf("report is %v", r)
	}
	if h.stepMarks() != "ab" {
		t.Errorf("steps %q were started", h.stepMarks())
	}
}

func TestStepsThatCannotBeRunAreRejected(t *testing.T) {
	c := agenttest.NewCluster(t, 1)
	h := newHost(t, c)
	h.options = func(o *Options) {
		o.Policy = func(s *agentplanev1.CommandSpec) string {
			switch {
			case len(s.GetSteps()) > 0:
				return "it is not shown one program"
			case len(s.GetScript()) > 0:
				return "no scripts on this host"
			}
			return ""
		}
	}
	id := h.ready()
	many := h.steps(strings.Split(strings.Repeat("true ", 17), " ")...)
	both := h.steps("true")
	both.Argv = []string{"true"}
	script := h.steps("true", "true")
	script.Steps[1].Argv, script.Steps[1].Script = nil, []byte("true")
	for name, x := range map[string]struct {
		spec           *agentplanev1.CommandSpec
		reason, detail string
	}{
		"too many":             {many, reasonInvalid, "at most 16 are allowed"},
		"steps and a program":  {both, reasonInvalid, "both steps and a program"},
		"one against a policy": {script, reasonPolicy, "step 2 (b): no scripts on this host"},
	} {
		r := c.Wait(c.Submit(id, x.spec))
		if r.GetState() != rejected || r.GetReason() != x.reason || !strings.Contains(r.GetDetail(), x.detail) || len(r.GetSteps()) > 0 {
			t.Errorf("%s: %v", name, r)
		}
	}
	if h.stepMarks() != "" {
		t.Errorf("steps %q were started", h.stepMarks())
	}
}

// A sweep removes what all steps of an attempt have left.
func TestSweepRemovesDirectoriesOfSteps(t *testing.T) {
	c := agenttest.NewCluster(t, 1)
	h := newHost(t, c)
	id := h.ready()
	h.stop()
	for _, name := range []string{"gone.1@1", "gone.1@1.2", "alone.1@1.3"} {
		h.orphan(name, 31*24*time.Hour)
	}
	epoch := c.Agent(id).Epoch
	h.start()
	c.WaitReady(epoch)
	if left, err := os.ReadDir(filepath.Join(h.dir, attemptsDir)); err != nil || len(left) > 0 {
		t.Errorf("%v are left (%v)", left, err)
	}
}

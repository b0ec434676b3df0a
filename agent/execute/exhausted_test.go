package execute

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// envCrowded makes this binary an agent that runs what it reads from stdin, attempt after
// attempt, and tells how each ended: a process of its own, for which a control group can
// let nothing be left.
const envCrowded = "EXECUTE_TEST_CROWDED"

// crowdedTold is what that agent tells of an attempt.
type crowdedTold struct {
	State, Reason, Detail string
	Started               bool
	Signal                int
}

func crowdedMain(dir string) int {
	r, err := Open(Options{Dir: dir, Journal: &memory{intents: map[Attempt]bool{}, results: map[Attempt]Result{}}})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	answers := json.NewEncoder(os.Stdout)
	if answers.Encode("ready") != nil {
		return 1
	}
	lines := bufio.NewScanner(os.Stdin)
	for number := uint32(1); lines.Scan(); number++ {
		s := shell("")
		s.Script, s.Argv, s.Number = nil, strings.Fields(lines.Text()), number
		run, err := r.Start(context.Background(), s)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		res, err := run.Wait(context.Background())
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		if answers.Encode(crowdedTold{string(res.State), res.Reason, res.Detail, res.Started, res.Signal}) != nil {
			return 1
		}
	}
	return 0
}

// crowded is the agent in a control group of its own.
type crowded struct {
	t       *testing.T
	group   string
	cmd     *exec.Cmd
	stdin   io.WriteCloser
	answers *json.Decoder
}

// newCrowded starts the agent in a control group of cgroup v1, which takes root; without it
// the test is skipped.
func newCrowded(t *testing.T, controller string) *crowded {
	t.Helper()
	c := &crowded{t: t, group: filepath.Join("/sys/fs/cgroup", controller, fmt.Sprintf("agentplane-execute-%d-%d", os.Getpid(), time.Now().UnixNano()))}
	if err := os.Mkdir(c.group, 0o755); err != nil {
		t.Skipf("SKIPPED, NOT TRIED: no control group of cgroup v1 can be made for %s: %v", controller, err)
	}
	t.Cleanup(c.close)
	c.cmd = exec.Command("/proc/self/exe")
	c.cmd.Env = append(os.Environ(), envCrowded+"="+filepath.Join(t.TempDir(), "runs"))
	c.cmd.Stderr = os.Stderr
	stdout, err := c.cmd.StdoutPipe()
	must(t, err)
	c.stdin, err = c.cmd.StdinPipe()
	must(t, err)
	must(t, c.cmd.Start())
	c.answers = json.NewDecoder(stdout)
	var ready string
	must(t, c.answers.Decode(&ready))
	if err := c.set("cgroup.procs", c.cmd.Process.Pid); err != nil {
		t.Skipf("SKIPPED, NOT TRIED: no process can be put into a control group for %s: %v", controller, err)
	}
	return c
}

func (c *crowded) close() {
	if c.cmd != nil && c.cmd.Process != nil {
		_ = c.stdin.Close()
		_ = c.cmd.Wait()
	}
	eventually(c.t, "the last process of the control group is reaped", func() bool {
		err := os.Remove(c.group)
		return err == nil || errors.Is(err, os.ErrNotExist)
	})
}

func (c *crowded) set(file string, n int) error {
	return os.WriteFile(filepath.Join(c.group, file), []byte(strconv.Itoa(n)), 0)
}

func (c *crowded) get(file string) int {
	c.t.Helper()
	b, err := os.ReadFile(filepath.Join(c.group, file))
	must(c.t, err)
	n, err := strconv.Atoi(strings.TrimSpace(string(b)))
	must(c.t, err)
	return n
}

// run has the agent run a program.
func (c *crowded) run(argv ...string) (res crowdedTold) {
	c.t.Helper()
	_, err := fmt.Fprintln(c.stdin, strings.Join(argv, " "))
	must(c.t, err)
	if err := c.answers.Decode(&res); err != nil {
		c.t.Fatalf("the agent is gone: %v", err)
	}
	return res
}

// When the host has no process left an attempt is REJECTED, which says that it was never
// started; the agent lives, and the next one runs once there are processes again.
func TestHostOutOfProcesses(t *testing.T) {
	c := newCrowded(t, "pids")
	witness := filepath.Join(t.TempDir(), "witness")
	must(t, c.set("pids.max", c.get("pids.current")))
	res := c.run("touch", witness)
	if res.State != string(Rejected) || res.Reason != ReasonNotPrepared || res.Started || !strings.Contains(res.Detail, "resource temporarily unavailable") {
		t.Errorf("without a process it is %+v, want REJECTED(not_prepared), never started", res)
	}
	if exists(witness) {
		t.Error("it ran all the same")
	}
	must(t, os.WriteFile(filepath.Join(c.group, "pids.max"), []byte("max"), 0))
	if res := c.run("touch", witness); res.State != string(Succeeded) || !exists(witness) {
		t.Errorf("with processes it is %+v", res)
	}
}

// However few processes are left, and whoever of those between agent and program dies of it:
// what is not said to have started has not run, and what succeeded has.
func TestHostWithFewProcessesLeft(t *testing.T) {
	c := newCrowded(t, "pids")
	witness := filepath.Join(t.TempDir(), "witness")
	outcomes := map[string]int{}
	for _, left := range []int{0, 2, 5, 8, 11, 14} {
		_ = os.Remove(witness)
		eventually(t, "the last attempt is over", func() bool { return c.threads() == c.get("pids.current") })
		must(t, c.set("pids.max", c.get("pids.current")+left))
		res := c.run("touch", witness)
		outcomes[res.State+"("+res.Reason+")"]++
		if ran := exists(witness); ran && !res.Started || !ran && res.State == string(Succeeded) {
			t.Errorf("with %d processes left it ran: %v, and the result is %+v", left, ran, res)
		}
	}
	t.Logf("outcomes: %v", outcomes)
}

// threads is how many the agent itself has.
func (c *crowded) threads() int {
	c.t.Helper()
	all, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", c.cmd.Process.Pid))
	must(c.t, err)
	return len(all)
}

// A program that takes more memory than there is is killed by the kernel, and FAILED by
// signal 9; the agent and its supervisor, which are small beside it, live.
func TestHostOutOfMemory(t *testing.T) {
	c := newCrowded(t, "memory")
	must(t, c.set("memory.limit_in_bytes", 128<<20))
	res := c.run("dd", "if=/dev/zero", "of=/dev/null", "bs=1000M", "count=1") // in one piece
	if res.State != string(Failed) || res.Reason != ReasonSignal || res.Signal != int(syscall.SIGKILL) || !res.Started {
		t.Errorf("it is %+v, want FAILED by signal 9", res)
	}
	if res := c.run("true"); res.State != string(Succeeded) {
		t.Errorf("the next one is %+v", res)
	}
}

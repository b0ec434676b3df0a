package e2e

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/agentplane/agentplane/cmd/agentplane/lab"
)

// inGroup puts an agent into a control group of its own, in which everything stays that it
// starts.
func inGroup(t *testing.T, controller string, a *lab.Agent) *group {
	t.Helper()
	g, err := newGroup(filepath.Join("/sys/fs/cgroup", controller), &a.Process)
	if err != nil {
		t.Skipf("SKIPPED, NOT TRIED: there is no control group of cgroup v1 for %s: %v", controller, err)
	}
	t.Cleanup(func() {
		if err := g.close(); err != nil {
			t.Error(err)
		}
	})
	return g
}

func (g *group) set(t *testing.T, file, value string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(g.dir, file), []byte(value), 0); err != nil {
		t.Fatal(err)
	}
}

// alive expects the agent to be the process that it was, and to do its work.
func (f *fleet) alive(t *testing.T, a *lab.Agent, pid int) {
	t.Helper()
	if a.PID() != pid || !a.Running() {
		t.Errorf("agentd was process %d, and is %d, running: %v", pid, a.PID(), a.Running())
	}
	id, o := f.run(t, a.Name, nil, f.argv())
	if o.Code != 0 {
		t.Errorf("the next command: %+v", o)
		return
	}
	f.expect(t, id, "SUCCEEDED", 1)
}

// TestBadDayHostOutOfMemory has a program take more memory than its host has: the kernel
// kills it, and agentd says so.
func TestBadDayHostOutOfMemory(t *testing.T) {
	f := newFleet(t, 1, nil, nil)
	a := f.agents[0]
	pid := a.PID()
	inGroup(t, "memory", a).set(t, "memory.limit_in_bytes", strconv.Itoa(256<<20))
	id, o := f.run(t, "a1", nil, []string{"dd", "if=/dev/zero", "of=/dev/null", "bs=1000M", "count=1"})
	if i := f.awaitState(t, id, "FAILED"); o.Code != 7 || i.Signal != 9 || i.Reason != "signal" || i.Attempt != 1 {
		t.Errorf("exit %d, %+v", o.Code, i)
	}
	f.alive(t, a, pid)
}

// TestBadDayHostOutOfProcesses leaves an agent no process to start anything with, and no thread
// for itself. What it is given is REJECTED and has provably not run; commands come through again
// once there are processes.
func TestBadDayHostOutOfProcesses(t *testing.T) {
	f := newFleet(t, 1, nil, nil)
	a := f.agents[0]
	pid := a.PID()
	g := inGroup(t, "pids", a)
	b, err := os.ReadFile(filepath.Join(g.dir, "pids.current"))
	if err != nil {
		t.Fatal(err)
	}
	g.set(t, "pids.max", strings.TrimSpace(string(b)))
	ids := make([]string, 12)
	for n := range ids {
		ids[n] = f.detach(t, "a1", nil, f.argv())
	}
	for _, id := range ids {
		i := f.awaitState(t, id, "REJECTED")
		if n := f.starts(t, i.ID); i.Reason != "not_prepared" || i.StartedAt != nil || n != 0 {
			t.Errorf("started %d times: %+v", n, i)
		}
	}
	g.set(t, "pids.max", "max")
	f.alive(t, a, pid)
}

package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/agentplane/agentplane/cmd/agentplane/lab"
)

// copyAgent copies the data directory of an agent that does not run.
func copyAgent(t *testing.T, from, to string) {
	t.Helper()
	if out, err := exec.Command("cp", "-a", from, to).CombinedOutput(); err != nil { // there are pipes in it
		t.Fatalf("%v: %s", err, out)
	}
}

// quarantined waits until the agent is, and checks that nothing is started on it.
func quarantined(t *testing.T, f *fleet, name, why string) {
	t.Helper()
	await(t, 30*time.Second, name+" is quarantined for "+why, func() error {
		o := f.Ctl(t.Context(), "agents", "get", name, "--request-timeout", "3s")
		if o.Code != 0 || !strings.Contains(o.Stdout, "QUARANTINED") || !strings.Contains(o.Stdout, why) {
			return printedError(o.Stdout + o.Stderr)
		}
		return nil
	})
	id, o := f.run(t, name, []string{"--queue", "2s"}, f.argv())
	if o.Code != 7 {
		t.Errorf("a command for a quarantined agent: %+v", o)
	}
	f.expect(t, id, "EXPIRED", 0)
}

// working waits until the agent takes work. An agent that was started again and again
// is called FLAPPING for a while, and takes work all the same.
func working(t *testing.T, f *fleet, name string) {
	t.Helper()
	await(t, 20*time.Second, name+" takes work", func() error {
		v, err := f.agentView(t.Context(), name)
		if err == nil && v.Health != "ONLINE" && v.Health != "FLAPPING" {
			err = fmt.Errorf("%+v", v)
		}
		return err
	})
}

// TestBadDayCloneOfAnAgent starts a copy of an agent beside it.
func TestBadDayCloneOfAnAgent(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 1, nil, nil)
	a := f.agents[0]
	old, o := f.run(t, "a1", nil, f.argv())
	if o.Code != 0 {
		t.Fatalf("%+v", o)
	}
	if err := a.Stop(10 * time.Second); err != nil {
		t.Fatal(err)
	}
	clone := f.Lab.Agent("a1-clone", strings.Join(f.addresses, ","), "")
	copyAgent(t, a.DataDir, clone.DataDir)
	for _, one := range []*lab.Agent{a, clone} {
		if err := one.Start(); err != nil {
			t.Fatal(err)
		}
	}
	quarantined(t, f, "a1", "clone")
	// Both are shown.
	o = f.Ctl(within(t, 10*time.Second), "agents", "get", "a1", "-o", "json")
	var shown struct{ HealthDetail string }
	if err := json.Unmarshal([]byte(o.Stdout), &shown); err != nil || len(regexp.MustCompile(`[0-9a-f]{32}`).FindAllString(shown.HealthDetail, -1)) != 2 ||
		!strings.Contains(shown.HealthDetail, "readmit it, then enrol one of them again with a new token") {
		t.Errorf("want both starts and what to do: %+v, %v", shown, err)
	}
	f.expect(t, old, "SUCCEEDED", 1)

	// The copy is stopped. The agent enrols again as the one that it was.
	clone.Kill()
	a.Kill()
	before, err := f.agentView(t.Context(), "a1")
	if err != nil {
		t.Fatal(err)
	}
	if o := f.Ctl(within(t, 20*time.Second), "agents", "readmit", "a1"); o.Err() != nil || !strings.Contains(o.Stdout+o.Stderr, "new token") {
		t.Fatalf("readmit does not say what is to be done: %+v", o)
	}
	again := f.Lab.Agent("a1", strings.Join(f.addresses, ","), mustToken(t, f.Lab, "agent"))
	if err := again.Start(); err != nil {
		t.Fatal(err)
	}
	working(t, f, "a1")
	if after, err := f.agentView(t.Context(), "a1"); err != nil || after.ID != before.ID {
		t.Errorf("agent is %+v, %v; want the id %s", after, err, before.ID)
	}
	id, o := f.run(t, "a1", nil, f.argv())
	if o.Code != 0 {
		t.Fatalf("%+v", o)
	}
	f.expect(t, id, "SUCCEEDED", 1)
	f.expect(t, old, "SUCCEEDED", 1)

	// The copy has the old key, and a new token does not help it.
	thief := f.Lab.Agent("a1-clone", strings.Join(f.addresses, ","), mustToken(t, f.Lab, "agent"))
	if err := thief.Start(); err != nil {
		t.Fatal(err)
	}
	await(t, 30*time.Second, "the copy is refused", func() error {
		log, err := os.ReadFile(thief.Log)
		if err == nil && !strings.Contains(string(log), "is enrolled with another key") {
			err = errors.New("its log does not say so")
		}
		return err
	})
	working(t, f, "a1")
}

// TestBadDayRemovedAgent removes an agent that runs.
func TestBadDayRemovedAgent(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 1, nil, nil)
	a := f.agents[0]
	before, err := f.agentView(t.Context(), "a1")
	if err != nil {
		t.Fatal(err)
	}
	if o := f.Ctl(within(t, 20*time.Second), "agents", "remove", "a1"); o.Err() != nil {
		t.Fatal(o.Err())
	}
	// It says so, once, and does not come back by itself.
	says := func() int {
		log, err := os.ReadFile(a.Log)
		if err != nil {
			t.Fatal(err)
		}
		return strings.Count(string(log), "this agent gets no work")
	}
	await(t, 30*time.Second, "the agent says that it was removed", func() error {
		if says() == 0 {
			return errors.New("not yet")
		}
		return nil
	})
	time.Sleep(6 * time.Second) // beyond its first wait
	if n := says(); n != 1 {
		t.Errorf("it says %d times that it gets no work, want once", n)
	}
	if _, err := f.agentView(t.Context(), "a1"); err == nil {
		t.Error("the removed agent is there again")
	}
	if err := a.Stop(10 * time.Second); err != nil {
		t.Fatal(err)
	}
	again := f.Lab.Agent("a1", strings.Join(f.addresses, ","), mustToken(t, f.Lab, "agent"))
	if err := again.Start(); err != nil {
		t.Fatal(err)
	}
	f.awaitHealth(t, "a1", "ONLINE")
	if after, err := f.agentView(t.Context(), "a1"); err != nil || after.ID != before.ID {
		t.Errorf("agent is %+v, %v; want the id %s", after, err, before.ID)
	}
	id, o := f.run(t, "a1", nil, f.argv())
	if o.Code != 0 {
		t.Fatalf("%+v", o)
	}
	f.expect(t, id, "SUCCEEDED", 1)
}

// TestBadDayRestoredAgent puts an older image of an agent's directory back, which does
// not know what was run since.
func TestBadDayRestoredAgent(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 1, nil, nil)
	a := f.agents[0]
	var done []string
	work := func() {
		t.Helper()
		id, o := f.run(t, "a1", nil, f.argv())
		if o.Code != 0 {
			t.Fatalf("%+v", o)
		}
		done = append(done, id)
	}
	work()
	if err := a.Stop(10 * time.Second); err != nil {
		t.Fatal(err)
	}
	image := filepath.Join(f.Dir, "image")
	copyAgent(t, a.DataDir, image)
	if err := a.Start(); err != nil {
		t.Fatal(err)
	}
	f.awaitHealth(t, "a1", "ONLINE")
	for range 3 {
		work()
	}
	if err := a.Stop(10 * time.Second); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(a.DataDir); err != nil {
		t.Fatal(err)
	}
	copyAgent(t, image, a.DataDir)
	if err := a.Start(); err != nil {
		t.Fatal(err)
	}
	quarantined(t, f, "a1", "journal_behind")
	if o := f.Ctl(within(t, 20*time.Second), "agents", "readmit", "a1"); o.Err() != nil {
		t.Fatal(o.Err())
	}
	working(t, f, "a1")
	work()
	for _, id := range done {
		f.expect(t, id, "SUCCEEDED", 1) // no second start of what was done
	}
}

// TestBadDayWipedAgent loses what an agent knows of its work, while it works, and keeps
// its key: it comes with a journal of another id. Nobody knows what became of what was
// claimed under the first one, which is what must be said, and it is not started again.
func TestBadDayWipedAgent(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 1, nil, nil)
	a := f.agents[0]
	id := f.detach(t, "a1", nil, f.argv("--sleep", "5m"))
	f.awaitStart(t, id)
	f.awaitState(t, id, "RUNNING")
	a.Kill()
	for _, pid := range a.Supervisors() {
		_ = syscall.Kill(-pid, syscall.SIGKILL)
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	for _, d := range []string{"journal", "attempts"} {
		dir := filepath.Join(a.DataDir, d)
		if _, err := os.Stat(dir); err != nil {
			t.Fatal(err)
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
	}
	if err := a.Start(); err != nil {
		t.Fatal(err)
	}
	if i := f.expect(t, id, "LOST", 1); i.Reason != "journal_lost" {
		t.Errorf("%v, want the reason journal_lost", i)
	}
	working(t, f, "a1")
	next, o := f.run(t, "a1", nil, f.argv())
	if o.Code != 0 {
		t.Fatalf("%+v", o)
	}
	f.expect(t, next, "SUCCEEDED", 1)
	f.expect(t, id, "LOST", 1)
}

// TestBadDayDamagedAgent damages what an agent keeps.
func TestBadDayDamagedAgent(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 3, nil, nil) // one for each journal: sessions in a row are slowed down
	done := map[string][]string{}
	for _, a := range f.agents {
		for range 3 {
			id := newID(t)
			if o := f.Ctl(within(t, 30*time.Second), append([]string{"run", "--id", id, "--on", fmt.Sprintf("name == %q", a.Name), "--"}, f.argv()...)...); o.Code != 0 {
				t.Fatalf("%+v", o)
			}
			done[a.Name] = append(done[a.Name], id)
		}
		if err := a.Stop(10 * time.Second); err != nil {
			t.Fatal(err)
		}
	}
	a := f.agents[0]
	for _, c := range []struct {
		file   string
		damage func([]byte) []byte
		how    string
		says   []string
	}{
		{"agent.json", half, "truncated", []string{"agent.json"}},
		{"agent.json", bit(10), "flipped", []string{"agent.json"}},
		{"agent.key", half, "truncated", []string{"agent.key"}},
		{"trust.json", half, "truncated", []string{"trust.json"}},
	} {
		t.Run(c.file+" "+c.how, func(t *testing.T) {
			restore := damageFiles(t, filepath.Join(a.DataDir, c.file), c.damage)
			defer restore()
			badDay{code: 1, says: c.says}.judge(t, tryAgent(t, f.Lab, a.DataDir, f.addresses[0], mustToken(t, f.Lab, "agent")))
		})
	}
	// A journal that is damaged in the middle is not believed: it begins anew under
	// another id. What was done is not done again.
	for i, c := range []struct {
		how    string
		damage func([]byte) []byte
	}{
		{"flipped in the middle", func(b []byte) []byte { return bit(len(b) / 2)(b) }},
		{"torn at the end", func(b []byte) []byte { return b[:len(b)-5] }},
		{"gone", nil},
	} {
		t.Run("journal "+c.how, func(t *testing.T) {
			a := f.agents[i]
			damageFiles(t, filepath.Join(a.DataDir, "journal", "journal-*"), c.damage)
			if err := a.Start(); err != nil {
				t.Fatal(err)
			}
			await(t, 20*time.Second, "the agent has a session", func() error {
				v, err := f.agentView(t.Context(), a.Name)
				if err == nil && (v.Health == "LEFT" || v.Health == "DOWN") {
					err = fmt.Errorf("%+v", v)
				}
				if v.Health == "QUARANTINED" {
					return f.Ctl(t.Context(), "agents", "readmit", a.Name).Err()
				}
				return err
			})
			working(t, f, a.Name)
			id, o := f.run(t, a.Name, nil, f.argv())
			if o.Code != 0 {
				t.Fatalf("%+v", o)
			}
			done[a.Name] = append(done[a.Name], id)
			for _, id := range done[a.Name] {
				f.expect(t, id, "SUCCEEDED", 1)
			}
			if err := a.Stop(10 * time.Second); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// TestBadDayOutputFlood lets a program write far more than is kept, and leaves
// grandchildren behind.
func TestBadDayOutputFlood(t *testing.T) {
	f := newFleet(t, 1, nil, nil)
	megabytes := 200
	if full() {
		megabytes = 2048
	}
	id := f.detach(t, "a1", nil, []string{"/bin/sh", "-c", fmt.Sprintf("head -c %dM /dev/zero | tr '\\0' 'x'; sleep 1", megabytes)})
	peak := map[int]int{}
	name := map[int]string{f.agents[0].PID(): "agentd"}
	await(t, 2*time.Minute, "the flood ends", func() error {
		pids := []int{f.agents[0].PID()}
		for _, pid := range f.agents[0].Supervisors() {
			pids, name[pid] = append(pids, pid), "supervisor"
		}
		for _, pid := range pids {
			if kib := highWater(pid); kib > peak[pid] {
				peak[pid] = kib
			}
		}
		if i, err := f.one(t.Context(), id); err != nil || i.State != "SUCCEEDED" {
			return fmt.Errorf("%+v, %w", i, err)
		}
		return nil
	})
	if len(peak) < 2 {
		t.Fatalf("no supervisor was seen: %v", peak)
	}
	for pid, kib := range peak {
		t.Logf("%s: at most %d MiB", name[pid], kib>>10)
		if kib > 60<<10 {
			t.Errorf("%s had %d MiB of memory, want at most 60", name[pid], kib>>10)
		}
	}
	if i := f.awaitState(t, id, "SUCCEEDED"); i.Stdout == nil || i.Stdout.TotalBytes != megabytes<<20 {
		t.Errorf("stdout %+v, want %d MiB counted", i.Stdout, megabytes)
	}

	// A grandchild that outlives its parent and holds the output open.
	pidFile := filepath.Join(f.Dir, "grandchild")
	id, o := f.run(t, "a1", []string{"--timeout", "20s", "--kill-grace", "1s"},
		[]string{"/bin/sh", "-c", "sleep 300 & echo $! > " + pidFile + "; echo parent"})
	i := f.awaitState(t, id, "SUCCEEDED")
	if o.Code != 0 || !strings.Contains(i.Output, "parent") {
		t.Errorf("%+v, %+v", o, i)
	}
	b, err := os.ReadFile(pidFile)
	if err != nil {
		t.Fatal(err)
	}
	var pid int
	if _, err := fmt.Sscan(string(b), &pid); err != nil {
		t.Fatal(err)
	}
	if next, o := f.run(t, "a1", nil, f.argv()); o.Code != 0 {
		t.Errorf("%+v", o)
	} else {
		f.expect(t, next, "SUCCEEDED", 1)
	}
	_ = syscall.Kill(pid, syscall.SIGKILL)
}

// highWater is the most memory that a process has had, in KiB; 0 when it is gone.
func highWater(pid int) int {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(b)) {
		var kib int
		if n, _ := fmt.Sscanf(line, "VmHWM: %d kB", &kib); n == 1 {
			return kib
		}
	}
	return 0
}

package e2e

import (
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// alone is a script that fails when it runs beside another one with the same name on this
// machine, on which all agents of the test are: who makes a directory first is alone.
func (f *fleet) alone(name string, seconds float64) []string {
	dir := filepath.Join(f.Dir, "alone-"+name)
	return []string{"sh", "-c", fmt.Sprintf("mkdir %q || exit 9; sleep %v; rmdir %q", dir, seconds, dir)}
}

// TestLocksKeepProgramsApart has programs find out themselves whether another one runs
// beside them: under a lock of the host, a budget over the fleet, and a lock that agentctl
// holds, while the leader is killed.
func TestLocksKeepProgramsApart(t *testing.T) {
	f := newFleet(t, 3, []string{"--agent-heartbeat-interval", "200ms", "--agent-node-death-grace", "5s"}, []string{"--slots", "4"})
	ctl := func(args ...string) string {
		t.Helper()
		o := f.Ctl(within(t, time.Minute), args...)
		if o.Err() != nil {
			t.Fatal(o.Err())
		}
		return strings.TrimSpace(o.Stdout)
	}
	succeeds := func(id string) {
		t.Helper()
		var last commandView
		await(t, time.Minute, "command "+id+" ends", func() error {
			var c commandView
			if err := f.json(t.Context(), &c, "commands", "get", id, "-o", "json", "--request-timeout", "3s"); err != nil {
				return err
			}
			if c.State != "DONE" {
				return fmt.Errorf("it is %s: %v", c.State, c.Counts)
			}
			last = c
			return nil
		})
		if last.Counts["succeeded"] != len(last.Invocations) {
			t.Fatalf("command %s: %v: some ran beside others", id, last.Counts)
		}
	}
	submit := func(argv []string, flags ...string) string {
		t.Helper()
		return ctl(append(append(append([]string{"run", "--detach", "--queue", "5m"}, flags...), "--"), argv...)...)
	}

	var ids []string
	for range 4 {
		ids = append(ids, submit(f.alone("host", 0.2), "--on", `name == "a1"`, "--lock", "apt"))
	}
	ids = append(ids, submit(f.alone("host", 0.1), "--on", `name == "a1"`, "--exclusive"))
	for _, id := range ids {
		succeeds(id)
	}

	ctl("lock", "create", "one", "--limit", "1", "--on", "all")
	ids = ids[:0]
	for range 2 {
		ids = append(ids, submit(f.alone("fleet", 0.3), "--on", "all"))
	}
	var byHand sync.WaitGroup
	for range 2 {
		byHand.Go(func() {
			args := append([]string{"lock", "run", "one", "--agent", "a2", "--ttl", "20s", "--"}, f.alone("fleet", 0.3)...)
			if o := f.Ctl(within(t, time.Minute), args...); o.Err() != nil {
				t.Error(o.Err())
			}
		})
	}
	var leader struct{ Name string }
	await(t, 20*time.Second, "somebody leads", func() error {
		var members []struct {
			Name   string
			Leader bool
		}
		if err := f.json(t.Context(), &members, "cluster", "members", "-o", "json", "--request-timeout", "3s"); err != nil {
			return err
		}
		for _, m := range members {
			if m.Leader {
				leader.Name = m.Name
				return nil
			}
		}
		return fmt.Errorf("nobody among %v", members)
	})
	for _, n := range f.nodes {
		if n.Name == leader.Name {
			n.Kill()
		}
	}
	for _, id := range ids {
		succeeds(id)
	}
	byHand.Wait()
	if held := ctl("lock", "get", "one", "-o", "json"); !strings.Contains(held, `"held": 0`) {
		t.Errorf("in the end somebody holds the budget: %s", held)
	}
}

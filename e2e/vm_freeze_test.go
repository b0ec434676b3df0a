package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// guestFreezes stops all of the guest for a minute, its clocks as well: what ran goes on, what
// was over meanwhile is not started, and what was called LOST is told late.
func guestFreezes(t *testing.T, k *guestKit) {
	f, g := guestFleet(t, k, []string{"--agent-heartbeat-interval", "500ms", "--agent-heartbeat-misses", "4", "--agent-node-death-grace", "5s", "--commands-lost-after", "5s"}, nil)
	limits := []string{"--timeout", "15s", "--kill-grace", "1s"}
	running := f.detach(t, "guest", limits, f.argv("--sleep", "5s"))
	f.awaitStart(t, running)
	before := g.uptime(t)
	if _, err := g.tell("stop"); err != nil {
		t.Fatal(err)
	}
	frozen := time.Now()
	// Nobody has noticed yet: it may be claimed for an agent that will not get it.
	onItsWay := f.detach(t, "guest", append([]string{"--ttl", "10s"}, limits...), f.argv())
	f.awaitHealth(t, "guest", "DOWN")
	over := f.detach(t, "guest", append([]string{"--queue", "5s"}, limits...), f.argv())
	waiting := f.detach(t, "guest", append([]string{"--queue", "5m"}, limits...), f.argv())
	f.awaitState(t, over, "EXPIRED")
	f.awaitGuestEnd(t, running, "LOST", "no_contact", 1)
	time.Sleep(time.Until(frozen.Add(time.Minute))) // how long it is frozen is the test's input
	if _, err := g.tell("cont"); err != nil {
		t.Fatal(err)
	}
	if up := g.uptime(t); up > before+30 {
		t.Errorf("the guest's clock went on while it was frozen: %.1f, then %.1f", before, up)
	}
	f.awaitGuest(t)
	if i := f.awaitGuestEnd(t, running, "SUCCEEDED", "exit", 1); !i.Late {
		t.Errorf("%v does not say that it was told late", i)
	}
	f.awaitGuestEnd(t, waiting, "SUCCEEDED", "exit", 1)
	f.expect(t, over, "EXPIRED", 0)
	i, err := f.one(t.Context(), onItsWay)
	if err != nil {
		t.Fatal(err)
	}
	n := f.starts(t, i.ID)
	t.Logf("submitted as it froze: %v, started %d times", i, n)
	if !slices.Contains(finals, i.State) || n > 1 || i.State == "SUCCEEDED" && n != 1 || i.State == "EXPIRED" && n != 0 {
		t.Errorf("%v: started %d times", i, n)
	}
}

// guestIsPutBack has the guest go back to what it was a while ago, with its disk and all that
// was in its memory: the agent is the same process as then and knows nothing of what it has
// done since. The cluster notices, and nothing starts twice.
func guestIsPutBack(t *testing.T, k *guestKit) {
	f, g := guestFleet(t, k, []string{"--agent-heartbeat-interval", "500ms"}, nil)
	do := func() string {
		t.Helper()
		id, o := f.run(t, "guest", nil, f.argv())
		if o.Code != 0 {
			t.Fatalf("%+v", o)
		}
		f.expect(t, id, "SUCCEEDED", 1)
		return id
	}
	before := do()
	memory, disk := filepath.Join(g.dir, "memory"), filepath.Join(g.dir, "disk-of-then")
	if err := g.save(t, memory, disk); err != nil {
		t.Fatal(err)
	}
	after := []string{do(), do()}
	g.cut()
	if err := os.Rename(disk, g.disk); err != nil {
		t.Fatal(err)
	}
	if err := g.power("-incoming", "exec:cat "+memory); err != nil {
		t.Fatal(err)
	}
	await(t, time.Minute, "the memory is read", func() error {
		said, err := g.tell("query-status")
		if err == nil && said["status"] != "paused" {
			err = fmt.Errorf("%v", said)
		}
		return err
	})
	if _, err := g.tell("cont"); err != nil {
		t.Fatal(err)
	}
	t.Logf("the guest goes on: it is up for %.1f s", g.uptime(t))
	quarantined(t, f, "guest", "journal_behind")
	for _, id := range append(after, before) {
		f.expect(t, id, "SUCCEEDED", 1)
	}
	// What the operator is told to do brings it back.
	if o := f.Ctl(within(t, 20*time.Second), "agents", "readmit", "guest"); o.Err() != nil {
		t.Fatal(o.Err())
	}
	f.awaitGuest(t)
	for _, id := range append(after, before, do()) {
		f.expect(t, id, "SUCCEEDED", 1)
	}
}

// save writes down the guest's memory and disk of one moment, and lets it go on.
func (g *guest) save(t *testing.T, memory, disk string) error {
	t.Helper()
	if _, err := g.tell("stop"); err != nil {
		return err
	}
	if _, err := g.tell("migrate", "uri", "exec:cat > "+memory); err != nil {
		return err
	}
	await(t, time.Minute, "the memory is written", func() error {
		said, err := g.tell("query-migrate")
		if err == nil && said["status"] != "completed" {
			err = fmt.Errorf("%v", said)
		}
		return err
	})
	if _, err := command("cp", "--sparse=always", g.disk, disk); err != nil {
		return err
	}
	_, err := g.tell("cont")
	return err
}

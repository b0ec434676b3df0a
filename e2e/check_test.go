package e2e

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"
)

// checked is what agentctl cluster check prints.
type checked struct {
	Index uint64
	Hash  string
	Nodes []struct {
		Name    string
		Process struct {
			ResidentBytes         uint64
			OpenFiles, Goroutines int
		}
	}
}

// TestNodesHaveTheSameState asks three real nodes for the hashes of their states: at rest,
// while commands run, and when one of them is gone.
func TestNodesHaveTheSameState(t *testing.T) {
	f := newFleet(t, 1, nil, nil)
	check := func() (c checked) {
		t.Helper()
		o := f.Ctl(t.Context(), "cluster", "check", "-o", "json")
		if o.Code != 0 {
			t.Fatalf("exit code %d: %s", o.Code, o.Stderr)
		}
		if err := json.Unmarshal([]byte(o.Stdout), &c); err != nil {
			t.Fatalf("%v: %s", err, o.Stdout)
		}
		if len(c.Nodes) != 3 || c.Index == 0 || len(c.Hash) != 64 {
			t.Fatalf("checked %+v", c)
		}
		for _, n := range c.Nodes {
			if n.Process.OpenFiles == 0 || n.Process.Goroutines == 0 || n.Process.ResidentBytes < 1<<20 {
				t.Errorf("node %s takes %+v", n.Name, n.Process)
			}
		}
		return c
	}
	rest := check()
	s := newStream(t, f)
	s.begin(1, 2)
	await(t, time.Minute, "something is written", func() error {
		if s.acks.Load() == 0 {
			return errors.New("no submission is acknowledged")
		}
		return nil
	})
	busy := check()
	s.finish()
	if busy.Index <= rest.Index || busy.Hash == rest.Hash {
		t.Errorf("%+v, and after more was written %+v", rest, busy)
	}
	if o := f.Ctl(t.Context(), "cluster", "check"); o.Code != 0 || !strings.HasPrefix(o.Stdout, "3 nodes have the same state at index ") {
		t.Errorf("exit code %d: %s%s", o.Code, o.Stdout, o.Stderr)
	}
	f.nodes[2].Kill()
	badDay{
		name: "a node is gone", code: 5, says: []string{"node n3 at "}, hint: "nothing is known to differ",
	}.judge(t, f.Ctl(within(t, time.Minute), "cluster", "check", "--request-timeout", "3s"))
}

package e2e

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestBadDayOneNodeIsBack kills all three nodes, as a loss of power does, and starts one
// only. It cannot know the operator, who enrolled after its last snapshot; the owner of
// its files is told what is missing. Then all are there for a moment, and two die before
// gossip has met them.
func TestBadDayOneNodeIsBack(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	nodes, err := l.Cluster(within(t, time.Minute), three, "--hold-without-leader", "1s")
	if err != nil {
		t.Fatal(err)
	}
	voters(t, l, 3)
	var addresses []string
	for _, n := range nodes {
		address, err := n.Address(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		addresses = append(addresses, address)
	}
	for _, n := range nodes {
		if !n.Kill() {
			t.Fatalf("%s was not alive", n.Name)
		}
	}
	if got, err := filepath.Glob(filepath.Join(l.Dir, "n*", "raft", "snapshots", "*")); err != nil || len(got) > 0 {
		t.Fatalf("the state must be in the log alone: %v, %v", got, err)
	}
	first := nodes[0]
	if err := first.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := first.Address(within(t, 10*time.Second)); err != nil {
		t.Fatal(err)
	}
	own := "agentctl cluster status --why --data-dir " + first.DataDir
	badDay{code: 5, says: []string{"not known here yet"}, hint: own}.judge(t, l.Ctl(within(t, 30*time.Second), "--stale", "cluster", "status", "--why"))
	missing := func(alone bool) error {
		start := time.Now()
		o := l.Ctl(within(t, 30*time.Second), "cluster", "status", "--why", "--data-dir", first.DataDir)
		if o.Code != 5 || !strings.Contains(o.Stderr, "note: the cluster as a whole does not answer") {
			return fmt.Errorf("%+v", o)
		}
		for _, want := range []string{
			"2 of 3 voters must be up and reach each other; this node sees 1", "type: systemctl start agentplane  # on ", addresses[1], addresses[2],
		} {
			if !strings.Contains(o.Stdout, want) {
				return fmt.Errorf("the status does not say %q: %s", want, o.Stdout)
			}
		}
		if took := time.Since(start); alone && took > 8*time.Second {
			return fmt.Errorf("it took %v", took)
		}
		return nil
	}
	if err := missing(true); err != nil {
		t.Error(err)
	}

	for _, n := range nodes[1:] {
		if err := n.Start(); err != nil {
			t.Fatal(err)
		}
		if _, err := n.Address(within(t, 10*time.Second)); err != nil {
			t.Fatal(err)
		}
	}
	voters(t, l, 3)
	// All are up and have just met: nobody is said to be missing, although gossip takes
	// its time.
	await(t, 5*time.Second, "all are alive", func() error {
		for _, m := range voters(t, l, 3) {
			if m.State != "alive" {
				return fmt.Errorf("%+v", m)
			}
		}
		return nil
	})
	for _, n := range nodes[1:] {
		if !n.Kill() {
			t.Fatalf("%s was not alive", n.Name)
		}
	}
	await(t, 20*time.Second, "the two are said to be missing", func() error { return missing(false) })
}

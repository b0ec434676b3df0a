package e2e

import (
	"os"
	"strings"
	"testing"
	"time"
)

// A node that was removed says so and ends with exit code 4: one that runs, and one
// that was away when it happened; also whenever it is started again.
func TestARemovedNodeSaysSoAndEnds(t *testing.T) {
	l := newLab(t)
	nodes, err := l.Cluster(within(t, 2*time.Minute), []string{"n1", "n2", "n3", "n4", "n5"})
	if err != nil {
		t.Fatal(err)
	}
	ended := func(n int, how string) {
		t.Helper()
		code, err := nodes[n].Await(within(t, 30*time.Second))
		if err != nil || code != 4 {
			t.Fatalf("%s, which %s, ended with code %d, %v; want 4", nodes[n].Name, how, code, err)
		}
		said, err := os.ReadFile(nodes[n].Log)
		if err != nil {
			t.Fatal(err)
		}
		for _, words := range []string{"removed from the cluster", "agentctl cluster join ADDR --token T --data-dir"} {
			if !strings.Contains(string(said), words) {
				t.Errorf("%s, which %s, does not say %q", nodes[n].Name, how, words)
			}
		}
	}
	remove := func(n int) {
		t.Helper()
		if o := l.Ctl(within(t, 20*time.Second), "cluster", "remove", nodes[n].Name, "--yes"); o.Err() != nil {
			t.Fatal(o.Err())
		}
	}
	voters(t, l, 5)

	remove(4)
	ended(4, "ran")

	// A dead process gets nothing of its removal: it has to ask.
	if !nodes[3].Kill() {
		t.Fatal("n4 is not alive")
	}
	remove(3)
	for _, n := range []int{3, 4} {
		if err := nodes[n].Start(); err != nil {
			t.Fatal(err)
		}
		ended(n, "was started again")
	}
	voters(t, l, 3)
}

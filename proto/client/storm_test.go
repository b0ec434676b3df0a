package client_test

import (
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/agentplane/agentplane/proto/client/clienttest"
)

// While nodes die, freeze and come back, what was acknowledged stands, what is
// known not to be done is not there, and nothing stands twice.
func TestWhatCallersAreToldIsTrue(t *testing.T) {
	cluster := clienttest.NewCluster(t, 3)
	cluster.State.AddAgent("web-1", "ONLINE", nil, clienttest.Behaviour{})
	opts := quick(cluster.Options())
	opts.CallTimeout, opts.Unreachable = 1500*time.Millisecond, 200*time.Millisecond
	c := newClient(t, opts)

	var (
		stop              = make(chan struct{})
		callers           sync.WaitGroup
		mu                sync.Mutex
		done, not, unsure []string
	)
	for range 8 {
		callers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				id, _, err := submit(t, c, cluster)
				mu.Lock()
				switch {
				case err == nil:
					done = append(done, id)
				case asError(t, err).OutcomeUnknown:
					unsure = append(unsure, id)
				default:
					not = append(not, id)
				}
				mu.Unlock()
			}
		})
	}
	for round := range 9 {
		n := cluster.Nodes[round%3]
		if round%2 == 0 {
			n.Kill()
			time.Sleep(200 * time.Millisecond)
			n.Restart()
		} else {
			n.Freeze()
			time.Sleep(700 * time.Millisecond)
			n.Thaw()
		}
	}
	for _, n := range cluster.Nodes {
		n.Kill()
	}
	told := func() int {
		mu.Lock()
		defer mu.Unlock()
		return len(not)
	}
	for begin := time.Now(); told() == 0 && time.Since(begin) < 8*time.Second; {
		time.Sleep(10 * time.Millisecond) // nobody is there
	}
	for _, n := range cluster.Nodes {
		n.Restart()
	}
	close(stop)
	callers.Wait()

	stands := cluster.State.Commands()
	slices.Sort(stands)
	if n := len(slices.Compact(slices.Clone(stands))); n != len(stands) {
		t.Errorf("%d commands stand twice", len(stands)-n)
	}
	has := func(id string) bool { _, ok := slices.BinarySearch(stands, id); return ok }
	for _, id := range done {
		if !has(id) {
			t.Errorf("acknowledged command %s is not there", id)
		}
	}
	for _, id := range not {
		if has(id) {
			t.Errorf("command %s stands, though it was said not to", id)
		}
	}
	if len(done) < 100 || len(not) == 0 {
		t.Errorf("%d were acknowledged and %d known not to be done: the test shows nothing", len(done), len(not))
	}
	t.Logf("%d acknowledged, %d known not, %d unknown", len(done), len(not), len(unsure))
}

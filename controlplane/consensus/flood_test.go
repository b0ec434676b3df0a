package consensus_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/agentplane/agentplane/controlplane/consensus"
	"github.com/agentplane/agentplane/controlplane/consensus/consensustest"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

const (
	// mayWait is how many mutations may wait on a leader in a life with floods.
	mayWait = 16
	// atOnce is how many clients of a flood ask at once, each for one mutation or two.
	atOnce = 3 * mayWait
)

// floods says that clients of the life ask more than a leader with a slow disk can write, again
// and again. One life of four has floods.
func floods(seed uint64) bool { return seed%4 == 1 }

// flood floods leaders until ctx ends, and answers how many proposals found the queue full. No
// more may wait than the bound, at any time that is looked at (I14). What becomes of those that
// are taken and of those that are refused is judged as of all others.
func (h *history) flood(ctx context.Context, t *testing.T, c *consensustest.Cluster, rng *rand.Rand) (refused int) {
	for n := 0; ctx.Err() == nil; n++ {
		time.Sleep(time.Duration(200+rng.IntN(600)) * time.Millisecond)
		leader := c.Leader()
		if leader < 0 {
			continue
		}
		host, disk := c.Host(leader), c.Disk(leader)
		if host == nil {
			continue
		}
		disk.SetDelay(time.Duration(10+rng.IntN(40)) * time.Millisecond)
		var mu sync.Mutex
		var wg sync.WaitGroup
		for i := range atOnce {
			muts := []*raftlogv1.Mutation{consensustest.Put(fmt.Sprintf("flood/%d/%d", n, i), "")}
			if rng.IntN(2) == 0 {
				muts = append(muts, consensustest.Put(fmt.Sprintf("flood/%d/%d+", n, i), "more"))
			}
			wg.Go(func() {
				one, cancel := context.WithTimeout(ctx, time.Second)
				defer cancel()
				out, err := c.ProposeOn(one, leader, muts...)
				h.told(t, muts, out, err)
				mu.Lock()
				defer mu.Unlock()
				if errors.Is(err, consensus.ErrBacklog) {
					refused++
				}
			})
		}
		for range 20 {
			time.Sleep(time.Millisecond)
			if waiting := host.Stats().QueueLength; waiting > mayWait {
				t.Errorf("I14: %d mutations wait on node %d, of which %d may", waiting, leader, mayWait)
				break
			}
		}
		wg.Wait()
		disk.SetDelay(time.Duration(rng.IntN(3)) * time.Millisecond)
	}
	return refused
}

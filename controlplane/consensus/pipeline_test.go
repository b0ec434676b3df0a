package consensus_test

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/agentplane/agentplane/controlplane/consensus/consensustest"
)

// A follower that does not answer for longer than a request may take fails an append of
// a leader that has others on their way. When it answers again it is sent what it
// missed, by the same leader.
func TestFollowerWhoseAppendFailedIsNotStarved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := consensustest.New(t, consensustest.Options{Nodes: 3})
		defer c.Close()
		leader := c.WaitLeader()
		follower := (leader + 1) % c.Size()
		ctx, stop := context.WithCancel(t.Context())
		var clients sync.WaitGroup
		for range 4 {
			clients.Go(func() {
				for ctx.Err() == nil {
					_, _ = c.ProposeOn(ctx, leader, consensustest.Put("k", "v")) // how it ends matters to nobody here
					time.Sleep(20 * time.Millisecond)
				}
			})
		}
		defer clients.Wait()
		defer stop()
		for round := range 2 {
			time.Sleep(200 * time.Millisecond)
			// Its answers are lost; it goes on hearing the leader.
			c.Net.Cut(c.Addr(follower), c.Addr(leader), true)
			time.Sleep(15 * time.Second)
			c.Net.Cut(c.Addr(follower), c.Addr(leader), false)
			if now := c.WaitLeader(); now != leader {
				t.Fatalf("void: node %d leads instead of %d", now, leader)
			}
			missed, _ := c.Machine(leader).Published()
			catchUp, cancel := context.WithTimeout(ctx, 20*time.Second)
			err := c.Machine(follower).WaitPublished(catchUp, missed)
			cancel()
			if err != nil {
				t.Fatalf("round %d: the follower is not sent what it missed: %v", round, err)
			}
		}
	})
}

package consensus_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/agentplane/agentplane/controlplane/consensus"
	"github.com/agentplane/agentplane/controlplane/consensus/consensustest"
)

// staleReads pauses a leader rounds times, lets the others elect another one and
// acknowledge a write, and asks the old one for a read while what was sent to it
// before the pause still lies in its sockets. It answers in how many rounds the
// deposed leader still thought that it leads, and in how many its read was stale.
//
// One bubble has one clock, so a stopped process is modelled by timers that are long
// on the node that gets paused: within the pause none of them fires, as none does in
// a stopped process.
func staleReads(t *testing.T, rounds int, use func(*consensus.Host)) (asked, stale int) {
	t.Helper()
	for seed := range rounds {
		synctest.Test(t, func(t *testing.T) {
			c := consensustest.New(t, consensustest.Options{
				Nodes: 3,
				Seed:  uint64(seed),
				Host: func(i int, o *consensus.Options) {
					if i == 0 {
						o.Profile = consensus.Profile{Heartbeat: 20 * time.Second, Election: 20 * time.Second, Lease: 20 * time.Second, Commit: 5 * time.Millisecond}
					}
				},
			})
			old := c.Host(0)
			if _, ok := old.InOffice(); !ok {
				t.Fatal("node 0 bootstrapped and does not lead")
			}
			use(old)
			put(t, c, "before")
			c.WaitAgree()
			// What followers answer now is on its way to the leader when it stops.
			time.Sleep(time.Duration(seed%7) * time.Millisecond)
			c.Net.SetDelay(time.Millisecond, 3*time.Millisecond)
			time.Sleep(10 * time.Millisecond)
			c.Pause(0)

			ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
			defer cancel()
			for wrote := false; !wrote; {
				for _, i := range []int{1, 2} {
					if _, err := c.ProposeOn(ctx, i, consensustest.Put("after", "")); err == nil {
						wrote = true
						break
					}
				}
				if ctx.Err() != nil {
					t.Fatal("nobody took over from the paused leader")
				}
				time.Sleep(10 * time.Millisecond)
			}
			// The write is acknowledged. The old leader is asked, then woken.
			type answer struct {
				index uint64
				err   error
			}
			got := make(chan answer, 1)
			go func() {
				index, err := old.ReadIndex(ctx)
				got <- answer{index, err}
			}()
			time.Sleep(time.Microsecond)
			if _, ok := old.InOffice(); ok {
				asked++
			}
			c.Resume(0)
			a := <-got
			if a.err != nil {
				if !errors.Is(a.err, consensus.ErrNotLeader) && !errors.Is(a.err, consensus.ErrNoQuorum) {
					t.Errorf("seed %d: ReadIndex = %v, want that it does not lead", seed, a.err)
				}
				return
			}
			if err := c.Machine(0).WaitPublished(ctx, a.index); err != nil {
				t.Fatal(err)
			}
			for _, r := range records(c, 0) {
				if r.Key == "after" {
					return
				}
			}
			stale++
		})
	}
	return asked, stale
}

func TestPausedLeaderNeverAnswersStaleReads(t *testing.T) {
	asked, stale := staleReads(t, 40, func(*consensus.Host) {})
	if asked < 30 {
		t.Errorf("a deposed leader was asked in %d rounds of 40: the test shows nothing", asked)
	}
	if stale != 0 {
		t.Errorf("%d stale reads", stale)
	}
}

// TestVerifyLeaderAnswersStaleReads shows that the test above has teeth.
func TestVerifyLeaderAnswersStaleReads(t *testing.T) {
	asked, stale := staleReads(t, 40, (*consensus.Host).UseVerifyLeader)
	t.Logf("VerifyLeader: %d stale reads in %d rounds", stale, asked)
	if stale == 0 {
		t.Error("VerifyLeader gave no stale read: either raft is mended or the test has lost its teeth")
	}
}

func TestReadJoinsOnlyARoundThatStartsAfterIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := consensustest.New(t, consensustest.Options{Nodes: 3, Seed: 3})
		l := c.WaitLeader()
		put(t, c, "first")
		// Rounds that take long, so that many reads wait for one.
		c.Net.SetDelay(20*time.Millisecond, 20*time.Millisecond)
		ctx := t.Context()
		type answer struct {
			min, got uint64
			err      error
		}
		answers := make(chan answer, 100)
		for i := range 100 {
			out := put2(ctx, c, l, fmt.Sprint("k", i))
			go func() {
				got, err := c.Host(l).ReadIndex(ctx)
				answers <- answer{out, got, err}
			}()
		}
		for range 100 {
			a := <-answers
			if a.err != nil || a.got < a.min {
				t.Errorf("read index %d, %v, want at least %d", a.got, a.err, a.min)
			}
		}
	})
}

func put2(ctx context.Context, c *consensustest.Cluster, l int, key string) uint64 {
	out, err := c.ProposeOn(ctx, l, consensustest.Put(key, ""))
	if err != nil {
		return 0
	}
	return out[0].GetIndex()
}

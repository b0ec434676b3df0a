package rollout

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/agentplane/agentplane/fsm"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

func TestLeasesEndWhenNobodyRenewsThem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, fsm.Options{})
		w.enrol(1)
		stop := w.lead(w.options())
		defer func() { stop() }()
		acquire := func(lease string, ttl time.Duration) {
			w.must(&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_AcquireLock{AcquireLock: &raftlogv1.AcquireLock{
				Lock: "l", LeaseId: lease, Holder: "ann", Ttl: int64(ttl), Limit: 3,
			}}})
		}
		acquire("01890000-0000-7000-8000-000000000001", 10*time.Second)
		acquire("01890000-0000-7000-8000-000000000002", 20*time.Second)
		acquire("01890000-0000-7000-8000-000000000003", time.Hour)
		for _, c := range []struct {
			after time.Duration
			held  uint32
		}{
			{12 * time.Second, 3}, // 10 s, a fifth of it, and 1 s
			{2500 * time.Millisecond, 2},
			{10 * time.Second, 2},
			{3 * time.Second, 1}, // 20 s, a fifth of it, and 1 s
			{50 * time.Minute, 1},
		} {
			time.Sleep(c.after)
			synctest.Wait()
			if got := w.m.View().Held("l"); got != c.held {
				t.Fatalf("%v later %d places are held, want %d", c.after, got, c.held)
			}
		}
		// The next leader goes on where this one was.
		w.takeOffice()
		stop()
		stop = w.lead(w.options())
		time.Sleep(23 * time.Minute)
		synctest.Wait()
		if got := w.m.View().Held("l"); got != 0 {
			t.Fatalf("in the end %d places are held", got)
		}
		if _, found := w.m.View().Lock("l"); found {
			t.Fatal("the lock is there although nobody holds it")
		}
	})
}

package consensus_test

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/agentplane/agentplane/controlplane/consensus"
	"github.com/agentplane/agentplane/controlplane/consensus/consensustest"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

func TestLogIsBoundedByBytes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := consensustest.New(t, consensustest.Options{Nodes: 1, Host: func(_ int, o *consensus.Options) {
			o.SnapshotInterval = time.Hour // raft's own count never comes to it
			o.SnapshotBytes, o.TrailingBytes = 4<<20, 52<<20
		}})
		// Large in the log and not in the state, which the log may grow with.
		large := &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_RevokeToken{RevokeToken: &raftlogv1.RevokeToken{Id: strings.Repeat("x", 100<<10)}}}
		for range 800 {
			if _, err := c.ProposeOn(t.Context(), 0, large); err != nil {
				t.Fatal(err)
			}
			time.Sleep(10 * time.Millisecond)
		}
		d := c.Disk(0).Disk()
		first, _ := d.Log.FirstIndex()
		last, _ := d.Log.LastIndex()
		if kept := last - first; kept > 52<<20/(100<<10)+100 {
			t.Errorf("the log keeps %d entries of 100 KiB, want about 52 MiB", kept)
		}
		if got := c.Host(0).Stats().LogBytes; got > 12<<20 {
			t.Errorf("%d bytes were appended since the last snapshot, want about 4 MiB", got)
		}
		metas, _ := d.Snapshots.List()
		if len(metas) == 0 {
			t.Error("no snapshot was taken")
		}
	})
}

// A snapshot costs what the state is large: the larger the last one, the more log
// brings the next.
func TestSnapshotsComeRarerWhenTheyAreLarge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := consensustest.New(t, consensustest.Options{Nodes: 1, Host: func(_ int, o *consensus.Options) {
			o.SnapshotInterval, o.SnapshotThreshold = 100*time.Millisecond, 20
		}})
		large := strings.Repeat("x", 200<<10)
		put := func(n int, key, value string) {
			t.Helper()
			for range n {
				if _, err := c.ProposeOn(t.Context(), 0, consensustest.Put(key, value)); err != nil {
					t.Fatal(err)
				}
				time.Sleep(20 * time.Millisecond)
			}
		}
		newest := func() uint64 {
			metas, err := c.Disk(0).Disk().Snapshots.List()
			if err != nil || len(metas) == 0 {
				return 0
			}
			return metas[0].Index
		}
		put(1, "k", large)
		put(30, "other", "x")
		time.Sleep(time.Second)
		first := newest()
		if first == 0 {
			t.Fatal("31 entries brought no snapshot although 20 are enough for a small state")
		}
		put(100, "other", "x")
		time.Sleep(time.Second)
		if got := newest(); got != first {
			t.Errorf("100 entries brought another snapshot of 200 KiB (at %d, the last at %d)", got, first)
		}
		put(300, "other", "x")
		time.Sleep(time.Second)
		if got := newest(); got == first {
			t.Error("400 entries brought no other snapshot of 200 KiB")
		}
	})
}

// What lies in the log when a node starts counts towards the next snapshot.
func TestLogFromBeforeTheStartCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := consensustest.New(t, consensustest.Options{Nodes: 1, Host: func(_ int, o *consensus.Options) {
			o.SnapshotInterval, o.SnapshotBytes = time.Hour, 4<<20
		}})
		large := &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_RevokeToken{RevokeToken: &raftlogv1.RevokeToken{Id: strings.Repeat("x", 100<<10)}}}
		put := func(n int) {
			t.Helper()
			for range n {
				if _, err := c.ProposeOn(t.Context(), 0, large); err != nil {
					t.Fatal(err)
				}
			}
		}
		put(30)
		time.Sleep(2 * time.Second)
		if metas, _ := c.Disk(0).Disk().Snapshots.List(); len(metas) != 0 {
			t.Fatal("3 MB brought a snapshot; 4 MiB should")
		}
		c.Kill(0)
		c.Start(0)
		time.Sleep(5 * time.Second)
		put(15)
		time.Sleep(2 * time.Second)
		if metas, _ := c.Disk(0).Disk().Snapshots.List(); len(metas) == 0 {
			t.Error("4.5 MB brought no snapshot, since 3 MB of them are from before the start")
		}
	})
}

package consensus_test

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/agentplane/agentplane/controlplane/consensus"
	"github.com/agentplane/agentplane/controlplane/consensus/consensustest"
)

func TestLogIsBoundedByBytes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := consensustest.New(t, consensustest.Options{Nodes: 1, Host: func(_ int, o *consensus.Options) {
			o.SnapshotInterval = time.Hour // raft's own count never comes to it
			o.SnapshotBytes, o.TrailingBytes = 4<<20, 52<<20
		}})
		large := strings.Repeat("x", 100<<10)
		for range 800 {
			if _, err := c.ProposeOn(t.Context(), 0, consensustest.Put("k", large)); err != nil {
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

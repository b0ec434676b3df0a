package consensus_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/agentplane/agentplane/controlplane/consensus"
)

func writeSnapshot(t *testing.T, d *consensus.Disk, index, term uint64) {
	t.Helper()
	s, err := d.Snapshots.Create(raft.SnapshotVersionMax, index, term, raft.Configuration{}, 1, nil)
	if err != nil {
		t.Fatal(err)
	}
	_, err = s.Write([]byte(strings.Repeat("state", 100)))
	if err := errors.Join(err, s.Close()); err != nil {
		t.Fatal(err)
	}
}

// A node that has installed a leader's snapshot may die before its log, which ends before that, is
// emptied. It goes on behind the snapshot.
func TestLogThatEndsBeforeTheSnapshotIsEmptied(t *testing.T) {
	for _, kind := range []string{"wal", "bolt"} {
		t.Run(kind, func(t *testing.T) {
			dir := t.TempDir()
			fill(t, dir, kind, 250)
			d, err := openGuarded(t, dir, kind)
			if err != nil {
				t.Fatal(err)
			}
			writeSnapshot(t, d, 300, 3)
			if err := d.Close(); err != nil {
				t.Fatal(err)
			}
			for range 2 { // nothing is appended before the second start
				d, err := openGuarded(t, dir, kind)
				if err != nil {
					t.Fatal(err)
				}
				if err := d.Close(); err != nil {
					t.Fatal(err)
				}
			}
			for n := range uint64(2) { // at the next start there is nothing to empty
				d, err := openGuarded(t, dir, kind)
				if err != nil {
					t.Fatal(err)
				}
				last, err := d.Log.LastIndex()
				if want := []uint64{0, 301}[n]; err != nil || last != want {
					t.Fatalf("the log ends at %d (%v), want %d", last, err, want)
				}
				if err := errors.Join(d.Log.StoreLogs([]*raft.Log{entry(t, 301+n, 3)}), d.Close()); err != nil {
					t.Errorf("append behind the snapshot: %v", err)
				}
			}
		})
	}
}

// TestDamagedSnapshotIsRefusedWhereTheLogDoesNotReachBack damages the newest of two
// snapshots. raft goes on with the older one, which is right only while the log holds
// everything behind it.
func TestDamagedSnapshotIsRefusedWhereTheLogDoesNotReachBack(t *testing.T) {
	for name, c := range map[string]struct {
		compacted uint64 // up to here the log is gone
		damaged   []int  // by age, 0 the newest
		want      string
	}{
		"whole":                             {190, nil, ""},
		"the log reaches back to the older": {100, []int{0}, ""},
		"the log does not":                  {190, []int{0}, "but the newest whole snapshot ends at 100"},
		"none is whole":                     {100, []int{0, 1}, "none of 2 snapshots is whole"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			fill(t, dir, "wal", 250)
			d, err := openGuarded(t, dir, "wal")
			if err != nil {
				t.Fatal(err)
			}
			for _, index := range []uint64{100, 200} {
				writeSnapshot(t, d, index, 1+index/100)
			}
			if err := errors.Join(d.Log.DeleteRange(1, c.compacted), d.Close()); err != nil {
				t.Fatal(err)
			}
			files, err := filepath.Glob(filepath.Join(dir, "snapshots", "*", "state.bin"))
			if err != nil || len(files) != 2 {
				t.Fatalf("snapshots %v, %v", files, err)
			}
			for _, age := range c.damaged {
				for _, f := range files {
					// Names begin with the term, then the index.
					if newest := strings.Contains(f, "-200-"); newest == (age == 0) {
						if err := os.WriteFile(f, []byte("something else"), 0o600); err != nil {
							t.Fatal(err)
						}
					}
				}
			}
			d, err = openDamaged(t, dir)
			if err == nil {
				_ = d.Close()
			}
			if c.want == "" && err != nil || c.want != "" && (!errors.Is(err, consensus.ErrDamaged) || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("opened with %v, want %q", err, c.want)
			}
		})
	}
}

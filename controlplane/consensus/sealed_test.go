package consensus_test

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"github.com/agentplane/agentplane/controlplane/consensus"
)

var mixedServers = raft.Configuration{Servers: []raft.Server{
	{ID: "node-a", Address: "10.0.0.1:7460"},
	{ID: "node-b", Address: "10.0.0.2:7460"},
	{ID: "node-c", Address: "10.0.0.3:7460", Suffrage: raft.Nonvoter},
}}

// snapshotAt makes a snapshot of some state.
func snapshotAt(t *testing.T, s raft.SnapshotStore, index uint64, cfg raft.Configuration) {
	t.Helper()
	sink, err := s.Create(raft.SnapshotVersionMax, index, 1+index/100, cfg, index/2, encoder{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = io.WriteString(sink, strings.Repeat("state", 100))
	if err := errors.Join(err, sink.Close()); err != nil {
		t.Fatal(err)
	}
}

// encoder is the part of a transport that a snapshot store uses.
type encoder struct{ raft.Transport }

func (encoder) EncodePeer(_ raft.ServerID, a raft.ServerAddress) []byte { return []byte(a) }

func TestSnapshotIsAsItWasMadeOrNotThere(t *testing.T) {
	dir := t.TempDir()
	s, err := consensus.OpenSnapshots(dir, 2, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	snapshotAt(t, s, 200, mixedServers)
	made, err := s.List()
	if err != nil || len(made) != 1 {
		t.Fatalf("snapshots %v, %v", made, err)
	}
	want := *made[0]
	if want.Index != 200 || want.Term != 3 || want.ConfigurationIndex != 100 || want.Size != 500 || cmp.Diff(mixedServers, want.Configuration) != "" {
		t.Fatalf("the snapshot says %+v", want)
	}
	if m, state, err := s.Open(want.ID); err != nil {
		t.Fatal(err)
	} else if b, err := io.ReadAll(state); err != nil || string(b) != strings.Repeat("state", 100) || cmp.Diff(&want, m) != "" {
		t.Fatalf("the state is %.60q, %v, of %+v", b, err, m)
	}

	for _, name := range []string{"meta.json", "state.bin"} {
		path := filepath.Join(dir, "snapshots", want.ID, name)
		whole, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		harmless := 0
		for at := range whole {
			for _, mask := range []byte{0x01, 0x02, 0x10, 0x40} {
				b := slices.Clone(whole)
				b[at] ^= mask
				if err := os.WriteFile(path, b, 0o600); err != nil {
					t.Fatal(err)
				}
				listed, err := s.List()
				if err != nil {
					t.Fatal(err)
				}
				for _, m := range listed {
					if d := cmp.Diff(&want, m); d != "" {
						t.Fatalf("%s with bit %#x of byte %d flipped is listed as\n%s", name, mask, at, d)
					}
				}
				m, state, err := s.Open(want.ID)
				if err != nil {
					continue
				}
				if d := cmp.Diff(&want, m); d != "" {
					t.Fatalf("%s with bit %#x of byte %d flipped is opened as\n%s", name, mask, at, d)
				}
				if err := state.Close(); err != nil {
					t.Fatal(err)
				}
				harmless++
			}
		}
		// What nobody reads: the peers of version 0, white space.
		if t.Logf("%s: %d of %d flips change nothing", name, harmless, 4*len(whole)); name == "state.bin" && harmless > 0 || harmless > len(whole) {
			t.Errorf("%s: %d of %d flips change nothing", name, harmless, 4*len(whole))
		}
		if err := os.WriteFile(path, whole, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// TestSealOfEveryFormatIsRead holds on to what lies on disks.
func TestSealOfEveryFormatIsRead(t *testing.T) {
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(filepath.Join("testdata", "snapshot-1"))); err != nil {
		t.Fatal(err)
	}
	s, err := consensus.OpenSnapshots(dir, 2, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	listed, err := s.List()
	if err != nil || len(listed) != 1 || listed[0].Index != 200 || cmp.Diff(mixedServers, listed[0].Configuration) != "" {
		t.Errorf("a snapshot of format 1 is listed as %v, %v", listed, err)
	}
}

func TestSnapshotWithAnotherConfigurationIsRefused(t *testing.T) {
	for name, c := range map[string]struct {
		compacted, end uint64
		from, to       string
		want           string
	}{
		"no servers":           {190, 250, `"Configuration"`, `"Confiwuration"`, "meta.json differs from what was sealed"},
		"a voter's id":         {190, 250, `"node-a"`, `"node-e"`, "meta.json differs from what was sealed"},
		"an address":           {190, 250, `10.0.0.2`, `10.0.0.3`, "meta.json differs from what was sealed"},
		"a suffrage":           {190, 250, `"Suffrage":1`, `"Suffrage":0`, "meta.json differs from what was sealed"},
		"the index of it":      {190, 250, `"ConfigurationIndex"`, `"ConfigurationInden"`, "meta.json differs from what was sealed"},
		"no JSON":              {190, 250, `{`, `;`, "read meta.json: it is damaged"},
		"the log reaches back": {0, 250, `"node-a"`, `"node-e"`, "none of 1 snapshots is whole"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			fill(t, dir, "wal", c.end)
			d, err := openGuarded(t, dir, "wal")
			if err != nil {
				t.Fatal(err)
			}
			snapshotAt(t, d.Snapshots, 200, mixedServers)
			if c.compacted > 0 {
				err = d.Log.DeleteRange(1, c.compacted)
			}
			if err := errors.Join(err, d.Close()); err != nil {
				t.Fatal(err)
			}
			files, err := filepath.Glob(filepath.Join(dir, "snapshots", "*", "meta.json"))
			if err != nil || len(files) != 1 {
				t.Fatalf("%v, %v", files, err)
			}
			b, err := os.ReadFile(files[0])
			if err != nil || !strings.Contains(string(b), c.from) {
				t.Fatalf("%s, %v", b, err)
			}
			if err := os.WriteFile(files[0], []byte(strings.Replace(string(b), c.from, c.to, 1)), 0o600); err != nil {
				t.Fatal(err)
			}
			d, err = openDamaged(t, dir)
			if err == nil {
				_ = d.Close()
			}
			if !errors.Is(err, consensus.ErrDamaged) || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "rejoin empty") {
				t.Errorf("opened with %v, want %q", err, c.want)
			}
		})
	}
}

// TestOlderSnapshotIsNotUsedWhereTheLogEndsBeforeTheDamagedOne has a node that a leader
// sent a snapshot far behind its log: going back to the older one would forget what it
// acknowledged.
func TestOlderSnapshotIsNotUsedWhereTheLogEndsBeforeTheDamagedOne(t *testing.T) {
	dir := t.TempDir()
	fill(t, dir, "wal", 150)
	d, err := openGuarded(t, dir, "wal")
	if err != nil {
		t.Fatal(err)
	}
	snapshotAt(t, d.Snapshots, 100, mixedServers)
	if err := d.Stable.SetUint64([]byte("CurrentTerm"), 9); err != nil {
		t.Fatal(err)
	}
	snapshotAt(t, d.Snapshots, 500, mixedServers)
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if d, err = openDamaged(t, dir); err != nil {
		t.Fatalf("the newest is whole: %v", err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(dir, "snapshots", "*-500-*", "meta.json"))
	if err != nil || len(files) != 1 {
		t.Fatalf("%v, %v", files, err)
	}
	if err := os.WriteFile(files[0], []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	d, err = openDamaged(t, dir)
	if err == nil {
		_ = d.Close()
	}
	if !errors.Is(err, consensus.ErrDamaged) || !strings.Contains(err.Error(), "a snapshot that is damaged reached 500") {
		t.Errorf("opened with %v", err)
	}
	// What cannot be read may be there, and its node is not to be thrown away.
	if err := errors.Join(os.Remove(files[0]), os.Mkdir(files[0], 0o700)); err != nil {
		t.Fatal(err)
	}
	d, err = openDamaged(t, dir)
	if err == nil {
		_ = d.Close()
	}
	if err == nil || errors.Is(err, consensus.ErrDamaged) || !strings.Contains(err.Error(), "cannot be read") {
		t.Errorf("opened with %v", err)
	}
}

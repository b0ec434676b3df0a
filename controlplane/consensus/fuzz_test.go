package consensus

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
)

// markBytesFile is a mark file in memory.
type markBytesFile struct{ b []byte }

func (f *markBytesFile) ReadAt(p []byte, off int64) (int, error) {
	return copy(p, f.b[min(int(off), len(f.b)):]), nil
}

func (f *markBytesFile) WriteAt(p []byte, off int64) (int, error) {
	if need := int(off) + len(p); need > len(f.b) {
		f.b = append(f.b, make([]byte, need-len(f.b))...)
	}
	return copy(f.b[off:], p), nil
}

func (*markBytesFile) Sync() error  { return nil }
func (*markBytesFile) Close() error { return nil }

// Whatever lies in the file: it is refused, or it is a mark that goes on.
func FuzzLogMark(f *testing.F) {
	whole := &markBytesFile{}
	m, err := openLogMark(whole)
	if err != nil {
		f.Fatal(err)
	}
	for i := range uint64(3) {
		if err := m.set(i+7, 2); err != nil {
			f.Fatal(err)
		}
	}
	f.Add(whole.b)
	f.Add([]byte(nil))
	f.Add(whole.b[:markSlot])
	f.Fuzz(func(t *testing.T, b []byte) {
		file := &markBytesFile{b: b}
		m, err := openLogMark(file)
		if err != nil {
			return
		}
		if err := m.set(m.index+1, m.term); err != nil {
			t.Fatal(err)
		}
		again, err := openLogMark(file)
		if err != nil || again.index != m.index || again.term != m.term || again.seq != m.seq {
			t.Fatalf("the mark %d/%d is read again as %+v, %v", m.index, m.term, again, err)
		}
	})
}

// A snapshot is listed only when its meta.json says what its seal says.
func FuzzSealedSnapshot(f *testing.F) {
	dir := f.TempDir()
	store, err := openSnapshots(dir, 2, hclog.NewNullLogger())
	if err != nil {
		f.Fatal(err)
	}
	_, transport := raft.NewInmemTransport("")
	sink, err := store.Create(raft.SnapshotVersionMax, 9, 3, raft.Configuration{Servers: []raft.Server{{ID: "a", Address: "a:1"}}}, 1, transport)
	if err != nil {
		f.Fatal(err)
	}
	if _, err := sink.Write([]byte("state")); err != nil {
		f.Fatal(err)
	}
	if err := sink.Close(); err != nil {
		f.Fatal(err)
	}
	read := func(name string) []byte {
		b, err := os.ReadFile(filepath.Join(dir, "snapshots", sink.ID(), name))
		if err != nil {
			f.Fatal(err)
		}
		return b
	}
	meta, state := read("meta.json"), read("state.bin")
	want, err := store.meta(sink.ID())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(meta, state)
	f.Add(meta, state[:8])
	f.Add([]byte("{}"), state)
	f.Fuzz(func(t *testing.T, meta, state []byte) {
		s := &sealed{dir: t.TempDir(), logger: hclog.NewNullLogger()}
		at := filepath.Join(s.dir, sink.ID())
		if err := os.Mkdir(at, 0o700); err != nil {
			t.Fatal(err)
		}
		for name, b := range map[string][]byte{"meta.json": meta, "state.bin": state} {
			if err := os.WriteFile(filepath.Join(at, name), b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		got, err := s.meta(sink.ID())
		if err == nil && got.ID != want.ID {
			t.Fatalf("snapshot %q is listed as %+v", sink.ID(), got)
		}
	})
}

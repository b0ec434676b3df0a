package consensus

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"github.com/agentplane/agentplane/proto/frame"
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

// A snapshot is listed only when its meta.json says what its seal says. The payload is what is
// drawn, since the frame's checksum would stop nearly every mutation.
func FuzzSealedSnapshot(f *testing.F) {
	meta := raft.SnapshotMeta{
		Version: raft.SnapshotVersionMax, ID: "3-9-1", Index: 9, Term: 3, ConfigurationIndex: 1,
		Configuration: raft.Configuration{Servers: []raft.Server{{ID: "a", Address: "a:1"}}},
	}
	state := []byte("state")
	seal := marshaled(f, sealOf(&meta))
	meta.Size = int64(frame.HeaderBytes + len(seal) + len(state))
	written := marshaled(f, meta)
	f.Add(written, seal, state)
	f.Add(written, seal, []byte{})
	f.Add([]byte("{}"), []byte("{}"), state)
	s := &sealed{dir: f.TempDir(), logger: hclog.NewNullLogger()}
	at := filepath.Join(s.dir, meta.ID)
	if err := os.Mkdir(at, 0o700); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, said, payload, rest []byte) {
		for name, b := range map[string][]byte{
			"meta.json": said,
			"state.bin": append(frame.Append(nil, frameSeal, payload), rest...),
		} {
			if err := os.WriteFile(filepath.Join(at, name), b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		got, err := s.meta(meta.ID)
		if err == nil && (!bytes.Equal(marshaled(t, sealOf(got)), payload) || got.ID != meta.ID || got.Size != int64(len(rest))) {
			t.Fatalf("sealed as %s before %d bytes, listed as %+v", payload, len(rest), got)
		}
		if err != nil && bytes.Equal(said, written) && bytes.Equal(payload, seal) && len(rest) == len(state) {
			t.Fatalf("what was written is refused: %v", err)
		}
	})
}

func marshaled(t testing.TB, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

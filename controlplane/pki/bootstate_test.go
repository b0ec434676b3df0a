package pki

import (
	"bytes"
	"errors"
	"flag"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/agentplane/agentplane/proto/frame"
	"github.com/agentplane/agentplane/proto/identity"
)

var update = flag.Bool("update", false, "write the golden file of the current format, when there is none")

func newBootState(t testing.TB) *BootState {
	t.Helper()
	dir := t.TempDir()
	ca := mustCA(t, dir, "a", nil)
	leaf, err := OpenLeaf(LeafOptions{CA: ca, KeyPath: filepath.Join(dir, "node.key")})
	if err != nil {
		t.Fatal(err)
	}
	return &BootState{
		Bundle:        mustBundle(t, 40, leaf, ca),
		GossipKeyring: []identity.Secret{identity.NewSecret(bytes.Repeat([]byte{7}, 32)), identity.NewSecret(bytes.Repeat([]byte{8}, 16))},
		FeatureLevel:  3,
		Index:         41,
		Peers:         map[string]PeerMemory{"a": {Starts: 3, Term: 9, Index: 41}},
	}
}

func TestBootStateSurvivesTheRoundTrip(t *testing.T) {
	path := filepath.Join(t.TempDir(), "boot.state")
	if _, err := LoadBootState(path); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("Load without file = %v, want fs.ErrNotExist", err)
	}
	want := newBootState(t)
	for range 2 {
		if err := want.Store(path); err != nil {
			t.Fatal(err)
		}
	}
	got, err := LoadBootState(path)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	shared, err := want.Share()
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := ParseShared(shared)
	if err != nil {
		t.Fatal(err)
	}
	if theirs.Peers != nil {
		t.Error("Share gave the memory of peers away")
	}
	if d := cmp.Diff(want, theirs, cmpopts.IgnoreFields(BootState{}, "Peers")); d != "" {
		t.Error(d)
	}
	if _, err := ParseBootState(shared); !errors.Is(err, frame.ErrTorn) {
		t.Errorf("half a file was accepted: %v", err)
	}
	whole, err := want.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ParseShared(whole); err == nil {
		t.Error("ParseShared took a whole file")
	}
}

func TestLoadRefusesEveryDamage(t *testing.T) {
	good, err := newBootState(t).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	for cut := range good {
		if _, err := ParseBootState(good[:cut]); err == nil {
			t.Errorf("accepted when cut to %d of %d bytes", cut, len(good))
		}
	}
	bad := bytes.Clone(good)
	for bit := range len(good) * 8 {
		bad[bit/8] ^= 1 << (bit % 8)
		if _, err := ParseBootState(bad); err == nil {
			t.Errorf("accepted with bit %d of byte %d flipped", bit%8, bit/8)
		}
		bad[bit/8] ^= 1 << (bit % 8)
	}
	for name, data := range map[string][]byte{
		"a byte behind":            append(bytes.Clone(good), 0),
		"a frame behind":           append(bytes.Clone(good), frame.Append(nil, memoryFrame, []byte("{}"))...),
		"itself behind":            append(bytes.Clone(good), good...),
		"zeros of the same length": make([]byte, len(good)),
		"a flood":                  make([]byte, maxBootBytes+1),
	} {
		if _, err := ParseBootState(data); err == nil {
			t.Errorf("accepted %s", name)
		}
	}

	path := filepath.Join(t.TempDir(), "boot.state")
	if err := os.WriteFile(path, good[:len(good)-1], 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadBootState(path); err == nil || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "agentctl cluster join") {
		t.Errorf("Load of a torn file = %v; want the path and what to do", err)
	}
	if err := os.WriteFile(path, good, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, mode := range []os.FileMode{0o640, 0o604, 0o622} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		if _, err := LoadBootState(path); err == nil || !strings.Contains(err.Error(), "chmod 600 "+path) {
			t.Errorf("Load with mode %#o = %v", mode, err)
		}
	}
}

func TestStoreRefusesWhatLoadWouldRefuse(t *testing.T) {
	path := filepath.Join(t.TempDir(), "boot.state")
	for name, bend := range map[string]func(*BootState){
		"no bundle":                 func(s *BootState) { s.Bundle = nil },
		"a bundle of nobody":        func(s *BootState) { s.Bundle = &identity.Bundle{} },
		"an index below its bundle": func(s *BootState) { s.Index = 39 },
		"no gossip key":             func(s *BootState) { s.GossipKeyring = nil },
		"a gossip key of 5 bytes":   func(s *BootState) { s.GossipKeyring = []identity.Secret{identity.NewSecret(make([]byte, 5))} },
		"too many gossip keys":      func(s *BootState) { s.GossipKeyring = make([]identity.Secret, 17) },
		"a peer without name":       func(s *BootState) { s.Peers = map[string]PeerMemory{"": {}} },
		"a long id of a start":      func(s *BootState) { s.Peers = map[string]PeerMemory{"a": {StartID: strings.Repeat("ab", 65)}} },
	} {
		s := newBootState(t)
		bend(s)
		if err := s.Store(path); err == nil {
			t.Errorf("%s: stored", name)
		}
	}
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("something was written: %v", err)
	}
}

func TestNewerIsSameIncarnationAndHigherIndex(t *testing.T) {
	for _, tt := range []struct {
		name string
		bend func(*BootState)
		want bool
	}{
		{"a higher index", func(s *BootState) { s.Index++ }, true},
		{"the same", func(s *BootState) {}, false},
		{"a lower index", func(s *BootState) { s.Index-- }, false},
		{"a higher incarnation", func(s *BootState) { s.Index++; s.Bundle.Incarnation.Number++ }, false},
		{"the same number with another id", func(s *BootState) { s.Index++; s.Bundle.Incarnation.ID = "x" }, false},
		{"another cluster", func(s *BootState) { s.Index++; s.Bundle.ClusterID = "x" }, false},
	} {
		old := newBootState(t)
		next := *old
		next.Bundle = old.Bundle.Clone()
		next.Peers = map[string]PeerMemory{"evil": {Starts: 1 << 60}}
		tt.bend(&next)
		if got := Newer(&next, old); got != tt.want {
			t.Errorf("%s: Newer = %v, want %v", tt.name, got, tt.want)
		}
		adopted, ok := old.Adopt(&next)
		if ok != tt.want || ok && adopted.Index != next.Index || !ok && adopted != old {
			t.Errorf("%s: Adopt = %+v, %v", tt.name, adopted, ok)
		}
		if d := cmp.Diff(old.Peers, adopted.Peers); d != "" {
			t.Errorf("%s: the memory of peers came from a peer: %s", tt.name, d)
		}
	}
}

func TestMemoryOnlyRises(t *testing.T) {
	draw := rapid.Custom(func(t *rapid.T) PeerMemory {
		n := rapid.Uint64Range(0, 3)
		return PeerMemory{
			Starts: n.Draw(t, "starts"), StartID: rapid.SampledFrom([]string{"", "0a", "0b"}).Draw(t, "start id"),
			Term: n.Draw(t, "term"), Index: n.Draw(t, "index"),
		}
	})
	start := newBootState(t)
	rapid.Check(t, func(t *rapid.T) {
		s := start
		want := s.Peers["a"]
		for _, seen := range rapid.SliceOf(draw).Draw(t, "seen") {
			before := s.Peers["a"]
			next, changed := s.Remember("a", seen)
			id := want.StartID // of the highest start, the first that was told
			if seen.Starts > want.Starts || id == "" && seen.Starts == want.Starts {
				id = seen.StartID
			}
			want = PeerMemory{max(want.Starts, seen.Starts), id, max(want.Term, seen.Term), max(want.Index, seen.Index)}
			if next.Peers["a"] != want || changed != (before != want) || s.Peers["a"] != before {
				t.Fatalf("Remember(%+v) on %+v = %+v, %v; want %+v", seen, before, next.Peers["a"], changed, want)
			}
			s = next
		}
	})
	if s, changed := start.Remember("stranger", PeerMemory{Starts: 1}); changed || len(s.Peers) != 1 {
		t.Errorf("a node that the bundle does not have is remembered: %+v", s.Peers)
	}
	gone := *start
	gone.Bundle = start.Bundle.Clone()
	gone.Bundle.Nodes, gone.Index = nil, 50
	if s, ok := start.Adopt(&gone); !ok || len(s.Peers) != 0 {
		t.Errorf("a removed node is still remembered: %+v", s.Peers)
	}
}

// Released formats stay readable for ever: one golden file for each.
func TestGoldenFilesStayReadable(t *testing.T) {
	path := filepath.Join("testdata", "boot.state.1")
	if _, err := os.Stat(path); *update && errors.Is(err, fs.ErrNotExist) {
		data, err := newBootState(t).Marshal()
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	got, err := ParseBootState(data)
	if err != nil {
		t.Fatal(err)
	}
	want := newBootState(t)
	want.Bundle = got.Bundle // its keys are random
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if n, ok := got.Bundle.Node("a"); !ok || got.Bundle.Index != 40 || got.Bundle.ClusterID != testCluster || len(got.Bundle.CAs) != 1 || n.Addresses[0] != "10.0.0.1:7460" {
		t.Errorf("bundle %+v", got.Bundle)
	}
	again, err := got.Marshal()
	if err != nil || !bytes.Equal(data, again) {
		t.Errorf("the current format is written otherwise than in the golden file (%v)", err)
	}
}

func FuzzParseBootState(f *testing.F) {
	s := newBootState(f)
	whole, err := s.Marshal()
	if err != nil {
		f.Fatal(err)
	}
	_, trust, rest, err := frame.Parse(whole)
	if err != nil {
		f.Fatal(err)
	}
	_, memory, _, err := frame.Parse(rest)
	if err != nil {
		f.Fatal(err)
	}
	// Payloads, since the checksums would stop nearly every mutation.
	f.Add(trust, memory)
	f.Add([]byte(`{"format":1}`), []byte(`{"format":1,"peers":{"x":{"starts":1}}}`))
	f.Fuzz(func(t *testing.T, trust, memory []byte) {
		if _, err := ParseBootState(trust); err == nil {
			t.Fatal("accepted without frames")
		}
		data := frame.Append(frame.Append(nil, trustFrame, trust), memoryFrame, memory)
		s, err := ParseBootState(data)
		if err != nil {
			return
		}
		again, err := s.Marshal()
		if err != nil {
			t.Fatalf("parsed, but cannot be marshalled: %v", err)
		}
		if c, err := ParseBootState(again); err != nil || !cmp.Equal(s, c, cmpopts.EquateEmpty()) {
			t.Fatalf("not stable: %v", err)
		}
	})
}

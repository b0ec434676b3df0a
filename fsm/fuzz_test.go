package fsm

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

// FuzzReadSnapshot feeds bytes to the reader: it refuses them with ErrSnapshot, or
// what it read can be written and read again, and applied on.
func FuzzReadSnapshot(f *testing.F) {
	good := written(f, full(f).View())
	f.Add(good)
	f.Add(good[:len(good)/2])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		m := New(Options{})
		if err := (Raft{m}).Restore(io.NopCloser(bytes.NewReader(b))); err != nil {
			if !errors.Is(err, ErrSnapshot) {
				t.Fatal(err)
			}
			return
		}
		if v, err := ReadSnapshot(bytes.NewReader(written(t, m.View()))); err != nil || v.Hash() != m.View().Hash() {
			t.Fatalf("what was read cannot be read again: %v", err)
		}
	})
}

// FuzzApply feeds bytes as an entry to a machine with rows in every table. It never
// panics but in the documented ways, and leaves the tables sound.
func FuzzApply(f *testing.F) {
	for seed := range 4 { // seeds: what random histories are made of
		steps := rapid.Custom(func(t *rapid.T) []step { return history(t).steps }).Example(seed)
		for _, s := range steps[8:] {
			e, err := raftlogv1.Unseal(s.sealed)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(mustMarshal(f, e))
		}
	}
	snapshot := written(f, full(f).View())
	f.Fuzz(func(t *testing.T, b []byte) {
		e := new(raftlogv1.Entry)
		if proto.Unmarshal(b, e) != nil {
			return
		}
		m := New(Options{})
		if err := (Raft{m}).Restore(io.NopCloser(bytes.NewReader(snapshot))); err != nil {
			t.Fatal(err)
		}
		before := m.View()
		index, office := m.Published()
		e.Format = raftlogv1.EntryFormat
		if e.LeaderEpoch != 0 {
			e.LeaderEpoch = office.GetEpoch()
		}
		stopped := false
		func() {
			defer func() {
				if why := recover(); why != nil {
					text, ok := why.(string)
					if stopped = ok && strings.HasPrefix(text, "fsm: ") && strings.Contains(text, "upgrade"); !stopped {
						panic(why)
					}
				}
			}()
			outcomes := m.Apply(index+1, 1, e)
			if err := checkRefusals(before, m.View(), outcomes); err != nil {
				t.Fatal(err)
			}
		}()
		if stopped {
			return
		}
		if err := check(m); err != nil {
			t.Fatal(err)
		}
		if err := checkGrowth(before, m.View()); err != nil {
			t.Fatal(err)
		}
		if _, err := ReadSnapshot(bytes.NewReader(written(t, m.View()))); err != nil {
			t.Fatal(err)
		}
	})
}

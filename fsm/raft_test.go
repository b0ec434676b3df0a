package fsm

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/hashicorp/raft"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

func sealedEntry(t testing.TB, e *raftlogv1.Entry) []byte {
	t.Helper()
	b, err := raftlogv1.Seal(e)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestApplyBatchAnswersEveryLog(t *testing.T) {
	m := founded(t, Options{})
	_, office := m.Published()
	put := sealedEntry(t, &raftlogv1.Entry{Format: 1, LeaderEpoch: office.GetEpoch(), Mutations: []*raftlogv1.Mutation{setting(m, "1"), {}}})
	responses := Raft{m}.ApplyBatch([]*raft.Log{
		{Index: 3, Term: 1, Type: raft.LogConfiguration, Data: []byte("servers")},
		{Index: 4, Term: 1, Type: raft.LogCommand, Data: put},
		{Index: 7, Term: 1, Type: raft.LogConfiguration},
	})
	if len(responses) != 3 || responses[0] != nil || responses[2] != nil {
		t.Fatalf("responses are %v, want one for each log and none for configurations", responses)
	}
	outcomes, ok := responses[1].([]*raftlogv1.Outcome)
	if !ok || len(outcomes) != 2 || outcomes[0].GetCode() != raftlogv1.Code_CODE_OK || outcomes[1].GetReason() != "no_kind" || outcomes[1].GetIndex() != 4 {
		t.Fatalf("the entry answered %v", responses[1])
	}
	if at, _ := m.Published(); at != 7 {
		t.Fatalf("published index is %d after a configuration at 7", at)
	}
	if got := (Raft{m}).Apply(&raft.Log{Index: 8, Term: 1, Type: raft.LogCommand, Data: put}); got.([]*raftlogv1.Outcome)[0].GetRepeated() != true {
		t.Fatalf("Apply answered %v, want a repetition", got)
	}
}

// What stops a node says so in words that an operator can act on.
func TestApplyStopsTheNode(t *testing.T) {
	m := founded(t, Options{})
	_, office := m.Published()
	entry := func(extra func(*raftlogv1.Entry)) []byte {
		e := &raftlogv1.Entry{Format: 1, LeaderEpoch: office.GetEpoch(), Mutations: []*raftlogv1.Mutation{setting(m, "1")}}
		extra(e)
		return sealedEntry(t, e)
	}
	unknown := protowire.AppendVarint(protowire.AppendTag(nil, 999, protowire.VarintType), 1)
	good := entry(func(*raftlogv1.Entry) {})
	for name, c := range map[string]struct {
		data []byte
		want string
	}{
		"flipped":  {append(bytes.Clone(good[:len(good)-1]), good[len(good)-1]^1), "fsm: entry 3 of the log: unseal entry: frame at offset 0 is corrupt: checksum differs"},
		"cut":      {good[:len(good)-1], "fsm: entry 3 of the log: unseal entry: frame is torn: the input ends inside it"},
		"empty":    {nil, "fsm: entry 3 of the log: unseal entry: frame is torn: the input ends inside it"},
		"two":      {append(bytes.Clone(good), good...), "fsm: entry 3 of the log: unseal entry: "},
		"format 2": {entry(func(e *raftlogv1.Entry) { e.Format = 2 }), "fsm: entry 3 has format 2, this build knows 1: this node is older than the cluster; upgrade it"},
		"format 0": {entry(func(e *raftlogv1.Entry) { e.Format = 0 }), "fsm: entry 3 has format 0, this build knows 1"},
		"an unknown kind": {entry(func(e *raftlogv1.Entry) {
			e.Mutations = append(e.Mutations, &raftlogv1.Mutation{})
			e.Mutations[1].ProtoReflect().SetUnknown(unknown)
		}), "fsm: mutation 1 of entry 3 holds an unknown field of raftlog.v1.Mutation, which this build does not know: this node is older than the cluster; upgrade it"},
		"an unknown field": {entry(func(e *raftlogv1.Entry) { e.Mutations[0].GetPutSetting().ProtoReflect().SetUnknown(unknown) }), "holds an unknown field of raftlog.v1.PutSetting"},
		"a deep unknown field": {entry(func(e *raftlogv1.Entry) {
			l := &raftlogv1.Label{}
			l.ProtoReflect().SetUnknown(unknown)
			e.Mutations[0] = &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_EnrollAgent{EnrollAgent: &raftlogv1.EnrollAgent{Labels: []*raftlogv1.Label{{}, l}}}}
		}), "holds an unknown field of raftlog.v1.Label"},
		"an unknown field of the entry": {entry(func(e *raftlogv1.Entry) { e.ProtoReflect().SetUnknown(unknown) }), "fsm: entry 3 holds a field that this build does not know"},
	} {
		t.Run(name, func(t *testing.T) {
			before := m.View()
			defer func() {
				if got, _ := recover().(string); !strings.Contains(got, c.want) {
					t.Errorf("panicked with %q, want %q", got, c.want)
				}
				if m.View() != before {
					t.Error("the state has moved")
				}
			}()
			Raft{m}.ApplyBatch([]*raft.Log{{Index: 3, Term: 1, Type: raft.LogCommand, Data: c.data}})
		})
		m = founded(t, Options{}) // a node that panicked is not used again
	}
}

func TestApplySkipsWhatMayBeSkipped(t *testing.T) {
	m := founded(t, Options{})
	_, office := m.Published()
	skippable := &raftlogv1.Mutation{Skippable: true}
	skippable.ProtoReflect().SetUnknown(protowire.AppendVarint(protowire.AppendTag(nil, 999, protowire.VarintType), 1))
	before := contentHash(m.View())
	got := Raft{m}.Apply(&raft.Log{Index: 3, Term: 1, Type: raft.LogCommand, Data: sealedEntry(t, &raftlogv1.Entry{
		Format: 1, LeaderEpoch: office.GetEpoch(), Mutations: []*raftlogv1.Mutation{skippable},
	})}).([]*raftlogv1.Outcome)
	if want := (&raftlogv1.Outcome{Code: raftlogv1.Code_CODE_OK, Reason: "skipped", Index: 3}); !proto.Equal(got[0], want) {
		t.Errorf("answered %v, want %v", got[0], want)
	}
	if contentHash(m.View()) != before {
		t.Error("what was skipped changed the state")
	}
}

func TestApplyTakesIndexesInOrderOnly(t *testing.T) {
	m := founded(t, Options{})
	defer func() {
		if got := recover(); got != "fsm: entry 2 was delivered after entry 2" {
			t.Errorf("panicked with %v", got)
		}
	}()
	m.Advance(2)
}

// Ordinals are eight bits of a number: what comes above them must get none.
func TestApplyBoundsTheMutationsOfAnEntry(t *testing.T) {
	m := founded(t, Options{})
	_, office := m.Published()
	e := &raftlogv1.Entry{Format: 1, LeaderEpoch: office.GetEpoch()}
	for range raftlogv1.MaxMutations + 1 {
		e.Mutations = append(e.Mutations, setting(m, "1"))
	}
	got := m.Apply(3, 1, e)
	if first, last := got[raftlogv1.MaxMutations-1], got[raftlogv1.MaxMutations]; first.GetCode() != raftlogv1.Code_CODE_OK || last.GetReason() != "too_many" {
		t.Errorf("mutations 256 and 257 answered %v and %v", first, last)
	}
}

type sink struct {
	bytes.Buffer
	fail              error
	closed, cancelled bool
}

func (s *sink) Write(p []byte) (int, error) {
	if s.fail != nil {
		return 0, s.fail
	}
	return s.Buffer.Write(p)
}
func (s *sink) ID() string    { return "1" }
func (s *sink) Close() error  { s.closed = true; return nil }
func (s *sink) Cancel() error { s.cancelled = true; return nil }

func TestSnapshotPersists(t *testing.T) {
	m := founded(t, Options{})
	snap, err := Raft{m}.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	defer snap.Release()
	want := m.View().Hash()
	apply(t, m, setting(m, "later")) // does not show in the snapshot
	var s sink
	if err := snap.Persist(&s); err != nil || !s.closed || s.cancelled {
		t.Fatalf("Persist: %v, closed %v, cancelled %v", err, s.closed, s.cancelled)
	}
	if v, err := ReadSnapshot(&s.Buffer); err != nil || v.Hash() != want || v.Index() != 2 {
		t.Fatalf("ReadSnapshot: %v", err)
	}
	full := sink{fail: errors.New("no space left on device")}
	if err := snap.Persist(&full); !errors.Is(err, full.fail) || full.closed || !full.cancelled {
		t.Fatalf("Persist to a full disk: %v, closed %v, cancelled %v", err, full.closed, full.cancelled)
	}
}

func TestRestoreOfABadSnapshotKeepsTheState(t *testing.T) {
	m := founded(t, Options{})
	before := m.View()
	if err := (Raft{m}).Restore(io.NopCloser(strings.NewReader("not a snapshot"))); !errors.Is(err, ErrSnapshot) {
		t.Errorf("Restore: %v, want ErrSnapshot", err)
	}
	if m.View() != before {
		t.Error("the state was replaced")
	}
}

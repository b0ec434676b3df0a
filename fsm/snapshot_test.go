package fsm

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"pgregory.net/rapid"

	"github.com/agentplane/agentplane/proto/frame"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

func written(t testing.TB, v *View) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := v.WriteSnapshot(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestSnapshotRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v := history(t).m.View()
		var first, second bytes.Buffer
		if err := v.WriteSnapshot(&first); err != nil {
			t.Fatal(err)
		}
		read, err := ReadSnapshot(bytes.NewReader(first.Bytes()))
		if err != nil {
			t.Fatal(err)
		}
		if read.Hash() != v.Hash() || read.Index() != v.Index() || read.Now() != v.Now() || read.Cursor() != v.Cursor() {
			t.Fatal("another state was read than written")
		}
		if err := read.WriteSnapshot(&second); err != nil || !bytes.Equal(first.Bytes(), second.Bytes()) {
			t.Fatalf("a snapshot of what was read is another one: %v", err)
		}
	})
}

// full is a machine with a row in every table.
func full(t testing.TB) *Machine {
	m := founded(t, Options{})
	apply(t, m, token("tok", raftlogv1.TokenKind_TOKEN_KIND_AGENT, 9))
	apply(t, m, setting(m, "1"))
	apply(t, m, &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_EnrollOperator{EnrollOperator: &raftlogv1.EnrollOperator{Name: "ann", PublicKey: keyOf("ann"), Role: RoleAdmin}}})
	enrolled(t, m, "web-1", 4)
	s, _ := m.View().Session("web-1")
	apply(t, m, &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_ReportFacts{ReportFacts: &raftlogv1.ReportFacts{
		AgentId: "web-1", SessionEpoch: s.GetEpoch(), NodeId: s.GetNodeId(), Facts: []*raftlogv1.Label{{Name: "os", Value: "linux"}}, Hash: []byte("h"), Version: "1",
	}}})
	for i := range 3 {
		id := commandID(storyBegin, fmt.Sprint(i))
		apply(t, m, submitTo(id, 1), releaseAll(id))
	}
	c := claimOf(m, commandID(storyBegin, "0"), 1)
	apply(t, m, c)
	apply(t, m, reportOf(m, commandID(storyBegin, "0"), 1, raftlogv1.AttemptState_ATTEMPT_STATE_FAILED))
	apply(t, m, claimOf(m, commandID(storyBegin, "1"), 1))
	enrolled(t, m, "web-2", 4)
	apply(t, m, &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_RemoveAgent{RemoveAgent: &raftlogv1.RemoveAgent{AgentId: "web-2"}}})
	apply(t, m, putSchedule("nightly", 1, nil))
	if o := applyAfter(m, time.Second, fireSchedule(m, "nightly", 0))[0]; o.GetCode() != raftlogv1.Code_CODE_OK {
		t.Fatal(o)
	}
	apply(t, m, putTemplate("restart", "one", 0), putTemplate("restart", "two", 1), putTemplate("gone", "one", 0), deleteTemplate("gone"))
	apply(t, m, &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_CreateLock{CreateLock: &raftlogv1.CreateLock{Name: "budget", Limit: 3, Selector: `label.x == "1"`}}},
		&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_CreateLock{CreateLock: &raftlogv1.CreateLock{Name: "all", Limit: 3, Selector: "all"}}},
		&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_AcquireLock{AcquireLock: &raftlogv1.AcquireLock{Lock: "mine", LeaseId: genLease(1), Holder: "ann", Ttl: int64(time.Minute), Limit: 1}}},
		&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_ReleaseLock{ReleaseLock: &raftlogv1.ReleaseLock{Lock: "mine", LeaseId: genLease(2), Holder: "ann"}}})
	apply(t, m, &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_RecordBlob{RecordBlob: &raftlogv1.RecordBlob{
		NodeId: "a", NodeIds: []string{"a"}, Blob: &raftlogv1.BlobRef{Sha256: sumOf("x"), Size: 9}, MaxBytes: 9, MaxBlobs: 1,
	}}})
	return m
}

func enrolled(t testing.TB, m *Machine, agent string, slots uint32) {
	t.Helper()
	apply(t, m, &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_EnrollAgent{EnrollAgent: &raftlogv1.EnrollAgent{AgentId: agent, Name: agent, PublicKey: keyOf(agent), TokenId: tokenID("tok")}}})
	apply(t, m, &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_OpenSession{OpenSession: &raftlogv1.OpenSession{
		AgentId: agent, NodeId: "a", StreamId: []byte("s"), StartId: []byte("p"), Journal: &raftlogv1.Journal{Id: journalOf(agent)}, Slots: slots,
	}}})
	s, _ := m.View().Session(agent)
	apply(t, m, &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_ReadySession{ReadySession: &raftlogv1.ReadySession{AgentId: agent, SessionEpoch: s.GetEpoch(), NodeId: s.GetNodeId()}}})
}

func submitTo(id string, ordinals ...uint32) *raftlogv1.Mutation {
	return &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_SubmitCommand{SubmitCommand: &raftlogv1.SubmitCommand{
		Id: id, Envelope: bytes.Repeat([]byte("e"), 256), Digest: []byte("d"), AgentOrdinals: ordinals, Ttl: 1e15, RunTimeout: 1e9, QueueOffline: true, QueueMax: 1 << 30,
	}}}
}

func releaseAll(id string) *raftlogv1.Mutation {
	return &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_ReleaseCommand{ReleaseCommand: &raftlogv1.ReleaseCommand{CommandId: id, Max: MaxTargets}}}
}

func claimOf(m *Machine, id string, ordinal uint32) *raftlogv1.Mutation {
	i, _ := m.View().Invocation(InvocationID(id, ordinal))
	s, _ := m.View().Session(i.GetAgentId())
	return &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_ClaimAttempt{ClaimAttempt: &raftlogv1.ClaimAttempt{
		InvocationId: i.GetId(), Attempt: i.GetAttempt(), AgentId: i.GetAgentId(), SessionEpoch: s.GetEpoch(), NodeId: s.GetNodeId(),
	}}}
}

func reportOf(m *Machine, id string, ordinal uint32, state raftlogv1.AttemptState) *raftlogv1.Mutation {
	i, _ := m.View().Invocation(InvocationID(id, ordinal))
	s, _ := m.View().Session(i.GetAgentId())
	return &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_ReportAttempt{ReportAttempt: &raftlogv1.ReportAttempt{
		InvocationId: i.GetId(), Attempt: i.GetAttempt(), Fence: i.GetFence(), AgentId: i.GetAgentId(), SessionEpoch: s.GetEpoch(), State: state, NodeId: "a",
		Result: &raftlogv1.Result{ExitCode: 1, JournalSeq: s.GetJournal().GetSeq() + 1, Stdout: &raftlogv1.Output{Head: []byte("hello"), TotalBytes: 5}},
	}}}
}

// What the tests of snapshots begin with has a row in every table that there is.
func TestFullHasARowInEveryTable(t *testing.T) {
	seen := make(map[int32]bool)
	for r := range full(t).View().records() {
		r.ProtoReflect().Range(func(f protoreflect.FieldDescriptor, _ protoreflect.Value) bool {
			seen[int32(f.Number())] = true
			return true
		})
	}
	rows := new(raftlogv1.SnapshotRecord).ProtoReflect().Descriptor().Fields()
	for n := range rows.Len() {
		if f := rows.Get(n); !seen[int32(f.Number())] {
			t.Errorf("there is no row of %s", f.Name())
		}
	}
}

// A golden snapshot was written by the first release of its format. It must be
// readable for ever, to the same state: write one only where it is absent. The hash is
// of the state in today's form; a change of form changes it, and says why.
func TestReadSnapshotOfEveryFormat(t *testing.T) {
	for format, tables := range map[int]int{1: int(TableInvocations) + 1, SnapshotFormat: int(TableTokenUses)} { // uses of tokens have a table since
		t.Run(fmt.Sprint("format ", format), func(t *testing.T) { readGolden(t, format, tables) })
	}
}

// readGolden reads the golden snapshot of a format, which fills so many tables.
func readGolden(t *testing.T, format, tables int) {
	file, hash := fmt.Sprintf("testdata/snapshot-%d.bin", format), fmt.Sprintf("testdata/snapshot-%d.hash", format)
	m := full(t)
	if _, err := os.Stat(file); errors.Is(err, os.ErrNotExist) && *update {
		if err := errors.Join(os.WriteFile(file, written(t, m.View()), 0o644), os.WriteFile(hash, fmt.Appendf(nil, "%x\n", m.View().Hash()), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile(hash)
	if err != nil {
		t.Fatal(err)
	}
	restored := New(Options{})
	if err := (Raft{restored}).Restore(io.NopCloser(bytes.NewReader(b))); err != nil {
		t.Fatal(err)
	}
	v := restored.View()
	if got := fmt.Sprintf("%x\n", v.Hash()); got != string(want) {
		t.Errorf("hash of the state is %s, want %s", got, want)
	}
	if err := check(restored); err != nil {
		t.Error(err)
	}
	seen := make(map[string]bool)
	for r := range v.records() {
		seen[fmt.Sprintf("%T", r.GetRow())] = true
	}
	if len(seen) != tables {
		t.Errorf("the golden snapshot has rows in %d tables, want %d: %v", len(seen), tables, seen)
	}
	for k := range v.Tokens() {
		if uses := collect(v.TokenUses(k.GetId())); len(uses) == 0 || len(uses) != int(k.GetUsed()) || len(k.GetUses()) != 0 {
			t.Errorf("token %v has %d uses", k, len(uses))
		}
	}
	// Work goes on from it.
	id := commandID(storyBegin, "1")
	apply(t, restored, reportOf(restored, id, 1, raftlogv1.AttemptState_ATTEMPT_STATE_SUCCEEDED), claimOf(restored, commandID(storyBegin, "2"), 1))
}

func TestReadSnapshotRefusesEveryTruncation(t *testing.T) {
	b := written(t, full(t).View())
	for n := range b {
		if _, err := ReadSnapshot(bytes.NewReader(b[:n])); !errors.Is(err, ErrSnapshot) {
			t.Fatalf("the first %d of %d bytes: %v, want ErrSnapshot", n, len(b), err)
		}
	}
	if _, err := ReadSnapshot(bytes.NewReader(append(bytes.Clone(b), 0))); !errors.Is(err, ErrSnapshot) {
		t.Fatalf("with a byte behind it: %v, want ErrSnapshot", err)
	}
	if _, err := ReadSnapshot(bytes.NewReader(append(bytes.Clone(b), b...))); !errors.Is(err, ErrSnapshot) {
		t.Fatalf("twice in one file: %v, want ErrSnapshot", err)
	}
}

// A flipped bit is found. A few bits of the compressor's mean nothing to a reader,
// ask for a larger window, or name the same bytes elsewhere: with those the very
// same state is read.
func TestReadSnapshotRefusesFlippedBits(t *testing.T) {
	v := full(t).View()
	b := written(t, v)
	harmless := 0
	for n := range b {
		for bit := range 8 {
			c := bytes.Clone(b)
			c[n] ^= 1 << bit
			switch read, err := ReadSnapshot(bytes.NewReader(c)); {
			case errors.Is(err, ErrSnapshot):
			case err == nil && read.Hash() == v.Hash():
				harmless++
			default:
				t.Fatalf("bit %d of byte %d flipped: %v, want ErrSnapshot", bit, n, err)
			}
		}
	}
	if harmless > len(b)/20 {
		t.Errorf("%d bits may be flipped unnoticed", harmless)
	}
}

// forge writes a snapshot of the given frames, sealed as a true one.
func forge(t testing.TB, header *raftlogv1.SnapshotHeader, records []*raftlogv1.SnapshotRecord, trailer func(*raftlogv1.SnapshotTrailer), extra ...byte) []byte {
	t.Helper()
	marshal := func(m proto.Message) []byte {
		b, err := proto.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	plain := frame.Append(nil, frameHeader, marshal(header))
	h := newRecordHash()
	for _, r := range records {
		b := appendRecord(nil, r)
		h.add(b)
		plain = frame.Append(plain, frameRecord, b)
	}
	z := &raftlogv1.SnapshotTrailer{Records: h.n, Hash: h.sum.Sum(nil)}
	if trailer != nil {
		trailer(z)
	}
	return compressed(t, append(frame.Append(plain, frameTrailer, marshal(z)), extra...))
}

func compressed(t testing.TB, plain []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := zstd.NewWriter(&b, zstd.WithEncoderConcurrency(1))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(plain); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestReadSnapshotRefusesWhatDoesNotFit(t *testing.T) {
	v := full(t).View()
	all := slices.Collect(v.records())
	header := func(edit func(*raftlogv1.SnapshotHeader)) *raftlogv1.SnapshotHeader {
		h := headerOf(v.t.cluster, SnapshotFormat)
		edit(h)
		return h
	}
	same := func(*raftlogv1.SnapshotHeader) {}
	orphan := &raftlogv1.SnapshotRecord{Row: &raftlogv1.SnapshotRecord_Invocation{Invocation: &raftlogv1.Invocation{Id: "zz.1", CommandId: "zz", AgentOrdinal: 1}}}
	// An open invocation again, with another place among its agent's work; and one in a
	// state from the gap between two.
	var moved, between *raftlogv1.SnapshotRecord
	for _, r := range all {
		if i := r.GetInvocation(); i != nil && open(i) {
			moved, between = proto.CloneOf(r), proto.CloneOf(r)
			moved.GetInvocation().GetTransitions()[0].Index++
			between.GetInvocation().State = raftlogv1.AttemptState_ATTEMPT_STATE_PENDING + 1
		}
	}
	if moved == nil {
		t.Fatal("the state has no open invocation")
	}
	at := slices.IndexFunc(all, func(r *raftlogv1.SnapshotRecord) bool {
		return r.GetInvocation().GetId() == moved.GetInvocation().GetId()
	})
	strange := proto.CloneOf(all[1])
	strange.ProtoReflect().SetUnknown(protowire.AppendVarint(protowire.AppendTag(nil, 999, protowire.VarintType), 1))
	if _, err := ReadSnapshot(bytes.NewReader(forge(t, header(same), all, nil))); err != nil {
		t.Fatalf("a forged snapshot that fits: %v", err)
	}
	for name, c := range map[string]struct {
		b    []byte
		want string
	}{
		"nothing":             {nil, "header: "},
		"no zstd":             {[]byte("hello, this is no snapshot"), "header: "},
		"format 0":            {forge(t, header(func(h *raftlogv1.SnapshotHeader) { h.Format = 0 }), all, nil), "its format is 0, this build reads 1 to 2"},
		"a later format":      {forge(t, header(func(h *raftlogv1.SnapshotHeader) { h.Format = 3 }), all, nil), "its format is 3, this build reads 1 to 2: upgrade this node"},
		"a later feature":     {forge(t, header(func(h *raftlogv1.SnapshotHeader) { h.FeatureLevel = 9 }), all, nil), "its feature level is 9, this build knows 1: upgrade this node"},
		"another index":       {forge(t, header(func(h *raftlogv1.SnapshotHeader) { h.Index++ }), all, nil), "does not fit its state"},
		"another cluster":     {forge(t, header(func(h *raftlogv1.SnapshotHeader) { h.ClusterId = "d" }), all, nil), "does not fit its state"},
		"a wrong count":       {forge(t, header(same), all, func(z *raftlogv1.SnapshotTrailer) { z.Records++ }), "its trailer says"},
		"a wrong hash":        {forge(t, header(same), all, func(z *raftlogv1.SnapshotTrailer) { z.Hash[0] ^= 1 }), "the hash of its records is not the one in its trailer"},
		"no record":           {forge(t, &raftlogv1.SnapshotHeader{Format: 1}, nil, nil), "it holds no record of the cluster"},
		"no cluster":          {forge(t, header(same), all[1:], nil), "its first record is not the cluster's"},
		"records in disorder": {forge(t, header(same), append(slices.Clone(all[:len(all)-2]), all[len(all)-1], all[len(all)-2]), nil), "is out of order"},
		"a record twice":      {forge(t, header(same), append(slices.Clone(all), all[len(all)-1]), nil), "is out of order"},
		"an open one twice":   {forge(t, header(same), slices.Insert(slices.Clone(all), at+1, moved), nil), "is out of order"},
		"a state between":     {forge(t, header(same), slices.Replace(slices.Clone(all), at, at+1, between), nil), "is in state 11, which this build does not know"},
		"an orphan":           {forge(t, header(same), append(slices.Clone(all), orphan), nil), "belongs to no command"},
		"an empty record":     {forge(t, header(same), append(slices.Clone(all), &raftlogv1.SnapshotRecord{}), nil), "of a table that this build does not know: upgrade this node"},
		"an unknown field":    {forge(t, header(same), []*raftlogv1.SnapshotRecord{all[0], strange}, nil), "an unknown field of raftlog.v1.SnapshotRecord: upgrade this node"},
		"more behind it":      {forge(t, header(same), all, nil, frame.Append(nil, frameRecord, nil)...), "after the trailer: another record"},
		"a torn frame behind": {forge(t, header(same), all, nil, 0xA9), "after the trailer: frame is torn"},
		"no trailer":          {compressed(t, frame.Append(nil, frameHeader, mustMarshal(t, header(same)))), "it ends after 0 records without a trailer"},
		"a strange frame":     {compressed(t, frame.Append(frame.Append(nil, frameHeader, mustMarshal(t, header(same))), 'x', nil)), "record 0 has type 'x'"},
		"a huge record": {
			compressed(t, frame.Append(frame.Append(nil, frameHeader, mustMarshal(t, header(same))), frameRecord, make([]byte, maxRecordBytes+1))),
			"length is 4194305, at most 4194304 is allowed",
		},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := ReadSnapshot(bytes.NewReader(c.b))
			if !errors.Is(err, ErrSnapshot) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("ReadSnapshot: %v, want %q", err, c.want)
			}
		})
	}
}

func mustMarshal(t testing.TB, m proto.Message) []byte {
	t.Helper()
	b, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// What could not be read again is not written.
func TestWriteSnapshotRefusesAHugeRow(t *testing.T) {
	m := full(t)
	v := &View{t: m.tables.published()}
	v.t.settings = v.t.settings.copy() // the published one is not written into
	v.t.settings.put(&raftlogv1.Setting{Key: "huge", Value: strings.Repeat("x", maxRecordBytes)})
	if err := v.WriteSnapshot(io.Discard); err == nil || !strings.Contains(err.Error(), "above the maximum 4194304 (*raftlogv1.SnapshotRecord_Setting)") {
		t.Errorf("WriteSnapshot: %v, want a refusal", err)
	}
}

// The largest rows that mutations can make must fit into a snapshot: what newcomers say
// is bounded, and so is an invocation whose agent talks too much.
func TestTheLargestRowsFitIntoASnapshot(t *testing.T) {
	m := founded(t, Options{})
	apply(t, m, token("tok", raftlogv1.TokenKind_TOKEN_KIND_AGENT, 1))
	index, office := m.Published()
	tooLong := m.Apply(index+1, 1, &raftlogv1.Entry{Format: 1, LeaderEpoch: office.GetEpoch(), Mutations: []*raftlogv1.Mutation{
		{Kind: &raftlogv1.Mutation_EnrollAgent{EnrollAgent: &raftlogv1.EnrollAgent{AgentId: "a", PublicKey: make([]byte, MaxKeyBytes+1), TokenId: tokenID("tok")}}},
		{Kind: &raftlogv1.Mutation_EnrollAgent{EnrollAgent: &raftlogv1.EnrollAgent{AgentId: strings.Repeat("a", MaxValueBytes+1), PublicKey: keyOf("a"), TokenId: tokenID("tok")}}},
		{Kind: &raftlogv1.Mutation_EnrollAgent{EnrollAgent: &raftlogv1.EnrollAgent{AgentId: "a", PublicKey: keyOf("a"), From: strings.Repeat("f", MaxValueBytes+1), TokenId: tokenID("tok")}}},
	}})
	for i, o := range tooLong {
		if o.GetReason() != "too_long" {
			t.Errorf("enrolment %d answered %v, want too_long", i, o)
		}
	}
	m2 := full(t)
	i, _ := m2.View().Invocation(InvocationID(commandID(storyBegin, "1"), 1))
	for _, s := range []raftlogv1.AttemptState{raftlogv1.AttemptState_ATTEMPT_STATE_RUNNING, raftlogv1.AttemptState_ATTEMPT_STATE_LOST, raftlogv1.AttemptState_ATTEMPT_STATE_SUCCEEDED} {
		r := reportOf(m2, i.GetCommandId(), 1, s)
		r.GetReportAttempt().Reason, r.GetReportAttempt().Detail = strings.Repeat("é", 50_000), strings.Repeat("é", 50_000)
		apply(t, m2, r)
	}
	row, _ := m2.View().Invocation(i.GetId())
	if n := proto.Size(row); n > 4096 || len(row.GetReason()) != MaxReasonBytes || len(row.GetDetail()) != MaxDetailBytes {
		t.Errorf("an agent that talks makes a row of %d bytes, reason %d, detail %d", n, len(row.GetReason()), len(row.GetDetail()))
	}
}

// A snapshot is taken while entries are applied, and holds the state of its index.
func TestSnapshotWhileApplying(t *testing.T) {
	m := full(t)
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for at := uint64(0); at < 300; {
				v := m.View()
				at = v.Index()
				read, err := ReadSnapshot(bytes.NewReader(written(t, v)))
				if err != nil || read.Hash() != v.Hash() || read.Index() != at {
					t.Errorf("snapshot at %d: %v", at, err)
					return
				}
			}
		})
	}
	for n := 0; m.View().Index() < 300; n++ {
		id := commandID(storyBegin, fmt.Sprint("new", n))
		apply(t, m, submitTo(id, 1), releaseAll(id))
		apply(t, m, claimOf(m, id, 1))
		apply(t, m, reportOf(m, id, 1, raftlogv1.AttemptState_ATTEMPT_STATE_SUCCEEDED))
	}
	wg.Wait()
}

package fsm

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"iter"

	"github.com/klauspost/compress/zstd"
	"google.golang.org/protobuf/proto"

	"github.com/agentplane/agentplane/proto/frame"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

// SnapshotFormat is the format of the snapshots that this build writes. Every
// older one stays readable (testdata/snapshot-*.bin).
const SnapshotFormat = 1

// Types of the frames in a snapshot.
const (
	frameHeader  = 'H'
	frameRecord  = 'R'
	frameTrailer = 'Z'
)

// maxRecordBytes bounds one record: the largest row is a command's envelope.
const maxRecordBytes = 4 << 20

// ErrSnapshot is what every failure to read a snapshot wraps.
var ErrSnapshot = errors.New("snapshot is not usable")

// records yields the state as a snapshot holds it.
func (v *View) records() iter.Seq[*raftlogv1.SnapshotRecord] {
	t := v.t
	return func(yield func(*raftlogv1.SnapshotRecord) bool) {
		_ = yield(&raftlogv1.SnapshotRecord{Row: &raftlogv1.SnapshotRecord_Cluster{Cluster: t.cluster}}) &&
			each(t.nodes, yield, func(r *raftlogv1.Node) *raftlogv1.SnapshotRecord {
				return &raftlogv1.SnapshotRecord{Row: &raftlogv1.SnapshotRecord_Node{Node: r}}
			}) &&
			each(t.settings, yield, func(r *raftlogv1.Setting) *raftlogv1.SnapshotRecord {
				return &raftlogv1.SnapshotRecord{Row: &raftlogv1.SnapshotRecord_Setting{Setting: r}}
			}) &&
			each(t.tokens, yield, func(r *raftlogv1.Token) *raftlogv1.SnapshotRecord {
				return &raftlogv1.SnapshotRecord{Row: &raftlogv1.SnapshotRecord_Token{Token: r}}
			}) &&
			each(t.operators, yield, func(r *raftlogv1.Operator) *raftlogv1.SnapshotRecord {
				return &raftlogv1.SnapshotRecord{Row: &raftlogv1.SnapshotRecord_Operator{Operator: r}}
			}) &&
			each(t.agents, yield, func(r *raftlogv1.Agent) *raftlogv1.SnapshotRecord {
				return &raftlogv1.SnapshotRecord{Row: &raftlogv1.SnapshotRecord_Agent{Agent: r}}
			}) &&
			each(t.facts, yield, func(r *raftlogv1.Facts) *raftlogv1.SnapshotRecord {
				return &raftlogv1.SnapshotRecord{Row: &raftlogv1.SnapshotRecord_Facts{Facts: r}}
			}) &&
			each(t.sessions, yield, func(r *raftlogv1.Session) *raftlogv1.SnapshotRecord {
				return &raftlogv1.SnapshotRecord{Row: &raftlogv1.SnapshotRecord_Session{Session: r}}
			}) &&
			each(t.envelopes, yield, func(r *raftlogv1.Envelope) *raftlogv1.SnapshotRecord {
				return &raftlogv1.SnapshotRecord{Row: &raftlogv1.SnapshotRecord_Envelope{Envelope: r}}
			}) &&
			each(t.commands, yield, func(r *raftlogv1.Command) *raftlogv1.SnapshotRecord {
				return &raftlogv1.SnapshotRecord{Row: &raftlogv1.SnapshotRecord_Command{Command: r}}
			}) &&
			each(t.invocations, yield, func(r *raftlogv1.Invocation) *raftlogv1.SnapshotRecord {
				return &raftlogv1.SnapshotRecord{Row: &raftlogv1.SnapshotRecord_Invocation{Invocation: r}}
			})
	}
}

func each[R proto.Message](t *table[R], yield func(*raftlogv1.SnapshotRecord) bool, record func(R) *raftlogv1.SnapshotRecord) bool {
	for r := range t.all() {
		if !yield(record(r)) {
			return false
		}
	}
	return true
}

// load puts a record's row into its table, without a change in the feed.
func (t *tables) load(r *raftlogv1.SnapshotRecord) error {
	switch row := r.GetRow().(type) {
	case *raftlogv1.SnapshotRecord_Cluster:
		t.cluster = row.Cluster
	case *raftlogv1.SnapshotRecord_Node:
		t.nodes.put(row.Node)
	case *raftlogv1.SnapshotRecord_Setting:
		t.settings.put(row.Setting)
	case *raftlogv1.SnapshotRecord_Token:
		t.tokens.put(row.Token)
	case *raftlogv1.SnapshotRecord_Operator:
		t.operators.put(row.Operator)
	case *raftlogv1.SnapshotRecord_Agent:
		t.agents.put(row.Agent)
	case *raftlogv1.SnapshotRecord_Facts:
		t.facts.put(row.Facts)
	case *raftlogv1.SnapshotRecord_Session:
		t.sessions.put(row.Session)
	case *raftlogv1.SnapshotRecord_Envelope:
		t.envelopes.put(row.Envelope)
	case *raftlogv1.SnapshotRecord_Command:
		t.commands.put(row.Command)
	case *raftlogv1.SnapshotRecord_Invocation:
		t.invocations.put(row.Invocation)
	default:
		return errors.New("a record is of a table that this build does not know: upgrade this node")
	}
	return nil
}

// Hash is the SHA-256 of the state: equal on all replicas at an equal index.
func (v *View) Hash() [sha256.Size]byte {
	h := newRecordHash()
	var b []byte
	for r := range v.records() {
		b = appendRecord(b[:0], r)
		h.add(b)
	}
	return [sha256.Size]byte(h.sum.Sum(nil))
}

func appendRecord(b []byte, r *raftlogv1.SnapshotRecord) []byte {
	b, err := deterministic.MarshalAppend(b, r)
	if err != nil {
		panic("fsm: marshal a row: " + err.Error()) // only invalid UTF-8, which decoding refuses
	}
	return b
}

// recordHash sums records with their lengths, so that no two lists of records sum
// to the same.
type recordHash struct {
	sum hash.Hash
	n   uint64
}

func newRecordHash() *recordHash { return &recordHash{sum: sha256.New()} }

func (h *recordHash) add(record []byte) {
	var n [4]byte
	binary.LittleEndian.PutUint32(n[:], uint32(len(record)))
	h.sum.Write(n[:])
	h.sum.Write(record)
	h.n++
}

// WriteSnapshot streams the view to w: a header, one record for each row, and a
// trailer with count and hash, compressed. It holds one row at a time.
func (v *View) WriteSnapshot(w io.Writer) error {
	z, err := zstd.NewWriter(w, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedFastest))
	if err != nil {
		return fmt.Errorf("write snapshot: %w", err)
	}
	out := bufio.NewWriterSize(z, 64<<10)
	c := v.t.cluster
	header, err := deterministic.Marshal(&raftlogv1.SnapshotHeader{
		Format: SnapshotFormat, ClusterId: c.GetClusterId(), Incarnation: c.GetIncarnation(), Index: c.GetIndex(), FeatureLevel: c.GetFeatureLevel(),
	})
	if err != nil {
		return fmt.Errorf("write snapshot: %w", err)
	}
	var record, framed []byte
	write := func(typ byte, payload []byte) error {
		framed = frame.Append(framed[:0], typ, payload)
		_, err := out.Write(framed)
		return err
	}
	if err := write(frameHeader, header); err != nil {
		return fmt.Errorf("write snapshot: %w", err)
	}
	h := newRecordHash()
	for r := range v.records() {
		record = appendRecord(record[:0], r)
		h.add(record)
		if err := write(frameRecord, record); err != nil {
			return fmt.Errorf("write snapshot: %w", err)
		}
	}
	trailer, err := deterministic.Marshal(&raftlogv1.SnapshotTrailer{Records: h.n, Hash: h.sum.Sum(nil)})
	if err != nil {
		return fmt.Errorf("write snapshot: %w", err)
	}
	if err := errors.Join(write(frameTrailer, trailer), out.Flush(), z.Close()); err != nil {
		return fmt.Errorf("write snapshot: %w", err)
	}
	return nil
}

// ReadSnapshot returns the view that was written to r. Every error wraps
// ErrSnapshot.
func ReadSnapshot(r io.Reader) (*View, error) {
	t, err := readTables(r)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSnapshot, err)
	}
	return &View{t: t}, nil
}

func readTables(r io.Reader) (*tables, error) {
	z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(64<<20))
	if err != nil {
		return nil, err
	}
	defer z.Close()
	in := frame.NewReader(bufio.NewReaderSize(z, 64<<10), maxRecordBytes)
	typ, b, err := in.Next()
	if err != nil {
		return nil, fmt.Errorf("header: %w", err)
	}
	header := new(raftlogv1.SnapshotHeader)
	if err := proto.Unmarshal(b, header); typ != frameHeader || err != nil {
		return nil, errors.New("it does not begin with a header")
	}
	if header.GetFormat() == 0 || header.GetFormat() > SnapshotFormat {
		return nil, fmt.Errorf("its format is %d, this build reads 1 to %d: upgrade this node", header.GetFormat(), SnapshotFormat)
	}
	if header.GetFeatureLevel() > FeatureLevel {
		return nil, fmt.Errorf("its feature level is %d, this build knows %d: upgrade this node", header.GetFeatureLevel(), FeatureLevel)
	}
	t, h := newTables(), newRecordHash()
	for {
		typ, b, err := in.Next()
		switch {
		case errors.Is(err, io.EOF):
			return nil, fmt.Errorf("it ends after %d records without a trailer", h.n)
		case err != nil:
			return nil, fmt.Errorf("record %d: %w", h.n, err)
		case typ == frameTrailer:
			return t, checkTrailer(b, h, t, header)
		case typ != frameRecord:
			return nil, fmt.Errorf("record %d has type %q", h.n, typ)
		}
		h.add(b)
		record := new(raftlogv1.SnapshotRecord)
		if err := proto.Unmarshal(b, record); err != nil {
			return nil, fmt.Errorf("record %d: %w", h.n, err)
		}
		if name := unknownField(record.ProtoReflect()); name != "" {
			return nil, fmt.Errorf("record %d holds %s: upgrade this node", h.n, name)
		}
		if err := t.load(record); err != nil {
			return nil, err
		}
	}
}

func checkTrailer(b []byte, h *recordHash, t *tables, header *raftlogv1.SnapshotHeader) error {
	trailer := new(raftlogv1.SnapshotTrailer)
	switch err := proto.Unmarshal(b, trailer); {
	case err != nil:
		return fmt.Errorf("trailer: %w", err)
	case trailer.GetRecords() != h.n:
		return fmt.Errorf("it holds %d records, its trailer says %d", h.n, trailer.GetRecords())
	case !bytes.Equal(trailer.GetHash(), h.sum.Sum(nil)):
		return errors.New("the hash of its records is not the one in its trailer")
	case t.cluster.GetIndex() != header.GetIndex():
		return fmt.Errorf("its header says index %d, its state is at %d", header.GetIndex(), t.cluster.GetIndex())
	}
	return nil
}

// restore replaces the whole state, then wakes everybody who waits or watches.
func (m *Machine) restore(t *tables) {
	m.tables = t
	m.queued = make(map[uint32]uint32)
	for _, i := range collect(t.invocations.by(invocationsByAgent, "")) {
		m.queued[i.GetAgentOrdinal()]++
	}
	m.publish(nil, nil)
	m.feed.reset(m.View().Cursor())
}

package fsm

import (
	"bufio"
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"iter"
	"slices"

	"github.com/klauspost/compress/zstd"
	"google.golang.org/protobuf/proto"

	"github.com/agentplane/agentplane/proto/frame"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

// SnapshotFormat is the format of the snapshots that this build writes. Every
// older one stays readable (testdata/snapshot-*.bin).
const SnapshotFormat = 2

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
			(!snapshotsSessions || each(t.sessions, yield, func(r *raftlogv1.Session) *raftlogv1.SnapshotRecord {
				return &raftlogv1.SnapshotRecord{Row: &raftlogv1.SnapshotRecord_Session{Session: r}}
			})) &&
			each(t.envelopes, yield, func(r *raftlogv1.Envelope) *raftlogv1.SnapshotRecord {
				return &raftlogv1.SnapshotRecord{Row: &raftlogv1.SnapshotRecord_Envelope{Envelope: r}}
			}) &&
			each(t.commands, yield, func(r *raftlogv1.Command) *raftlogv1.SnapshotRecord {
				return &raftlogv1.SnapshotRecord{Row: &raftlogv1.SnapshotRecord_Command{Command: r}}
			}) &&
			each(t.invocations, yield, func(r *raftlogv1.Invocation) *raftlogv1.SnapshotRecord {
				return &raftlogv1.SnapshotRecord{Row: &raftlogv1.SnapshotRecord_Invocation{Invocation: r}}
			}) &&
			each(t.removals, yield, func(r *raftlogv1.Removal) *raftlogv1.SnapshotRecord {
				return &raftlogv1.SnapshotRecord{Row: &raftlogv1.SnapshotRecord_Removal{Removal: r}}
			}) &&
			each(t.tokenUses, yield, func(r *raftlogv1.TokenUse) *raftlogv1.SnapshotRecord {
				return &raftlogv1.SnapshotRecord{Row: &raftlogv1.SnapshotRecord_TokenUse{TokenUse: r}}
			}) &&
			each(t.schedules, yield, func(r *raftlogv1.Schedule) *raftlogv1.SnapshotRecord {
				return &raftlogv1.SnapshotRecord{Row: &raftlogv1.SnapshotRecord_Schedule{Schedule: r}}
			}) &&
			each(t.locks, yield, func(r *raftlogv1.Lock) *raftlogv1.SnapshotRecord {
				return &raftlogv1.SnapshotRecord{Row: &raftlogv1.SnapshotRecord_Lock{Lock: r}}
			}) &&
			each(t.places, yield, func(r *raftlogv1.Place) *raftlogv1.SnapshotRecord {
				return &raftlogv1.SnapshotRecord{Row: &raftlogv1.SnapshotRecord_Place{Place: r}}
			}) &&
			each(t.ended, yield, func(r *raftlogv1.EndedLease) *raftlogv1.SnapshotRecord {
				return &raftlogv1.SnapshotRecord{Row: &raftlogv1.SnapshotRecord_EndedLease{EndedLease: r}}
			}) &&
			each(t.templates, yield, func(r *raftlogv1.Template) *raftlogv1.SnapshotRecord {
				return &raftlogv1.SnapshotRecord{Row: &raftlogv1.SnapshotRecord_Template{Template: r}}
			}) &&
			each(t.blobs, yield, func(r *raftlogv1.Blob) *raftlogv1.SnapshotRecord {
				return &raftlogv1.SnapshotRecord{Row: &raftlogv1.SnapshotRecord_Blob{Blob: r}}
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

// A place is where a record stands in a snapshot.
type place struct {
	table Table
	key   string
}

func (p place) less(q place) bool {
	return p.table < q.table || (p.table == q.table && p.key < q.key)
}

// load puts a record's row into its table, without a change in the feed, and says
// where it stands.
func (t *tables) load(r *raftlogv1.SnapshotRecord) (place, error) {
	switch row := r.GetRow().(type) {
	case *raftlogv1.SnapshotRecord_Cluster:
		t.cluster = row.Cluster
		return place{table: TableCluster}, nil
	case *raftlogv1.SnapshotRecord_Node:
		return loaded(TableNodes, t.nodes, row.Node), nil
	case *raftlogv1.SnapshotRecord_Setting:
		return loaded(TableSettings, t.settings, row.Setting), nil
	case *raftlogv1.SnapshotRecord_Token:
		return loaded(TableTokens, t.tokens, row.Token), nil
	case *raftlogv1.SnapshotRecord_Operator:
		return loaded(TableOperators, t.operators, row.Operator), nil
	case *raftlogv1.SnapshotRecord_Agent:
		return loaded(TableAgents, t.agents, row.Agent), nil
	case *raftlogv1.SnapshotRecord_Facts:
		return loaded(TableFacts, t.facts, row.Facts), nil
	case *raftlogv1.SnapshotRecord_Session:
		return loaded(TableSessions, t.sessions, row.Session), nil
	case *raftlogv1.SnapshotRecord_Envelope:
		return loaded(TableEnvelopes, t.envelopes, row.Envelope), nil
	case *raftlogv1.SnapshotRecord_Command:
		c := row.Command
		if n := len(c.GetRollout().GetWaves()); c.GetRollout() != nil && (n == 0 || int(c.GetWave()) > n) {
			return place{}, fmt.Errorf("command %q is at wave %d of %d", c.GetId(), c.GetWave(), n)
		}
		return loaded(TableCommands, t.commands, c), nil
	case *raftlogv1.SnapshotRecord_Invocation:
		i := row.Invocation
		if _, found := t.commands.get(i.GetCommandId()); !found || i.GetId() != InvocationID(i.GetCommandId(), i.GetAgentOrdinal()) {
			return place{}, fmt.Errorf("invocation %q belongs to no command", i.GetId())
		}
		if open(i) && !slices.Contains(openStates[:], i.GetState()) {
			return place{}, fmt.Errorf("invocation %q is in state %d, which this build does not know", i.GetId(), i.GetState())
		}
		return loaded(TableInvocations, t.invocations, i), nil
	case *raftlogv1.SnapshotRecord_Removal:
		return loaded(TableRemovals, t.removals, row.Removal), nil
	case *raftlogv1.SnapshotRecord_TokenUse:
		u := row.TokenUse
		if k, found := t.tokens.get(u.GetTokenId()); !found || u.GetNumber() == 0 || u.GetNumber() > k.GetUsed() {
			return place{}, fmt.Errorf("use %d belongs to no token %q", u.GetNumber(), u.GetTokenId())
		}
		return loaded(TableTokenUses, t.tokenUses, u), nil
	case *raftlogv1.SnapshotRecord_Schedule:
		return loaded(TableSchedules, t.schedules, row.Schedule), nil
	case *raftlogv1.SnapshotRecord_Template:
		return loaded(TableTemplates, t.templates, row.Template), nil
	case *raftlogv1.SnapshotRecord_Lock:
		if l := row.Lock; l.GetSelector() != "" {
			if _, problem := readBudget(l); problem != "" {
				return place{}, fmt.Errorf("lock %q: %s", l.GetName(), problem)
			}
		}
		return loaded(TableLocks, t.locks, row.Lock), nil
	case *raftlogv1.SnapshotRecord_Place:
		p := row.Place
		if _, found := t.locks.get(p.GetLock()); !found || (p.GetLeaseId() == "") == (p.GetInvocationId() == "") {
			return place{}, fmt.Errorf("place %d belongs to no lock %q, or to nobody", p.GetFence(), p.GetLock())
		}
		if i, _ := t.invocations.get(keyOfInvocation(p.GetInvocationId())); p.GetInvocationId() != "" && !claimedOrRunning(i) {
			return place{}, fmt.Errorf("place %d of lock %q is held by %q, which does not run", p.GetFence(), p.GetLock(), p.GetInvocationId())
		}
		return loaded(TablePlaces, t.places, p), nil
	case *raftlogv1.SnapshotRecord_EndedLease:
		return loaded(TableEnded, t.ended, row.EndedLease), nil
	case *raftlogv1.SnapshotRecord_Blob:
		b := row.Blob
		if refusal := checkBlobRef(&raftlogv1.BlobRef{Sha256: b.GetSha256(), Size: b.GetSize()}); refusal != nil || (b.GetUsers() == 0) != (b.GetIdleSince() != 0) {
			return place{}, fmt.Errorf("blob %.80q is none, or is idle and named at once", b.GetSha256())
		}
		return loaded(TableBlobs, t.blobs, b), nil
	default:
		return place{}, errors.New("a record is of a table that this build does not know: upgrade this node")
	}
}

func loaded[R proto.Message](name Table, t *table[R], row R) place {
	t.put(row)
	return place{table: name, key: t.key(row)}
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

func headerOf(c *raftlogv1.Cluster, format uint32) *raftlogv1.SnapshotHeader {
	return &raftlogv1.SnapshotHeader{
		Format: format, ClusterId: c.GetClusterId(), Incarnation: c.GetIncarnation(), Index: c.GetIndex(), FeatureLevel: c.GetFeatureLevel(),
	}
}

// snapshotWindow is how far back the compressor looks for what it has seen: rows are
// like those just before them. A larger one makes no snapshot smaller, and each
// snapshot takes twice as much memory.
const snapshotWindow = 512 << 10

// WriteSnapshot streams the view to w: a header, one record for each row, and a
// trailer with count and hash, compressed. It holds one row at a time.
func (v *View) WriteSnapshot(w io.Writer) error {
	z, err := zstd.NewWriter(w, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithWindowSize(snapshotWindow))
	if err != nil {
		return fmt.Errorf("write snapshot: %w", err)
	}
	out := bufio.NewWriterSize(z, 64<<10)
	header, err := deterministic.Marshal(headerOf(v.t.cluster, SnapshotFormat))
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
		if len(record) > maxRecordBytes { // nobody could read it again
			return fmt.Errorf("write snapshot: a record of %d bytes is above the maximum %d (%T)", len(record), maxRecordBytes, r.GetRow())
		}
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
	t.invocations.moved = nil // until all are there
	var last place
	for {
		typ, b, err := in.Next()
		switch {
		case errors.Is(err, io.EOF):
			return nil, fmt.Errorf("it ends after %d records without a trailer", h.n)
		case err != nil:
			return nil, fmt.Errorf("record %d: %w", h.n, err)
		case typ == frameTrailer:
			if err := checkTrailer(b, h, t, header); err != nil {
				return nil, err
			}
			if _, _, err := in.Next(); !errors.Is(err, io.EOF) { // the compressor's own end, too
				return nil, fmt.Errorf("after the trailer: %w", cmp.Or(err, errors.New("another record")))
			}
			if header.GetFormat() == 1 {
				t.fromFormat1()
			}
			t.followInvocations()
			return t, nil
		case typ != frameRecord:
			return nil, fmt.Errorf("record %d has type %q", h.n, typ)
		}
		h.add(b)
		record := new(raftlogv1.SnapshotRecord)
		if err := proto.Unmarshal(b, record); err != nil {
			return nil, fmt.Errorf("record %d: %w", h.n, err)
		}
		if in := raftlogv1.Unknown(record); in != "" {
			return nil, fmt.Errorf("record %d holds an unknown field of %s: upgrade this node", h.n, in)
		}
		at, err := t.load(record)
		switch {
		case err != nil:
			return nil, fmt.Errorf("record %d: %w", h.n, err)
		case last.table == 0 && at.table != TableCluster:
			return nil, errors.New("its first record is not the cluster's")
		case !last.less(at):
			return nil, fmt.Errorf("record %d is out of order", h.n)
		}
		last = at
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
	case h.n == 0:
		return errors.New("it holds no record of the cluster")
	case t.lostProbe() != "":
		return fmt.Errorf("command %q probes a wave that is not there", t.lostProbe())
	case !proto.Equal(header, headerOf(t.cluster, header.GetFormat())):
		return fmt.Errorf("its header (%v) does not fit its state (%v)", header, headerOf(t.cluster, header.GetFormat()))
	}
	return nil
}

// lostProbe is a command that probes a wave which does not know it; "" = there is none.
func (t *tables) lostProbe() string {
	for c := range t.commands.all() {
		if c.GetParentId() == "" {
			continue
		}
		parent, _ := t.commands.get(c.GetParentId())
		waves, n := parent.GetRollout().GetWaves(), c.GetParentWave()
		if n == 0 || int(n) > len(waves) || waves[n-1].GetProbeId() != c.GetId() {
			return c.GetId()
		}
	}
	return ""
}

// fromFormat1 brings tables of format 1 into today's form: uses stood in the rows of
// their tokens, and which keys an agent had before was looked up there.
func (t *tables) fromFormat1() {
	keys := make(map[string][][]byte)
	for _, have := range collect(t.tokens.all()) {
		k := clone(have)
		k.Uses, k.Used = nil, uint32(len(have.GetUses()))
		for n, use := range have.GetUses() {
			u := clone(use)
			u.TokenId, u.Number = k.GetId(), uint32(n+1)
			if u.Number == k.GetMaxUses() {
				k.UsedUpAt = u.GetAt()
			}
			t.tokenUses.put(u)
			keys[u.GetIdentity()] = append(keys[u.GetIdentity()], u.GetPublicKey())
		}
		t.tokens.put(k)
	}
	for _, have := range collect(t.agents.all()) {
		a := clone(have)
		for _, key := range keys[a.GetId()] {
			if !bytes.Equal(key, a.GetPublicKey()) && len(a.GetClonedKeys()) < MaxClonedKeys {
				a.ClonedKeys = append(a.ClonedKeys, keyHash(key))
			}
		}
		t.agents.put(a)
	}
}

// restore replaces the whole state, then wakes everybody who waits or watches.
func (m *Machine) restore(t *tables) {
	m.tables = t
	m.publish(nil)
	m.feed.reset(m.View().Cursor())
}

package fsm

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"

	"google.golang.org/protobuf/proto"

	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

// FeatureLevel is the highest feature level that this build knows.
const FeatureLevel = 1

// Options configures a Machine. The zero value is usable.
type Options struct {
	// FeedChanges bounds the changes that the feed retains; 0 means 65 536.
	FeedChanges int
	// FeedBytes bounds the bytes of their rows; 0 means 64 MiB.
	FeedBytes int
}

// Machine is the replicated state. See the package comment for who may call what.
type Machine struct {
	// tables belongs to the goroutine that applies.
	tables *tables
	// changes is the memory in which an entry collects its changes.
	changes []retained

	view atomic.Pointer[View]
	feed *feed

	mu    sync.Mutex    // guards what follows
	moved chan struct{} // closed when the published index moves; nil while nobody waits
	// awaited are those who want the very view that first holds an index.
	awaited []awaited
}

// New returns an empty machine.
func New(o Options) *Machine {
	if o.FeedChanges == 0 {
		o.FeedChanges = 1 << 16
	}
	if o.FeedBytes == 0 {
		o.FeedBytes = 64 << 20
	}
	m := &Machine{
		tables: newTables(),
		feed:   newFeed(o.FeedChanges, o.FeedBytes),
	}
	m.view.Store(&View{t: m.tables.published()})
	return m
}

// View returns the state as it is now.
func (m *Machine) View() *View { return m.view.Load() }

// ViewAndWatch returns the state as it is now and the cursor from which Changes
// goes on without a gap.
func (m *Machine) ViewAndWatch() (*View, Cursor) {
	v := m.view.Load()
	return v, v.Cursor()
}

// Published returns the index that is in the state, and who holds office there.
func (m *Machine) Published() (uint64, *raftlogv1.Office) {
	c := m.view.Load().t.cluster
	return c.GetIndex(), c.GetOffice()
}

// Now returns the cluster's time as the state has it, in Unix nanoseconds.
func (m *Machine) Now() int64 { return m.view.Load().t.cluster.GetNow() }

// WaitPublished returns once the published index is at least index, or the
// context's error.
func (m *Machine) WaitPublished(ctx context.Context, index uint64) error {
	for {
		if at, _ := m.Published(); at >= index {
			return nil
		}
		m.mu.Lock()
		if m.moved == nil {
			m.moved = make(chan struct{})
		}
		moved := m.moved
		m.mu.Unlock()
		at, _ := m.Published() // it may have moved before anybody was there to be told
		if at >= index {
			return nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return fmt.Errorf("wait for index %d, state is at %d: %w", index, at, ctx.Err())
		}
	}
}

// Apply executes the entry at index, of the given raft term, and answers each of
// its mutations. The caller delivers indexes in order.
//
// An entry whose leader epoch is not the one in office (epoch 0 never is) changes
// nothing but the index, and each of its mutations answers NOT_APPLIED. A kind that this build
// does not know is skipped when it is marked skippable and panics otherwise: going
// on would let this replica differ from the others without anybody noticing.
func (m *Machine) Apply(index, term uint64, e *raftlogv1.Entry) []*raftlogv1.Outcome {
	return m.applySized(index, term, e, proto.Size(e))
}

// applySized is Apply of an entry of so many bytes.
func (m *Machine) applySized(index, term uint64, e *raftlogv1.Entry, bytes int) []*raftlogv1.Outcome {
	if e.GetFormat() != raftlogv1.EntryFormat {
		panic(fmt.Sprintf("fsm: entry %d has format %d, this build knows %d: this node is older than the cluster; upgrade it",
			index, e.GetFormat(), raftlogv1.EntryFormat))
	}
	if len(e.ProtoReflect().GetUnknown()) > 0 {
		panic(fmt.Sprintf("fsm: entry %d holds a field that this build does not know: this node is older than the cluster; upgrade it", index))
	}
	tx := m.begin(index, term)
	tx.entryBytes = bytes
	outcomes := make([]*raftlogv1.Outcome, len(e.GetMutations()))
	tx.takesOffice = takesOffice(e)
	stale := refusesDeposed && !tx.takesOffice && (e.GetLeaderEpoch() == 0 || e.GetLeaderEpoch() != tx.cluster.GetOffice().GetEpoch())
	if !stale {
		tx.advance(e.GetNow())
	}
	for i, mut := range e.GetMutations() {
		tx.ordinal = i
		switch {
		case stale:
			outcomes[i] = &raftlogv1.Outcome{Code: raftlogv1.Code_CODE_NOT_APPLIED, Reason: "leader_deposed"}
		case i >= raftlogv1.MaxMutations:
			outcomes[i] = refuse(raftlogv1.Code_CODE_INVALID, "too_many", // their numbers would be those of others
				"an entry holds at most %d mutations, this is number %d", raftlogv1.MaxMutations, i+1)
		default:
			outcomes[i] = tx.apply(mut)
			tx.flush()
		}
		outcomes[i].Index = index
	}
	tx.commit()
	return outcomes
}

// Advance publishes index without a change: raft's own entries pass here.
func (m *Machine) Advance(index uint64) { m.begin(index, 0).commit() }

func takesOffice(e *raftlogv1.Entry) bool {
	return e.GetLeaderEpoch() == 0 && len(e.GetMutations()) == 1 && e.GetMutations()[0].GetTakeOffice() != nil
}

// publish makes tables, feed and published index move on together. The view comes
// first: whoever is woken by a change finds it in the view.
func (m *Machine) publish(changes []retained) {
	v := &View{t: m.tables.published()}
	m.view.Store(v)
	if len(changes) > 0 {
		m.feed.append(changes)
	}
	m.mu.Lock()
	m.handOverLocked(v)
	if m.moved != nil {
		close(m.moved)
		m.moved = nil
	}
	m.mu.Unlock()
}

// A tx applies the mutations of one entry.
type tx struct {
	*tables
	m       *Machine
	cluster *raftlogv1.Cluster // a copy that this tx may write
	index   uint64
	term    uint64
	ordinal int // of the mutation at hand
	// entryBytes is the size of the entry: no mutation in it is larger.
	entryBytes int
	// takesOffice says that the entry has the form in which a leader takes office.
	takesOffice bool

	clusterChanged bool                          // by more than index and now
	edited         []*raftlogv1.Command          // by the mutation at hand
	editedBefore   map[string]*raftlogv1.Command // the first of them, when they are many
	changes        []retained
}

func (m *Machine) begin(index, term uint64) *tx {
	if last := m.tables.cluster.GetIndex(); index <= last {
		panic(fmt.Sprintf("fsm: entry %d was delivered after entry %d", index, last))
	}
	c := clone(m.tables.cluster)
	c.Index = index
	return &tx{tables: m.tables, m: m, cluster: c, index: index, term: term, changes: m.changes[:0]}
}

func (tx *tx) commit() {
	tx.tables.cluster = tx.cluster
	if tx.clusterChanged {
		tx.change(TableCluster, "", tx.cluster)
	}
	tx.m.publish(tx.changes)
	tx.m.keep(tx.changes)
}

// maxKept bounds the memory that is kept for the changes of entries to come.
const maxKept = 4096

// keep keeps the memory of an entry's changes for the next one. What lay in it must
// not be held by it.
func (m *Machine) keep(changes []retained) {
	if cap(changes) > maxKept {
		changes = nil
	}
	clear(changes)
	m.changes = changes[:0]
}

// advance moves the cluster's time; it never goes back.
func (tx *tx) advance(now int64) { tx.cluster.Now = max(tx.cluster.GetNow(), timeOf(now)) }

func (tx *tx) now() int64 { return tx.cluster.GetNow() }

// number is the number of the mutation at hand: what epochs and fences are.
func (tx *tx) number() uint64 {
	return raftlogv1.Number(tx.cluster.GetIncarnation().GetNumber(), tx.index, tx.ordinal)
}

// trustChanged notes that what boot.state holds has changed.
func (tx *tx) trustChanged() {
	tx.cluster.TrustIndex = tx.index
	tx.clusterChanged = true
}

func put[R proto.Message](tx *tx, name Table, t *table[R], row R) {
	t.put(row)
	tx.change(name, t.key(row), row)
}

func remove[R proto.Message](tx *tx, name Table, t *table[R], key string) {
	if _, ok := t.delete(key); ok {
		tx.change(name, key, nil)
	}
}

// change appends to the feed what this tx did. Rows are counted with their size.
func (tx *tx) change(name Table, key string, row proto.Message) {
	n := 64 + len(key)
	if row != nil {
		n += proto.Size(row)
	}
	tx.changes = append(tx.changes, retained{Change{
		Cursor: Cursor{
			Incarnation: tx.cluster.GetIncarnation().GetNumber(),
			Index:       tx.index,
			Ordinal:     uint32(len(tx.changes)),
		},
		Table: name, Key: key, Row: row,
	}, n})
}

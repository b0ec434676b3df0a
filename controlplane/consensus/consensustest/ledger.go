package consensustest

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"sync"

	"github.com/hashicorp/raft"

	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

// Ledger is a small consensus.Machine: it writes down every PutSetting mutation in
// the order of the log, as often as it comes, and takes note of offices and time.
type Ledger struct {
	mu        sync.Mutex // guards all; never held across anything that waits
	state     ledgerState
	published uint64
	changed   chan struct{} // closed when published moves
}

type ledgerState struct {
	Index   uint64
	Now     int64
	Node    string
	Term    uint64
	Epoch   uint64
	Records []Record
}

// Record is one applied mutation.
type Record struct {
	Index   uint64
	Ordinal int
	Key     string
	Value   string
	Epoch   uint64 // of the leader that proposed it
	Now     int64  // the state's time then
}

// NewLedger makes an empty ledger.
func NewLedger() *Ledger { return &Ledger{changed: make(chan struct{})} }

// Put is the mutation that a Ledger writes down.
func Put(key, value string) *raftlogv1.Mutation {
	return &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_PutSetting{PutSetting: &raftlogv1.PutSetting{Key: key, Value: value}}}
}

// Records is what was written down so far.
func (l *Ledger) Records() []Record {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clip(l.state.Records) // only ever appended to
}

// Published implements consensus.Machine.
func (l *Ledger) Published() (uint64, *raftlogv1.Office) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.state.Epoch == 0 {
		return l.published, nil
	}
	return l.published, &raftlogv1.Office{NodeId: l.state.Node, Term: l.state.Term, Epoch: l.state.Epoch}
}

// WaitPublished implements consensus.Machine.
func (l *Ledger) WaitPublished(ctx context.Context, index uint64) error {
	for {
		l.mu.Lock()
		done, changed := l.published >= index, l.changed
		l.mu.Unlock()
		if done {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("wait for index %d: %w", index, ctx.Err())
		}
	}
}

// Now implements consensus.Machine.
func (l *Ledger) Now() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.state.Now
}

// Apply implements raft.FSM.
func (l *Ledger) Apply(log *raft.Log) any { return l.ApplyBatch([]*raft.Log{log})[0] }

// ApplyBatch implements raft.BatchingFSM.
func (l *Ledger) ApplyBatch(logs []*raft.Log) []any {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := make([]any, len(logs))
	for i, log := range logs {
		if log.Index <= l.state.Index {
			panic(fmt.Sprintf("entry %d is applied after %d", log.Index, l.state.Index))
		}
		l.state.Index = log.Index
		if log.Type == raft.LogCommand {
			out[i] = l.applyLocked(log)
		}
	}
	l.publishLocked()
	return out
}

func (l *Ledger) publishLocked() {
	l.published = l.state.Index
	close(l.changed)
	l.changed = make(chan struct{})
}

func (l *Ledger) applyLocked(log *raft.Log) []*raftlogv1.Outcome {
	e, err := raftlogv1.Unseal(log.Data)
	if err != nil {
		panic(err)
	}
	outcomes := make([]*raftlogv1.Outcome, len(e.GetMutations()))
	take := len(e.GetMutations()) == 1 && e.GetMutations()[0].GetTakeOffice() != nil
	for i, m := range e.GetMutations() {
		o := &raftlogv1.Outcome{Code: raftlogv1.Code_CODE_OK, Index: log.Index, Number: raftlogv1.Number(1, log.Index, i)}
		outcomes[i] = o
		switch {
		case take && m.GetTakeOffice().GetTerm() != log.Term:
			o.Code, o.Reason = raftlogv1.Code_CODE_REFUSED, "term_other"
		case take:
			l.state.Now = max(l.state.Now, e.GetNow())
			l.state.Node, l.state.Term, l.state.Epoch = m.GetTakeOffice().GetNodeId(), log.Term, o.Number
		case e.GetLeaderEpoch() != l.state.Epoch:
			o.Code = raftlogv1.Code_CODE_NOT_APPLIED
		default:
			l.state.Now = max(l.state.Now, e.GetNow())
			s := m.GetPutSetting()
			l.state.Records = append(l.state.Records, Record{
				Index: log.Index, Ordinal: i, Key: s.GetKey(), Value: s.GetValue(),
				Epoch: e.GetLeaderEpoch(), Now: l.state.Now,
			})
		}
	}
	return outcomes
}

// Snapshot implements raft.FSM.
func (l *Ledger) Snapshot() (raft.FSMSnapshot, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.state
	s.Records = slices.Clip(s.Records)
	return ledgerSnapshot(s), nil
}

// Restore implements raft.FSM.
func (l *Ledger) Restore(r io.ReadCloser) error {
	var s ledgerState
	if err := json.NewDecoder(r).Decode(&s); err != nil {
		return fmt.Errorf("restore ledger: %w", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.state = s
	l.publishLocked()
	return nil
}

type ledgerSnapshot ledgerState

func (s ledgerSnapshot) Persist(sink raft.SnapshotSink) error {
	if err := json.NewEncoder(sink).Encode(s); err != nil {
		_ = sink.Cancel()
		return err
	}
	return sink.Close()
}

func (ledgerSnapshot) Release() {}

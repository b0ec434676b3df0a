package bare

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"sync"

	"github.com/hashicorp/raft"
)

// machine counts the payloads that were applied.
type machine struct {
	mu sync.Mutex // guards sum
	sum
}

// sum is the state.
type sum struct{ Payloads, Bytes uint64 }

var _ raft.BatchingFSM = (*machine)(nil)

// Apply is raft.FSM's.
func (m *machine) Apply(l *raft.Log) any { return m.ApplyBatch([]*raft.Log{l})[0] }

// ApplyBatch is raft.BatchingFSM's.
func (m *machine) ApplyBatch(logs []*raft.Log) []any {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, l := range logs {
		if l.Type != raft.LogCommand {
			continue
		}
		for rest := l.Data; len(rest) > 0; {
			size, n := binary.Uvarint(rest)
			if n <= 0 || size > uint64(len(rest)-n) {
				panic(fmt.Sprintf("bare: entry %d is damaged", l.Index))
			}
			m.Payloads++
			m.Bytes += size
			rest = rest[uint64(n)+size:]
		}
	}
	return make([]any, len(logs))
}

func (m *machine) read() sum {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.sum
}

// Snapshot is raft.FSM's.
func (m *machine) Snapshot() (raft.FSMSnapshot, error) { return m.read(), nil }

// Restore is raft.FSM's.
func (m *machine) Restore(r io.ReadCloser) error {
	defer r.Close()
	var s sum
	if err := json.NewDecoder(r).Decode(&s); err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.sum = s
	return nil
}

// Persist is raft.FSMSnapshot's.
func (s sum) Persist(sink raft.SnapshotSink) error {
	if err := json.NewEncoder(sink).Encode(s); err != nil {
		_ = sink.Cancel()
		return err
	}
	return sink.Close()
}

// Release is raft.FSMSnapshot's.
func (sum) Release() {}

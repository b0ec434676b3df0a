package fsm

import (
	"fmt"
	"io"

	"github.com/hashicorp/raft"

	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

// Raft is a Machine as hashicorp/raft wants to see it. The response to an entry is
// its []*raftlogv1.Outcome.
type Raft struct{ *Machine }

var _ raft.BatchingFSM = Raft{}

// Apply is raft's; it hides Machine.Apply.
func (r Raft) Apply(l *raft.Log) any { return r.ApplyBatch([]*raft.Log{l})[0] }

// ApplyBatch applies what raft committed, in order, and answers one response for
// each log. A sealed entry that does not open stops the node: it was acknowledged,
// so nobody may go on without it.
func (r Raft) ApplyBatch(logs []*raft.Log) []any {
	responses := make([]any, len(logs))
	for i, l := range logs {
		if l.Type != raft.LogCommand {
			r.Advance(l.Index) // a configuration entry
			continue
		}
		e, err := raftlogv1.Unseal(l.Data)
		if err != nil {
			panic(fmt.Sprintf("fsm: entry %d of the log: %v", l.Index, err))
		}
		responses[i] = r.applySized(l.Index, l.Term, e, len(l.Data))
	}
	return responses
}

// Snapshot returns the state as it is now; entries go on being applied while it is
// written.
func (r Raft) Snapshot() (raft.FSMSnapshot, error) { return snapshot{r.View()}, nil }

// Restore replaces the state by a snapshot that has been read and verified whole;
// on an error the old state stands.
func (r Raft) Restore(in io.ReadCloser) error {
	defer in.Close()
	v, err := ReadSnapshot(in)
	if err != nil {
		return err
	}
	r.restore(v.t)
	return nil
}

type snapshot struct{ v *View }

func (s snapshot) Persist(sink raft.SnapshotSink) error {
	if err := s.v.WriteSnapshot(sink); err != nil {
		_ = sink.Cancel() // the first error says more
		return err
	}
	return sink.Close()
}

func (snapshot) Release() {}

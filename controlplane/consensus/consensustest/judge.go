package consensustest

import (
	"hash/maphash"
	"sync"
	"testing"

	"github.com/hashicorp/raft"
)

// judge holds raft's own promises against what nodes store and answer, in every test of a
// [Cluster] and whatever else the test is about:
//
//   - An entry is known by its index and term: what two nodes ever store under the same is the
//     same. One leader alone writes the entries of a term, each once; where they differ, two wrote
//     in one term, and replicas that believe each other to agree may not.
//   - A node gives its vote to no candidate whose log ends before its own: it could be of the
//     majority that holds what the candidate lacks, and the candidate would take it back.
//
// Both hold at each moment, also for what is overwritten later and for an election that is lost.
type judge struct {
	t    testing.TB
	seed maphash.Seed

	mu      sync.Mutex // guards entries; nothing waits under it
	entries map[place]written
}

type place struct{ index, term uint64 }

// written is what the node was the first to store in a place.
type written struct {
	node int
	kind raft.LogType
	data uint64 // a hash
}

func newJudge(t testing.TB) *judge {
	return &judge{t: t, seed: maphash.MakeSeed(), entries: make(map[place]written)}
}

// stored is told of every entry that the node stores.
func (j *judge) stored(node int, l *raft.Log) {
	at, now := place{l.Index, l.Term}, written{node, l.Type, maphash.Bytes(j.seed, l.Data)}
	j.mu.Lock()
	defer j.mu.Unlock()
	first, known := j.entries[at]
	switch {
	case !known:
		j.entries[at] = now
	case first.kind != now.kind || first.data != now.data:
		j.t.Errorf("entry %d of term %d is one on node %d and another on node %d: two nodes wrote in one term", l.Index, l.Term, first.node, node)
	}
}

// granted is told of every vote that the node gives, before its log changes.
func (j *judge) granted(node int, disk *MemDisk, req *raft.RequestVoteRequest) {
	index, term := disk.end()
	if req.LastLogTerm < term || req.LastLogTerm == term && req.LastLogIndex < index {
		j.t.Errorf("node %d gave its vote of term %d to %q, whose log ends at entry %d of term %d, before its own at entry %d of term %d",
			node, req.Term, req.ID, req.LastLogIndex, req.LastLogTerm, index, term)
	}
}

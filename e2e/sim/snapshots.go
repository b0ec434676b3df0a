package sim

import (
	"github.com/hashicorp/raft"
)

// counted is a store of snapshots that tells the world of each that is kept: one made by
// the node itself, or one that a leader has sent to a node which lacked what the log no
// longer holds.
type counted struct {
	raft.SnapshotStore
	w    *World
	life *nodeLife
}

// Create is raft's.
func (c counted) Create(version raft.SnapshotVersion, index, term uint64, configuration raft.Configuration, configurationIndex uint64, trans raft.Transport) (raft.SnapshotSink, error) {
	sink, err := c.SnapshotStore.Create(version, index, term, configuration, configurationIndex, trans)
	if err != nil {
		return nil, err
	}
	kind := "snapshots"
	if applied, _ := c.life.machine.Published(); index > applied {
		kind = "installs"
	}
	return countedSink{sink, c.w, kind}, nil
}

type countedSink struct {
	raft.SnapshotSink
	w    *World
	kind string
}

// Close keeps the snapshot.
func (s countedSink) Close() error {
	err := s.SnapshotSink.Close()
	if err == nil {
		s.w.mu.Lock()
		s.w.accepted[s.kind]++
		s.w.mu.Unlock()
	}
	return err
}

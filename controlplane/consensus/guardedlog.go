package consensus

import (
	"errors"
	"fmt"

	"github.com/hashicorp/raft"
	wal "github.com/hashicorp/raft-wal"
)

// guardedLog is the log store between raft's cache and the disk: it measures each
// call, keeps the log mark, and verifies the checksum of what it reads.
type guardedLog struct {
	inner raft.LogStore
	watch *watch
	// turn is held while log and mark are changed together. It is a channel
	// because a compaction waits for it while an append waits for the disk.
	turn chan struct{}
	mark *logMark
	// appended is told of each append that has succeeded.
	appended func([]*raft.Log)
}

func newGuardedLog(inner raft.LogStore, mark *logMark, w *watch, appended func([]*raft.Log)) *guardedLog {
	return &guardedLog{inner: inner, watch: w, turn: make(chan struct{}, 1), mark: mark, appended: appended}
}

// IsMonotonic forwards what the inner store says: without it raft leaves holes that
// raft-wal refuses.
func (g *guardedLog) IsMonotonic() bool {
	m, ok := g.inner.(raft.MonotonicLogStore)
	return ok && m.IsMonotonic()
}

func (g *guardedLog) FirstIndex() (index uint64, err error) {
	err = g.watch.read("read first index", func() error { index, err = g.inner.FirstIndex(); return err })
	return index, err
}

func (g *guardedLog) LastIndex() (index uint64, err error) {
	err = g.watch.read("read last index", func() error { index, err = g.inner.LastIndex(); return err })
	return index, err
}

func (g *guardedLog) GetLog(index uint64, l *raft.Log) error {
	err := g.watch.read("read entry", func() error { return g.inner.GetLog(index, l) })
	if unread(err) || errors.Is(err, wal.ErrCorrupt) {
		// raft panics at a committed entry that it does not get, and gives its leader no
		// answer, for ever, at one that it compares.
		err = fmt.Errorf("read entry %d: %w", index, err)
		g.watch.fail(err)
		return g.watch.held(err)
	}
	if err != nil {
		return err // also the harmless "not found" of a compacted entry
	}
	if err := checkEntry(l); err != nil {
		g.watch.fail(err)
		return g.watch.held(err)
	}
	return nil
}

func (g *guardedLog) StoreLog(l *raft.Log) error { return g.StoreLogs([]*raft.Log{l}) }

func (g *guardedLog) StoreLogs(logs []*raft.Log) error {
	if len(logs) == 0 {
		return nil
	}
	g.turn <- struct{}{}
	defer func() { <-g.turn }()
	return g.watch.write("append entries", func() error {
		if err := g.inner.StoreLogs(logs); err != nil {
			return err
		}
		g.appended(logs)
		last := logs[len(logs)-1]
		return g.mark.set(last.Index, last.Term)
	})
}

func (g *guardedLog) DeleteRange(lo, hi uint64) error {
	g.turn <- struct{}{}
	defer func() { <-g.turn }()
	return g.watch.write("delete entries", func() error {
		first, last, err := endsOf(g.inner)
		if err != nil {
			return err
		}
		if lo <= first && hi < last {
			// A compaction keeps the last entry that the snapshot covers, so that
			// a request that begins right behind the snapshot finds what it
			// follows.
			if hi--; hi < lo {
				return nil
			}
		}
		if err := g.mark.lower(g.inner, lo, hi); err != nil {
			return err
		}
		return g.inner.DeleteRange(lo, hi)
	})
}

package consensus

import (
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"

	"github.com/hashicorp/raft"
)

var (
	errHaveSnapshot = errors.New("the log holds what the snapshot holds")
	errDiverges     = errors.New("the log diverges from the snapshot")
)

// installs is the snapshot store under raft. It stands in raft's way when a leader's
// snapshot meets a log that reaches as far.
//
// raft installs whatever comes (raft#697, open). Over a log store without holes it
// then deletes the whole log, also entries behind the snapshot that it has
// acknowledged, and goes on believing in them: a panic at the next commit, or a vote
// for somebody who does not have them after a restart. It happens when a snapshot
// arrives twice, or late. (Our simulation found it: a follower that was paused while
// the leader tried again.) So, as the raft paper says:
//
//   - the log holds the snapshot's last entry: nothing is installed, and the leader is
//     told that all is well;
//   - it holds another entry there: that one and all behind it were never committed.
//     They are deleted, and because raft cannot be told that its log has become
//     shorter, the process ends and starts again;
//   - it ends before: raft installs.
//
// raft calls Create for an installation on the goroutine that also appends, so what is
// looked at here does not move.
type installs struct {
	raft.SnapshotStore
	log   raft.LogStore
	fatal func(error)
	own   func()         // is told when the node takes a snapshot itself
	size  *atomic.Uint64 // of the newest snapshot
	// whole is the snapshot that was verified at the start, nil when there is none: until
	// raft has begun it is the only one.
	whole *raft.SnapshotMeta

	mu          sync.Mutex // guards what follows
	begun       bool
	unopened    error // why whole could not be opened as raft began
	installing  bool
	index, term uint64
	// Where this node's newest snapshot ends.
	newest, newestTerm uint64
}

// newInstalls returns the store around that of a guarded disk.
func newInstalls(disk *Disk, log raft.LogStore, fatal func(error), c *compaction) *installs {
	s := &installs{SnapshotStore: disk.Snapshots, log: log, fatal: fatal, own: c.reset, size: &c.snapshot}
	s.whole = disk.whole
	if disk.whole != nil {
		s.size.Store(uint64(max(disk.whole.Size, 0)))
		s.newest, s.newestTerm = disk.whole.Index, disk.whole.Term
	}
	return s
}

// List is raft's. raft restores the first that it is told of and can open, and would begin with an
// older one, or with none, when the disk does not give the one for a moment with which the log
// was verified: with a log that has entries missing before it, or as a node that has forgotten
// what it acknowledged and votes.
func (s *installs) List() ([]*raft.SnapshotMeta, error) {
	s.mu.Lock()
	begun := s.begun
	s.mu.Unlock()
	switch {
	case begun:
		return s.SnapshotStore.List()
	case s.whole == nil:
		return nil, nil
	}
	return []*raft.SnapshotMeta{s.whole}, nil
}

// Open is raft's.
func (s *installs) Open(id string) (*raft.SnapshotMeta, io.ReadCloser, error) {
	m, r, err := s.SnapshotStore.Open(id)
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.begun {
		s.unopened = err
	}
	return m, r, err
}

// begins says that raft has begun, or why not: err, and what it was not told of whole.
func (s *installs) begins(err error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.begun = err == nil
	if err != nil {
		return fmt.Errorf("open raft: %w", errors.Join(err, s.unopened))
	}
	return nil
}

// trim leaves out of a request what this node's newest snapshot covers.
//
// A leader whose answers were lost begins where it believes the node to be. When the
// node has compacted its log past that point raft finds no entry to compare with and
// refuses, for ever: the leader goes back until it sends a snapshot that the node does
// not need, and begins again behind it (our simulation found it). But what a snapshot
// covers is committed, and every leader has it: the request can as well begin behind
// the snapshot. An old leader's request is refused for its term all the same. The
// commit index is held at what the request is known to match.
//
// Behind a leader's snapshot the log does not hold the entry at its end, and raft finds that of
// a request that begins right there only while nothing follows. So raft is not asked to compare.
func (s *installs) trim(req *raft.AppendEntriesRequest) *raft.AppendEntriesRequest {
	s.mu.Lock()
	newest, term := s.newest, s.newestTerm
	s.mu.Unlock()
	at := req.PrevLogEntry
	if at > newest || at == newest && req.PrevLogTerm != term || at == 0 && len(req.Entries) == 0 {
		return req
	}
	c := *req
	c.PrevLogEntry, c.PrevLogTerm = 0, 0
	for len(c.Entries) > 0 && c.Entries[0].Index <= newest {
		c.Entries = c.Entries[1:]
	}
	matched := newest
	if n := len(c.Entries); n > 0 {
		matched = c.Entries[n-1].Index
	}
	c.LeaderCommitIndex = min(c.LeaderCommitIndex, matched)
	return &c
}

func (s *installs) begin(index, term uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.installing, s.index, s.term = true, index, term
}

func (s *installs) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.installing = false
}

// Create is called for a leader's snapshot and for the node's own. One of its own
// that covers the same entry while a leader's is installed is refused as well, and
// made later.
func (s *installs) Create(version raft.SnapshotVersion, index, term uint64, cfg raft.Configuration, cfgIndex uint64, trans raft.Transport) (raft.SnapshotSink, error) {
	s.mu.Lock()
	install := s.installing && s.index == index && s.term == term
	s.mu.Unlock()
	if install {
		if err := s.compare(index, term); err != nil {
			return nil, err
		}
	} else {
		s.own()
	}
	sink, err := s.SnapshotStore.Create(version, index, term, cfg, cfgIndex, trans)
	if err != nil {
		return nil, err
	}
	return &installSink{SnapshotSink: sink, store: s, install: install, index: index, term: term}, nil
}

// installSink tells when its snapshot has become the newest. A leader's is that when raft goes on
// with it, which may fail once it is on disk: until then raft compares requests with its log.
type installSink struct {
	raft.SnapshotSink
	store       *installs
	install     bool
	index, term uint64
	canceled    bool
	bytes       uint64
}

func (k *installSink) Write(b []byte) (int, error) {
	n, err := k.SnapshotSink.Write(b)
	k.bytes += uint64(n)
	return n, err
}

func (k *installSink) Cancel() error {
	k.canceled = true
	return k.SnapshotSink.Cancel()
}

func (k *installSink) Close() error {
	if err := k.SnapshotSink.Close(); err != nil || k.canceled {
		return err
	}
	k.store.size.Store(k.bytes)
	if !k.install {
		k.store.goesOnWith(k.index, k.term)
	}
	return nil
}

// goesOnWith says that raft has a snapshot that ends there.
func (s *installs) goesOnWith(index, term uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if index > s.newest {
		s.newest, s.newestTerm = index, term
	}
}

// compare returns nil when the log ends before the snapshot does.
func (s *installs) compare(index, term uint64) error {
	s.mu.Lock()
	newest := s.newest
	s.mu.Unlock()
	if newest >= index {
		return errHaveSnapshot
	}
	last, err := s.log.LastIndex()
	if err != nil {
		return fmt.Errorf("read last index: %w", err)
	}
	if last < index {
		return nil
	}
	var l raft.Log
	if err := s.log.GetLog(index, &l); err != nil {
		return fmt.Errorf("read entry %d: %w", index, err)
	}
	if l.Term == term {
		return errHaveSnapshot
	}
	if err := s.log.DeleteRange(index, last); err != nil {
		return fmt.Errorf("delete entries from %d to %d: %w", index, last, err)
	}
	s.fatal(fmt.Errorf("entries %d to %d of this node's log were never committed and stand where the leader's snapshot of term %d is: they are deleted, and the node must start again (raft#697)", index, last, term))
	return errDiverges
}

package consensus

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"sync"
	"sync/atomic"

	"github.com/hashicorp/raft"
)

// The keys under which raft keeps its term and vote, and the one under which we do.
var (
	keyCurrentTerm  = []byte("CurrentTerm")
	keyLastVoteTerm = []byte("LastVoteTerm")
	keyLastVoteCand = []byte("LastVoteCand")
	keyVote         = []byte("agentplane.vote")
)

// errKeyNotFound has the text that raft compares with.
var errKeyNotFound = errors.New("not found")

// voteStore keeps term and vote as one value with a checksum.
//
// raft writes the term of its vote and then the candidate. A crash between the two
// leaves the new term with the old candidate, and a repeated request of that
// candidate is then granted without a look at its log: a stale log won that way. So
// the term of a vote waits in memory and is written with the candidate.
//
// The current term lies in the same value, and the value has a checksum, because
// bbolt keeps none: with a term or a vote of its own under a key of its own, one
// flipped bit makes the node forget a vote, and it votes twice in that term.
//
// It also knows the current term, and keeps it from changing below raft's main loop
// ([voteStore.beat]).
type voteStore struct {
	inner raft.StableStore
	watch *watch

	// current is the current term as the disk has it. It is changed by who holds the
	// token in terms: not a mutex, for the same reason as below.
	current atomic.Uint64
	terms   chan struct{}

	// change holds one token while the value is read and written: not a mutex, since
	// the write may wait.
	change chan struct{}

	mu      sync.Mutex // guards pending
	pending *uint64    // term of a vote whose candidate has not come yet
}

// ballot is the value:
//
//	crc32c of all behind | current term uint64 | term of the vote uint64 | candidate
//
// A vote of term 0 is none.
type ballot struct {
	current, term uint64
	candidate     []byte
}

const ballotBytes = 4 + 8 + 8

func newVoteStore(inner raft.StableStore, w *watch) *voteStore {
	return &voteStore{inner: inner, watch: w, change: make(chan struct{}, 1), terms: make(chan struct{}, 1)}
}

func (s *voteStore) Set(key, val []byte) error {
	if string(key) != string(keyLastVoteCand) {
		return s.watch.write("write stable value", func() error { return s.inner.Set(key, val) })
	}
	s.mu.Lock()
	term := s.pending
	s.pending = nil
	s.mu.Unlock()
	if term == nil {
		return errors.New("write vote: the candidate came without a term")
	}
	return s.rewrite("write vote", func(b *ballot) { b.term, b.candidate = *term, val })
}

func (s *voteStore) SetUint64(key []byte, val uint64) error {
	switch string(key) {
	case string(keyLastVoteTerm):
		s.mu.Lock()
		s.pending = &val
		s.mu.Unlock()
		if !votesAtOnce {
			return s.rewrite("write the term of a vote", func(b *ballot) { b.term = val })
		}
		return nil
	case string(keyCurrentTerm):
		if val == s.current.Load() {
			return nil
		}
		if keepsTerm {
			s.terms <- struct{}{}
			defer func() { <-s.terms }()
		}
		// An error means that the node has been given up and is closing. raft panics
		// when its term cannot be kept, which would take the process's last words;
		// votes and entries of that term fail above and below.
		if err := s.rewrite("write term", func(b *ballot) { b.current = val }); err == nil {
			s.current.Store(val)
		}
		return nil
	default:
		return s.watch.write("write stable number", func() error { return s.inner.SetUint64(key, val) })
	}
}

// beat calls answer, with which raft answers a heartbeat of the given term outside its
// main loop, unless that is not the current term: then the heartbeat belongs into the
// main loop.
//
// A heartbeat of another term changes the current one, and beside the main loop that is
// never safe (raft#695, open in v1.7.3). One of a later term makes a leader write entries
// in a term that it was not elected for. One of the old leader that arrives while the main
// loop writes the term in which the node stands for election passes raft's check, and
// takes the term back afterwards: if the votes come in meanwhile, the node leads in the
// term of the old leader, beside it. So the term stands still while a heartbeat is
// answered, and a heartbeat that would move it waits for its turn behind the disk.
func (s *voteStore) beat(term uint64, answer func()) bool {
	if keepsTerm {
		select {
		case s.terms <- struct{}{}:
		default:
			return false // the term is being changed
		}
		defer func() { <-s.terms }()
		if term != s.current.Load() {
			return false
		}
	}
	answer()
	return true
}

func (s *voteStore) rewrite(what string, change func(*ballot)) error {
	s.change <- struct{}{}
	defer func() { <-s.change }()
	b, err := s.ballot()
	if err != nil && !errors.Is(err, errKeyNotFound) {
		// raft goes on with the term although it is not kept: nobody may build on that.
		err = fmt.Errorf("%s: %w", what, err)
		s.watch.fail(err)
		return s.watch.held(err)
	}
	change(&b)
	v := make([]byte, 4, ballotBytes+len(b.candidate))
	v = binary.BigEndian.AppendUint64(v, b.current)
	v = binary.BigEndian.AppendUint64(v, b.term)
	v = append(v, b.candidate...)
	binary.BigEndian.PutUint32(v, crc32.Checksum(v[4:], castagnoli))
	return s.watch.write(what, func() error { return s.inner.Set(keyVote, v) })
}

func (s *voteStore) Get(key []byte) (val []byte, err error) {
	if string(key) == string(keyLastVoteCand) {
		b, err := s.ballot()
		if err == nil && b.term == 0 {
			err = errKeyNotFound
		}
		return b.candidate, err
	}
	err = s.watch.read("read stable value", func() error { val, err = s.inner.Get(key); return err })
	return val, err
}

func (s *voteStore) GetUint64(key []byte) (val uint64, err error) {
	switch string(key) {
	case string(keyLastVoteTerm):
		b, err := s.ballot()
		if err == nil && b.term == 0 {
			err = errKeyNotFound
		}
		return b.term, err
	case string(keyCurrentTerm):
		b, err := s.ballot()
		if err == nil {
			s.current.Store(b.current)
		}
		return b.current, err
	}
	err = s.watch.read("read stable number", func() error { val, err = s.inner.GetUint64(key); return err })
	return val, err
}

// ballot reads the value; errKeyNotFound says that there is none.
func (s *voteStore) ballot() (ballot, error) {
	var v []byte
	err := s.watch.read("read vote", func() (err error) { v, err = s.inner.Get(keyVote); return err })
	return ballotOf(v, err)
}

func ballotOf(v []byte, err error) (ballot, error) {
	switch {
	case err != nil && err.Error() != errKeyNotFound.Error():
		return ballot{}, err
	case err != nil || len(v) == 0:
		return ballot{}, errKeyNotFound
	case len(v) < ballotBytes || crc32.Checksum(v[4:], castagnoli) != binary.BigEndian.Uint32(v):
		return ballot{}, errors.New("the stable store is damaged: the checksum of term and vote differs")
	}
	return ballot{current: binary.BigEndian.Uint64(v[4:]), term: binary.BigEndian.Uint64(v[12:]), candidate: v[ballotBytes:]}, nil
}

// verifyStable refuses a stable store that has forgotten its term. raft keeps the term
// before it writes an entry of that term, so a term below that of the log, or none
// beside a log, means that votes are forgotten, too: the node could vote twice.
func verifyStable(d *Disk, s *voteStore, mark *logMark) error {
	known := mark.term
	metas, err := d.Snapshots.List()
	if err != nil {
		return fmt.Errorf("verify stable store: list snapshots: %w", err)
	}
	if len(metas) > 0 {
		known = max(known, metas[0].Term)
	}
	last, err := d.Log.LastIndex()
	if err != nil {
		return fmt.Errorf("verify stable store: %w", err)
	}
	if last > 0 {
		var l raft.Log
		if err := d.Log.GetLog(last, &l); err != nil {
			return fmt.Errorf("verify stable store: entry %d: %w", last, err)
		}
		known = max(known, l.Term)
	}
	b, err := ballotOf(s.inner.Get(keyVote)) // not by the watch: at the start nobody ends the process
	switch {
	case errors.Is(err, errKeyNotFound) && known > 0:
		return fmt.Errorf("verify stable store: it knows no term, but the log beside it has reached term %d: the node has forgotten for whom it voted and must rejoin empty", known)
	case unread(err):
		return fmt.Errorf("verify stable store: %w", err)
	case err != nil && !errors.Is(err, errKeyNotFound):
		return fmt.Errorf("verify stable store: %w: the node may have forgotten for whom it voted and must rejoin empty", err)
	case b.current < known:
		return fmt.Errorf("verify stable store: it is in term %d, but the log beside it has reached term %d: the node has forgotten for whom it voted and must rejoin empty", b.current, known)
	}
	return nil
}

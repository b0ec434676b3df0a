package consensus

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"

	"github.com/hashicorp/raft"
)

// The keys under which raft keeps its vote, and the one under which we do.
var (
	keyCurrentTerm  = []byte("CurrentTerm")
	keyLastVoteTerm = []byte("LastVoteTerm")
	keyLastVoteCand = []byte("LastVoteCand")
	keyVote         = []byte("agentplane.vote")
)

// errKeyNotFound has the text that raft compares with.
var errKeyNotFound = errors.New("not found")

// voteStore keeps the vote as one value.
//
// raft writes the term of its vote and then the candidate. A crash between the two
// leaves the new term with the old candidate, and a repeated request of that
// candidate is then granted without a look at its log: a stale log won that way. So
// the term waits in memory and is written with the candidate, under one key.
type voteStore struct {
	inner raft.StableStore
	watch *watch

	mu      sync.Mutex // guards pending
	pending *uint64    // term of a vote whose candidate has not come yet
}

func newVoteStore(inner raft.StableStore, w *watch) *voteStore {
	return &voteStore{inner: inner, watch: w}
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
	vote := append(binary.BigEndian.AppendUint64(nil, *term), val...)
	return s.watch.write("write vote", func() error { return s.inner.Set(keyVote, vote) })
}

func (s *voteStore) SetUint64(key []byte, val uint64) error {
	if string(key) == string(keyLastVoteTerm) {
		s.mu.Lock()
		s.pending = &val
		s.mu.Unlock()
		return nil
	}
	err := s.watch.write("write stable number", func() error { return s.inner.SetUint64(key, val) })
	if err != nil && string(key) == string(keyCurrentTerm) {
		// The node has been given up and is closing. raft panics when its term
		// cannot be kept, which would take the process's last words; votes and
		// entries of that term fail above and below.
		return nil
	}
	return err
}

func (s *voteStore) Get(key []byte) (val []byte, err error) {
	if string(key) == string(keyLastVoteCand) {
		_, val, err = s.vote()
		return val, err
	}
	err = s.watch.read("read stable value", func() error { val, err = s.inner.Get(key); return err })
	return val, err
}

func (s *voteStore) GetUint64(key []byte) (val uint64, err error) {
	if string(key) == string(keyLastVoteTerm) {
		val, _, err = s.vote()
		return val, err
	}
	err = s.watch.read("read stable number", func() error { val, err = s.inner.GetUint64(key); return err })
	return val, err
}

func (s *voteStore) vote() (term uint64, candidate []byte, err error) {
	var b []byte
	err = s.watch.read("read vote", func() error { b, err = s.inner.Get(keyVote); return err })
	switch {
	case err != nil && err.Error() != errKeyNotFound.Error():
		return 0, nil, err
	case err != nil || len(b) == 0:
		return 0, nil, errKeyNotFound
	case len(b) < 8:
		return 0, nil, fmt.Errorf("read vote: it has %d bytes, want at least 8", len(b))
	}
	return binary.BigEndian.Uint64(b), b[8:], nil
}

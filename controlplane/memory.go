package controlplane

import (
	"bytes"
	"fmt"
	"maps"
	"sync"

	"github.com/agentplane/agentplane/controlplane/peer"
	"github.com/agentplane/agentplane/controlplane/pki"
	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
)

// memory is what this node remembers of its peers, so that a disk image that was put
// back is noticed (DESIGN section 10). The numbers outlive the process in
// boot.state; the start ids do not.
type memory struct {
	mu    sync.Mutex // guards what follows
	peers map[string]remembered
	dirty bool
}

type remembered struct {
	pki.PeerMemory
	startID []byte // of the process that was seen last; nil when none was in this start
}

func (m *memory) begin(peers map[string]pki.PeerMemory) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.peers = make(map[string]remembered)
	for id, p := range peers {
		m.peers[id] = remembered{PeerMemory: p}
	}
}

// judge refuses a peer whose new process knows less than an earlier one did, and
// remembers the others.
func (m *memory) judge(nodeID string, said *agentplanev1.Preface) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	p := m.peers[nodeID]
	if comparesMemory && !bytes.Equal(p.startID, said.GetStartId()) {
		switch {
		case said.GetStartCounter() < p.Starts, said.GetStartCounter() == p.Starts && p.startID != nil:
			return fmt.Errorf("%w: node %q comes with start %d and was seen at start %d", peer.ErrPutBack, nodeID, said.GetStartCounter(), p.Starts)
		case said.GetTerm() == 0: // its raft is not open yet
			return nil
		case said.GetTerm() < p.Term:
			return fmt.Errorf("%w: node %q comes with term %d and was seen at term %d", peer.ErrPutBack, nodeID, said.GetTerm(), p.Term)
		case said.GetLastIndex() < p.Index:
			return fmt.Errorf("%w: node %q comes with entry %d as its last and has applied entry %d before", peer.ErrPutBack, nodeID, said.GetLastIndex(), p.Index)
		}
		p.startID = bytes.Clone(said.GetStartId())
	}
	m.rememberLocked(nodeID, p, pki.PeerMemory{Starts: said.GetStartCounter(), Term: said.GetTerm()})
	return nil
}

// saw notes what a peer answered of itself. What it has applied is committed and on
// its disk; the end of its log might still be cut.
func (m *memory) saw(nodeID string, r *agentplanev1.ReadTermResponse) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.rememberLocked(nodeID, m.peers[nodeID], pki.PeerMemory{Starts: r.GetStartCounter(), Term: r.GetTerm(), Index: r.GetAppliedIndex()})
}

func (m *memory) rememberLocked(nodeID string, p remembered, seen pki.PeerMemory) {
	if raised := p.Raise(seen); raised != p.PeerMemory {
		p.PeerMemory, m.dirty = raised, true
	}
	m.peers[nodeID] = p
}

func (m *memory) takeDirty() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	was := m.dirty
	m.dirty = false
	return was
}

func (m *memory) all() map[string]pki.PeerMemory {
	m.mu.Lock()
	defer m.mu.Unlock()
	all := make(map[string]pki.PeerMemory, len(m.peers))
	for id, p := range maps.All(m.peers) {
		all[id] = p.PeerMemory
	}
	return all
}

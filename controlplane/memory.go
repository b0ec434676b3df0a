package controlplane

import (
	"encoding/hex"
	"fmt"
	"maps"
	"sync"

	"github.com/agentplane/agentplane/controlplane/peer"
	"github.com/agentplane/agentplane/controlplane/pki"
	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
)

// memory is what this node remembers of its peers, so that a disk image that was put
// back is noticed (DESIGN section 10). It outlives the process in boot.state.
type memory struct {
	mu    sync.Mutex // guards what follows
	peers map[string]pki.PeerMemory
	dirty bool
}

func (m *memory) begin(peers map[string]pki.PeerMemory) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.peers = make(map[string]pki.PeerMemory)
	maps.Copy(m.peers, peers)
}

// judge refuses a peer whose new process knows less than an earlier one did, and
// remembers the others.
func (m *memory) judge(nodeID string, said *agentplanev1.Preface) error {
	if n := len(said.GetStartId()); n > pki.MaxStartIDBytes {
		return fmt.Errorf("node %q names its start by %d bytes, at most %d are allowed", nodeID, n, pki.MaxStartIDBytes)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	p := m.peers[nodeID]
	if comparesMemory && (p.StartID == "" || p.StartID != hex.EncodeToString(said.GetStartId())) {
		switch {
		case said.GetStartCounter() < p.Starts:
			return fmt.Errorf("%w: node %q comes with start %d and was seen at start %d", peer.ErrPutBack, nodeID, said.GetStartCounter(), p.Starts)
		case !follows(said, p):
			return fmt.Errorf("%w: node %q comes with start %d, and its start %d is another one than the one that was seen", peer.ErrPutBack, nodeID, said.GetStartCounter(), p.Starts)
		case said.GetTerm() == 0: // its raft is not open yet
			return nil
		case said.GetTerm() < p.Term:
			return fmt.Errorf("%w: node %q comes with term %d and was seen at term %d", peer.ErrPutBack, nodeID, said.GetTerm(), p.Term)
		case said.GetLastIndex() < p.Index:
			return fmt.Errorf("%w: node %q comes with entry %d as its last and has applied entry %d before", peer.ErrPutBack, nodeID, said.GetLastIndex(), p.Index)
		}
	}
	m.rememberLocked(nodeID, pki.PeerMemory{Starts: said.GetStartCounter(), StartID: hex.EncodeToString(said.GetStartId()), Term: said.GetTerm()})
	return nil
}

// follows says that a process may come after the one that was seen: that one is among its
// earlier starts, as far as these are known. A disk that was put back counts as far as it has
// been seen, or further, when it is started often enough; but those are other starts.
func follows(said *agentplanev1.Preface, p pki.PeerMemory) bool {
	behind := said.GetStartCounter() - p.Starts
	switch earlier := said.GetEarlierStartIds(); {
	case p.StartID == "":
		return true
	case behind == 0:
		return false // it is another process, and counts the same
	case behind > uint64(len(earlier)):
		return true
	default:
		return hex.EncodeToString(earlier[behind-1]) == p.StartID
	}
}

// saw notes what a peer answered of itself. What it has applied is committed and on
// its disk; the end of its log might still be cut.
func (m *memory) saw(nodeID string, r *agentplanev1.ReadTermResponse) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.rememberLocked(nodeID, pki.PeerMemory{Starts: r.GetStartCounter(), Term: r.GetTerm(), Index: r.GetAppliedIndex()})
}

func (m *memory) rememberLocked(nodeID string, seen pki.PeerMemory) {
	if raised := m.peers[nodeID].Raise(seen); raised != m.peers[nodeID] {
		m.peers[nodeID], m.dirty = raised, true
	}
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
	return maps.Clone(m.peers)
}

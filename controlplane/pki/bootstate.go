package pki

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/agentplane/agentplane/proto/frame"
	"github.com/agentplane/agentplane/proto/identity"
)

const (
	bootFormat       = 1
	trustFrame       = 1 // what the cluster decided
	memoryFrame      = 2 // what this node remembers of its peers
	maxBootBytes     = 4 << 20
	maxKeyringKeys   = 16
	maxPeersRecalled = 4096
)

// MaxStartIDBytes bounds what names a start of a node.
const MaxStartIDBytes = 64

// BootState is what a node trusts until its replicated state has passed Index.
// It is never changed once made.
type BootState struct {
	// Bundle says cluster, incarnation, CAs, and the keys and addresses of nodes.
	Bundle *identity.Bundle
	// GossipKeyring holds the gossip keys, the one in use first.
	GossipKeyring []identity.Secret
	FeatureLevel  uint32
	// Index is that of the entry that last changed any of the above.
	Index uint64
	// Peers is what this node itself remembers of each other node, by node id.
	Peers map[string]PeerMemory
}

// PeerMemory holds the highest numbers that a node was seen with, each by
// itself. One that comes back below them is a disk image that was put back.
type PeerMemory struct {
	Starts uint64 `json:"starts"` // start counter
	// StartID names the process of that start, in hex; "" when only the number is known.
	StartID string `json:"start_id,omitempty"`
	Term    uint64 `json:"term"`
	Index   uint64 `json:"index"` // held by the peer and committed
}

// Raise returns the higher one of each number. Of two processes that count the same the first
// one stays.
func (m PeerMemory) Raise(seen PeerMemory) PeerMemory {
	m.Term, m.Index = max(m.Term, seen.Term), max(m.Index, seen.Index)
	if seen.Starts > m.Starts || seen.Starts == m.Starts && m.StartID == "" {
		m.Starts, m.StartID = seen.Starts, seen.StartID
	}
	return m
}

// trustDocument is the payload of the first frame. Fields are only ever added,
// and an older reader ignores those; any other change raises the format.
type trustDocument struct {
	Format        int             `json:"format"`
	Index         uint64          `json:"index"`
	FeatureLevel  uint32          `json:"feature_level"`
	GossipKeyring [][]byte        `json:"gossip_keyring"`
	Bundle        json.RawMessage `json:"bundle"`
}

// memoryDocument is the payload of the second frame.
type memoryDocument struct {
	Format int                   `json:"format"`
	Peers  map[string]PeerMemory `json:"peers"`
}

// Newer says whether a may take the place of b: the same cluster and
// incarnation, and a higher index. Another incarnation comes only by recovery,
// never from a peer.
func Newer(a, b *BootState) bool {
	return a.Bundle.ClusterID == b.Bundle.ClusterID && a.Bundle.Incarnation == b.Bundle.Incarnation && a.Index > b.Index
}

// Adopt returns what s becomes when a peer gave it from: the peer's trust with
// the memory of s, but for nodes that have been removed. It answers false when
// from is not newer.
func (s *BootState) Adopt(from *BootState) (*BootState, bool) {
	if !Newer(from, s) {
		return s, false
	}
	next := *from
	next.Peers = recalled(s.Peers, next.Bundle)
	return &next, true
}

// Remember returns s with the memory of one node raised to what was seen. It
// answers false when that changes nothing, as for a node that the bundle does
// not have.
func (s *BootState) Remember(nodeID string, seen PeerMemory) (*BootState, bool) {
	raised := s.Peers[nodeID].Raise(seen)
	if _, member := s.Bundle.Node(nodeID); !member || raised == s.Peers[nodeID] {
		return s, false
	}
	next := *s
	next.Peers = recalled(s.Peers, next.Bundle)
	next.Peers[nodeID] = raised
	return &next, true
}

// recalled returns a copy with the nodes of the bundle only: the memory of those
// removed would grow for ever, and would refuse one that joins again.
func recalled(peers map[string]PeerMemory, b *identity.Bundle) map[string]PeerMemory {
	kept := make(map[string]PeerMemory, len(peers))
	for _, n := range b.Nodes {
		if m, ok := peers[n.NodeID]; ok {
			kept[n.NodeID] = m
		}
	}
	return kept
}

var errNoBundle = errors.New("it has no bundle")

// Validate says what is wrong with the state.
func (s *BootState) Validate() error {
	if s.Bundle == nil {
		return errNoBundle
	}
	if err := s.Bundle.Validate(); err != nil {
		return fmt.Errorf("bundle: %w", err)
	}
	return s.validateRest()
}

func (s *BootState) validateRest() error {
	if s.Index < s.Bundle.Index {
		return fmt.Errorf("its index %d is below that of its bundle, %d", s.Index, s.Bundle.Index)
	}
	if len(s.GossipKeyring) == 0 || len(s.GossipKeyring) > maxKeyringKeys {
		return fmt.Errorf("its gossip keyring has %d keys, want 1 to %d", len(s.GossipKeyring), maxKeyringKeys)
	}
	for i, k := range s.GossipKeyring {
		if !slices.Contains([]int{16, 24, 32}, k.Len()) {
			return fmt.Errorf("key %d of its gossip keyring has %d bytes, want 16, 24 or 32", i, k.Len())
		}
	}
	if len(s.Peers) > maxPeersRecalled {
		return fmt.Errorf("it remembers %d peers, at most %d are allowed", len(s.Peers), maxPeersRecalled)
	}
	for id, p := range s.Peers {
		if err := identity.ValidateName(id); err != nil {
			return fmt.Errorf("peer: %w", err)
		}
		if n := hex.DecodedLen(len(p.StartID)); n > MaxStartIDBytes {
			return fmt.Errorf("peer %q: the id of its start has %d bytes, at most %d are allowed", id, n, MaxStartIDBytes)
		}
	}
	return nil
}

// Marshal returns the content of the file. Equal states give equal bytes.
func (s *BootState) Marshal() ([]byte, error) {
	data, err := s.Share()
	if err != nil {
		return nil, err
	}
	memory, err := json.Marshal(memoryDocument{Format: bootFormat, Peers: s.Peers})
	if err != nil {
		return nil, fmt.Errorf("marshal boot state: %w", err)
	}
	return frame.Append(data, memoryFrame, memory), nil
}

// Share returns what other nodes may have of the state: all but Peers. It holds
// the gossip keys: it goes to nodes of the cluster and to nobody else.
func (s *BootState) Share() ([]byte, error) {
	if s.Bundle == nil {
		return nil, fmt.Errorf("marshal boot state: %w", errNoBundle)
	}
	if err := s.validateRest(); err != nil {
		return nil, fmt.Errorf("marshal boot state: %w", err)
	}
	bundle, err := s.Bundle.Marshal() // which validates it: signatures are dear
	if err != nil {
		return nil, fmt.Errorf("marshal boot state: %w", err)
	}
	doc := trustDocument{Format: bootFormat, Index: s.Index, FeatureLevel: s.FeatureLevel, Bundle: bundle}
	for _, k := range s.GossipKeyring {
		doc.GossipKeyring = append(doc.GossipKeyring, k.Reveal())
	}
	payload, err := json.Marshal(doc)
	if err != nil {
		return nil, fmt.Errorf("marshal boot state: %w", err)
	}
	return frame.Append(nil, trustFrame, payload), nil
}

// ParseBootState reads what Marshal wrote.
func ParseBootState(data []byte) (*BootState, error) {
	s, rest, err := parseTrust(data)
	if err != nil {
		return nil, fmt.Errorf("parse boot state: %w", err)
	}
	var doc memoryDocument
	rest, err = parseFrame(rest, memoryFrame, &doc)
	switch {
	case err != nil:
		return nil, fmt.Errorf("parse boot state: memory of peers: %w", err)
	case doc.Format != bootFormat:
		return nil, fmt.Errorf("parse boot state: memory of peers: format %d is not %d; it was written by another version", doc.Format, bootFormat)
	case len(rest) > 0:
		return nil, fmt.Errorf("parse boot state: %d bytes follow its last frame", len(rest))
	}
	s.Peers = doc.Peers
	if err := s.validateRest(); err != nil {
		return nil, fmt.Errorf("parse boot state: %w", err)
	}
	return s, nil
}

// ParseShared reads what a peer's Share wrote. Nothing is trusted by that: see
// Adopt.
func ParseShared(data []byte) (*BootState, error) {
	s, rest, err := parseTrust(data)
	if err == nil && len(rest) > 0 {
		err = fmt.Errorf("%d bytes follow its frame", len(rest))
	}
	if err != nil {
		return nil, fmt.Errorf("parse boot state of a peer: %w", err)
	}
	return s, nil
}

func parseTrust(data []byte) (*BootState, []byte, error) {
	if len(data) > maxBootBytes {
		return nil, nil, fmt.Errorf("%d bytes is above the maximum %d", len(data), maxBootBytes)
	}
	var doc trustDocument
	rest, err := parseFrame(data, trustFrame, &doc)
	if err != nil {
		return nil, nil, err
	}
	if doc.Format != bootFormat {
		return nil, nil, fmt.Errorf("format %d is not %d; it was written by another version", doc.Format, bootFormat)
	}
	s := &BootState{Index: doc.Index, FeatureLevel: doc.FeatureLevel}
	if s.Bundle, err = identity.ParseBundle(doc.Bundle); err != nil {
		return nil, nil, err
	}
	for _, k := range doc.GossipKeyring {
		s.GossipKeyring = append(s.GossipKeyring, identity.NewSecret(k))
	}
	return s, rest, s.validateRest()
}

func parseFrame(data []byte, want byte, doc any) (rest []byte, err error) {
	typ, payload, rest, err := frame.Parse(data)
	if err != nil {
		return nil, err
	}
	if typ != want {
		return nil, fmt.Errorf("frame of type %d, want %d", typ, want)
	}
	return rest, json.Unmarshal(payload, doc)
}

package controlplane

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/hashicorp/go-hclog"

	"github.com/agentplane/agentplane/controlplane/pki"
	"github.com/agentplane/agentplane/fsm"
	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/identity"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"

	"github.com/agentplane/agentplane/controlplane/consensus"
)

// trust owns boot.state: what this node trusts, in memory and on disk. Its methods
// may be called at once.
type trust struct {
	self     string
	path     string
	verifier *identity.Verifier
	logger   hclog.Logger
	fatal    func(error)
	// changed is told, without a lock held, after each change. It must not block.
	changed func()

	mu   sync.Mutex // serializes changes of boot, and their way to the disk
	boot atomic.Pointer[pki.BootState]

	memory memory
}

// openTrust begins with a boot.state that is on disk.
func openTrust(self, path string, boot *pki.BootState, clock identity.Clock, logger hclog.Logger, fatal func(error)) (*trust, error) {
	v, err := identity.NewVerifier(boot.Bundle, clock)
	if err != nil {
		return nil, fmt.Errorf("use %s: %w", path, err)
	}
	t := &trust{self: self, path: path, verifier: v, logger: logger, fatal: fatal, changed: func() {}}
	t.boot.Store(boot)
	t.memory.begin(boot.Peers)
	return t, nil
}

// state returns what is trusted now.
func (t *trust) state() *pki.BootState { return t.boot.Load() }

// follow takes over what the replicated state says, once it has passed what is
// trusted. It is called by the goroutine that applies, before outcomes are
// answered: when it returns, boot.state is on disk.
func (t *trust) follow(v *fsm.View) {
	c := v.Cluster()
	if c.GetClusterId() == "" || c.GetTrustIndex() <= t.state().Index {
		return
	}
	t.mu.Lock()
	old := t.state()
	if c.GetTrustIndex() <= old.Index { // a peer's newer one was adopted meanwhile
		t.mu.Unlock()
		return
	}
	next := bootStateOf(v)
	if next.Bundle.Incarnation != old.Bundle.Incarnation {
		t.mu.Unlock()
		t.fatal(fmt.Errorf("the replicated state is of incarnation %v, boot.state of %v: this directory mixes two lives of the cluster; join again with an empty one",
			next.Bundle.Incarnation, old.Bundle.Incarnation))
		return
	}
	next.Peers = remaining(old.Peers, next.Bundle)
	err := t.useLocked(next)
	t.mu.Unlock()
	if err != nil {
		t.fatal(err)
		return
	}
	t.changed()
}

// adopt takes over a newer boot.state that a peer gave.
func (t *trust) adopt(shared []byte) error {
	from, err := pki.ParseShared(shared)
	if err != nil {
		return err
	}
	t.mu.Lock()
	next, newer := t.state().Adopt(from)
	if newer {
		err = t.useLocked(next)
	}
	t.mu.Unlock()
	if err == nil && newer {
		t.logger.Info("took newer trust from a peer", "index", next.Index)
		t.changed()
	}
	return err
}

func (t *trust) useLocked(next *pki.BootState) error {
	if err := next.Store(t.path); err != nil {
		return fmt.Errorf("write boot.state: %w", err)
	}
	if err := t.verifier.Update(next.Bundle); err != nil {
		return fmt.Errorf("use boot.state: %w", err)
	}
	t.boot.Store(next)
	return nil
}

// Address is peer.Book's.
func (t *trust) Address(nodeID string) (string, bool) {
	n, ok := t.state().Bundle.Node(nodeID)
	if !ok || len(n.Addresses) == 0 {
		return "", false
	}
	return n.Addresses[0], true
}

// NodeAt is peer.Book's.
func (t *trust) NodeAt(address string) (string, bool) {
	for _, n := range t.state().Bundle.Nodes {
		if slices.Contains(n.Addresses, address) {
			return n.NodeID, true
		}
	}
	return "", false
}

// Nodes is peer.Book's.
func (t *trust) Nodes() []string {
	var ids []string
	for _, n := range t.state().Bundle.Nodes {
		if n.NodeID != t.self {
			ids = append(ids, n.NodeID)
		}
	}
	return ids
}

// known is what this node knows of the cluster before its state does.
func (t *trust) known() (clusterID string, addresses map[string]string) {
	b := t.state().Bundle
	addresses = make(map[string]string)
	for _, n := range b.Nodes {
		if len(n.Addresses) > 0 {
			addresses[n.NodeID] = n.Addresses[0]
		}
	}
	return b.ClusterID, addresses
}

// ServerAddr is raft.ServerAddressProvider's: a node that moved is found under its
// new address although raft's configuration still has the old one.
func (t *trust) ServerAddr(id consensus.ServerID) (consensus.ServerAddress, error) {
	if a, ok := t.Address(string(id)); ok {
		return consensus.ServerAddress(a), nil
	}
	return "", fmt.Errorf("node %q is not in the trust bundle", id)
}

// preface is this node's, without the node that is meant.
func (t *trust) preface(level uint32, starts uint64, startIDs [][]byte, term, lastIndex uint64) *agentplanev1.Preface {
	b := t.state()
	return &agentplanev1.Preface{
		ClusterId: b.Bundle.ClusterID, Incarnation: incarnationOf(b.Bundle.Incarnation), From: t.self,
		FeatureLevel: level, StartCounter: starts, StartId: startIDs[0], EarlierStartIds: startIDs[1:], Term: term, LastIndex: lastIndex,
	}
}

// keepMemory writes to disk what was remembered of peers, if anything is new. It is
// called at most once a second: a lost second is a weaker guard, not a wrong one.
func (t *trust) keepMemory() error {
	if !t.memory.takeDirty() {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	next, changed := t.state(), false
	for id, seen := range t.memory.all() {
		if raised, more := next.Remember(id, seen); more {
			next, changed = raised, true
		}
	}
	if !changed {
		return nil
	}
	if err := next.Store(t.path); err != nil {
		return fmt.Errorf("write boot.state: %w", err)
	}
	t.boot.Store(next)
	return nil
}

// bootStateOf is what the replicated state says of trust.
func bootStateOf(v *fsm.View) *pki.BootState {
	c := v.Cluster()
	b := &pki.BootState{
		Bundle: &identity.Bundle{
			ClusterID:   c.GetClusterId(),
			Incarnation: identity.Incarnation{Number: uint64(c.GetIncarnation().GetNumber()), ID: hex.EncodeToString(c.GetIncarnation().GetId())},
			Index:       c.GetTrustIndex(),
		},
		FeatureLevel: c.GetFeatureLevel(),
		Index:        c.GetTrustIndex(),
	}
	for n := range v.RegisteredNodes() {
		b.Bundle.CAs = append(b.Bundle.CAs, identity.CA{NodeID: n.GetId(), CertDER: n.GetCaCertificate()})
		b.Bundle.Nodes = append(b.Bundle.Nodes, identity.NodeKey{NodeID: n.GetId(), Key: n.GetPublicKey(), Addresses: []string{n.GetAddress()}})
	}
	for _, k := range c.GetKeyring() {
		b.GossipKeyring = append(b.GossipKeyring, identity.NewSecret(k.GetKey()))
	}
	return b
}

func remaining(peers map[string]pki.PeerMemory, b *identity.Bundle) map[string]pki.PeerMemory {
	kept := maps.Clone(peers)
	maps.DeleteFunc(kept, func(id string, _ pki.PeerMemory) bool {
		_, ok := b.Node(id)
		return !ok
	})
	return kept
}

func incarnationOf(i identity.Incarnation) *agentplanev1.Incarnation {
	id, err := hex.DecodeString(i.ID)
	if err != nil {
		id = nil // validated when it was taken
	}
	return &agentplanev1.Incarnation{Number: uint32(i.Number), Id: id}
}

// machine is the replicated state with trust following it.
type machine struct {
	fsm.Raft
	trust *trust
	clock *clock
}

var _ consensus.Machine = machine{}

// Apply is raft's.
func (m machine) Apply(l *consensus.Log) any { return m.ApplyBatch([]*consensus.Log{l})[0] }

// ApplyBatch is raft's. Outcomes are answered after it returns.
func (m machine) ApplyBatch(logs []*consensus.Log) []any {
	responses := m.Raft.ApplyBatch(logs)
	m.trust.follow(m.View())
	m.clock.saw(m.Now())
	return responses
}

// Restore is raft's.
func (m machine) Restore(in io.ReadCloser) error {
	if err := m.Raft.Restore(in); err != nil {
		return err
	}
	m.trust.follow(m.View())
	m.clock.saw(m.Now())
	return nil
}

// founderState is the boot.state of a node that founds a cluster: it trusts itself,
// at index 0.
func founderState(ca *pki.CA, leaf *pki.Leaf, address string, incarnation identity.Incarnation, key identity.Secret, level uint32) *pki.BootState {
	node := ca.Node()
	return &pki.BootState{
		Bundle: &identity.Bundle{
			ClusterID: node.Cluster, Incarnation: incarnation,
			CAs:   []identity.CA{ca.Entry()},
			Nodes: []identity.NodeKey{{NodeID: node.Name, Key: leaf.Key(), Addresses: []string{address}}},
		},
		GossipKeyring: []identity.Secret{key},
		FeatureLevel:  level,
	}
}

// initMutation founds the cluster that a founder's boot.state names.
func initMutation(boot *pki.BootState, node *raftlogv1.Node) (*raftlogv1.Mutation, error) {
	if boot.Index != 0 {
		return nil, errors.New("the state is empty although boot.state is not a founder's: the log was lost; restore a backup or join again with an empty directory")
	}
	i := incarnationOf(boot.Bundle.Incarnation)
	m := &raftlogv1.InitCluster{
		ClusterId: boot.Bundle.ClusterID, Incarnation: &raftlogv1.Incarnation{Number: i.GetNumber(), Id: i.GetId()},
		Node: node, FeatureLevel: boot.FeatureLevel,
	}
	for _, k := range boot.GossipKeyring {
		m.Keyring = append(m.Keyring, &raftlogv1.GossipKey{Key: k.Reveal()})
	}
	return &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_InitCluster{InitCluster: m}}, nil
}

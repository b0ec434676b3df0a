package fsm

import (
	"bytes"
	"strconv"
	"strings"

	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

// registerNode makes a newcomer known and trusted. The same node with the same key
// may ask again and gets the same answer.
func (tx *tx) registerNode(m *raftlogv1.RegisterNode) *raftlogv1.Outcome {
	n := m.GetNode()
	if n.GetId() == "" || len(n.GetPublicKey()) == 0 || len(n.GetCaCertificate()) == 0 || n.GetAddress() == "" {
		return refuse(raftlogv1.Code_CODE_INVALID, "no_node", "a node needs an id, a key, a CA certificate and an address")
	}
	if refusal := reachableAt(n.GetAddress(), n.GetGossipAddress(), n.GetVersion()); refusal != nil {
		return refusal
	}
	if have, found := tx.nodes.get(n.GetId()); found {
		switch {
		case removed(have):
			return refuse(raftlogv1.Code_CODE_REFUSED, "node_removed",
				"node %q was removed from the cluster; a removed id never comes back: join with an empty data directory", n.GetId())
		case !bytes.Equal(have.GetPublicKey(), n.GetPublicKey()):
			return refuse(raftlogv1.Code_CODE_CONFLICT, "other_key", "node %q is registered with another key", n.GetId())
		case have.GetTokenId() == m.GetTokenId(), tx.tokenUsedBy(m.GetTokenId(), n.GetPublicKey(), n.GetId()):
			return stands(have.GetRegisteredIndex())
		}
	}
	for other := range tx.nodes.all() {
		switch sameKey := bytes.Equal(other.GetPublicKey(), n.GetPublicKey()) && other.GetId() != n.GetId(); {
		case sameKey && removed(other):
			return refuse(raftlogv1.Code_CODE_REFUSED, "node_removed",
				"this key belonged to node %q, which was removed from the cluster: join with an empty data directory", other.GetId())
		case sameKey:
			return refuse(raftlogv1.Code_CODE_CONFLICT, "key_taken", "this key belongs to node %q: join with an empty data directory", other.GetId())
		case removed(other) || other.GetId() == n.GetId():
		case other.GetName() == n.GetName():
			return refuse(raftlogv1.Code_CODE_CONFLICT, "name_taken",
				"the name %q belongs to node %q: choose another with --name, or remove that node first", n.GetName(), other.GetId())
		case other.GetAddress() == n.GetAddress():
			return refuse(raftlogv1.Code_CODE_CONFLICT, "address_taken",
				"the address %s belongs to node %q: advertise another, or remove that node first", n.GetAddress(), other.GetName())
		}
	}
	if n.GetFeatureLevel() < tx.cluster.GetFeatureLevel() {
		return refuse(raftlogv1.Code_CODE_REFUSED, "feature_level",
			"node %q has feature level %d, the cluster has %d: upgrade the node", n.GetName(), n.GetFeatureLevel(), tx.cluster.GetFeatureLevel())
	}
	token, refusal := tx.useToken(m.GetTokenId(), raftlogv1.TokenKind_TOKEN_KIND_NODE, n.GetPublicKey(), n.GetId(), n.GetAddress())
	if refusal != nil {
		return refusal
	}
	row := clone(n)
	if have, found := tx.nodes.get(n.GetId()); found { // again, with another token
		row.StartCounter = max(row.GetStartCounter(), have.GetStartCounter())
	}
	row.Candidate = token.GetCandidate()
	row.TokenId = m.GetTokenId()
	row.State = raftlogv1.NodeState_NODE_STATE_REGISTERED
	row.RegisteredAt, row.RegisteredIndex, row.ChangedIndex, row.RemovedAt = tx.now(), tx.index, tx.index, 0
	put(tx, TableNodes, tx.nodes, row)
	tx.trustChanged()
	return granted(tx.index)
}

// nodeStarted notes a new process of a node; its earlier sessions are ended by
// LoseNodeSessions, which the leader proposes on seeing this.
func (tx *tx) nodeStarted(m *raftlogv1.NodeStarted) *raftlogv1.Outcome {
	have, refusal := tx.registered(m.GetNodeId())
	switch {
	case refusal != nil:
		return refusal
	case m.GetFeatureLevel() < tx.cluster.GetFeatureLevel():
		return refuse(raftlogv1.Code_CODE_REFUSED, "feature_level",
			"node %q has feature level %d, the cluster has %d: upgrade the node", have.GetName(), m.GetFeatureLevel(), tx.cluster.GetFeatureLevel())
	case m.GetStartCounter() < have.GetStartCounter(),
		m.GetStartCounter() == have.GetStartCounter() && len(have.GetStartId()) > 0 && !bytes.Equal(m.GetStartId(), have.GetStartId()):
		return refuse(raftlogv1.Code_CODE_STALE, "start_counter",
			"node %q has announced start %d, this is start %d: its disk was put back", have.GetName(), have.GetStartCounter(), m.GetStartCounter())
	}
	if refusal := reachableAt(m.GetAddress(), m.GetGossipAddress(), m.GetVersion()); refusal != nil {
		return refusal
	}
	for other := range tx.nodes.all() {
		if m.GetAddress() != "" && other.GetAddress() == m.GetAddress() && other.GetId() != have.GetId() && !removed(other) {
			return refuse(raftlogv1.Code_CODE_CONFLICT, "address_taken",
				"the address %s belongs to node %q: advertise another, or remove that node first", m.GetAddress(), other.GetName())
		}
	}
	n := clone(have)
	n.StartCounter, n.Version, n.FeatureLevel, n.StartId = m.GetStartCounter(), m.GetVersion(), m.GetFeatureLevel(), m.GetStartId()
	if m.GetAddress() != "" {
		n.Address = m.GetAddress()
	}
	if m.GetGossipAddress() != "" {
		n.GossipAddress = m.GetGossipAddress()
	}
	moved := n.GetAddress() != have.GetAddress() || n.GetGossipAddress() != have.GetGossipAddress()
	if n.GetStartCounter() == have.GetStartCounter() && n.GetVersion() == have.GetVersion() &&
		n.GetFeatureLevel() == have.GetFeatureLevel() && bytes.Equal(n.GetStartId(), have.GetStartId()) && !moved {
		return stands(have.GetStartCounter())
	}
	n.ChangedIndex = tx.index
	put(tx, TableNodes, tx.nodes, n)
	if moved {
		tx.trustChanged()
	}
	return granted(n.GetStartCounter())
}

// removeNode takes a node out of trust. The row stays, so that its id and key are
// refused with the true reason.
func (tx *tx) removeNode(m *raftlogv1.RemoveNode) *raftlogv1.Outcome {
	have, found := tx.nodes.get(m.GetNodeId())
	switch {
	case !found:
		return refuse(raftlogv1.Code_CODE_NOT_FOUND, "no_node", "there is no node %q", m.GetNodeId())
	case removed(have):
		return stands(have.GetChangedIndex())
	}
	for n := range tx.nodes.all() {
		if m.GetSeenIndex() > 0 && removed(n) && n.GetChangedIndex() > m.GetSeenIndex() {
			return refuse(raftlogv1.Code_CODE_STALE, "removal_moved", "node %q was removed meanwhile: whether the others suffice without node %q has to be looked at again", n.GetName(), have.GetName())
		}
	}
	n := clone(have)
	n.State = raftlogv1.NodeState_NODE_STATE_REMOVED
	n.RemovedAt, n.ChangedIndex = tx.now(), tx.index
	put(tx, TableNodes, tx.nodes, n)
	tx.trustChanged()
	return granted(tx.index)
}

// reachableAt refuses addresses of a form that the trust bundle would not take: an
// entry that every node must believe and none can would stop them all. An empty one
// is not looked at.
func reachableAt(address, gossip, version string) *raftlogv1.Outcome {
	for _, a := range []string{address, gossip} {
		if a != "" && !validAddress(a) {
			return refuse(raftlogv1.Code_CODE_INVALID, "address", "address %.100q is not HOST:PORT with a port from 1 to 65535", a)
		}
	}
	if len(version) > MaxValueBytes {
		return refuse(raftlogv1.Code_CODE_INVALID, "version", "a version of %d bytes is above the maximum %d", len(version), MaxValueBytes)
	}
	return nil
}

// validAddress accepts what identity.ValidateAddress does: HOST:PORT, IPv6 in
// brackets, the port a decimal number without leading zeros.
func validAddress(a string) bool {
	colon := strings.LastIndexByte(a, ':')
	if colon < 0 {
		return false
	}
	host, port := a[:colon], a[colon+1:]
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 || port != strconv.FormatUint(n, 10) {
		return false
	}
	if bracketed := strings.HasPrefix(host, "[") && strings.HasSuffix(host, "]"); bracketed {
		host = host[1 : len(host)-1]
	} else if strings.Contains(host, ":") {
		return false
	}
	return host != "" && len(host) <= 255 && !strings.ContainsFunc(host, func(r rune) bool {
		return r <= ' ' || r > '~' || strings.ContainsRune("/@,\"\\[]", r)
	})
}

func removed(n *raftlogv1.Node) bool { return n.GetState() >= raftlogv1.NodeState_NODE_STATE_REMOVED }

func (tx *tx) registered(id string) (*raftlogv1.Node, *raftlogv1.Outcome) {
	n, found := tx.nodes.get(id)
	switch {
	case !found:
		return nil, refuse(raftlogv1.Code_CODE_NOT_FOUND, "no_node", "there is no node %q", id)
	case removed(n):
		return nil, refuse(raftlogv1.Code_CODE_REFUSED, "node_removed", "node %q was removed from the cluster", id)
	}
	return n, nil
}

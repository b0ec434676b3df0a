package fsm

import (
	"bytes"
	"cmp"
	"slices"

	"google.golang.org/protobuf/proto"

	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

// takeOffice begins a leader's term: from here on only entries with its epoch
// count.
func (tx *tx) takeOffice(m *raftlogv1.TakeOffice) *raftlogv1.Outcome {
	if m.GetTerm() != tx.term {
		return refuse(raftlogv1.Code_CODE_REFUSED, "wrong_term",
			"node %q takes office for term %d in an entry of term %d", m.GetNodeId(), m.GetTerm(), tx.term)
	}
	tx.cluster.Office = &raftlogv1.Office{NodeId: m.GetNodeId(), Term: m.GetTerm(), Epoch: tx.number()}
	tx.clusterChanged = true
	return granted(tx.number())
}

// maxIncarnation is the largest that fits into the numbers of epochs and fences.
const maxIncarnation = 1<<12 - 1

// initCluster founds the cluster. The first incarnation begins with the entry that
// holds it.
func (tx *tx) initCluster(m *raftlogv1.InitCluster) *raftlogv1.Outcome {
	if have := tx.cluster.GetClusterId(); have != "" {
		if have == m.GetClusterId() && proto.Equal(tx.cluster.GetIncarnation(), m.GetIncarnation()) {
			return stands(0)
		}
		return refuse(raftlogv1.Code_CODE_CONFLICT, "cluster_exists", "this is already cluster %q", have)
	}
	switch {
	case m.GetClusterId() == "", m.GetIncarnation().GetNumber() == 0, len(m.GetIncarnation().GetId()) != 16:
		return refuse(raftlogv1.Code_CODE_INVALID, "no_id", "a cluster needs an id and an incarnation with a number and 16 random bytes")
	case m.GetNode().GetId() == "", len(m.GetNode().GetPublicKey()) == 0:
		return refuse(raftlogv1.Code_CODE_INVALID, "no_node", "a cluster needs a first node with an id and a key")
	case m.GetIncarnation().GetNumber() > maxIncarnation:
		return refuse(raftlogv1.Code_CODE_INVALID, "incarnation", "incarnation %d is above %d", m.GetIncarnation().GetNumber(), maxIncarnation)
	case m.GetFeatureLevel() > FeatureLevel:
		return refuse(raftlogv1.Code_CODE_INVALID, "feature_level", "feature level %d is above %d", m.GetFeatureLevel(), FeatureLevel)
	}
	if refusal := reachableAt(m.GetNode().GetAddress(), m.GetNode().GetGossipAddress(), m.GetNode().GetVersion()); refusal != nil {
		return refusal
	}
	// Keep the office that the entry before this one took: its epoch is of
	// incarnation 0 and orders below everything that follows.
	tx.cluster.ClusterId = m.GetClusterId()
	tx.cluster.Incarnation = m.GetIncarnation()
	tx.cluster.Boundary = tx.index
	tx.cluster.FeatureLevel = m.GetFeatureLevel()
	tx.cluster.Keyring = m.GetKeyring()
	tx.cluster.CreatedAt = tx.now()
	tx.cluster.NextAgentOrdinal = 1
	n := clone(m.GetNode())
	n.State = raftlogv1.NodeState_NODE_STATE_REGISTERED
	n.RegisteredAt, n.RegisteredIndex, n.ChangedIndex, n.RemovedAt = tx.now(), tx.index, tx.index, 0
	put(tx, TableNodes, tx.nodes, n)
	tx.trustChanged()
	return ok()
}

// raiseFeatureLevel is granted once every server that raft counts has registered a
// level at least as high. The leader names the servers of its configuration.
func (tx *tx) raiseFeatureLevel(m *raftlogv1.RaiseFeatureLevel) *raftlogv1.Outcome {
	if m.GetLevel() <= tx.cluster.GetFeatureLevel() {
		return stands(0)
	}
	if len(m.GetServerIds()) == 0 {
		return refuse(raftlogv1.Code_CODE_INVALID, "no_servers", "raising the feature level needs the servers of raft's configuration")
	}
	for _, id := range m.GetServerIds() {
		n, found := tx.nodes.get(id)
		if !found || n.GetFeatureLevel() < m.GetLevel() {
			return refuse(raftlogv1.Code_CODE_REFUSED, "feature_level",
				"node %q has feature level %d, below %d: upgrade it first", id, n.GetFeatureLevel(), m.GetLevel())
		}
	}
	if m.GetLevel() > FeatureLevel {
		// Unreachable while every server registers its true level; going on would
		// apply later entries by older rules.
		panic("fsm: the cluster's feature level rises above what this build knows: upgrade this node")
	}
	tx.cluster.FeatureLevel = m.GetLevel()
	tx.trustChanged()
	return ok()
}

func (tx *tx) putSetting(m *raftlogv1.PutSetting) *raftlogv1.Outcome {
	have, _ := tx.settings.get(m.GetKey())
	switch {
	case m.GetKey() == "":
		return refuse(raftlogv1.Code_CODE_INVALID, "no_key", "a setting needs a key")
	case have != nil && have.GetValue() == m.GetValue():
		return stands(have.GetVersion()) // also a repetition whose outcome was lost
	case have.GetVersion() != m.GetExpectedVersion():
		return refuse(raftlogv1.Code_CODE_STALE, "version_moved",
			"setting %q has version %d, not %d", m.GetKey(), have.GetVersion(), m.GetExpectedVersion())
	}
	put(tx, TableSettings, tx.settings, &raftlogv1.Setting{Key: m.GetKey(), Value: m.GetValue(), Version: tx.index})
	return granted(tx.index)
}

// YoungestKey is the key of a ring to which a rotation goes.
func YoungestKey(ring []*raftlogv1.GossipKey) *raftlogv1.GossipKey {
	return slices.MaxFunc(ring, func(a, b *raftlogv1.GossipKey) int { return cmp.Compare(a.GetMadeAt(), b.GetMadeAt()) })
}

func (tx *tx) setKeyring(m *raftlogv1.SetKeyring) *raftlogv1.Outcome {
	same := len(m.GetKeyring()) == len(tx.cluster.GetKeyring())
	for i := 0; same && i < len(m.GetKeyring()); i++ {
		same = bytes.Equal(m.GetKeyring()[i].GetKey(), tx.cluster.GetKeyring()[i].GetKey())
	}
	switch {
	case len(m.GetKeyring()) == 0:
		return refuse(raftlogv1.Code_CODE_INVALID, "no_key", "the gossip keyring needs at least one key")
	case same:
		return stands(tx.cluster.GetTrustIndex())
	case m.GetExpectedTrustIndex() != tx.cluster.GetTrustIndex():
		return refuse(raftlogv1.Code_CODE_STALE, "version_moved",
			"the trust index is %d, not %d", tx.cluster.GetTrustIndex(), m.GetExpectedTrustIndex())
	}
	tx.cluster.Keyring = m.GetKeyring()
	tx.trustChanged()
	return granted(tx.index)
}

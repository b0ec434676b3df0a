package membership

import (
	"slices"

	"github.com/agentplane/agentplane/fsm"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

// NextLevel is the feature level to which the cluster may rise from the one that it has: the
// lowest that any server of raft's configuration has registered, and that is higher. ids are
// those of all servers.
func NextLevel(has uint32, servers []Server) (level uint32, ids []string, rises bool) {
	if len(servers) == 0 {
		return 0, nil, false
	}
	level = servers[0].Level
	for _, s := range servers {
		level, ids = min(level, s.Level), append(ids, s.ID)
	}
	return level, ids, level > has
}

// NextKeyring is the next step of a rotation of the gossip keys, nil when there is none, or not
// yet; waits are the nodes that have not come so far. A rotation goes to the youngest key: it
// is put into the ring behind the one in use, then before it, then alone. Each step has to
// have come to all nodes before the next: one that does not answer is waited for while patient,
// and later gets all of them at once, since the ring comes with the log and not by gossip.
// index is that of the last change of trust, of which the ring is a part.
func NextKeyring(ring []*raftlogv1.GossipKey, index uint64, servers []Server, patient bool) (next []*raftlogv1.GossipKey, waits []string) {
	if len(ring) < 2 {
		return nil, nil
	}
	for _, s := range servers {
		if s.Ring < index && (s.Answers || patient) {
			waits = append(waits, s.ID)
		}
	}
	youngest := fsm.YoungestKey(ring)
	switch {
	case len(waits) > 0:
		return nil, waits
	case ring[0] == youngest:
		return ring[:1], nil
	}
	rest := slices.DeleteFunc(slices.Clone(ring), func(k *raftlogv1.GossipKey) bool { return k == youngest })
	return slices.Insert(rest, 0, youngest), nil
}

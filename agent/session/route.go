package session

import (
	"crypto/sha256"
	"encoding/binary"
	"slices"
)

// rank orders the nodes for one agent: those with an id by rendezvous hashing, then bare
// addresses that no node with an id has, likewise. It is pure.
func rank(agentID string, nodes []Node) []Node {
	type scored struct {
		Node
		score uint64
	}
	known := map[string]bool{}
	for _, n := range nodes {
		if n.ID != "" {
			known[n.Address] = true
		}
	}
	var all []scored
	seen := map[string]bool{}
	for _, n := range nodes {
		if n.Address == "" || seen[n.key()] || n.ID == "" && known[n.Address] {
			continue
		}
		seen[n.key()] = true
		h := sha256.Sum256([]byte(agentID + "\x00" + n.key()))
		all = append(all, scored{n, binary.BigEndian.Uint64(h[:])})
	}
	slices.SortFunc(all, func(a, b scored) int {
		switch {
		case (a.ID == "") != (b.ID == ""):
			if a.ID == "" {
				return 1
			}
			return -1
		case a.score > b.score:
			return -1
		case a.score < b.score:
			return 1
		default:
			return 0
		}
	})
	out := make([]Node, len(all))
	for i, s := range all {
		out[i] = s.Node
	}
	return out
}

// route walks over the nodes: each once per round, the one that was lost last.
type route struct {
	agentID string
	tried   map[string]bool
	lost    string // key of the node whose session broke
}

func newRoute(agentID string) *route { return &route{agentID: agentID, tried: map[string]bool{}} }

// next gives the next node of the round, and false when all were tried.
func (r *route) next(nodes []Node) (Node, bool) {
	var last *Node
	for _, n := range rank(r.agentID, nodes) {
		switch {
		case r.tried[n.key()]:
		case n.key() == r.lost:
			last = &n
		default:
			r.tried[n.key()] = true
			return n, true
		}
	}
	if last == nil {
		return Node{}, false
	}
	r.tried[last.key()] = true
	return *last, true
}

// again begins another round.
func (r *route) again() { clear(r.tried) }

package membership

import (
	"slices"
	"testing"

	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

func TestNextLevel(t *testing.T) {
	at := func(levels ...uint32) (all []Server) {
		for i, l := range levels {
			all = append(all, Server{ID: string(rune('a' + i)), Level: l})
		}
		return all
	}
	for name, c := range map[string]struct {
		has     uint32
		servers []Server
		level   uint32
		rises   bool
	}{
		"all have more":             {1, at(2, 3, 2), 2, true},
		"one has not":               {1, at(2, 1, 2), 1, false},
		"all have what there is":    {2, at(2, 2, 2), 2, false},
		"one is not registered yet": {1, at(2, 0, 2), 0, false},
		"no server":                 {1, nil, 0, false},
	} {
		level, ids, rises := NextLevel(c.has, c.servers)
		if level != c.level || rises != c.rises || len(ids) != len(c.servers) {
			t.Errorf("%s: level %d of %q, rises %v, want %d, %v", name, level, ids, rises, c.level, c.rises)
		}
	}
}

func TestNextKeyring(t *testing.T) {
	first := &raftlogv1.GossipKey{Key: []byte("first")}
	next := &raftlogv1.GossipKey{Key: []byte("next"), MadeAt: 7}
	has, lacks := Server{ID: "a", Answers: true, Ring: 9}, Server{ID: "b", Answers: true, Boot: 9, Ring: 8}
	dead := Server{ID: "c", Ring: 3}
	for name, c := range map[string]struct {
		ring    []*raftlogv1.GossipKey
		servers []Server
		patient bool
		want    []*raftlogv1.GossipKey
	}{
		"one key":                        {[]*raftlogv1.GossipKey{first}, []Server{has}, true, nil},
		"installed on all":               {[]*raftlogv1.GossipKey{first, next}, []Server{has, has}, true, []*raftlogv1.GossipKey{next, first}},
		"used by all":                    {[]*raftlogv1.GossipKey{next, first}, []Server{has, has}, true, []*raftlogv1.GossipKey{next}},
		"not installed on one":           {[]*raftlogv1.GossipKey{first, next}, []Server{has, lacks}, false, nil},
		"one does not answer yet":        {[]*raftlogv1.GossipKey{first, next}, []Server{has, dead}, true, nil},
		"one has not answered for long":  {[]*raftlogv1.GossipKey{first, next}, []Server{has, dead}, false, []*raftlogv1.GossipKey{next, first}},
		"it may be one step of the last": {[]*raftlogv1.GossipKey{next, first}, []Server{has, lacks}, true, nil},
	} {
		got, waits := NextKeyring(c.ring, 9, c.servers, c.patient)
		if !slices.Equal(got, c.want) || (len(waits) > 0) != (len(c.ring) > 1 && c.want == nil) {
			t.Errorf("%s: %v, waits for %q, want %v", name, got, waits, c.want)
		}
	}
}

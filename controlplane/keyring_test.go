package controlplane

import (
	"slices"
	"testing"
	"testing/synctest"

	"github.com/agentplane/agentplane/gossip"
	"github.com/agentplane/agentplane/gossip/gossiptest"
	"github.com/agentplane/agentplane/proto/identity"
)

// A node may meet the steps of a rotation one by one, or all of them at once, as when it was
// away: in the end gossip has what is trusted, and nothing else.
func TestGossipUsesWhatIsTrusted(t *testing.T) {
	ring := func(names ...byte) (keys []identity.Secret) {
		for _, n := range names {
			keys = append(keys, identity.NewSecret(slices.Repeat([]byte{n}, gossip.KeyBytes)))
		}
		return keys
	}
	for name, steps := range map[string][][]identity.Secret{
		"one by one":          {ring('a'), ring('a', 'b'), ring('b', 'a'), ring('b')},
		"all at once":         {ring('a'), ring('b')},
		"the last two":        {ring('a', 'b'), ring('b')},
		"two rotations":       {ring('a'), ring('a', 'b'), ring('c')},
		"in the middle of it": {ring('a'), ring('b', 'a')},
		"nothing":             {ring('a'), ring('a')},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var first [][]byte
				for _, k := range steps[0] {
					first = append(first, k.Reveal())
				}
				pool, err := gossip.Open(gossip.Options{
					NodeID: "n1", Label: "c", Keys: first, Transport: gossiptest.NewNetwork(1).NewTransport("10.0.0.1:7461"),
				})
				if err != nil {
					t.Fatal(err)
				}
				defer pool.Close()
				for i, is := range steps[1:] {
					if err := useKeyring(pool, steps[i], is); err != nil {
						t.Fatal(err)
					}
					var want []string
					for _, k := range is {
						want = append(want, gossip.KeyID(k.Reveal()))
					}
					got := pool.KeyIDs()
					if got[0] != want[0] || !slices.Equal(slices.Sorted(slices.Values(got)), slices.Sorted(slices.Values(want))) {
						t.Errorf("step %d: gossip has %q, want %q", i+1, got, want)
					}
				}
			})
		})
	}
}

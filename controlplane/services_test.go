package controlplane

import (
	"maps"
	"testing"
	"time"

	"github.com/agentplane/agentplane/gossip"
)

func TestAConnectionIsNewerWordThanGossip(t *testing.T) {
	start := time.Now()
	at := func(s int) time.Time { return start.Add(time.Duration(s) * time.Second) }
	got := livesOf(
		[]gossip.Member{
			{ID: "alive", State: gossip.StateAlive, Since: at(1)},
			{ID: "frozen", State: gossip.StateDead, Since: at(5)}, // its connections stay open
			{ID: "back", State: gossip.StateDead, Since: at(5)},
			{ID: "suspect", State: gossip.StateSuspect, Since: at(5)},
			{ID: "gone", State: gossip.StateLeft, Since: at(5)},
		},
		map[string]time.Time{"frozen": at(2), "back": at(6), "suspect": at(1), "silent": at(3)},
	)
	want := map[string]string{"alive": "alive", "frozen": "dead", "back": "alive", "suspect": "suspect", "gone": "left", "silent": "alive"}
	if !maps.Equal(got, want) {
		t.Errorf("the nodes are %v, want %v", got, want)
	}
}

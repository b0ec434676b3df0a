package health

import (
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

func TestLost(t *testing.T) {
	node := func(start uint64) *raftlogv1.Node { return &raftlogv1.Node{Id: "n", StartCounter: start} }
	removed := &raftlogv1.Node{Id: "n", StartCounter: 4, State: raftlogv1.NodeState_NODE_STATE_REMOVED}
	const patience = 30 * time.Second
	for _, c := range []struct {
		name   string
		e      Evidence
		upTo   uint64
		reason string
	}{
		{"a node in its first start lost nothing", Evidence{Node: node(1), Life: StateAlive}, 0, ""},
		{"a later start ends those before", Evidence{Node: node(4), Life: StateAlive}, 3, "node_restarted"},
		{"a start that is not yet registered ends those before", Evidence{Node: node(4), Life: StateAlive, Answered: 6}, 5, "node_restarted"},
		{"an old answer ends nothing more", Evidence{Node: node(4), Life: StateAlive, Answered: 2}, 3, "node_restarted"},
		{"suspicion is no verdict", Evidence{Node: node(1), Life: StateSuspect, Silent: time.Hour}, 0, ""},
		{"who is alive may be silent", Evidence{Node: node(1), Life: StateAlive, Silent: time.Hour}, 0, ""},
		{"the dead who was not asked", Evidence{Node: node(4), Life: StateDead}, 3, "node_restarted"},
		{"the dead who does not answer", Evidence{Node: node(4), Life: StateDead, Silent: 1}, 4, "node_dead"},
		{"who left and does not answer", Evidence{Node: node(4), Life: StateLeft, Silent: 1}, 4, "node_left"},
		{"the dead who answered is waited for", Evidence{Node: node(1), Life: StateDead, Refuted: true, Silent: patience - 1}, 0, ""},
		{"but not for ever", Evidence{Node: node(1), Life: StateDead, Refuted: true, Silent: patience}, 1, "node_silent"},
		{"the unknown may answer", Evidence{Node: node(1), Silent: patience - 1}, 0, ""},
		{"the unknown who is silent is lost", Evidence{Node: node(2), Silent: patience}, 2, "node_silent"},
		{"removed, whatever gossip says", Evidence{Node: removed, Life: StateAlive}, 4, "node_removed"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if upTo, reason := Lost(c.e, patience); upTo != c.upTo || reason != c.reason {
				t.Errorf("Lost = %d %q, want %d %q", upTo, reason, c.upTo, c.reason)
			}
		})
	}
}

func TestMissing(t *testing.T) {
	shown := slices.Values([]*raftlogv1.Session{
		{AgentId: "held", Epoch: 5, NodeStartCounter: 2},
		{AgentId: "newer in its hands", Epoch: 5, NodeStartCounter: 2},
		{AgentId: "older in its hands", Epoch: 5, NodeStartCounter: 2},
		{AgentId: "not held", Epoch: 7, NodeStartCounter: 2},
		{AgentId: "of the process before", Epoch: 5, NodeStartCounter: 1},
		{AgentId: "of a later process", Epoch: 5, NodeStartCounter: 3},
	})
	got := Missing(shown, 2, []HeldSession{{"held", 5}, {"newer in its hands", 6}, {"older in its hands", 4}, {"unknown here", 9}})
	if diff := cmp.Diff([]HeldSession{{"older in its hands", 5}, {"not held", 7}}, got); diff != "" {
		t.Errorf("Missing (-want +got):\n%s", diff)
	}
}

func TestConfirmNeedsTwoAnswersFarEnoughApart(t *testing.T) {
	w := &watched{}
	a, b, newer := HeldSession{"a", 1}, HeldSession{"b", 2}, HeldSession{"a", 3}
	for i, step := range []struct {
		asked   time.Duration
		missing []HeldSession
		gone    []HeldSession
	}{
		{0, []HeldSession{a, b}, nil},
		{settle - 1, []HeldSession{a, b}, nil},
		{settle, []HeldSession{b}, []HeldSession{b}}, // a was shown after all
		{settle + 1, []HeldSession{a}, nil},          // missing again: counted anew
		{2*settle + 1, []HeldSession{newer}, nil},    // another session of that agent
		{3*settle + 1, []HeldSession{newer}, []HeldSession{newer}},
	} {
		if diff := cmp.Diff(step.gone, w.confirm(step.missing, step.asked)); diff != "" {
			t.Errorf("step %d (-want +got):\n%s", i, diff)
		}
	}
}

func TestBrakeDecides(t *testing.T) {
	b := Brake{Count: 10, Percent: 15, Window: time.Minute}
	engaged := func(since, grew time.Duration, peak int) BrakeState {
		return BrakeState{Engaged: true, Since: since, Grew: grew, Peak: peak}
	}
	for _, c := range []struct {
		name  string
		s     BrakeState
		now   time.Duration
		l     Load
		held  bool
		allow int
	}{
		{"a few fall at once", BrakeState{}, 0, Load{Fleet: 20, Due: 10}, false, 10},
		{"eleven of twenty are held", BrakeState{}, 0, Load{Fleet: 20, Due: 11}, true, 0},
		{"fifteen in a hundred fall", BrakeState{}, 0, Load{Fleet: 100, Due: 15}, false, 15},
		{"sixteen in a hundred are held", BrakeState{}, 0, Load{Fleet: 100, Due: 16}, true, 0},
		{"those about to fall count", BrakeState{}, 0, Load{Fleet: 100, Due: 1, Soon: 15}, true, 0},
		{"nothing due, nothing held", BrakeState{}, 0, Load{Fleet: 100, Soon: 90}, false, 0},
		{"those who fell within the window count", BrakeState{}.Fell(0, 14), time.Minute - 1, Load{Fleet: 86, Due: 2}, true, 0},
		{"those who fell before it do not", BrakeState{}.Fell(0, 14), time.Minute, Load{Fleet: 86, Due: 2}, false, 2},
		{"held while it grows", engaged(0, 0, 20), 59 * time.Second, Load{Fleet: 100, Due: 21}, true, 0},
		{"held longer when it grew", engaged(0, 0, 20), time.Minute, Load{Fleet: 100, Due: 21}, true, 0},
		{"let go slowly when it does not", engaged(0, 0, 20), time.Minute, Load{Fleet: 100, Due: 20}, true, 15},
		{"no more than the limit in a window", engaged(0, 0, 20).Fell(time.Minute, 15), 61 * time.Second, Load{Fleet: 85, Due: 5}, true, 0},
		{"released when they come back", engaged(0, 50*time.Second, 90), time.Minute, Load{Fleet: 100, Due: 15}, false, 15},
		{"not held for ever by a trickle", engaged(0, 599*time.Second, 20), 10 * time.Minute, Load{Fleet: 100, Due: 21}, true, 15},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, allow := b.Decide(c.s, c.now, c.l)
			if s.Engaged != c.held || allow != c.allow {
				t.Errorf("Decide = engaged %v, allow %d; want %v, %d", s.Engaged, allow, c.held, c.allow)
			}
		})
	}
}

// Whatever comes, no window sees more DOWN than the limit of the largest fleet in it,
// and whoever stays due falls in the end.
func TestBrakeProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := Brake{Count: rapid.IntRange(1, 20).Draw(t, "count"), Percent: rapid.IntRange(1, 50).Draw(t, "percent"), Window: time.Minute}
		total := rapid.IntRange(1, 400).Draw(t, "fleet")
		up, due := total, 0
		var s BrakeState
		var allow int
		type drop struct {
			at time.Duration
			n  int
		}
		var drops []drop
		now := time.Duration(0)
		step := func() {
			now += time.Second
			if s, allow = b.Decide(s, now, Load{Fleet: up, Due: due}); allow > due {
				t.Fatalf("allows %d of %d", allow, due)
			}
			s = s.Fell(now, allow)
			drops = append(drops, drop{now, allow})
			up, due = up-allow, due-allow
			in := 0
			for _, d := range drops {
				if now-d.at < b.Window {
					in += d.n
				}
			}
			if limit := b.Limit(total); in > limit {
				t.Fatalf("%d fell within %v, the limit is %d", in, b.Window, limit)
			}
		}
		for _, more := range rapid.SliceOfN(rapid.IntRange(0, 60), 1, 100).Draw(t, "failures") {
			if rapid.IntRange(0, 3).Draw(t, "comes") == 0 {
				due = min(up, due+more)
			}
			step()
		}
		for wait := 0; due > 0; wait++ {
			if wait > 60*(holdWindows+2+2*total) {
				t.Fatalf("%d agents are held after %v", due, now)
			}
			step()
		}
	})
}

func TestAwakeDoesNotCountSleep(t *testing.T) {
	var a awake
	start := time.Now()
	for i, step := range []struct{ at, want time.Duration }{
		{0, 0},
		{250 * time.Millisecond, 250 * time.Millisecond},
		{time.Second, time.Second},
		{time.Hour, 2 * time.Second},
		{time.Hour - time.Second, 2 * time.Second},
		{time.Hour, 3 * time.Second},
	} {
		if got := a.advance(start.Add(step.at)); got != step.want {
			t.Errorf("step %d: advance = %v, want %v", i, got, step.want)
		}
	}
}

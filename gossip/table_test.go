package gossip

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/go-hclog"
	"pgregory.net/rapid"
)

var discard = hclog.NewNullLogger()

func TestTableForgetsTheGone(t *testing.T) {
	tab := newTable(discard)
	at := time.Unix(1000, 0)
	tab.update([]observed{{id: "a", state: StateAlive}, {id: "b", state: StateAlive}, {id: "c", state: StateLeft}}, at)
	tab.update([]observed{{id: "a", state: StateAlive}}, at.Add(time.Minute)) // b died unseen
	if got := states(tab); got != "a=alive b=dead c=left" {
		t.Errorf("states = %s", got)
	}
	tab.update([]observed{{id: "a", state: StateAlive}}, at.Add(goneRetention+time.Second))
	if got := states(tab); got != "a=alive b=dead" {
		t.Errorf("after an hour: %s", got)
	}
	tab.update([]observed{{id: "a", state: StateAlive}}, at.Add(goneRetention+2*time.Minute))
	if got := states(tab); got != "a=alive" {
		t.Errorf("after another minute: %s", got)
	}
}

func TestTableBoundsTheGone(t *testing.T) {
	tab := newTable(discard)
	at := time.Unix(1000, 0)
	for i := range 3 * maxGone {
		tab.update([]observed{{id: fmt.Sprintf("x%04d", i), state: StateDead}}, at.Add(time.Duration(i)))
	}
	members, _, _ := tab.since(0)
	if len(members) != maxGone || members[0].ID != fmt.Sprintf("x%04d", 2*maxGone) {
		t.Errorf("%d members from %s, want the youngest %d", len(members), members[0].ID, maxGone)
	}
}

func TestTableKeepsTheLastReadableMetadata(t *testing.T) {
	var log strings.Builder
	tab := newTable(hclog.New(&hclog.LoggerOptions{Output: &log}))
	at := time.Unix(1000, 0)
	tab.update([]observed{{id: "a", state: StateAlive, meta: mustMeta(t, Meta{Name: "n"})}}, at)
	for range 3 {
		tab.update([]observed{{id: "a", state: StateAlive, meta: []byte("garbage")}}, at)
	}
	members, _, _ := tab.since(0)
	if members[0].Meta.Name != "n" {
		t.Errorf("metadata = %+v", members[0].Meta)
	}
	if n := strings.Count(log.String(), "not readable"); n != 1 {
		t.Errorf("said %d times, want once:\n%s", n, log.String())
	}
}

// A reader that looks whenever it likes ends with what the table has.
func TestReaderAtAnyPaceEndsWithTheTruth(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		tab := newTable(discard)
		reader := make(map[string]State)
		var seen uint64
		read := func() {
			members, version, _ := tab.since(seen)
			seen = version
			for _, m := range members {
				reader[m.ID] = m.State
			}
		}
		at := time.Unix(1000, 0)
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			at = at.Add(time.Second)
			var rows []observed
			for _, id := range []string{"a", "b", "c"} {
				if s := rapid.IntRange(0, 4).Draw(t, id); s > 0 {
					rows = append(rows, observed{id: id, state: State(s)})
				}
			}
			_, _, changed := tab.since(seen)
			before := tab.version
			tab.update(rows, at)
			select {
			case <-changed:
				if tab.version == before {
					t.Fatal("woken without a change")
				}
			default:
				if tab.version != before {
					t.Fatal("a change woke nobody")
				}
			}
			if rapid.Bool().Draw(t, "reads") {
				read()
			}
		}
		read()
		truth := make(map[string]State)
		members, _, _ := tab.since(0)
		for _, m := range members {
			truth[m.ID] = m.State
		}
		if diff := cmp.Diff(truth, reader); diff != "" {
			t.Fatalf("(-table +reader):\n%s", diff)
		}
	})
}

func states(tab *table) string {
	members, _, _ := tab.since(0)
	var out []string
	for _, m := range members {
		out = append(out, m.ID+"="+m.State.String())
	}
	return strings.Join(out, " ")
}

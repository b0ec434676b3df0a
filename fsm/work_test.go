package fsm

import (
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"

	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

// TestWorkMatchesASort moves invocations of few agents at random, looks at what was
// published on the way, and compares each with lists that were sorted at the same time.
func TestWorkMatchesASort(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w, rows := newWork(), make(map[string]*raftlogv1.Invocation)
		type kept struct {
			w    *work
			want map[uint32][]*raftlogv1.Invocation
		}
		now := func() kept {
			k := kept{w.published(), make(map[uint32][]*raftlogv1.Invocation)}
			for _, i := range rows {
				if open(i) {
					k.want[i.GetAgentOrdinal()] = append(k.want[i.GetAgentOrdinal()], i)
				}
			}
			for _, list := range k.want {
				slices.SortFunc(list, func(a, b *raftlogv1.Invocation) int {
					if a.GetState() != b.GetState() {
						return int(a.GetState()) - int(b.GetState())
					}
					return inOrder(a, b)
				})
			}
			return k
		}
		var published []kept
		for index := range uint64(rapid.IntRange(0, 200).Draw(t, "steps")) {
			ordinal := rapid.Uint32Range(1, 3).Draw(t, "agent")
			id := fmt.Sprint(rapid.IntRange(0, 30).Draw(t, "command"))
			key := InvocationID(id, ordinal)
			old := rows[key]
			var row *raftlogv1.Invocation
			// The last choice is a final state, after which a row may also be deleted.
			state := rapid.SampledFrom(append(slices.Clone(openStates[:]), raftlogv1.AttemptState_ATTEMPT_STATE_LOST)).Draw(t, "state")
			switch {
			case old == nil:
				// The index goes up by and large; an old command's further attempt comes late.
				row = &raftlogv1.Invocation{Id: key, CommandId: id, AgentOrdinal: ordinal, State: state, Transitions: []*raftlogv1.Transition{{Index: index / 4}}}
			case open(old) || rapid.Bool().Draw(t, "again"):
				row = clone(old)
				row.State = state
			}
			w.moved(old, row)
			rows[key] = row
			if row == nil {
				delete(rows, key)
			}
			if rapid.IntRange(0, 3).Draw(t, "publish") == 0 {
				published = append(published, now())
			}
		}
		for n, k := range append(published, now()) {
			if k.w.agents.Len() != len(k.want) {
				t.Fatalf("view %d: %d agents have work, want %d", n, k.w.agents.Len(), len(k.want))
			}
			for ordinal, want := range k.want {
				if got := collect(k.w.in(ordinal, openStates[:]...)); !slices.Equal(got, want) {
					t.Fatalf("view %d, agent %d: got %v, want %v", n, ordinal, got, want)
				}
			}
		}
	})
}

// TestWorkLetsGo drains a long queue: what has left must not be kept by what has not.
func TestWorkLetsGo(t *testing.T) {
	w := newWork()
	var rows []*raftlogv1.Invocation
	for n := range 1000 {
		rows = append(rows, &raftlogv1.Invocation{
			CommandId: fmt.Sprintf("%04d", n), AgentOrdinal: 1, State: raftlogv1.AttemptState_ATTEMPT_STATE_RELEASED,
			Transitions: []*raftlogv1.Transition{{Index: uint64(n)}},
		})
		w.moved(nil, rows[n])
	}
	for n, i := range rows[:999] {
		w.moved(i, nil)
		have, _ := w.agents.Get(1)
		if q := have[1]; q.gone > len(q.rows)+1 {
			t.Fatalf("%d rows are left after %d were removed, and keep %d alive", len(q.rows), n+1, q.gone)
		}
	}
}

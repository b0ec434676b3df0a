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
		commands := rapid.SampledFrom([]int{30, 300}).Draw(t, "commands")
		if commands > shortQueue { // queues begin beyond the length at which they become trees, or near it
			for n := range rapid.IntRange(shortQueue-5, 200).Draw(t, "begin") {
				i := &raftlogv1.Invocation{Id: InvocationID(fmt.Sprint(n), 1), CommandId: fmt.Sprint(n), AgentOrdinal: 1, State: openStates[1], Transitions: []*raftlogv1.Transition{{Index: 3}}}
				w.moved(nil, i)
				rows[i.GetId()] = i
			}
		}
		for index := range uint64(rapid.IntRange(0, 200).Draw(t, "steps")) {
			ordinal := rapid.Uint32Range(1, 3).Draw(t, "agent")
			id := fmt.Sprint(rapid.IntRange(0, commands).Draw(t, "command"))
			key := InvocationID(id, ordinal)
			old := rows[key]
			var row *raftlogv1.Invocation
			// The last choice is a final state, after which a row may also be deleted.
			state := rapid.SampledFrom(append(slices.Clone(openStates[:]), raftlogv1.AttemptState_ATTEMPT_STATE_LOST)).Draw(t, "state")
			switch {
			case old == nil:
				// The index goes up by and large; an old command's further attempt comes late.
				row = &raftlogv1.Invocation{Id: key, CommandId: id, AgentOrdinal: ordinal, State: state, Transitions: []*raftlogv1.Transition{{Index: index / 4}}, Precedence: rapid.Int32Range(-1, 1).Draw(t, "precedence")}
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
				if got := k.w.count(ordinal); got != len(want) {
					t.Fatalf("view %d, agent %d: %d are counted, want %d", n, ordinal, got, len(want))
				}
			}
			again := collectWork(func(yield func(*raftlogv1.Invocation) bool) {
				for _, list := range k.want {
					for _, i := range slices.Backward(list) {
						if !yield(i) {
							return
						}
					}
				}
			})
			for ordinal, want := range k.want {
				if got := collect(again.in(ordinal, openStates[:]...)); !slices.Equal(got, want) {
					t.Fatalf("view %d, agent %d: collected again %v, want %v", n, ordinal, got, want)
				}
			}
		}
	})
}

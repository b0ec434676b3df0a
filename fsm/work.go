package fsm

import (
	"cmp"
	"iter"
	"slices"

	"github.com/tidwall/btree"

	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

// openStates are those that are not final, in their order.
var openStates = [...]raftlogv1.AttemptState{
	raftlogv1.AttemptState_ATTEMPT_STATE_PENDING, raftlogv1.AttemptState_ATTEMPT_STATE_RELEASED,
	raftlogv1.AttemptState_ATTEMPT_STATE_CLAIMED, raftlogv1.AttemptState_ATTEMPT_STATE_RUNNING,
}

// work is what agents have to do: their open invocations, by state and then in order of
// submission. It is derived from the table of invocations, which tells it of every
// change.
//
// An index of that table would be a tree of all open invocations in which each entry
// touches as many places as it names agents, and copies a path to each; this tree has
// one item for each agent (BenchmarkApply/sealed: a third less for each submission).
type work struct {
	agents *btree.Map[uint32, *agentWork]
	frozen *work // as in a table
}

// agentWork is one agent's. It is replaced, never written into, once it is in the tree.
type agentWork [len(openStates)]queue

func newWork() *work { return &work{agents: newTree[uint32, *agentWork]()} }

// published is what readers get, as with a table.
func (w *work) published() *work {
	if w.frozen == nil {
		w.frozen = &work{agents: w.agents.Copy()}
	}
	return w.frozen
}

// moved takes a change of a row: from old, nil when it is new, to row, nil when it is
// deleted.
func (w *work) moved(old, row *raftlogv1.Invocation) {
	wasOpen, isOpen := old != nil && open(old), row != nil && open(row)
	if !wasOpen && !isOpen {
		return
	}
	ordinal := cmp.Or(row, old).GetAgentOrdinal()
	var next agentWork
	if have, found := w.agents.Get(ordinal); found {
		next = *have
	}
	switch {
	case wasOpen && isOpen && old.GetState() == row.GetState():
		at(&next, row).replace(row)
	default:
		if wasOpen {
			at(&next, old).remove(old)
		}
		if isOpen {
			at(&next, row).add(row)
		}
	}
	w.frozen = nil
	if next.len() == 0 {
		w.agents.Delete(ordinal)
		return
	}
	w.agents.Set(ordinal, &next)
}

func at(w *agentWork, i *raftlogv1.Invocation) *queue {
	return &w[slices.Index(openStates[:], i.GetState())]
}

// count is how many open invocations the agent has.
func (w *work) count(ordinal uint32) int {
	have, _ := w.agents.Get(ordinal)
	return have.len()
}

func (w *agentWork) len() (n int) {
	if w == nil {
		return 0
	}
	for i := range w {
		n += len(w[i].rows)
	}
	return n
}

// in yields what the agent has in the states, in their order.
func (w *work) in(ordinal uint32, states ...raftlogv1.AttemptState) iter.Seq[*raftlogv1.Invocation] {
	return func(yield func(*raftlogv1.Invocation) bool) {
		have, found := w.agents.Get(ordinal)
		if !found {
			return
		}
		for _, s := range states {
			n := slices.Index(openStates[:], s)
			if n < 0 {
				continue
			}
			for _, i := range have[n].rows {
				if !yield(i) {
					return
				}
			}
		}
	}
}

// queue holds rows in order of submission. Older views share its memory: a place in it
// is written once, when a row is added at the end. Rows mostly leave where they came
// first, which takes no copy either.
type queue struct {
	rows []*raftlogv1.Invocation
	gone int // places before rows, whose rows they keep alive
}

func inOrder(a, b *raftlogv1.Invocation) int {
	return cmp.Or(cmp.Compare(submittedIndex(a), submittedIndex(b)), cmp.Compare(a.GetCommandId(), b.GetCommandId()))
}

func (q *queue) add(i *raftlogv1.Invocation) {
	n := len(q.rows)
	if n > 0 && inOrder(q.rows[n-1], i) > 0 { // a further attempt of an old command
		n, _ = slices.BinarySearchFunc(q.rows, i, inOrder)
		q.rows, q.gone = slices.Insert(slices.Clip(q.rows), n, i), 0
		return
	}
	if n == cap(q.rows) {
		q.gone = 0 // append moves to new memory
	}
	q.rows = append(q.rows, i)
}

func (q *queue) remove(i *raftlogv1.Invocation) {
	n, found := slices.BinarySearchFunc(q.rows, i, inOrder)
	switch {
	case !found:
		panic("fsm: the work of an agent lacks its invocation " + i.GetId())
	case len(q.rows) == 1:
		*q = queue{}
	case n > 0 || q.gone >= len(q.rows):
		q.rows, q.gone = slices.Concat(q.rows[:n], q.rows[n+1:]), 0
	default:
		q.rows, q.gone = q.rows[1:], q.gone+1
	}
}

func (q *queue) replace(i *raftlogv1.Invocation) {
	n, found := slices.BinarySearchFunc(q.rows, i, inOrder)
	if !found {
		panic("fsm: the work of an agent lacks its invocation " + i.GetId())
	}
	q.rows, q.gone = slices.Clone(q.rows), 0
	q.rows[n] = i
}

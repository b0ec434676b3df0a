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

// work is what agents have to do: their open invocations, by state, and then by priority
// and in order of submission. It is derived from the table of invocations, which tells it of every
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

// collectWork is the work that the open ones of the invocations make, as moved would have
// it after any order of changes.
func collectWork(invocations iter.Seq[*raftlogv1.Invocation]) *work {
	lists := make(map[uint32]*[len(openStates)][]*raftlogv1.Invocation)
	for i := range invocations {
		if !open(i) {
			continue
		}
		if lists[i.GetAgentOrdinal()] == nil {
			lists[i.GetAgentOrdinal()] = new([len(openStates)][]*raftlogv1.Invocation)
		}
		of := &lists[i.GetAgentOrdinal()][slot(i.GetState())]
		*of = append(*of, i)
	}
	w := newWork()
	for ordinal, of := range lists { // in any order: a tree has its own
		var a agentWork
		for n, rows := range of {
			slices.SortFunc(rows, inOrder)
			a[n] = queueOf(rows)
		}
		w.agents.Set(ordinal, &a)
	}
	return w
}

// slot is where in an agentWork the open state is.
func slot(s raftlogv1.AttemptState) int { return slices.Index(openStates[:], s) }

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
	if wasOpen && (!isOpen || old.GetState() != row.GetState()) {
		next[slot(old.GetState())].remove(old)
	}
	if isOpen {
		next[slot(row.GetState())].put(row)
	}
	w.frozen = nil
	if next.len() == 0 {
		w.agents.Delete(ordinal)
		return
	}
	w.agents.Set(ordinal, &next)
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
		n += w[i].len()
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
			if n := slot(s); n >= 0 && !have[n].each(yield) {
				return
			}
		}
	}
}

// shortQueue is up to how many rows a queue is a list, of which every change makes a new
// one. Most agents never have more to do.
const shortQueue = 64

// queue holds rows by priority, and in order of submission. Like the rows, what it points to is not
// written into: older views share it.
type queue struct {
	rows []*raftlogv1.Invocation
	long *btree.BTreeG[*raftlogv1.Invocation] // instead of rows
}

func inOrder(a, b *raftlogv1.Invocation) int {
	return cmp.Or(cmp.Compare(b.GetPrecedence(), a.GetPrecedence()), cmp.Compare(submittedIndex(a), submittedIndex(b)), cmp.Compare(a.GetCommandId(), b.GetCommandId()))
}

// queueOf is the queue of rows that are in order.
func queueOf(rows []*raftlogv1.Invocation) queue {
	if len(rows) <= shortQueue {
		return queue{rows: rows}
	}
	before := func(a, b *raftlogv1.Invocation) bool { return inOrder(a, b) < 0 }
	q := queue{long: btree.NewBTreeGOptions(before, btree.Options{NoLocks: true, Degree: degree})}
	for _, i := range rows {
		q.long.Load(i)
	}
	return q
}

func (q *queue) len() int {
	if q.long != nil {
		return q.long.Len()
	}
	return len(q.rows)
}

func (q *queue) each(yield func(*raftlogv1.Invocation) bool) (all bool) {
	if q.long != nil {
		all = true
		q.long.Scan(func(i *raftlogv1.Invocation) bool {
			all = yield(i)
			return all
		})
		return all
	}
	for _, i := range q.rows {
		if !yield(i) {
			return false
		}
	}
	return true
}

// put adds the row, or puts it in the place of the one it follows.
func (q *queue) put(i *raftlogv1.Invocation) {
	if q.long != nil {
		q.long = q.long.Copy()
		q.long.Set(i)
		return
	}
	n, found := slices.BinarySearchFunc(q.rows, i, inOrder)
	rest := q.rows[n:]
	if found {
		rest = rest[1:]
	}
	*q = queueOf(slices.Concat(q.rows[:n], []*raftlogv1.Invocation{i}, rest))
}

// remove takes the row out, which must be there.
func (q *queue) remove(i *raftlogv1.Invocation) {
	if q.long == nil {
		n, found := slices.BinarySearchFunc(q.rows, i, inOrder)
		if !found {
			panic("fsm: the work of an agent lacks its invocation " + i.GetId())
		}
		q.rows = slices.Concat(q.rows[:n], q.rows[n+1:])
		return
	}
	q.long = q.long.Copy()
	if _, found := q.long.Delete(i); !found {
		panic("fsm: the work of an agent lacks its invocation " + i.GetId())
	}
	if q.long.Len() <= shortQueue/2 {
		*q = queueOf(q.long.Items())
	}
}

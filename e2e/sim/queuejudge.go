package sim

import (
	"fmt"
	"iter"
	"strings"

	"github.com/agentplane/agentplane/fsm"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

// queueMax is how many invocations may wait for an agent in a life with short queues.
const queueMax = 3

// shortQueues says that queues of this life are often full: agents are sent more than they
// may have waiting whenever one of them is away or waits for a lock. Steps are left out, of
// which the healed world is asked many at once.
func (w *World) shortQueues() bool { return w.seed%5 == 3 && w.trade != tradeSteps }

// queueJudge wants that no command is taken for an agent whose queue is full (I14), and
// that nothing is said to have found it full which did not.
type queueJudge struct {
	seen map[string]int
	last *fsm.View // of the entry before; nil before the first
}

func newQueueJudge() *queueJudge { return &queueJudge{seen: make(map[string]int)} }

// judge judges what an entry has submitted.
func (j *queueJudge) judge(v *fsm.View, e *raftlogv1.Entry, outcomes []*raftlogv1.Outcome) (wrong []string) {
	before := j.last
	j.last = v
	for n, m := range e.GetMutations() {
		c, o := m.GetSubmitCommand(), outcomes[n]
		if c.GetQueueMax() == 0 || o.GetCode() != raftlogv1.Code_CODE_OK || o.GetRepeated() {
			continue
		}
		for _, ordinal := range c.GetAgentOrdinals() {
			i, found := v.Invocation(fsm.InvocationID(c.GetId(), ordinal))
			most := int(c.GetQueueMax())
			switch waits := openOn(v, ordinal) - probesIn(v, ordinal); {
			case !found: // its command is purged in the same entry
			case i.GetState() != raftlogv1.AttemptState_ATTEMPT_STATE_SKIPPED && waits > most:
				wrong = append(wrong, fmt.Sprintf("I14: at index %d %s was taken, and %d wait for its agent, of which %d may:%s", v.Index(), i.GetId(), waits, most, openRows(v, ordinal)))
			case i.GetReason() != fsm.ReasonQueueFull:
			case before != nil && len(e.GetMutations()) == 1 && openOn(before, ordinal) < most:
				wrong = append(wrong, fmt.Sprintf("I14: at index %d %s found a full queue, where %d of %d waited", v.Index(), i.GetId(), openOn(before, ordinal), most))
			default:
				j.seen["queue full"]++
			}
		}
	}
	return wrong
}

// openOn is how many invocations of the agent with the number have not ended.
func openOn(v *fsm.View, ordinal uint32) (n int) {
	for range openOf(v, ordinal) {
		n++
	}
	return n
}

// probesIn is how many of these are probes that the entry of the view has made: the cluster asks
// for them itself, for each wave once, and whether queues are full or not.
func probesIn(v *fsm.View, ordinal uint32) (n int) {
	for i := range openOf(v, ordinal) {
		if c, found := v.Command(i.GetCommandId()); found && c.GetParentId() != "" && i.GetTransitions()[0].GetIndex() == v.Index() {
			n++
		}
	}
	return n
}

func openOf(v *fsm.View, ordinal uint32) iter.Seq[*raftlogv1.Invocation] {
	return func(yield func(*raftlogv1.Invocation) bool) {
		for s := raftlogv1.AttemptState_ATTEMPT_STATE_PENDING; s <= raftlogv1.AttemptState_ATTEMPT_STATE_RUNNING; s++ {
			for i := range v.Work(ordinal, s) {
				if !yield(i) {
					return
				}
			}
		}
	}
}

// openRows tells of each how it came to be open.
func openRows(v *fsm.View, ordinal uint32) string {
	var b strings.Builder
	for i := range openOf(v, ordinal) {
		fmt.Fprintf(&b, "\n  %s", i.GetId())
		for _, t := range i.GetTransitions() {
			fmt.Fprintf(&b, " %s(%s) of attempt %d at %d", strings.TrimPrefix(t.GetState().String(), "ATTEMPT_STATE_"), t.GetReason(), t.GetAttempt(), t.GetIndex())
		}
	}
	return b.String()
}

package sim

import (
	"fmt"
	"slices"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/agentplane/agentplane/agent/execute"
	"github.com/agentplane/agentplane/e2e/linear"
	"github.com/agentplane/agentplane/fsm"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

// lockJudge counts in each state that the log makes who holds what, by itself: from what is
// claimed or runs, and from the places.
type lockJudge struct {
	fences map[string]uint64 // by lock, the highest so far
	seen   map[string]int    // what there was to be judged
}

func newLockJudge() *lockJudge {
	return &lockJudge{fences: make(map[string]uint64), seen: make(map[string]int)}
}

// judge judges what an entry has granted. Without a grant nobody holds more than before.
func (j *lockJudge) judge(v *fsm.View, e *raftlogv1.Entry, outcomes []*raftlogv1.Outcome) (wrong []string) {
	granted := false
	for n, m := range e.GetMutations() {
		o := outcomes[n]
		if o.GetCode() != raftlogv1.Code_CODE_OK || o.GetRepeated() {
			continue
		}
		switch k := m.GetKind().(type) {
		case *raftlogv1.Mutation_AcquireLock:
			granted = true
			wrong = append(wrong, j.grant(k.AcquireLock.GetLock(), o.GetNumber())...)
		case *raftlogv1.Mutation_ClaimAttempt:
			granted = true
			i, _ := v.Invocation(k.ClaimAttempt.GetInvocationId())
			c, _ := v.Command(i.GetCommandId())
			for _, lock := range c.GetFleetLocks() {
				wrong = append(wrong, j.grant(lock, o.GetNumber())...)
			}
			wrong = append(wrong, j.host(v, i.GetAgentOrdinal())...)
		}
	}
	if granted {
		wrong = append(wrong, j.fleet(v)...)
	}
	for n := range wrong {
		wrong[n] = fmt.Sprintf("at index %d %s", v.Index(), wrong[n])
	}
	return wrong
}

// grant wants that the fences of a lock only grow.
func (j *lockJudge) grant(lock string, fence uint64) (wrong []string) {
	if fence <= j.fences[lock] {
		wrong = append(wrong, fmt.Sprintf("lock %s was given with fence %d after %d", lock, fence, j.fences[lock]))
	}
	j.fences[lock] = fence
	j.seen["places taken"]++
	return wrong
}

// inFlight is what is claimed or runs on an agent.
func inFlight(v *fsm.View, ordinal uint32) (all []*raftlogv1.Invocation) {
	for _, state := range []raftlogv1.AttemptState{raftlogv1.AttemptState_ATTEMPT_STATE_CLAIMED, raftlogv1.AttemptState_ATTEMPT_STATE_RUNNING} {
		all = slices.AppendSeq(all, v.Work(ordinal, state))
	}
	return all
}

// host wants that what is in flight on an agent may stand beside each other.
func (j *lockJudge) host(v *fsm.View, ordinal uint32) (wrong []string) {
	all := inFlight(v, ordinal)
	for n, a := range all {
		x, _ := v.Command(a.GetCommandId())
		for _, b := range all[:n] {
			y, _ := v.Command(b.GetCommandId())
			if why := apart(x, y); why != "" {
				wrong = append(wrong, fmt.Sprintf("%s and %s are in flight at once: %s", a.GetId(), b.GetId(), why))
			}
		}
	}
	return wrong
}

// apart says why two commands may not run on one host at once; empty when they may.
func apart(a, b *raftlogv1.Command) string {
	switch {
	case a.GetExclusive() || b.GetExclusive():
		return "one of them wants the host for itself"
	case slices.ContainsFunc(a.GetLocks(), func(name string) bool { return slices.Contains(b.GetLocks(), name) }):
		return fmt.Sprintf("they share a lock of %v", a.GetLocks())
	}
	return ""
}

// fleet wants that no lock of the fleet is held more often than it has places: neither
// as its places say, nor as what is in flight says.
func (j *lockJudge) fleet(v *fsm.View) (wrong []string) {
	needed, programs := make(map[string]int), make(map[string]uint64) // programs: with the fence of each
	for c := range v.OpenCommands() {
		for i := range v.Invocations(c.GetId()) {
			if s := i.GetState(); len(c.GetFleetLocks()) == 0 || s != raftlogv1.AttemptState_ATTEMPT_STATE_CLAIMED && s != raftlogv1.AttemptState_ATTEMPT_STATE_RUNNING {
				continue
			}
			for _, lock := range c.GetFleetLocks() {
				needed[lock]++
				programs[lock+" "+i.GetId()] = i.GetFence()
			}
		}
	}
	for a := range v.AgentsByName(budgetsOf) {
		needed[budget] += len(inFlight(v, a.GetOrdinal()))
	}
	for l := range v.Locks() {
		held := 0
		for p := range v.Places(l.GetName()) {
			held++
			if p.GetInvocationId() != "" && programs[l.GetName()+" "+p.GetInvocationId()] == p.GetFence() {
				delete(programs, l.GetName()+" "+p.GetInvocationId())
			}
		}
		limit := int(l.GetLimit())
		if held > limit || needed[l.GetName()] > limit {
			wrong = append(wrong, fmt.Sprintf("lock %s has %d places, of which %d are held; programs need %d", l.GetName(), limit, held, needed[l.GetName()]))
		}
		if held == limit {
			j.seen["locks full"]++
		}
	}
	for who, fence := range programs {
		wrong = append(wrong, fmt.Sprintf("%s is in flight with fence %d and holds no place", who, fence))
	}
	return wrong
}

// judgeLocks wants that no more programs and leases relied on a lock at once than it has
// places, by what hosts and operators saw, and that rivals were told what one lock could
// have told them.
func (w *World) judgeLocks(v *fsm.View) {
	shared := slices.Clone(w.locks.holdings)
	for _, a := range w.agents {
		var here []holding
		all := slices.DeleteFunc(a.Starts(), func(s Start) bool { return lost(v, s.Attempt) })
		for n, s := range all {
			c := commandOf(v, s.Attempt)
			h := holding{fmt.Sprintf("%s on %s", s.Attempt, a.name), s.At, s.ended()}
			if here = append(here, h); slices.Contains(c.GetFleetLocks(), semaphore) {
				shared = append(shared, h)
			}
			for _, other := range all[:n] {
				if why := apart(c, commandOf(v, other.Attempt)); why != "" && s.At.Before(other.ended()) && other.At.Before(s.ended()) {
					w.fault("%s and %s ran on %s at once: %s", s.Attempt, other.Attempt, a.name, why)
				}
			}
		}
		if w.trade == tradeLocks && a.name == budgetsOf {
			w.atMost(budget, 1, here)
		}
	}
	if w.trade != tradeLocks {
		return
	}
	w.atMost(semaphore, w.locks.places, shared)
	result, err := linear.JudgeLocks(w.locks.ops, rivalPlaces, "")
	w.judgeHistory("locks", result, err, w.locks.ops)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.accepted["operations on locks"] += len(w.locks.ops)
	w.accepted["lock shared"] += len(shared)
}

// unjudged counts histories that porcupine did not come to the end of: they prove nothing. Its
// patience is of the bubble's time, which stands still while it thinks: what it can not judge the
// watchdog of the test ends.
const unjudged = "history not judged"

// judgeHistory takes what porcupine says of a history.
func (w *World) judgeHistory(of string, result porcupine.CheckResult, err error, ops any) {
	switch {
	case err != nil:
		w.fault("porcupine: %v", err)
	case result == porcupine.Illegal:
		w.fault("I7: the history of %s is not linearizable:\n%v", of, ops)
	case result == porcupine.Unknown:
		w.mu.Lock()
		defer w.mu.Unlock()
		w.accepted[unjudged]++
	}
}

// lost says that it is, or was, not known how the attempt ended: whatever it held was taken
// from it, and it may run on.
func lost(v *fsm.View, at execute.Attempt) bool {
	i, _ := v.Invocation(at.InvocationID)
	return slices.ContainsFunc(i.GetTransitions(), func(t *raftlogv1.Transition) bool {
		return t.GetAttempt() == at.Number && t.GetState() == raftlogv1.AttemptState_ATTEMPT_STATE_LOST
	})
}

func commandOf(v *fsm.View, at execute.Attempt) *raftlogv1.Command {
	i, _ := v.Invocation(at.InvocationID)
	c, _ := v.Command(i.GetCommandId())
	return c
}

// atMost wants that no more than so many held a lock at any time.
func (w *World) atMost(lock string, places int, all []holding) {
	for _, h := range all {
		var with []string // those who held it when h began to
		for _, other := range all {
			if !other.from.After(h.from) && other.until.After(h.from) {
				with = append(with, other.who)
			}
		}
		if len(with) > places {
			w.fault("lock %s has %d places, and at %v was held by %v", lock, places, h.from.Sub(w.trace.began).Round(time.Millisecond), with)
			return
		}
	}
}

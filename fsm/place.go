package fsm

import (
	"iter"
	"slices"
	"strings"

	"github.com/tidwall/btree"

	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
	"github.com/agentplane/agentplane/proto/selector"
)

// Reasons for which a claim waits for a lock of the fleet, beside [ReasonLocked].
const (
	// ReasonBudget: all places of a budget that counts for the agent are taken.
	ReasonBudget = "budget"
	// ReasonNoLock: a lock that the command names is gone.
	ReasonNoLock = "no_lock"
)

// fleetPrefix stands before the name of a lock of the fleet where locks of a host may be
// meant, too: their names have no colon.
const fleetPrefix = "fleet:"

// FleetLock is how a lock of the fleet is named beside locks of a host.
func FleetLock(name string) string { return fleetPrefix + name }

// Need is a place that a claim takes: in which lock and group, and how many are free.
type Need struct {
	Lock, Group string
	Budget      bool // the agent makes it needed, not the command
	Missing     bool // there is no such lock
	Limit, Held uint32
}

// Free is how many places are free.
func (n Need) Free() int { return int(n.Limit) - int(n.Held) }

// budget is a lock with a selector, read.
type budget struct {
	lock *raftlogv1.Lock
	who  *selector.Selector
}

// holdings count the places that are taken, by lock and group. They are derived from the
// table of places, which tells them of every change.
type holdings struct {
	counts *btree.Map[string, uint32]
	frozen *holdings // as in a table
}

func newHoldings() *holdings { return &holdings{counts: newTree[string, uint32]()} }

func (h *holdings) published() *holdings {
	if h.frozen == nil {
		h.frozen = &holdings{counts: h.counts.Copy()}
	}
	return h.frozen
}

func (h *holdings) moved(old, row *raftlogv1.Place) {
	if old != nil {
		h.add(groupKey(old.GetLock(), old.GetGroup()), ^uint32(0))
	}
	if row != nil {
		h.add(groupKey(row.GetLock(), row.GetGroup()), 1)
	}
}

func (h *holdings) add(key string, n uint32) {
	h.frozen = nil
	have, _ := h.counts.Get(key)
	if have += n; have == 0 {
		h.counts.Delete(key)
		return
	}
	h.counts.Set(key, have)
}

// of is how many places of the group are taken.
func (h *holdings) of(lock, group string) uint32 {
	n, _ := h.counts.Get(groupKey(lock, group))
	return n
}

// all is how many places of the lock are taken.
func (h *holdings) all(lock string) (n uint32) {
	prefix := sized(lock)
	h.counts.Ascend(prefix, func(key string, in uint32) bool {
		if !strings.HasPrefix(key, prefix) {
			return false
		}
		n += in
		return true
	})
	return n
}

func groupKey(lock, group string) string { return sized(lock) + sized(group) }

func placeKey(p *raftlogv1.Place) string {
	return groupKey(p.GetLock(), p.GetGroup()) + be64(p.GetFence()) + p.GetInvocationId() + p.GetLeaseId()
}

// budgeted is an agent as a budget sees it. Its health is not asked for: it changes with
// time alone.
type budgeted struct {
	t *tables
	a *raftlogv1.Agent
}

func (b budgeted) ID() string                       { return b.a.GetId() }
func (b budgeted) Name() string                     { return b.a.GetName() }
func (b budgeted) Health() string                   { return "" }
func (b budgeted) Label(name string) (string, bool) { return labelOf(b.a.GetLabels(), name) }

func (b budgeted) Fact(name string) (string, bool) {
	facts, _ := b.t.facts.get(b.a.GetId())
	return labelOf(facts.GetFacts(), name)
}

// labelOf looks into labels in the order of their names.
func labelOf(sorted []*raftlogv1.Label, name string) (string, bool) {
	i, found := slices.BinarySearchFunc(sorted, name, func(l *raftlogv1.Label, name string) int { return strings.Compare(l.GetName(), name) })
	if !found {
		return "", false
	}
	return sorted[i].GetValue(), true
}

// groupOf is the group of the lock to which the agent belongs: those without the label
// are one, too.
func groupOf(l *raftlogv1.Lock, a *raftlogv1.Agent) string {
	if l.GetPerLabel() == "" {
		return ""
	}
	value, _ := labelOf(a.GetLabels(), l.GetPerLabel())
	return value
}

// needs answers the places that a claim of the command on the agent takes, each once. It
// costs nothing where the command names none and there are no budgets.
func (t *tables) needs(a *raftlogv1.Agent, c *raftlogv1.Command) []Need {
	if len(c.GetFleetLocks()) == 0 && len(t.budgets) == 0 {
		return nil
	}
	var all []Need
	for _, name := range c.GetFleetLocks() {
		n := Need{Lock: name}
		if l, found := t.locks.get(name); found {
			n = t.need(l, a)
		} else {
			n.Missing = true
		}
		all = append(all, n)
	}
	for _, b := range t.budgets {
		if !slices.Contains(c.GetFleetLocks(), b.lock.GetName()) && b.who.Match(budgeted{t, a}) {
			n := t.need(b.lock, a)
			n.Budget = true
			all = append(all, n)
		}
	}
	return all
}

func (t *tables) need(l *raftlogv1.Lock, a *raftlogv1.Agent) Need {
	group := groupOf(l, a)
	return Need{Lock: l.GetName(), Group: group, Limit: l.GetLimit(), Held: t.held.of(l.GetName(), group)}
}

// Blocked answers what keeps the need from being met; the empty Wait is nothing.
func (v *View) Blocked(n Need) Wait { return v.t.blocked(n) }

func (t *tables) blocked(n Need) Wait {
	switch {
	case n.Missing:
		return Wait{Reason: ReasonNoLock, Lock: FleetLock(n.Lock)}
	case n.Free() > 0:
		return Wait{}
	}
	w := Wait{Reason: ReasonLocked, Lock: FleetLock(n.Lock), Group: n.Group}
	if n.Budget {
		w.Reason, w.Lock = ReasonBudget, n.Lock
	}
	if p, held := first(t.places.withPrefix(groupKey(n.Lock, n.Group))); held {
		w.Holder = p.GetHolder()
		if i, found := t.invocations.get(keyOfInvocation(p.GetInvocationId())); found {
			w.CommandID = i.GetCommandId()
		}
	}
	return w
}

func keyOfInvocation(id string) string {
	key, _ := invocationKey(id)
	return key
}

// placesFor answers the places that the claim takes, or why it cannot have them: all or
// none.
func (tx *tx) placesFor(a *raftlogv1.Agent, c *raftlogv1.Command) ([]Need, *raftlogv1.Outcome) {
	needs := tx.needs(a, c)
	if !respectsLocks {
		return needs, nil
	}
	for _, n := range needs {
		if w := tx.blocked(n); w.Reason != "" {
			return nil, refuse(raftlogv1.Code_CODE_EXHAUSTED, w.Reason, "%s", w)
		}
	}
	return needs, nil
}

// takePlaces takes what placesFor answered.
func (tx *tx) takePlaces(needs []Need, i *raftlogv1.Invocation, c *raftlogv1.Command) {
	for _, n := range needs {
		if !n.Missing {
			put(tx, TablePlaces, tx.places, &raftlogv1.Place{
				Lock: n.Lock, Group: n.Group, Fence: i.GetFence(), InvocationId: i.GetId(), Attempt: i.GetAttempt(), AgentId: i.GetAgentId(),
				Holder: c.GetSubmittedBy(), TakenAt: tx.now(),
			})
		}
	}
}

// freePlaces gives back what an attempt held that is no longer CLAIMED or RUNNING.
func (tx *tx) freePlaces(invocationID string) {
	if tx.places.len() == 0 {
		return
	}
	for _, p := range collect(tx.places.by(placesByAttempt, sized(invocationID))) {
		tx.freePlace(p)
	}
}

// freePlace gives back a place, and with the last one of an implicit lock the lock.
func (tx *tx) freePlace(p *raftlogv1.Place) {
	remove(tx, TablePlaces, tx.places, placeKey(p))
	tx.endLease(p.GetLeaseId())
	if l, found := tx.locks.get(p.GetLock()); found && l.GetImplicit() && tx.held.all(l.GetName()) == 0 {
		remove(tx, TableLocks, tx.locks, l.GetName())
	}
}

// Lock returns the lock of the fleet with the name.
func (v *View) Lock(name string) (*raftlogv1.Lock, bool) { return v.t.locks.get(name) }

// Locks yields all locks of the fleet by name.
func (v *View) Locks() iter.Seq[*raftlogv1.Lock] { return v.t.locks.all() }

// Places yields the places of the lock that are taken, by group, the first before the
// others.
func (v *View) Places(lock string) iter.Seq[*raftlogv1.Place] {
	return v.t.places.withPrefix(sized(lock))
}

// Held is how many places of the lock are taken in all groups.
func (v *View) Held(lock string) uint32 { return v.t.held.all(lock) }

// Need answers what a place of the lock in the group is like now.
func (v *View) Need(lock, group string) Need {
	l, found := v.t.locks.get(lock)
	return Need{Lock: lock, Group: group, Missing: !found, Limit: l.GetLimit(), Held: v.t.held.of(lock, group)}
}

// GroupOf is the group of the lock to which the agent belongs.
func (v *View) GroupOf(l *raftlogv1.Lock, a *raftlogv1.Agent) string { return groupOf(l, a) }

// Needs answers the places that a claim of the command on the agent takes.
func (v *View) Needs(a *raftlogv1.Agent, c *raftlogv1.Command) []Need { return v.t.needs(a, c) }

// Lease returns the place that the lease holds.
func (v *View) Lease(id string) (*raftlogv1.Place, bool) {
	return v.t.places.getBy(placesByLease, id)
}

// NextLeaseEnd is when the first lease and its grace are over, Unix nanoseconds.
func (v *View) NextLeaseEnd() (at int64, found bool) {
	p, found := first(v.t.places.by(placesByEnd, ""))
	return leaseEnd(p), found
}

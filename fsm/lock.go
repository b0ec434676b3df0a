package fsm

import (
	"time"

	"github.com/google/uuid"

	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
	"github.com/agentplane/agentplane/proto/selector"
)

// Bounds of locks over the fleet.
const (
	MaxLocks = 1000
	// MaxBudgets bounds the selectors that every claim is held against.
	MaxBudgets = 32
	// MaxPlaces bounds the places of a lock in one group.
	MaxPlaces = 100_000
	// MaxLeases bounds the leases of all locks.
	MaxLeases = 10_000
	// MaxEnded bounds the leases of which it is remembered that they are over.
	MaxEnded = 10_000
	// MinLease and MaxLease bound how long a lease lasts unless it is renewed.
	MinLease = time.Second
	MaxLease = 24 * time.Hour

	maxNoteBytes = 256
	// maxAdopted bounds the attempts that run already when a budget is made.
	maxAdopted = 10_000
)

// leaseGrace is for how long after its end a lease keeps its place. Its holder counts by
// a clock of its own from when it asked; the cluster's time may go a tenth faster.
func leaseGrace(ttl int64) int64 { return ttl/5 + int64(time.Second) }

// leaseEnd is when the place of a lease is given back.
func leaseEnd(p *raftlogv1.Place) int64 { return later(p.GetExpiresAt(), leaseGrace(p.GetTtl())) }

// readBudget reads the selector of a budget. It must not change with time alone.
func readBudget(l *raftlogv1.Lock) (budget, string) {
	s, err := selector.Parse(l.GetSelector())
	switch {
	case err != nil:
		return budget{}, err.Error()
	case s.AsksHealth():
		return budget{}, "a budget counts by id, name, labels and facts; health changes without anybody's doing"
	case s.String() != l.GetSelector():
		return budget{}, "the selector is not in its canonical form"
	}
	return budget{l, s}, ""
}

// createLock makes a semaphore or a budget. What runs already where a budget counts takes
// a place of it, even above the limit, so that the budget is true from its first moment.
func (tx *tx) createLock(m *raftlogv1.CreateLock) *raftlogv1.Outcome {
	l := &raftlogv1.Lock{
		Name: m.GetName(), Limit: m.GetLimit(), PerLabel: m.GetPerLabel(), Selector: m.GetSelector(),
		CreatedBy: m.GetCreatedBy(), CreatedAt: tx.now(), CreatedIndex: tx.index,
	}
	if have, found := tx.locks.get(m.GetName()); found {
		if sameLock(have, l) && !have.GetImplicit() {
			return stands(have.GetCreatedIndex())
		}
		return refuse(raftlogv1.Code_CODE_CONFLICT, "lock_exists", "lock %q exists with %s", have.GetName(), lockText(have))
	}
	if refusal := tx.checkLock(l); refusal != nil {
		return refusal
	}
	var adopted []*raftlogv1.Place
	if l.GetSelector() != "" {
		b, problem := readBudget(l)
		if problem != "" {
			return refuse(raftlogv1.Code_CODE_INVALID, "bad_selector", "%s", problem)
		}
		if len(tx.budgets) >= MaxBudgets {
			return refuse(raftlogv1.Code_CODE_EXHAUSTED, "too_many_budgets", "there are %d budgets, no more are allowed", MaxBudgets)
		}
		if adopted = tx.runningUnder(b); len(adopted) > maxAdopted {
			return refuse(raftlogv1.Code_CODE_EXHAUSTED, "too_many_running", "more than %d attempts run where the budget counts: make it when less is going on", maxAdopted)
		}
	}
	put(tx, TableLocks, tx.locks, l)
	for _, p := range adopted {
		put(tx, TablePlaces, tx.places, p)
	}
	return granted(tx.index)
}

// runningUnder answers the places of what runs already where the budget counts.
func (tx *tx) runningUnder(b budget) (places []*raftlogv1.Place) {
	tx.work.agents.Scan(func(ordinal uint32, _ *agentWork) bool {
		a, found := tx.agents.getBy(agentsByOrdinal, be32(ordinal))
		if !found || !b.who.Match(budgeted{tx.tables, a}) {
			return true
		}
		for i := range tx.work.in(ordinal, raftlogv1.AttemptState_ATTEMPT_STATE_CLAIMED, raftlogv1.AttemptState_ATTEMPT_STATE_RUNNING) {
			c, _ := tx.commands.get(i.GetCommandId())
			places = append(places, &raftlogv1.Place{
				Lock: b.lock.GetName(), Group: groupOf(b.lock, a), Fence: i.GetFence(), InvocationId: i.GetId(), Attempt: i.GetAttempt(),
				AgentId: a.GetId(), Holder: c.GetSubmittedBy(), TakenAt: tx.now(), Adopted: true,
			})
		}
		return len(places) <= maxAdopted
	})
	return places
}

func sameLock(a, b *raftlogv1.Lock) bool {
	return a.GetLimit() == b.GetLimit() && a.GetPerLabel() == b.GetPerLabel() && a.GetSelector() == b.GetSelector()
}

func lockText(l *raftlogv1.Lock) string {
	text := refuse(0, "", "limit %d", l.GetLimit()).Detail
	if l.GetPerLabel() != "" {
		text += " per label " + l.GetPerLabel()
	}
	if l.GetSelector() != "" {
		text += " where " + l.GetSelector()
	}
	return text
}

// checkLock refuses a lock that cannot be made.
func (tx *tx) checkLock(l *raftlogv1.Lock) *raftlogv1.Outcome {
	switch {
	case !ValidLockName(l.GetName()):
		return refuse(raftlogv1.Code_CODE_INVALID, "lock_name", "lock %.80q: a name has 1 to %d letters, digits and . _ - / inside", l.GetName(), MaxLockNameBytes)
	case l.GetLimit() < 1 || l.GetLimit() > MaxPlaces:
		return refuse(raftlogv1.Code_CODE_INVALID, "limit", "limit %d is not between 1 and %d", l.GetLimit(), MaxPlaces)
	case l.GetPerLabel() != "" && !selector.PlainName(l.GetPerLabel()):
		return refuse(raftlogv1.Code_CODE_INVALID, "per_label", "label %.80q is no name of a label", l.GetPerLabel())
	case tx.locks.len() >= MaxLocks:
		return refuse(raftlogv1.Code_CODE_EXHAUSTED, "too_many_locks", "there are %d locks, no more are allowed", MaxLocks)
	}
	return nil
}

// deleteLock removes a lock; with force also one that is held, whose holders are not
// asked: they learn it when they renew.
func (tx *tx) deleteLock(m *raftlogv1.DeleteLock) *raftlogv1.Outcome {
	l, found := tx.locks.get(m.GetName())
	switch {
	case !found:
		return stands(0)
	case !m.GetForce() && tx.held.all(l.GetName()) > 0:
		p, _ := first(tx.places.withPrefix(sized(l.GetName())))
		return refuse(raftlogv1.Code_CODE_REFUSED, "lock_held", "%d places of lock %q are taken, one of them by %s", tx.held.all(l.GetName()), l.GetName(), holderText(p))
	}
	for _, p := range collect(tx.places.withPrefix(sized(l.GetName()))) {
		remove(tx, TablePlaces, tx.places, placeKey(p))
		tx.endLease(p.GetLeaseId())
	}
	remove(tx, TableLocks, tx.locks, l.GetName())
	return ok()
}

// holderText names who holds a place.
func holderText(p *raftlogv1.Place) string {
	if p.GetLeaseId() != "" {
		return refuse(0, "", "operator %s with lease %s", p.GetHolder(), p.GetLeaseId()).Detail
	}
	return "invocation " + p.GetInvocationId()
}

// acquireLock takes a place for a lease, and makes the lock when that was asked for. The
// same lease again answers the fence that it has.
func (tx *tx) acquireLock(m *raftlogv1.AcquireLock) *raftlogv1.Outcome {
	if p, found := tx.places.getBy(placesByLease, m.GetLeaseId()); found {
		if p.GetLock() == m.GetLock() && p.GetHolder() == m.GetHolder() {
			return stands(p.GetFence())
		}
		return refuse(raftlogv1.Code_CODE_CONFLICT, "lease_exists", "lease %q holds a place of lock %q for operator %s", m.GetLeaseId(), p.GetLock(), p.GetHolder())
	}
	if refusal := checkLease(m); refusal != nil {
		return refusal
	}
	if _, over := tx.ended.get(m.GetLeaseId()); over {
		return refuse(raftlogv1.Code_CODE_REFUSED, "lease_over", "lease %q is over", m.GetLeaseId())
	}
	l, found := tx.locks.get(m.GetLock())
	asked := &raftlogv1.Lock{
		Name: m.GetLock(), Limit: m.GetLimit(), PerLabel: m.GetPerLabel(), Implicit: true,
		CreatedBy: m.GetHolder(), CreatedAt: tx.now(), CreatedIndex: tx.index,
	}
	switch {
	case !found && m.GetLimit() == 0:
		return refuse(raftlogv1.Code_CODE_NOT_FOUND, ReasonNoLock, "there is no lock %q", m.GetLock())
	case !found:
		if refusal := tx.checkLock(asked); refusal != nil {
			return refusal
		}
		l = asked
	case m.GetLimit() != 0 && (l.GetLimit() != asked.GetLimit() || l.GetPerLabel() != asked.GetPerLabel()):
		return refuse(raftlogv1.Code_CODE_CONFLICT, "lock_exists", "lock %q exists with %s", l.GetName(), lockText(l))
	}
	a, known := tx.agents.get(m.GetAgentId())
	switch {
	case m.GetAgentId() != "" && !known:
		return refuse(raftlogv1.Code_CODE_NOT_FOUND, "no_agent", "there is no agent %q", m.GetAgentId())
	case m.GetAgentId() == "" && l.GetPerLabel() != "":
		return refuse(raftlogv1.Code_CODE_INVALID, "no_group", "lock %q has places per label %s: name the agent whose group is meant", l.GetName(), l.GetPerLabel())
	case tx.places.indexes[placesByLease].rows.Len() >= MaxLeases:
		return refuse(raftlogv1.Code_CODE_EXHAUSTED, "too_many_leases", "there are %d leases, no more are allowed", MaxLeases)
	}
	n := tx.need(l, a)
	if w := tx.blocked(n); w.Reason != "" && respectsLocks {
		return refuse(raftlogv1.Code_CODE_EXHAUSTED, w.Reason, "%s", w)
	}
	if !found {
		put(tx, TableLocks, tx.locks, l)
	}
	put(tx, TablePlaces, tx.places, &raftlogv1.Place{
		Lock: l.GetName(), Group: n.Group, Fence: tx.number(), LeaseId: m.GetLeaseId(), Holder: m.GetHolder(), AgentId: m.GetAgentId(),
		TakenAt: tx.now(), Ttl: m.GetTtl(), ExpiresAt: later(tx.now(), m.GetTtl()), Note: clip(m.GetNote(), maxNoteBytes),
	})
	return granted(tx.number())
}

func validLease(s string) bool {
	id, err := uuid.Parse(s)
	return err == nil && id.Version() == 7 && id.String() == s
}

func checkLease(m *raftlogv1.AcquireLock) *raftlogv1.Outcome {
	switch {
	case !validLease(m.GetLeaseId()):
		return refuse(raftlogv1.Code_CODE_INVALID, "id", "lease id %q is not a UUIDv7 in lower case", m.GetLeaseId())
	case m.GetTtl() < int64(MinLease) || m.GetTtl() > int64(MaxLease):
		return refuse(raftlogv1.Code_CODE_INVALID, "ttl", "a lease of %v is not between %v and %v", time.Duration(m.GetTtl()), MinLease, MaxLease)
	case len(m.GetHolder()) > MaxValueBytes:
		return refuse(raftlogv1.Code_CODE_INVALID, "too_long", "the name of the holder may have %d bytes", MaxValueBytes)
	}
	return nil
}

// lease finds the place of somebody's lease; nil when it is not there.
func (tx *tx) lease(lock, id, holder string, force bool) (*raftlogv1.Place, *raftlogv1.Outcome) {
	p, found := tx.places.getBy(placesByLease, id)
	switch {
	case !found || p.GetLock() != lock:
		return nil, nil
	case p.GetHolder() != holder && !force:
		return nil, refuse(raftlogv1.Code_CODE_REFUSED, "other_holder", "lease %q belongs to operator %s", id, p.GetHolder())
	}
	return p, nil
}

func (tx *tx) renewLock(m *raftlogv1.RenewLock) *raftlogv1.Outcome {
	p, refusal := tx.lease(m.GetLock(), m.GetLeaseId(), m.GetHolder(), false)
	switch {
	case refusal != nil:
		return refusal
	case p == nil:
		return refuse(raftlogv1.Code_CODE_NOT_FOUND, "lease_lost", "lease %q holds no place of lock %q any more", m.GetLeaseId(), m.GetLock())
	}
	if end := later(tx.now(), p.GetTtl()); end > p.GetExpiresAt() {
		row := clone(p)
		row.ExpiresAt = end
		put(tx, TablePlaces, tx.places, row)
	}
	return granted(p.GetFence())
}

func (tx *tx) releaseLock(m *raftlogv1.ReleaseLock) *raftlogv1.Outcome {
	p, refusal := tx.lease(m.GetLock(), m.GetLeaseId(), m.GetHolder(), m.GetForce())
	_, elsewhere := tx.places.getBy(placesByLease, m.GetLeaseId())
	switch {
	case refusal != nil:
		return refusal
	case p == nil && (elsewhere || !validLease(m.GetLeaseId())):
		return stands(0)
	case p == nil:
		tx.endLease(m.GetLeaseId())
		return stands(0)
	}
	tx.freePlace(p)
	return ok()
}

// endLease remembers that the lease is over. The oldest are forgotten; what a repetition
// that is later than that takes ends by itself.
func (tx *tx) endLease(id string) {
	if _, over := tx.ended.get(id); over || id == "" {
		return
	}
	put(tx, TableEnded, tx.ended, &raftlogv1.EndedLease{LeaseId: id, Number: tx.number()})
	if tx.ended.len() > MaxEnded {
		oldest, _ := first(tx.ended.by(endedInOrder, ""))
		remove(tx, TableEnded, tx.ended, oldest.GetLeaseId())
	}
}

// expireLeases gives back the places of leases that were not renewed in time, the first
// that ended before the others.
func (tx *tx) expireLeases(m *raftlogv1.ExpireLeases) *raftlogv1.Outcome {
	o := ok()
	over := func(yield func(*raftlogv1.Place) bool) {
		for p := range tx.places.by(placesByEnd, "") {
			if leaseEnd(p) > tx.now() || !yield(p) {
				return
			}
		}
	}
	for _, p := range collectMax(over, int(m.GetMax())) {
		tx.freePlace(p)
		o.Count++
	}
	return o
}

package fsm

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

// twinLock is a lock of the fleet and twinPlace a place, in the slow, obvious model.
type twinLock struct {
	limit         uint32
	per, selector string
	implicit      bool
}

type twinPlace struct {
	lock, group, holder string // an invocation or a lease
	fence               uint64
	lease               bool
	by                  string
	ttl, end            int64
}

// matches says what the selectors of the world mean.
func (l *twinLock) matches(a *raftlogv1.Agent) bool {
	x, _ := labelOf(a.GetLabels(), "x")
	return l.selector == "all" || l.selector == `label.x == "1"` && x == "1"
}

func (l *twinLock) group(a *raftlogv1.Agent) string {
	x, _ := labelOf(a.GetLabels(), "x")
	return map[bool]string{true: x}[l.per == "x"]
}

func (w *twin) held(lock, group string) (n uint32) {
	for _, p := range w.places {
		if p.lock == lock && p.group == group {
			n++
		}
	}
	return n
}

// takes answers the locks of which a claim takes a place; ok says that all are free.
func (w *twin) takes(a *twinAttempt, agent *raftlogv1.Agent) (names []string, ok bool) {
	names, ok = slices.Clone(w.commands[a.command].fleet), true
	for name, l := range w.locks {
		if l.selector != "" && l.matches(agent) && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	for _, name := range names {
		l := w.locks[name]
		ok = ok && l != nil && w.held(name, l.group(agent)) < l.limit
	}
	return names, ok
}

func (w *twin) take(names []string, a *twinAttempt, agent *raftlogv1.Agent) {
	for _, name := range names {
		w.places = append(w.places, twinPlace{lock: name, group: w.locks[name].group(agent), holder: a.id, fence: a.fence})
	}
}

// settle frees what is held by attempts that have ended, and forgets implicit locks that
// nobody holds.
func (w *twin) settle() {
	w.places = slices.DeleteFunc(w.places, func(p twinPlace) bool {
		a := w.find(p.holder)
		return !p.lease && (a == nil || a.state != claimedS && a.state != running)
	})
	for name, l := range w.locks {
		if l.implicit && !slices.ContainsFunc(w.places, func(p twinPlace) bool { return p.lock == name }) {
			delete(w.locks, name)
		}
	}
}

func (w *twin) leaseOf(id string) *twinPlace {
	for n := range w.places {
		if w.places[n].lease && w.places[n].holder == id {
			return &w.places[n]
		}
	}
	return nil
}

func (w *twin) drop(drop func(twinPlace) bool) {
	w.places = slices.DeleteFunc(w.places, func(p twinPlace) bool {
		gone := drop(p)
		w.over[p.holder] = w.over[p.holder] || gone && p.lease
		return gone
	})
}

// applyLock predicts as apply does.
func (w *twin) applyLock(before *View, now int64, number uint64, mut *raftlogv1.Mutation, got *raftlogv1.Outcome) (raftlogv1.Code, bool) {
	switch m := mut.GetKind().(type) {
	case *raftlogv1.Mutation_CreateLock:
		return w.createLock(before, m.CreateLock, got)
	case *raftlogv1.Mutation_DeleteLock:
		name := m.DeleteLock.GetName()
		if slices.ContainsFunc(w.places, func(p twinPlace) bool { return p.lock == name }) && !m.DeleteLock.GetForce() {
			return raftlogv1.Code_CODE_REFUSED, true
		}
		w.drop(func(p twinPlace) bool { return p.lock == name })
		delete(w.locks, name)
		return raftlogv1.Code_CODE_OK, true
	case *raftlogv1.Mutation_AcquireLock:
		return w.acquire(before, now, number, m.AcquireLock)
	case *raftlogv1.Mutation_RenewLock:
		p := w.leaseOf(m.RenewLock.GetLeaseId())
		switch {
		case p == nil || p.lock != m.RenewLock.GetLock():
			return raftlogv1.Code_CODE_NOT_FOUND, true
		case p.by != m.RenewLock.GetHolder():
			return raftlogv1.Code_CODE_REFUSED, true
		}
		p.end = max(p.end, now+p.ttl)
		return raftlogv1.Code_CODE_OK, true
	case *raftlogv1.Mutation_ReleaseLock:
		p := w.leaseOf(m.ReleaseLock.GetLeaseId())
		switch {
		case p == nil || p.lock != m.ReleaseLock.GetLock():
			w.over[m.ReleaseLock.GetLeaseId()] = p == nil || w.over[m.ReleaseLock.GetLeaseId()]
			return raftlogv1.Code_CODE_OK, true
		case p.by != m.ReleaseLock.GetHolder() && !m.ReleaseLock.GetForce():
			return raftlogv1.Code_CODE_REFUSED, true
		}
		w.drop(func(q twinPlace) bool { return q == *p })
		return raftlogv1.Code_CODE_OK, true
	case *raftlogv1.Mutation_ExpireLeases:
		slices.SortFunc(w.places, func(a, b twinPlace) int {
			return cmp.Or(cmp.Compare(a.end+a.ttl/5, b.end+b.ttl/5), cmp.Compare(a.holder, b.holder))
		})
		left := m.ExpireLeases.GetMax()
		w.drop(func(p twinPlace) bool {
			if !p.lease || left == 0 || p.end+p.ttl/5+int64(time.Second) > now {
				return false
			}
			left--
			return true
		})
		return raftlogv1.Code_CODE_OK, true
	}
	return 0, false
}

func (w *twin) createLock(before *View, m *raftlogv1.CreateLock, got *raftlogv1.Outcome) (raftlogv1.Code, bool) {
	if l, found := w.locks[m.GetName()]; found {
		if l.limit == m.GetLimit() && l.per == m.GetPerLabel() && l.selector == m.GetSelector() && !l.implicit {
			return raftlogv1.Code_CODE_OK, true
		}
		return raftlogv1.Code_CODE_CONFLICT, true
	}
	if got.GetCode() != raftlogv1.Code_CODE_OK {
		return 0, false // what is malformed is not the model's matter
	}
	l := &twinLock{limit: m.GetLimit(), per: m.GetPerLabel(), selector: m.GetSelector()}
	w.locks[m.GetName()] = l
	for _, a := range w.attempts {
		agent, _ := before.AgentByOrdinal(a.ordinal)
		if l.selector != "" && (a.state == claimedS || a.state == running) && l.matches(agent) {
			w.take([]string{m.GetName()}, a, agent)
		}
	}
	return raftlogv1.Code_CODE_OK, true
}

func (w *twin) acquire(before *View, now int64, number uint64, m *raftlogv1.AcquireLock) (raftlogv1.Code, bool) {
	if p := w.leaseOf(m.GetLeaseId()); p != nil {
		if p.lock == m.GetLock() && p.by == m.GetHolder() {
			return raftlogv1.Code_CODE_OK, true
		}
		return raftlogv1.Code_CODE_CONFLICT, true
	}
	if len(m.GetLeaseId()) != 36 || m.GetTtl() == 0 {
		return raftlogv1.Code_CODE_INVALID, true
	}
	if w.over[m.GetLeaseId()] {
		return raftlogv1.Code_CODE_REFUSED, true
	}
	l, found := w.locks[m.GetLock()]
	switch {
	case !found && m.GetLimit() == 0:
		return raftlogv1.Code_CODE_NOT_FOUND, true
	case !found:
		l = &twinLock{limit: m.GetLimit(), per: m.GetPerLabel(), implicit: true}
	case m.GetLimit() != 0 && (m.GetLimit() != l.limit || m.GetPerLabel() != l.per):
		return raftlogv1.Code_CODE_CONFLICT, true
	}
	agent, known := before.Agent(m.GetAgentId())
	switch {
	case m.GetAgentId() != "" && !known:
		return raftlogv1.Code_CODE_NOT_FOUND, true
	case m.GetAgentId() == "" && l.per != "":
		return raftlogv1.Code_CODE_INVALID, true
	case w.held(m.GetLock(), l.group(agent)) >= l.limit:
		return raftlogv1.Code_CODE_EXHAUSTED, true
	}
	w.locks[m.GetLock()] = l
	w.places = append(w.places, twinPlace{
		lock: m.GetLock(), group: l.group(agent), holder: m.GetLeaseId(), fence: number, lease: true, by: m.GetHolder(), ttl: m.GetTtl(), end: now + m.GetTtl(),
	})
	return raftlogv1.Code_CODE_OK, true
}

// compareLocks says where the machine and the model differ.
func (w *twin) compareLocks(v *View) error {
	n := 0
	for l := range v.Locks() {
		n++
		have := twinLock{l.GetLimit(), l.GetPerLabel(), l.GetSelector(), l.GetImplicit()}
		if want := w.locks[l.GetName()]; want == nil || *want != have {
			return fmt.Errorf("lock %q is %+v, in the model %+v", l.GetName(), have, want)
		}
	}
	if n != len(w.locks) || v.t.places.len() != len(w.places) {
		return fmt.Errorf("%d locks and %d places, the model has %d and %d", n, v.t.places.len(), len(w.locks), len(w.places))
	}
	for _, p := range w.places {
		if !slices.ContainsFunc(collect(v.Places(p.lock)), func(q *raftlogv1.Place) bool {
			return q.GetGroup() == p.group && q.GetFence() == p.fence && q.GetInvocationId()+q.GetLeaseId() == p.holder && q.GetExpiresAt() == p.end
		}) {
			return fmt.Errorf("place %+v of the model is not in the state: %v", p, collect(v.Places(p.lock)))
		}
	}
	return nil
}

// checkPlaces says whether more is held than a lock has, or by somebody who must not, and
// counts again.
func checkPlaces(t *tables) error {
	counts, granted := make(map[string]uint32), make(map[string]uint32)
	for p := range t.places.all() {
		l, found := t.locks.get(p.GetLock())
		if !found || p.GetFence() == 0 || (p.GetLeaseId() == "") == (p.GetInvocationId() == "") {
			return fmt.Errorf("place %v is of no lock or nobody's", p)
		}
		key := groupKey(p.GetLock(), p.GetGroup())
		counts[key]++
		if !p.GetAdopted() {
			if granted[key]++; granted[key] > l.GetLimit() {
				return fmt.Errorf("%d places of lock %v are taken in group %q", granted[key], l, p.GetGroup())
			}
		}
		if p.GetLeaseId() != "" {
			if _, over := t.ended.get(p.GetLeaseId()); over {
				return fmt.Errorf("place %v is held by a lease that is over", p)
			}
			continue
		}
		i, _ := t.invocations.get(keyOfInvocation(p.GetInvocationId()))
		if i.GetState() != claimedS && i.GetState() != running || i.GetFence() != p.GetFence() || i.GetAttempt() != p.GetAttempt() {
			return fmt.Errorf("place %v is held by %v", p, i)
		}
	}
	if n := t.held.counts.Len(); n != len(counts) {
		return fmt.Errorf("%d groups are counted, want %d", n, len(counts))
	}
	for key, n := range counts {
		if got, _ := t.held.counts.Get(key); got != n {
			return fmt.Errorf("%d places of %q are counted, want %d", got, key, n)
		}
	}
	budgets := 0
	for l := range t.locks.all() {
		if l.GetImplicit() && t.held.all(l.GetName()) == 0 {
			return fmt.Errorf("nobody holds the implicit lock %v", l)
		}
		if l.GetSelector() == "" {
			continue
		}
		if budgets >= len(t.budgets) || t.budgets[budgets].lock != l || t.budgets[budgets].who.String() != l.GetSelector() {
			return fmt.Errorf("budget %v is not in the list", l)
		}
		budgets++
	}
	if budgets != len(t.budgets) {
		return fmt.Errorf("%d budgets are listed, want %d", len(t.budgets), budgets)
	}
	return nil
}

// checkLockFences says whether a place was granted with a fence that is not above all
// that its lock had before, whatever became of them.
func checkLockFences(highest map[string]uint64, before, after *View) error {
	latest := make(map[string]uint64)
	for p := range after.t.places.all() {
		if _, there := before.t.places.get(placeKey(p)); there || p.GetAdopted() {
			continue
		}
		if p.GetFence() <= highest[p.GetLock()] {
			return fmt.Errorf("place %v was granted after fence %d", p, highest[p.GetLock()])
		}
		latest[p.GetLock()] = max(latest[p.GetLock()], p.GetFence())
	}
	for lock, fence := range latest {
		highest[lock] = max(highest[lock], fence)
	}
	return nil
}

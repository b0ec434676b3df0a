package dispatch

import (
	"slices"
	"sync"

	"github.com/agentplane/agentplane/fsm"
)

// places lets the sessions of this node claim no more than what is free of locks of the
// fleet, and wakes those that wait when something is. Without it a thousand agents would
// each propose a claim for the one place that became free.
//
// A session reserves the places of a claim before it proposes it, and lets go of them
// when its state has the outcome. One that finds none free stands in line for each that it
// lacks; from then on it is woken as long as it stands among the first of the line for
// whom there are places. It leaves the line when it lacks that place no more, whatever it
// did, upon which the next is woken: so no place stays free while somebody on this node
// waits for it alone. When a lock or a budget is deleted all of its line are woken, once: of
// a budget nobody needs a place any more. Between nodes the state decides; who is refused
// stands in line again.
type places struct {
	view func() *fsm.View

	mu    sync.Mutex // guards what follows; never held across anything that waits
	lines map[placeKey]*line
}

type placeKey struct{ lock, group string }

type line struct {
	reserved int
	waiting  []*waiter // who came first is first
}

type waiter struct {
	s *session
	// told says that it was woken since there is no such lock; what it has seen when it
	// looks is no older.
	told bool
}

func newPlaces(view func() *fsm.View) *places {
	return &places{view: view, lines: make(map[placeKey]*line)}
}

// reserve reserves all of the places that a claim needs, or none and answers those that
// are lacking.
func (p *places) reserve(needs []fsm.Need) (reserved, lacking []placeKey) {
	if len(needs) == 0 {
		return nil, nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, n := range needs {
		key := placeKey{n.Lock, n.Group}
		taken := 0
		if l := p.lines[key]; l != nil {
			taken = l.reserved
		}
		if n.Missing || n.Free() <= taken {
			lacking = append(lacking, key)
		}
		reserved = append(reserved, key)
	}
	if len(lacking) > 0 {
		return nil, lacking
	}
	for _, key := range reserved {
		p.lineLocked(key).reserved++
	}
	return reserved, nil
}

// release lets go of reserved places.
func (p *places) release(keys []placeKey) {
	if len(keys) == 0 {
		return
	}
	v := p.view()
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, key := range keys {
		p.lineLocked(key).reserved--
		p.wakeLocked(v, key)
	}
}

// wait has the session stand in line for these places and no others.
func (p *places) wait(s *session, lacking []placeKey) {
	if len(lacking) == 0 && len(s.lacking) == 0 {
		return
	}
	v := p.view()
	p.mu.Lock()
	defer p.mu.Unlock()
	left := s.lacking
	s.lacking = lacking
	for _, key := range lacking {
		if l := p.lineLocked(key); !slices.ContainsFunc(l.waiting, func(w *waiter) bool { return w.s == s }) {
			l.waiting = append(l.waiting, &waiter{s: s})
		}
		p.wakeLocked(v, key) // it may have become free before anybody stood here
	}
	for _, key := range left {
		if l := p.lines[key]; l != nil && !slices.Contains(lacking, key) {
			l.waiting = slices.DeleteFunc(l.waiting, func(w *waiter) bool { return w.s == s })
			p.wakeLocked(v, key)
		}
	}
}

// changed wakes who may go on after places or locks have changed.
func (p *places) changed() {
	v := p.view()
	p.mu.Lock()
	defer p.mu.Unlock()
	for key := range p.lines { // in any order: each is by itself
		p.wakeLocked(v, key)
	}
}

func (p *places) lineLocked(key placeKey) *line {
	l := p.lines[key]
	if l == nil {
		l = &line{}
		p.lines[key] = l
	}
	return l
}

// wakeLocked wakes as many of the line as there are places, and forgets an empty one.
func (p *places) wakeLocked(v *fsm.View, key placeKey) {
	l := p.lines[key]
	if l.reserved == 0 && len(l.waiting) == 0 {
		delete(p.lines, key)
		return
	}
	need := v.Need(key.lock, key.group)
	free := min(max(need.Free()-l.reserved, 0), len(l.waiting))
	for n, w := range l.waiting {
		if n < free || need.Missing && !w.told {
			w.s.mail.mark(markChanged)
		}
		w.told = need.Missing
	}
}

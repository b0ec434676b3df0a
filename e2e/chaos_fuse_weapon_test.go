package e2e

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/agentplane/agentplane/cmd/agentplane/lab"
)

// onFuse says whether the data directories of nodes, or those of agents, are on the file system
// whose faults can be switched.
func (s shape) onFuse(nodes bool) bool {
	for _, w := range s.faults {
		if w.onFuse() && w.disk == nodes {
			return true
		}
	}
	return false
}

// failDisk begins a fault of the disk of a node. Its effect is that a request met it.
func failDisk(kind string, times ...int64) func(context.Context, *world) (*strike, error) {
	return func(ctx context.Context, w *world) (*strike, error) {
		ps := leadingOrNot(ctx, w)
		if ps == nil {
			return nil, nil
		}
		p := ps[0]
		w.keeper.excuse(p.Name, "its disk failed: "+kind)
		f := &diskFault{Kind: kind}
		if len(times) > 0 {
			f.Times = times[w.rng.IntN(len(times))]
		}
		if err := w.fuse.fail(p.Name, f); err != nil {
			return nil, err
		}
		st := w.failing(kind, f.Times, p)
		return st, nil
	}
}

// failing is the strike of a fault that was begun on the disks of processes.
func (w *world) failing(kind string, times int64, ps ...*lab.Process) *strike {
	st := &strike{
		target: fmt.Sprintf("%s (%s)", namesOf(ps), kind),
		seen: func() error {
			for _, p := range ps {
				if met, err := w.fuse.met(p.Name); err != nil || met == 0 {
					return errors.Join(fmt.Errorf("no request of %s met it", p.Name), err)
				}
			}
			return nil
		},
		mend: func() error {
			for _, p := range ps {
				if err := w.fuse.mend(p.Name); err != nil {
					return err
				}
			}
			return nil
		},
	}
	if times > 0 {
		st.target = fmt.Sprintf("%s (%s, %d times)", namesOf(ps), kind, times)
	}
	return st
}

// readsWithin is how long a process may live on without reading anything.
const readsWithin = 3 * time.Second

// failReads has reads of the disk of a node fail: all, or one of some. Its effect is that a read
// met it.
func failReads(ctx context.Context, w *world) (*strike, error) {
	ps := leadingOrNot(ctx, w)
	if ps == nil {
		return nil, nil
	}
	return w.failReads(ps)
}

// failReadsOfAgents does the same to up to half of the agents.
func failReadsOfAgents(ctx context.Context, w *world) (*strike, error) {
	ps := someAgents(ctx, w)
	if len(ps) == 0 {
		return nil, nil
	}
	st, err := w.failReads(ps)
	if err == nil {
		w.ail(ps, st)
	}
	return st, err
}

// failReads has reads fail. What a process has in memory it does not read again: one that does not
// notice is killed, and has to read when it is started.
func (w *world) failReads(ps []*lab.Process) (*strike, error) {
	share := []int{1, 3, 10}[w.rng.IntN(3)]
	for _, p := range ps {
		w.keeper.excuse(p.Name, "its disk cannot be read")
		if err := w.fuse.fail(p.Name, &diskFault{Kind: faultRead, Share: share}); err != nil {
			return nil, err
		}
	}
	st := w.failing(fmt.Sprintf("one of %d reads fails", share), 0, ps...)
	began, noticed := time.Now(), st.seen
	st.seen = func() error {
		err := noticed()
		if err == nil || time.Since(began) < readsWithin {
			return err
		}
		for _, p := range ps {
			if met, e := w.fuse.met(p.Name); e != nil || met > 0 {
				continue
			}
			if e := w.startAnew(p); e != nil {
				return e
			}
		}
		began = time.Now()
		return err
	}
	return st, nil
}

// startAnew kills a process and starts it.
func (w *world) startAnew(p *lab.Process) error {
	w.keeper.hold(p.Name)
	defer w.keeper.release(p.Name)
	p.Kill()
	return p.Start()
}

// maxSick is how many agents at most have a disk that fails: what has waited for them begins on
// all of them at once when it is mended, four programs each with their supervisors.
const maxSick = 10

// failDisks begins a fault, of one kind of several, of the disks of up to half of the agents. Its
// effect is that requests of each met it.
func failDisks(kinds ...string) func(context.Context, *world) (*strike, error) {
	return func(ctx context.Context, w *world) (*strike, error) {
		ps := someAgents(ctx, w)
		if len(ps) == 0 {
			return nil, nil
		}
		for len(ps) > maxSick {
			delete(w.meant, ps[len(ps)-1].Name)
			ps = ps[:len(ps)-1]
		}
		kind := kinds[w.rng.IntN(len(kinds))]
		for _, p := range ps {
			w.keeper.excuse(p.Name, "its disk failed: "+kind)
			if err := w.fuse.fail(p.Name, &diskFault{Kind: kind}); err != nil {
				return nil, err
			}
		}
		st := w.failing(kind, 0, ps...)
		w.ail(ps, st)
		return st, nil
	}
}

// ail writes down, when it is mended, that a fault of the disks of agents began by now.
func (w *world) ail(ps []*lab.Process, st *strike) {
	began, mend := time.Now(), st.mend
	for _, p := range ps {
		w.sick.until(p.Name, began.Add(time.Hour)) // or until it is mended
	}
	st.mend = func() error {
		defer func() {
			for _, p := range ps {
				w.sick.until(p.Name, time.Now().Add(ailsFor))
				w.ailing = append(w.ailing, ailment{p.Name, began, time.Now()})
			}
		}()
		return mend()
	}
}

// sick are the agents whose disk fails, or has just failed: one that cannot write its journal gets no
// session, and one that cannot read it does not start.
type sick struct {
	mu   sync.Mutex // guards over
	over map[string]time.Time
}

func (s *sick) until(agent string, t time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over == nil {
		s.over = make(map[string]time.Time)
	}
	s.over[agent] = t
}

// all are those that are sick now.
func (s *sick) all() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var names []string
	for name, over := range s.over {
		if time.Now().Before(over) {
			names = append(names, fmt.Sprintf("%q", name))
		}
	}
	return names
}

func (s *sick) is(agent string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return time.Now().Before(s.over[agent])
}

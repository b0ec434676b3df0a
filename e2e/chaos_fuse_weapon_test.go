package e2e

import (
	"context"
	"fmt"
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
					return fmt.Errorf("%d requests of %s met it (%w)", met, p.Name, err)
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

// failReads has reads of the disk of a node fail: all, or one of some. What a node has in memory it does not read
// again: one that does not notice is killed, and has to read when it is started. Its effect is that a
// read met it.
func failReads(ctx context.Context, w *world) (*strike, error) {
	ps := leadingOrNot(ctx, w)
	if ps == nil {
		return nil, nil
	}
	p := ps[0]
	w.keeper.excuse(p.Name, "its disk cannot be read")
	f := &diskFault{Kind: faultRead, Share: []int{1, 3, 20}[w.rng.IntN(3)]}
	if err := w.fuse.fail(p.Name, f); err != nil {
		return nil, err
	}
	st := w.failing(fmt.Sprintf("one of %d reads fails", f.Share), 0, p)
	began, noticed := time.Now(), st.seen
	killed := false
	st.seen = func() error {
		err := noticed()
		if err == nil || killed || time.Since(began) < readsWithin {
			return err
		}
		killed = true
		w.keeper.hold(p.Name)
		defer w.keeper.release(p.Name)
		p.Kill()
		if e := p.Start(); e != nil {
			return e
		}
		return err
	}
	return st, nil
}

// failDisks begins a fault, of one kind of several, of the disks of up to half of the agents. Its
// effect is that requests of each met it.
func failDisks(kinds ...string) func(context.Context, *world) (*strike, error) {
	return func(ctx context.Context, w *world) (*strike, error) {
		ps := someAgents(ctx, w)
		if len(ps) == 0 {
			return nil, nil
		}
		kind := kinds[w.rng.IntN(len(kinds))]
		began := time.Now()
		for _, p := range ps {
			w.keeper.excuse(p.Name, "its disk failed: "+kind)
			if err := w.fuse.fail(p.Name, &diskFault{Kind: kind}); err != nil {
				return nil, err
			}
		}
		st := w.failing(kind, 0, ps...)
		mend := st.mend
		st.mend = func() error {
			defer func() {
				for _, p := range ps {
					w.ailing = append(w.ailing, ailment{p.Name, began, time.Now()})
				}
			}()
			return mend()
		}
		return st, nil
	}
}

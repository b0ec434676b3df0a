package fsm

import (
	"context"
	"fmt"
	"slices"
)

// awaited is somebody who waits for the first view of an index.
type awaited struct {
	index uint64
	to    chan<- *View // has room for it
}

// ViewFrom returns the state as it is now where that holds index, and otherwise the very
// first one that does, however fast others follow it: replicas that are asked for an index
// that none has reached yet answer with the same state. The error is the context's.
func (m *Machine) ViewFrom(ctx context.Context, index uint64) (*View, error) {
	to := make(chan *View, 1)
	m.mu.Lock()
	v := m.view.Load()
	if v.Index() < index {
		m.awaited = append(m.awaited, awaited{index, to})
	}
	m.mu.Unlock()
	if v.Index() >= index {
		return v, nil
	}
	select {
	case v := <-to:
		return v, nil
	case <-ctx.Done():
		m.mu.Lock()
		m.awaited = slices.DeleteFunc(m.awaited, func(a awaited) bool { return a.to == to })
		m.mu.Unlock()
		return nil, fmt.Errorf("wait for index %d, state is at %d: %w", index, m.View().Index(), ctx.Err())
	}
}

// handOverLocked gives a new view to those who have waited for it.
func (m *Machine) handOverLocked(v *View) {
	if len(m.awaited) == 0 {
		return
	}
	m.awaited = slices.DeleteFunc(m.awaited, func(a awaited) bool {
		if v.Index() < a.index {
			return false
		}
		a.to <- v
		return true
	})
}

package fsm

import (
	"context"
	"errors"
)

// News is what following the feed brought: changes, or a view to list anew because
// some were compacted away. One of the two is set.
type News struct {
	Changes []Change
	List    *View
}

// Follow sends what changes in the tables after the cursor until ctx ends. A
// receiver that is slow gets later news later, or a view; it holds up nobody else.
func (m *Machine) Follow(ctx context.Context, after Cursor, to chan<- News, tables ...Table) {
	for {
		var n News
		changes, next, err := m.ChangesIn(ctx, after, tables...)
		var compacted *CompactedError
		switch {
		case errors.As(err, &compacted):
			n.List, after = m.ViewAndWatch()
		case err != nil:
			return // ctx ended
		default:
			n.Changes, after = changes, next
		}
		select {
		case to <- n:
		case <-ctx.Done():
			return
		}
	}
}

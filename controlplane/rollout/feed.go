package rollout

import (
	"context"
	"errors"

	"github.com/agentplane/agentplane/fsm"
)

// news is what the feed brought: changes, or a view to list anew because some were
// compacted away.
type news struct {
	changes []fsm.Change
	list    *fsm.View
}

// follow sends the changes of sessions, commands and invocations after the cursor
// until ctx ends.
func follow(ctx context.Context, m *fsm.Machine, cursor fsm.Cursor, to chan<- news) {
	for {
		changes, err := m.Changes(ctx, cursor)
		var n news
		var compacted *fsm.CompactedError
		switch {
		case errors.As(err, &compacted):
			n.list, cursor = m.ViewAndWatch()
		case err != nil:
			return // ctx ended
		default:
			cursor = changes[len(changes)-1].Cursor
			for _, c := range changes {
				switch c.Table {
				case fsm.TableSessions, fsm.TableCommands, fsm.TableInvocations:
					n.changes = append(n.changes, c)
				}
			}
			if len(n.changes) == 0 {
				continue
			}
		}
		select {
		case to <- n:
		case <-ctx.Done():
			return
		}
	}
}

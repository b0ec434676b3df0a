package sim

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
)

// journalPutBack names the fault that explains what became of its agent's work.
const journalPutBack = "journal of an agent put back"

// putBack remembers what agentd's directory holds and, in the end, starts agentd on that
// again. Whatever the agent has journalled meanwhile is gone, while the directories of its
// attempts are still there, as they are outside of what a backup of a journal restores.
func (w *World) putBack(f Fault) ending {
	a := w.agentOf(f.Who)
	if !a.kill() {
		return nil
	}
	w.mu.Lock()
	image := filepath.Join(w.dir, fmt.Sprintf("%s.%d.image", a.name, a.lives))
	was, wiped := a.lives, a.wiped
	err := copyDir(a.dir, image)
	w.mu.Unlock()
	w.must(err)
	w.must(a.start())
	return func() bool {
		if !a.kill() {
			return false
		}
		w.mu.Lock()
		if a.wiped != wiped || a.lives <= was { // it is another agent by now
			w.mu.Unlock()
			w.must(a.start())
			return false
		}
		a.dir = image
		w.putBacks[a.name] = true
		w.mu.Unlock()
		w.must(a.start())
		time.Sleep(time.Second)
		w.readmit(a, 3*time.Second)
		return true
	}
}

// wasPutBack says that an agent of that name had its journal put back: it does not know of
// all that it has started.
func (w *World) wasPutBack(name string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.putBacks[name]
}

// readmit ends the quarantine of an agent, if it is in one.
func (w *World) readmit(a *agentHost, within time.Duration) {
	ctx, cancel := context.WithTimeout(w.ctx, within)
	defer cancel()
	fleet := agentplanev1.NewFleetServiceClient(w.operators.clients[0])
	r, err := fleet.GetAgent(ctx, &agentplanev1.GetAgentRequest{Agent: a.name})
	if err != nil || r.GetAgent().GetHealth() != "QUARANTINED" {
		return
	}
	_, err = fleet.ReadmitAgent(ctx, &agentplanev1.ReadmitAgentRequest{Agent: r.GetAgent().GetId()})
	w.trace.Note(a.name, "is readmitted (%s): %v", r.GetAgent().GetHealthReason(), err)
	if err == nil {
		w.trouble() // the agent asks again after a while
		w.mu.Lock()
		w.accepted["readmitted"]++
		w.mu.Unlock()
	}
}

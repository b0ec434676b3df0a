package sim

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/agentplane/agentplane/fsm"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

// sight is something of which the trace tells when the first node has it: a leader by its
// office, or a state of a session by its epoch.
type sight struct {
	who   string
	epoch uint64
	state raftlogv1.SessionState
}

// tellsLocked says whether nobody has seen it before.
func (w *World) tellsLocked(s sight) bool {
	known := w.noted[s]
	w.noted[s] = true
	return !known
}

// grantNumber is an epoch as people read it: the index of its grant, and the number there.
func grantNumber(epoch uint64) string { return fmt.Sprintf("%d.%d", grantedAt(epoch), epoch&0xff) }

// nodeNameLocked is the name of the node with the id.
func (w *World) nodeNameLocked(id string) string {
	if i := slices.IndexFunc(w.nodes, func(n *node) bool { return n.id == id }); i >= 0 {
		return w.nodes[i].name
	}
	return id
}

// sawLeader notes who leads, and in which term.
func (w *World) sawLeader(o *raftlogv1.Office) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if o.GetNodeId() != "" && w.tellsLocked(sight{who: o.GetNodeId(), epoch: o.GetEpoch()}) {
		w.trace.Note(w.nodeNameLocked(o.GetNodeId()), "leads in term %d, office %s", o.GetTerm(), grantNumber(o.GetEpoch()))
	}
}

// tellSessionLocked notes what becomes of a session. That it is DOWN is noted with what is
// judged of it.
func (w *World) tellSessionLocked(s *raftlogv1.Session) {
	if s.GetState() == raftlogv1.SessionState_SESSION_STATE_DOWN || !w.tellsLocked(sight{s.GetAgentId(), s.GetEpoch(), s.GetState()}) {
		return
	}
	state := strings.ToLower(strings.TrimPrefix(s.GetState().String(), "SESSION_STATE_"))
	w.trace.Note(w.names[s.GetAgentId()], "session %s on %s is %s", grantNumber(s.GetEpoch()), w.nodeNameLocked(s.GetNodeId()), strings.TrimSpace(state+" "+s.GetReason()))
}

// watch follows the feed of one life of a node and judges what it sees.
func (w *World) watch(ctx context.Context, n *node, life *nodeLife) {
	news := make(chan fsm.News)
	_, cursor := life.machine.ViewAndWatch()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan struct{})
	go func() {
		defer close(done)
		life.machine.Follow(ctx, cursor, news, fsm.TableSessions, fsm.TableCluster)
	}()
	defer func() { <-done }()
	epochs := make(map[string]uint64)
	for {
		var rows []*raftlogv1.Session
		select {
		case news := <-news:
			for _, c := range news.Changes {
				switch row := c.Row.(type) {
				case *raftlogv1.Session:
					rows = append(rows, row)
				case *raftlogv1.Cluster:
					w.sawLeader(row.GetOffice())
				}
			}
		case <-done:
			return
		}
		for _, s := range rows {
			if s.GetEpoch() < epochs[s.GetAgentId()] {
				w.fault("%s: the session epoch of %s went from %d back to %d", n.name, s.GetAgentId(), epochs[s.GetAgentId()], s.GetEpoch())
			}
			epochs[s.GetAgentId()] = s.GetEpoch()
			if a, there := life.machine.View().Agent(s.GetAgentId()); there {
				w.mu.Lock()
				w.names[a.GetId()] = a.GetName()
				w.mu.Unlock()
			}
			w.sawSession(n, s)
		}
	}
}

// sawSession judges a session as a node has it. No agent is DOWN before its grace is
// over, nor long after all troubles.
func (w *World) sawSession(n *node, s *raftlogv1.Session) {
	w.mu.Lock()
	defer w.mu.Unlock()
	k := session{s.GetAgentId(), s.GetEpoch()}
	w.sessions[k] = true
	w.tellSessionLocked(s)
	now := time.Now()
	switch s.GetState() {
	case raftlogv1.SessionState_SESSION_STATE_RECONNECTING:
		if _, known := w.away[k]; !known {
			w.away[k] = now
		}
	case raftlogv1.SessionState_SESSION_STATE_DOWN:
		since, known := w.away[k]
		if !known {
			w.redLocked("%s: %s is DOWN without having been RECONNECTING (epoch %d, %s)", n.name, w.names[k.agent], k.epoch, s.GetReason())
			return
		}
		w.trace.Note(n.name, "has %s DOWN, %v after it was lost", w.names[k.agent], now.Sub(since))
		w.accepted["down"]++
		if now.Sub(since) < grace*9/10 {
			w.redLocked("%s: %s is DOWN %v after it was lost, its grace is %v", n.name, w.names[k.agent], now.Sub(since), grace)
		}
		if calm := now.Sub(w.troubled); calm > settled {
			w.redLocked("%s: %s is DOWN %v after the last trouble", n.name, w.names[k.agent], calm)
		}
	}
}

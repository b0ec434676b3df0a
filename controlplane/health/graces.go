package health

import (
	"container/heap"
	"time"

	"github.com/agentplane/agentplane/fsm"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

// graces holds every session that is not DOWN, and those whose grace runs in the
// order in which it ends. Times are on the awake clock.
type graces struct {
	up    map[string]*grace // by agent
	queue graceQueue
}

// grace is one agent that could fall.
type grace struct {
	agentID string
	epoch   uint64
	due     time.Duration
	place   int // in the queue; -1 = not there
}

func newGraces() *graces { return &graces{up: make(map[string]*grace)} }

// list takes the state whole; what is counted already goes on counting.
func (g *graces) list(v *fsm.View, now time.Duration) {
	seen := make(map[string]bool, len(g.up))
	see := func(s *raftlogv1.Session) {
		seen[s.GetAgentId()] = true
		g.see(s, now)
	}
	for n := range v.Nodes() {
		for s := range v.LiveSessions(n.GetId()) {
			see(s)
		}
	}
	for s := range v.ReconnectingSessions() {
		see(s)
	}
	for id := range g.up {
		if !seen[id] {
			g.drop(id)
		}
	}
}

// see takes a session as it stands now. Its grace is counted whole from the first
// time that it is seen.
func (g *graces) see(s *raftlogv1.Session, now time.Duration) {
	if s.GetState() >= raftlogv1.SessionState_SESSION_STATE_DOWN {
		g.drop(s.GetAgentId())
		return
	}
	a, found := g.up[s.GetAgentId()]
	if !found {
		a = &grace{agentID: s.GetAgentId(), place: -1}
		g.up[a.agentID] = a
	}
	same := a.epoch == s.GetEpoch()
	a.epoch = s.GetEpoch()
	switch running := s.GetState() == raftlogv1.SessionState_SESSION_STATE_RECONNECTING; {
	case !running:
		g.unqueue(a)
	case a.place < 0 || !same:
		g.enqueue(a, now+max(0, time.Duration(s.GetGraceUntil()-s.GetChangedAt())))
	}
}

// drop forgets an agent: it is DOWN, LEFT or removed.
func (g *graces) drop(agentID string) {
	if a, found := g.up[agentID]; found {
		g.unqueue(a)
		delete(g.up, agentID)
	}
}

// load is what the brake wants to know.
func (g *graces) load(now, window time.Duration) Load {
	l := Load{Fleet: len(g.up)}
	for _, a := range g.queue {
		switch {
		case a.due <= now:
			l.Due++
		case a.due <= now+window:
			l.Soon++
		}
	}
	return l
}

// due takes up to most agents without grace out of the queue, the first first.
func (g *graces) due(now time.Duration, most int) []*grace {
	var taken []*grace
	for len(taken) < most && len(g.queue) > 0 && g.queue[0].due <= now {
		taken = append(taken, heap.Pop(&g.queue).(*grace))
	}
	return taken
}

func (g *graces) enqueue(a *grace, due time.Duration) {
	a.due = due
	if a.place >= 0 {
		heap.Fix(&g.queue, a.place)
		return
	}
	heap.Push(&g.queue, a)
}

func (g *graces) unqueue(a *grace) {
	if a.place >= 0 {
		heap.Remove(&g.queue, a.place)
	}
}

// graceQueue is a heap by due, then agent.
type graceQueue []*grace

func (q graceQueue) Len() int { return len(q) }
func (q graceQueue) Less(i, j int) bool {
	if q[i].due != q[j].due {
		return q[i].due < q[j].due
	}
	return q[i].agentID < q[j].agentID
}

func (q graceQueue) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].place, q[j].place = i, j
}

func (q *graceQueue) Push(x any) {
	a := x.(*grace)
	a.place = len(*q)
	*q = append(*q, a)
}

func (q *graceQueue) Pop() any {
	last := len(*q) - 1
	a := (*q)[last]
	(*q)[last] = nil
	*q = (*q)[:last]
	a.place = -1
	return a
}

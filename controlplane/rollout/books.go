package rollout

import (
	"time"

	"github.com/agentplane/agentplane/fsm"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

// books is what a leader remembers: which commands are open, which attempts are
// claimed, since when it has seen what, and when to look at each of them next.
type books struct {
	queue    queue
	commands map[string]*item
	attempts map[string]*attempt // by invocation
	agents   map[string]*agent   // those with claimed attempts
	lists    uint64              // how often everything was listed
}

// attempt is one that is CLAIMED or RUNNING.
type attempt struct {
	item   item
	id     string // of the invocation
	number uint32
	state  raftlogv1.AttemptState
	agent  *agent

	overdue bool
	since   time.Duration // awake, when it was first seen overdue
}

// agent is one that has claimed attempts.
type agent struct {
	id       string
	attempts map[*attempt]struct{}
	live     bool
	since    time.Duration // awake, when that was first seen
}

func newBooks() *books {
	return &books{commands: make(map[string]*item), attempts: make(map[string]*attempt), agents: make(map[string]*agent)}
}

// list takes the state whole; what is counted already goes on counting.
func (b *books) list(v *fsm.View, now time.Time, awake time.Duration, cluster int64) {
	for id := range b.agents {
		b.session(id, v, now, awake)
	}
	b.lists++
	for c := range v.OpenCommands() {
		b.command(c.GetId(), c, now, cluster)
		b.commands[c.GetId()].list = b.lists
		for _, state := range []raftlogv1.AttemptState{raftlogv1.AttemptState_ATTEMPT_STATE_CLAIMED, raftlogv1.AttemptState_ATTEMPT_STATE_RUNNING} {
			if inState(c, state) == 0 {
				continue
			}
			for i := range v.OpenInvocations(c.GetId(), state) {
				b.invocation(i.GetId(), i, v, now, awake)
				b.attempts[i.GetId()].item.list = b.lists
			}
		}
	}
	for id, i := range b.commands {
		if i.list != b.lists {
			b.command(id, nil, now, cluster)
		}
	}
	for id, a := range b.attempts {
		if a.item.list != b.lists {
			b.forget(id)
		}
	}
}

// command has the command looked at when it needs something, which may be now, or
// forgets it when it is done or gone. cluster is the cluster's time now, Unix ns.
func (b *books) command(id string, c *raftlogv1.Command, now time.Time, cluster int64) {
	i := b.commands[id]
	if c == nil || c.GetState() == raftlogv1.CommandState_COMMAND_STATE_DONE {
		if i != nil {
			b.queue.remove(i)
			delete(b.commands, id)
		}
		return
	}
	if i == nil {
		i = &item{command: id, place: -1}
		b.commands[id] = i
	}
	switch s := NextStep(c, cluster); {
	case s.Release > 0 || s.Advance > 0 || s.Expire > 0:
		b.queue.put(i, now)
	case s.Wait > 0:
		b.queue.put(i, now.Add(bounded(s.Wait)))
	default:
		b.queue.remove(i)
	}
}

// invocation takes the row as it stands: a claimed attempt is looked at now, any
// other is forgotten.
func (b *books) invocation(id string, i *raftlogv1.Invocation, v *fsm.View, now time.Time, awake time.Duration) {
	a := b.attempts[id]
	if i.GetState() != raftlogv1.AttemptState_ATTEMPT_STATE_CLAIMED && i.GetState() != raftlogv1.AttemptState_ATTEMPT_STATE_RUNNING {
		b.forget(id)
		return
	}
	if a != nil && a.number == i.GetAttempt() && a.state == i.GetState() {
		return // a cancel: it changes nothing here
	}
	b.forget(id)
	g := b.agents[i.GetAgentId()]
	if g == nil {
		g = &agent{id: i.GetAgentId(), attempts: make(map[*attempt]struct{}), live: isLive(v, i.GetAgentId()), since: awake}
		b.agents[g.id] = g
	}
	a = &attempt{id: id, number: i.GetAttempt(), state: i.GetState(), agent: g}
	a.item = item{command: i.GetCommandId(), attempt: a, place: -1}
	b.attempts[id] = a
	g.attempts[a] = struct{}{}
	b.queue.put(&a.item, now)
}

func (b *books) forget(id string) {
	a := b.attempts[id]
	if a == nil {
		return
	}
	b.queue.remove(&a.item)
	delete(b.attempts, id)
	delete(a.agent.attempts, a)
	if len(a.agent.attempts) == 0 {
		delete(b.agents, a.agent.id)
	}
}

// session notes whether the agent has a live session now; when that has changed, its
// claimed attempts are looked at.
func (b *books) session(agentID string, v *fsm.View, now time.Time, awake time.Duration) {
	g := b.agents[agentID]
	if g == nil {
		return
	}
	live := isLive(v, agentID)
	if live == g.live {
		return
	}
	g.live, g.since = live, awake
	for a := range g.attempts {
		b.queue.put(&a.item, now)
	}
}

// isLive says that a node holds a session of the agent.
func isLive(v *fsm.View, agentID string) bool {
	s, _ := v.Session(agentID)
	return s.GetState() == raftlogv1.SessionState_SESSION_STATE_OPEN || s.GetState() == raftlogv1.SessionState_SESSION_STATE_READY
}

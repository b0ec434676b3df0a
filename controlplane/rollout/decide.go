package rollout

import (
	"fmt"
	"time"

	"github.com/agentplane/agentplane/fsm"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

const (
	// shortest and longest bound when something is looked at again that waits: times
	// are estimates, and looking costs little.
	shortest = 10 * time.Millisecond
	longest  = time.Hour
	// lookedAtPerMoved is how many rows the state looks at in the time in which it
	// moves one, about.
	lookedAtPerMoved = 16
)

// decide answers the mutation that an item needs now, and how many rows it costs, which
// is more than it moves; it moves at most budget. Without one the item is put back for
// when it may need one.
func (l *term) decide(v *fsm.View, i *item, now time.Time, budget uint32) (*raftlogv1.Mutation, uint32) {
	var mut *raftlogv1.Mutation
	var wait time.Duration
	rows := uint32(1)
	if i.attempt != nil {
		mut, wait = l.decideAttempt(v, i.attempt, now)
	} else {
		mut, rows, wait = l.decideCommand(v, i.command, budget)
	}
	if mut == nil && wait != forever {
		l.books.queue.put(i, now.Add(bounded(wait)))
	}
	return mut, rows
}

// bounded is after how long to look again at what asks for wait.
func bounded(wait time.Duration) time.Duration { return min(max(wait, shortest), longest) }

func (l *term) decideCommand(v *fsm.View, id string, budget uint32) (*raftlogv1.Mutation, uint32, time.Duration) {
	c, found := v.Command(id)
	if !found {
		return nil, 0, forever
	}
	// The state looks at all rows of the command to find those that it moves; looking
	// is cheap beside moving, and yet it is work for every node.
	looks := c.GetTargets() / lookedAtPerMoved
	switch s := NextStep(c, l.clock.cluster()); {
	case expires && s.Expire > 0:
		n := min(s.Expire, expireMax, budget)
		return &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_ExpireCommand{ExpireCommand: &raftlogv1.ExpireCommand{CommandId: id, Max: n}}}, n + looks, 0
	case s.Release > 0:
		n := min(s.Release, budget)
		return &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_ReleaseCommand{ReleaseCommand: &raftlogv1.ReleaseCommand{
			CommandId: id, ExpectedReleased: c.GetReleased(), Max: n, Wave: s.Wave,
		}}}, n + looks, 0
	case s.Wait > 0:
		return nil, 0, s.Wait
	}
	return nil, 0, forever
}

func (l *term) decideAttempt(v *fsm.View, a *attempt, now time.Time) (*raftlogv1.Mutation, time.Duration) {
	// The state may be ahead of the feed.
	i, found := v.Invocation(a.id)
	if !found || i.GetAttempt() != a.number || i.GetState() != a.state {
		return nil, forever
	}
	awake := l.clock.awake
	l.books.session(a.agent.id, v, now, awake)
	c, _ := v.Command(i.GetCommandId())
	s, _ := v.Session(i.GetAgentId())
	t := Attempt{
		State: i.GetState(), Allowed: time.Duration(c.GetRunTimeout() + c.GetKillGrace()),
		Live: a.agent.live, For: awake - a.agent.since,
	}
	if steps := i.GetTransitions(); len(steps) > 0 {
		t.Age = time.Duration(l.clock.cluster() - steps[len(steps)-1].GetAt())
	}
	if !a.overdue && t.IsOverdue() {
		a.overdue, a.since = true, awake
	}
	if a.overdue {
		t.Overdue = awake - a.since
	}
	lost, wait := l.patience.Judge(t)
	if lost == "" {
		return nil, wait
	}
	detail := fmt.Sprintf("the agent has had no live session for %s", t.For.Round(time.Second))
	if lost == NoAnswer {
		detail = fmt.Sprintf("the agent is connected, but has not answered for %s after the attempt's time was over", t.Overdue.Round(time.Second))
	}
	return &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_LoseAttempt{LoseAttempt: &raftlogv1.LoseAttempt{
		Key:           &raftlogv1.AttemptKey{InvocationId: i.GetId(), Attempt: i.GetAttempt()},
		ExpectedState: i.GetState(), ExpectedFence: i.GetFence(), ExpectedSessionEpoch: s.GetEpoch(),
		Reason: lost, Detail: detail,
	}}}, 0
}

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

// decide puts into the batch what an item needs now, of which it moves as many rows as
// the batch has left. An item that needs nothing is put back for when it may need
// something.
func (l *term) decide(b *batch, v *fsm.View, i *item, now time.Time) {
	var mut *raftlogv1.Mutation
	wait := forever
	if i.attempt != nil {
		mut, wait = l.decideAttempt(v, i.attempt, now)
		if mut != nil {
			b.spend(1)
		}
	} else {
		c, _ := v.Command(i.command)
		// The state looks at all rows of the command to find those that it moves; looking
		// is cheap beside moving, and yet it is work for every node.
		looks := c.GetTargets() / lookedAtPerMoved
		switch s := NextStep(c, l.clock.cluster()); {
		case expires && s.Expire > 0:
			n := min(s.Expire, b.rows)
			b.spend(n + looks)
			b.addExpiry(i, n)
			return
		case s.Release > 0:
			n := min(s.Release, b.rows)
			b.spend(n + looks)
			mut = &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_ReleaseCommand{ReleaseCommand: &raftlogv1.ReleaseCommand{
				CommandId: c.GetId(), ExpectedReleased: c.GetReleased(), Max: n, Wave: s.Wave,
			}}}
		case s.Advance > 0:
			if s.Whole && s.Advance+looks > b.rows && len(b.mutations) > 0 {
				l.books.queue.put(i, now) // it is the first of the next entry
				b.rows = 0
				return
			}
			n := min(s.Advance, b.rows)
			b.spend(s.Advance + looks)
			mut = &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_AdvanceRollout{AdvanceRollout: &raftlogv1.AdvanceRollout{
				CommandId: c.GetId(), ExpectedWave: c.GetWave(), ExpectedReleased: c.GetReleased(), Max: n,
			}}}
		case s.Wait > 0:
			wait = s.Wait
		}
	}
	if mut == nil {
		if wait != forever {
			l.books.queue.put(i, now.Add(bounded(wait)))
		}
		return
	}
	b.items = append(b.items, i)
	b.add(mut, func(o *raftlogv1.Outcome, now time.Time) {
		l.books.queue.put(i, now.Add(again(mut, o)))
		if lost := mut.GetLoseAttempt(); lost != nil && o.GetCode() == raftlogv1.Code_CODE_OK {
			l.o.Logger.Info("attempt is given up", "invocation_id", lost.GetKey().GetInvocationId(), "attempt", lost.GetKey().GetAttempt(), "reason", lost.GetReason())
		}
		if next := mut.GetAdvanceRollout(); next != nil && o.GetCode() == raftlogv1.Code_CODE_OK {
			l.o.Logger.Debug("rollout goes on", "command_id", next.GetCommandId(), "from_wave", next.GetExpectedWave(), "rows", o.GetCount(), "reason", o.GetReason())
		}
	})
}

// bounded is after how long to look again at what asks for wait.
func bounded(wait time.Duration) time.Duration { return min(max(wait, shortest), longest) }

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
	if since := fsm.Since(i); since != 0 {
		t.Age = time.Duration(l.clock.cluster() - since)
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

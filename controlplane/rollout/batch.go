package rollout

import (
	"time"

	"github.com/agentplane/agentplane/fsm"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

// batch is what goes into one entry.
type batch struct {
	mutations []*raftlogv1.Mutation
	// settle takes the outcome of the mutation at the same place.
	settle []func(o *raftlogv1.Outcome, now time.Time)

	items  []*item // that were taken out of the queue for it
	expire []*item // those of them whose commands expire, all by one mutation
	rows   uint32  // that the expiring commands cost
}

func (b *batch) add(mut *raftlogv1.Mutation, settle func(o *raftlogv1.Outcome, now time.Time)) {
	b.mutations, b.settle = append(b.mutations, mut), append(b.settle, settle)
}

// putBack has everything looked at again, since the entry did not come about or nobody
// knows whether it did.
func (b *batch) putBack(l *term, now time.Time) {
	for _, i := range b.items {
		l.books.queue.put(i, now)
	}
	l.purgeAt, l.tokensAt = time.Time{}, time.Time{}
}

// gather looks at what is due and puts the decisions into one batch, and what is to be
// purged with them.
func (l *term) gather(view *fsm.View, now time.Time) *batch {
	b := new(batch)
	budget := uint32(l.o.ReleaseMax)
	for len(b.mutations) < maxBatch && len(b.expire) < expireMax && budget > 0 {
		i := l.books.queue.due(now)
		if i == nil {
			break
		}
		budget -= min(l.decide(b, view, i, now, budget), budget)
	}
	l.addExpiry(b)
	l.addPurge(b, view, now)
	l.addTokenPurge(b, view, now)
	return b
}

func (l *term) addExpiry(b *batch) {
	if len(b.expire) == 0 {
		return
	}
	m := &raftlogv1.ExpireCommands{Max: b.rows}
	for _, i := range b.expire {
		m.CommandIds = append(m.CommandIds, i.command)
	}
	b.add(&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_ExpireCommands{ExpireCommands: m}}, func(_ *raftlogv1.Outcome, now time.Time) {
		view := l.o.Machine.View()
		for _, i := range b.expire {
			c, _ := view.Command(i.command)
			if view.Now() < c.GetNotAfter() {
				l.books.queue.put(i, now.Add(lookAgain)) // the state's time goes more slowly than it is estimated
			} else {
				l.books.queue.put(i, now) // the feed takes away what is done
			}
		}
	})
}

// again is how soon to look at something that was decided and answered. What the
// entry ended is forgotten when the feed tells.
func again(mut *raftlogv1.Mutation, o *raftlogv1.Outcome) time.Duration {
	switch {
	case mut.GetLoseAttempt() != nil:
		return tick
	case o.GetCode() != raftlogv1.Code_CODE_OK:
		return lookAgain // the state has moved, or the cluster's time has not
	case o.GetCount() == 0:
		return holdAgain // what waits is held
	default:
		return 0
	}
}

// addPurge adds the removal of some old commands, once a tick, and at once while there
// are more.
func (l *term) addPurge(b *batch, view *fsm.View, now time.Time) {
	if now.Before(l.purgeAt) {
		return
	}
	l.purgeAt = now.Add(tick)
	excess := view.CommandCount() - len(l.books.commands) - l.o.RetainCount
	ids := Purge(view.FinishedCommands(), l.clock.cluster(), l.o.Retain, excess)
	if len(ids) == 0 {
		return
	}
	b.add(&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_PurgeCommands{PurgeCommands: &raftlogv1.PurgeCommands{CommandIds: ids}}}, func(o *raftlogv1.Outcome, now time.Time) {
		if o.GetCount() == 0 {
			l.purgeAt = now.Add(time.Minute) // none of them may go yet
			return
		}
		l.purgeAt = now
		l.o.Logger.Debug("commands purged", "commands", o.GetCount(), "oldest_command_id", ids[0])
	})
}

// addTokenPurge adds the removal of some tokens that are over, once a minute: none of
// them is in a hurry.
func (l *term) addTokenPurge(b *batch, view *fsm.View, now time.Time) {
	if now.Before(l.tokensAt) {
		return
	}
	l.tokensAt = now.Add(time.Minute)
	ids := PurgeTokens(view.TokensByEnd(), l.clock.cluster(), l.o.RetainTokens, l.o.RetainTokenCount)
	if len(ids) == 0 {
		return
	}
	b.add(&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_PurgeTokens{PurgeTokens: &raftlogv1.PurgeTokens{TokenIds: ids}}}, func(o *raftlogv1.Outcome, now time.Time) {
		if o.GetCount() == 0 {
			return
		}
		l.tokensAt = now
		l.o.Logger.Info("tokens purged", "tokens", o.GetCount(), "first_token_id", ids[0])
	})
}

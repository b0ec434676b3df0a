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

	room int    // how many mutations may still be added
	rows uint32 // how many rows those may still cost

	items      []*item // that were taken out of the queue for it
	expire     []*item // those of them whose commands expire, all by one mutation
	expireRows uint32  // that it moves
}

func (b *batch) add(mut *raftlogv1.Mutation, settle func(o *raftlogv1.Outcome, now time.Time)) {
	b.mutations, b.settle = append(b.mutations, mut), append(b.settle, settle)
	b.room--
}

// spend notes that what was added costs so many rows.
func (b *batch) spend(rows uint32) { b.rows -= min(rows, b.rows) }

// putBack has everything looked at again, since the entry did not come about or nobody
// knows whether it did.
func (b *batch) putBack(l *term, now time.Time) {
	for _, i := range b.items {
		l.books.queue.put(i, now)
	}
	l.purgeAt, l.tokensAt, l.leasesAt = time.Time{}, time.Time{}, time.Time{}
}

// gather looks at what is due and puts the decisions into one batch, and what is to be
// purged with them. Both take the first place in turn, so that neither keeps the other
// from its share of the entries, however small an entry must be.
func (l *term) gather(view *fsm.View, now time.Time) *batch {
	b := &batch{room: l.o.MaxMutations, rows: uint32(l.o.ReleaseMax)}
	l.addLeases(b, view, now)
	if l.purgesFirst = !l.purgesFirst; l.purgesFirst {
		l.addPurges(b, view, now)
		l.addDue(b, view, now)
	} else {
		l.addDue(b, view, now)
		l.addPurges(b, view, now)
	}
	return b
}

func (l *term) addDue(b *batch, view *fsm.View, now time.Time) {
	for len(b.expire) < expireMax && b.rows > 0 && b.room > 0 {
		i := l.books.queue.due(now)
		if i == nil {
			break
		}
		l.decide(b, view, i, now)
	}
	if len(b.expire) == 0 {
		return
	}
	b.room++ // that was kept for it
	m := &raftlogv1.ExpireCommands{Max: b.expireRows}
	for _, i := range b.expire {
		m.CommandIds = append(m.CommandIds, i.command)
	}
	b.add(&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_ExpireCommands{ExpireCommands: m}}, func(o *raftlogv1.Outcome, now time.Time) {
		view := l.o.Machine.View()
		for _, i := range b.expire {
			at := now // the feed takes away what is done
			if c, _ := view.Command(i.command); o.GetCount() == 0 || view.Now() < c.GetNotAfter() {
				at = now.Add(lookAgain) // the state's time goes more slowly than it is estimated
			}
			l.books.queue.put(i, at)
		}
	})
}

// addExpiry adds a command to those that expire, of which so many rows are to be moved.
func (b *batch) addExpiry(i *item, rows uint32) {
	if len(b.expire) == 0 {
		b.room-- // for the mutation of all of them
	}
	b.items, b.expire, b.expireRows = append(b.items, i), append(b.expire, i), b.expireRows+rows
}

// again is how soon to look at something that was decided and answered. What the
// entry ended is forgotten when the feed tells.
func again(mut *raftlogv1.Mutation, o *raftlogv1.Outcome) time.Duration {
	switch {
	case mut.GetLoseAttempt() != nil, o.GetReason() == "reconnecting":
		return tick
	case o.GetCode() != raftlogv1.Code_CODE_OK:
		return lookAgain // the state has moved, or the cluster's time has not
	case mut.GetAdvanceRollout() != nil:
		return lookAgain // the feed tells sooner
	case o.GetCount() == 0:
		return holdAgain // what waits is held
	default:
		return 0
	}
}

// addLeases adds the end of leases that were not renewed in time, of which somebody may
// wait for the places.
func (l *term) addLeases(b *batch, view *fsm.View, now time.Time) {
	end, found := view.NextLeaseEnd()
	if !found || end > l.clock.cluster() || now.Before(l.leasesAt) {
		return
	}
	b.spend(leasesMax)
	b.add(&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_ExpireLeases{ExpireLeases: &raftlogv1.ExpireLeases{Max: leasesMax}}}, func(o *raftlogv1.Outcome, now time.Time) {
		l.leasesAt = now
		if o.GetCount() == 0 {
			l.leasesAt = now.Add(lookAgain) // the state's time goes more slowly than it is estimated
			return
		}
		l.o.Logger.Info("leases of locks expired", "leases", o.GetCount())
	})
}

// addPurges adds what is to be purged, unless too little of the entry is left: then it
// is the first in the next.
func (l *term) addPurges(b *batch, view *fsm.View, now time.Time) {
	for _, add := range []func(*batch, *fsm.View, time.Time){l.addCommandPurge, l.addTokenPurge} {
		if b.room == 0 || b.rows < uint32(l.o.ReleaseMax)/2 {
			return
		}
		add(b, view, now)
	}
}

// addCommandPurge adds the removal of some old commands, once a tick, and at once while
// there are more.
func (l *term) addCommandPurge(b *batch, view *fsm.View, now time.Time) {
	if now.Before(l.purgeAt) {
		return
	}
	l.purgeAt = now.Add(tick)
	ids, rows := Purge(view.FinishedCommands(), l.clock.cluster(), l.o.Retain, view.FinishedCount()-l.o.RetainCount, b.rows)
	if len(ids) == 0 {
		return
	}
	b.spend(rows)
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
	ids, rows := PurgeTokens(view.TokensByEnd(), l.clock.cluster(), l.o.RetainTokens, l.o.RetainTokenCount, b.rows)
	if len(ids) == 0 {
		return
	}
	b.spend(rows)
	b.add(&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_PurgeTokens{PurgeTokens: &raftlogv1.PurgeTokens{TokenIds: ids}}}, func(o *raftlogv1.Outcome, now time.Time) {
		if o.GetCount() == 0 {
			return
		}
		l.tokensAt = now
		l.o.Logger.Info("tokens purged", "tokens", o.GetCount(), "first_token_id", ids[0])
	})
}

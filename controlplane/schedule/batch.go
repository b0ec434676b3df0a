package schedule

import (
	"strings"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/agentplane/agentplane/fsm"
	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
	"github.com/agentplane/agentplane/proto/timetable"
)

// book is what a leader knows of one schedule, as long as its row is the same.
type book struct {
	row     *raftlogv1.Schedule
	table   *timetable.Timetable // nil: it cannot be computed here
	lookAt  int64                // by the cluster's time
	retryAt time.Time            // after a refusal
}

// batch is what goes into one entry.
type batch struct {
	mutations []*raftlogv1.Mutation
	// settle takes the outcome of the mutation at the same place.
	settle  []func(o *raftlogv1.Outcome)
	bytes   int
	targets int
	most    int  // mutations
	full    bool // something did not fit: it comes first in the next one
	ends    []*raftlogv1.ScheduleKey
	wait    time.Duration // when there is nothing to do
}

// mutationOverhead is what a mutation takes in its entry beside its bytes, at most.
const mutationOverhead = 16

// add adds the mutation when there is room for it. One alone always has: what a schedule
// may ask is bounded.
func (b *batch) add(mut *raftlogv1.Mutation, settle func(o *raftlogv1.Outcome)) (added bool) {
	bytes, targets := proto.Size(mut)+mutationOverhead, len(mut.GetFireSchedule().GetSubmit().GetAgentOrdinals())
	if n := len(b.mutations); b.full || n >= b.most || n > 0 && (b.bytes+bytes > maxBatchBytes || b.targets+targets > maxBatchTargets) {
		b.full = true
		return false
	}
	b.mutations, b.settle = append(b.mutations, mut), append(b.settle, settle)
	b.bytes, b.targets = b.bytes+bytes, b.targets+targets
	return true
}

// gather looks at the schedules whose row has changed or whose time has come.
func (l *term) gather() *batch {
	v := l.o.Machine.View()
	now, at := max(v.Now(), l.o.Now().UnixNano()), time.Now()
	b := &batch{wait: time.Hour, most: l.o.MaxMutations}
	seen := 0
	for s := range v.Schedules() {
		seen++
		k := l.books[s.GetName()]
		if k == nil || k.row != s {
			k = l.open(s, k)
		}
		switch {
		case k.table == nil || s.GetPausedAt() != 0 || s.GetEndedAt() != 0:
			continue
		case now < k.lookAt:
			b.wait = min(b.wait, time.Duration(k.lookAt-now), tick)
			continue
		case at.Before(k.retryAt):
			b.wait = min(b.wait, k.retryAt.Sub(at))
			continue
		}
		step := NextStep(s, k.table, now, v.OpenFirings(s), l.o.MissedAfter)
		switch {
		case step.End && len(b.ends) < maxKeys:
			b.ends = append(b.ends, keyOf(s))
		case step.End: // the rest follows at once
		case step.Slot == 0:
			k.lookAt = step.LookAt
			b.wait = min(b.wait, time.Duration(k.lookAt-now), tick)
		case !b.full:
			l.fire(b, v, k, step, now)
		}
	}
	if len(l.books) > seen {
		l.forget(v)
	}
	if len(b.ends) > 0 {
		b.add(&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_EndSchedules{EndSchedules: &raftlogv1.EndSchedules{Keys: b.ends}}}, func(*raftlogv1.Outcome) {
			for _, k := range b.ends {
				l.again(k.GetName())
			}
		})
	}
	l.purge(b, v, now, at)
	return b
}

// open begins to look at a row. The timetable stays while the times do.
func (l *term) open(s *raftlogv1.Schedule, before *book) *book {
	k := &book{row: s}
	if before != nil {
		k.retryAt = before.retryAt
	}
	if before != nil && before.table != nil && before.row.GetVersion() == s.GetVersion() && before.row.GetId() == s.GetId() {
		k.table = before.table
	} else {
		var err error
		if k.table, err = timetable.OfNanos(s.GetSpec().GetCron(), s.GetSpec().GetTimeZone(), s.GetSpec().GetAt(), s.GetSpec().GetUntil()); err != nil {
			k.table = nil
			l.o.Logger.Error("the slots of a schedule cannot be computed", "schedule", s.GetName(), "err", err)
		}
	}
	l.books[s.GetName()] = k
	return k
}

// forget closes the books of schedules that are gone.
func (l *term) forget(v *fsm.View) {
	for name := range l.books {
		if _, found := v.Schedule(name); !found {
			delete(l.books, name)
		}
	}
}

// again has a schedule looked at anew soon: what was decided on may have moved.
func (l *term) again(name string) {
	if k := l.books[name]; k != nil {
		k.retryAt = time.Now().Add(lookAgain)
	}
}

// fire adds the settlement of a slot, with its command where it has one.
func (l *term) fire(b *batch, v *fsm.View, k *book, step Step, now int64) {
	s := k.row
	m := &raftlogv1.FireSchedule{
		Name: s.GetName(), Id: s.GetId(), Version: s.GetVersion(), Slot: step.Slot, Reason: step.Reason, Missed: uint32(step.Earlier),
	}
	if step.Fire {
		var gone []string
		var err error
		if m.Submit, gone, err = l.plan(v, s, now); err == nil && len(gone) > 0 {
			m.Reason, m.Detail = AgentsGone, "not there any more: "+strings.Join(gone, ", ")
		}
		if err != nil {
			m.Submit, m.Reason, m.Detail = nil, "no_plan", status.Convert(err).Message()
			if d := agentplanev1.DetailOf(err); d.GetReason() != "" {
				m.Reason = d.GetReason()
			}
		}
	}
	b.add(&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_FireSchedule{FireSchedule: m}}, func(o *raftlogv1.Outcome) {
		switch {
		case o.GetCode() != raftlogv1.Code_CODE_OK:
			l.again(s.GetName())
			l.o.Logger.Debug("a slot was not settled, looking again", "schedule", s.GetName(), "slot", stamp(step.Slot), "reason", o.GetReason())
		case !o.GetRepeated():
			l.o.Logger.Info("slot settled", "schedule", s.GetName(), "slot", stamp(step.Slot), "command_id", m.GetSubmit().GetId(), "reason", m.GetReason())
		default: // it goes on to wait, or the view was behind
			l.again(s.GetName())
		}
	})
}

func (l *term) plan(v *fsm.View, s *raftlogv1.Schedule, now int64) (m *raftlogv1.SubmitCommand, gone []string, err error) {
	id, err := newID(time.Unix(0, now))
	if err != nil {
		return nil, nil, err
	}
	return l.o.Planner.PlanScheduled(v, s, id, now)
}

// newID returns a UUIDv7 of the cluster's time.
func newID(now time.Time) (string, error) {
	id, err := uuid.NewRandom()
	if err != nil {
		return "", err
	}
	ms := uint64(now.UnixMilli())
	for i := range 6 {
		id[i] = byte(ms >> (40 - 8*i))
	}
	id[6] = 0x70 | id[6]&0x0f
	return id.String(), nil
}

// purge adds the removal of schedules that ended long ago, once in a while.
func (l *term) purge(b *batch, v *fsm.View, now int64, at time.Time) {
	if at.Before(l.purgeAt) {
		return
	}
	keys := Purge(v.Schedules(), now, l.o.Retain, l.o.RetainCount)
	if len(keys) == 0 {
		l.purgeAt = at.Add(purgeEvery)
		return
	}
	if added := b.add(&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_PurgeSchedules{PurgeSchedules: &raftlogv1.PurgeSchedules{Keys: keys}}}, func(o *raftlogv1.Outcome) {
		l.o.Logger.Info("schedules purged", "schedules", o.GetCount(), "first", keys[0].GetName())
	}); added {
		l.purgeAt = at.Add(purgeEvery)
	}
}

func stamp(nanos int64) string { return time.Unix(0, nanos).UTC().Format(time.RFC3339) }

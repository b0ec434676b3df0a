package operator

import (
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/agentplane/agentplane/fsm"
	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
	"github.com/agentplane/agentplane/proto/timetable"
)

func tableOf(row *raftlogv1.Schedule) (*timetable.Timetable, error) {
	spec := row.GetSpec()
	return timetable.OfNanos(spec.GetCron(), spec.GetTimeZone(), spec.GetAt(), spec.GetUntil())
}

// nextSlot is the first one that is not settled and lies ahead; 0 = none.
func (s *Schedules) nextSlot(v *fsm.View, row *raftlogv1.Schedule, table *timetable.Timetable) int64 {
	if row.GetEndedAt() != 0 {
		return 0
	}
	next := table.Next(time.Unix(0, max(row.GetLastSlot(), s.now(v)-int64(time.Second))))
	if next.IsZero() {
		return 0
	}
	return next.UnixNano()
}

// scheduleRow answers the schedule with so many of its firings.
func (s *Schedules) scheduleRow(v *fsm.View, row *raftlogv1.Schedule, firings int) *agentplanev1.Schedule {
	spec := row.GetSpec()
	command := new(agentplanev1.CommandSpec)
	if proto.Unmarshal(spec.GetCommand(), command) != nil {
		command = nil // PutSchedule has read it
	}
	r := &agentplanev1.Schedule{
		Name: row.GetName(), Id: row.GetId(), State: "active", Version: row.GetVersion(), CreatedBy: row.GetCreatedBy(), CreatedAt: row.GetCreatedAt(),
		ChangedBy: row.GetChangedBy(), ChangedAt: row.GetChangedAt(), PausedAt: row.GetPausedAt(), PausedBy: row.GetPausedBy(), EndedAt: row.GetEndedAt(),
		WaitingAt: row.GetWaitingSlot(), Fired: row.GetFired(), Skipped: row.GetSkipped(), Summary: spec.GetSummary(), Selector: spec.GetSelector(),
		Spec: &agentplanev1.ScheduleSpec{
			Command: withoutSecrets(command), Cron: spec.GetCron(), At: spec.GetAt(), TimeZone: spec.GetTimeZone(), Until: spec.GetUntil(), Ttl: spec.GetTtl(),
			Overlap: agentplanev1.Overlap(spec.GetOverlap()), Missed: agentplanev1.Missed(spec.GetMissed()),
		},
	}
	switch {
	case row.GetEndedAt() != 0:
		r.State = "ended"
	case row.GetPausedAt() != 0:
		r.State = "paused"
	}
	if table, err := tableOf(row); err == nil && r.State == "active" {
		r.NextAt = s.nextSlot(v, row, table)
	}
	all := row.GetFirings()
	for n := len(all) - 1; n >= 0 && len(r.Firings) < firings; n-- {
		r.Firings = append(r.Firings, firingRow(v, all[n]))
	}
	return r
}

func firingRow(v *fsm.View, f *raftlogv1.Firing) *agentplanev1.Firing {
	r := &agentplanev1.Firing{
		Slot: f.GetSlot(), Result: agentplanev1.FiringResult(f.GetResult()), CommandId: f.GetCommandId(), Reason: f.GetReason(), Detail: f.GetDetail(),
		At: f.GetAt(), Index: f.GetIndex(), Missed: f.GetMissed(), RunBy: f.GetRunBy(),
	}
	if c, found := v.Command(f.GetCommandId()); found {
		row := commandRow(c)
		r.CommandState, r.Counts = strings.TrimPrefix(row.GetState().String(), "COMMAND_STATE_"), row.GetCounts()
	}
	return r
}

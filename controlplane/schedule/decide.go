package schedule

import (
	"iter"
	"slices"
	"time"

	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
	"github.com/agentplane/agentplane/proto/timetable"
)

// Missed is the reason of slots at which nobody could fire.
const Missed = "missed"

// AgentsGone is the reason beside slots that fired without agents that the schedule names.
const AgentsGone = "agents_gone"

// pollWaiting is how often a slot is looked at that waits for the end of a command.
const pollWaiting = time.Second

// Step is what a schedule needs now.
type Step struct {
	// Slot is to be settled, Unix nanoseconds; 0 = none is.
	Slot int64
	// Fire says that it gets a command; else Reason says why not.
	Fire   bool
	Reason string
	// Earlier are slots before it that were missed.
	Earlier int
	// End says that no slot follows.
	End bool
	// LookAt is when to look again when there is nothing to do, by the cluster's time;
	// 0 = not before the row changes.
	LookAt int64
}

// NextStep decides on the schedule's row at the cluster's time now (Unix ns), of which
// open commands are not done. A slot fires as if it were in time up to patience after it.
func NextStep(s *raftlogv1.Schedule, table *timetable.Timetable, now int64, open int, patience time.Duration) Step {
	waits := s.GetWaitingSlot() != 0
	switch {
	case s.GetEndedAt() != 0 || s.GetPausedAt() != 0:
		return Step{}
	case waits && open == 0:
		return Step{Slot: s.GetWaitingSlot(), Fire: true}
	}
	newest, n := table.Due(time.Unix(0, settledTo(s)), time.Unix(0, now))
	if n > 0 {
		step := Step{Slot: newest.UnixNano(), Earlier: n - 1, Fire: true}
		if late := time.Duration(now - step.Slot); late > patience && s.GetSpec().GetMissed() != raftlogv1.Missed_MISSED_ONCE {
			step.Fire, step.Reason = false, Missed
		}
		return step
	}
	next := table.Next(time.Unix(0, now))
	switch {
	case next.IsZero() && waits:
		return Step{LookAt: now + int64(pollWaiting)}
	case next.IsZero():
		return Step{End: true}
	case waits:
		return Step{LookAt: min(next.UnixNano(), now+int64(pollWaiting))}
	default:
		return Step{LookAt: next.UnixNano()}
	}
}

// Purge answers which of the schedules to purge at the cluster's time now: those that
// ended longer than retain ago, and of the others that have ended the oldest above keep.
func Purge(all iter.Seq[*raftlogv1.Schedule], now int64, retain time.Duration, keep int) []*raftlogv1.ScheduleKey {
	var ended []*raftlogv1.Schedule
	for s := range all {
		if s.GetEndedAt() != 0 {
			ended = append(ended, s)
		}
	}
	slices.SortStableFunc(ended, func(a, b *raftlogv1.Schedule) int { return int(min(max(a.GetEndedAt()-b.GetEndedAt(), -1), 1)) })
	var keys []*raftlogv1.ScheduleKey
	for n, s := range ended {
		if now-s.GetEndedAt() <= int64(retain) && len(ended)-n <= keep {
			break
		}
		if keys = append(keys, keyOf(s)); len(keys) == maxKeys {
			break
		}
	}
	return keys
}

func keyOf(s *raftlogv1.Schedule) *raftlogv1.ScheduleKey {
	return &raftlogv1.ScheduleKey{Name: s.GetName(), Id: s.GetId(), Version: s.GetVersion()}
}

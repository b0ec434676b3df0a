package fsm

import (
	"slices"

	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

const (
	// MaxFirings is how many firings a schedule remembers.
	MaxFirings = 64
	// MaxOpenFirings bounds the commands of one schedule that are open at once, also
	// where overlaps are allowed: their firings are never forgotten.
	MaxOpenFirings = 32
	// NoTargets is the reason of a firing that meant nobody.
	NoTargets = "no_targets"
)

// fireSchedule settles all slots up to the given one, and makes the command in the same
// mutation: a slot cannot be settled without its command nor have two. Which slots there
// are the leader knows; that each comes once is decided here.
func (tx *tx) fireSchedule(m *raftlogv1.FireSchedule) *raftlogv1.Outcome {
	s, refusal := tx.schedule(m.GetName(), m.GetId())
	switch {
	case refusal != nil:
		return refusal
	case m.GetSlot() <= 0:
		return refuse(raftlogv1.Code_CODE_INVALID, "slot", "schedule %q has no slot at %d", s.GetName(), m.GetSlot())
	case m.GetRunBy() != "":
		return tx.runSchedule(s, m)
	case firesOnce && m.GetSlot() <= s.GetLastSlot() && m.GetSlot() != s.GetWaitingSlot():
		return stands(0) // whoever said so first
	case m.GetVersion() != s.GetVersion():
		return refuse(raftlogv1.Code_CODE_STALE, "schedule_moved", "schedule %q is at version %d, not %d", s.GetName(), s.GetVersion(), m.GetVersion())
	case s.GetPausedAt() != 0:
		return refuse(raftlogv1.Code_CODE_REFUSED, "paused", "schedule %q is paused", s.GetName())
	case s.GetEndedAt() != 0:
		return refuse(raftlogv1.Code_CODE_REFUSED, "ended", "schedule %q has ended at %s", s.GetName(), stamp(s.GetEndedAt()))
	case m.GetSlot() > tx.now():
		return refuse(raftlogv1.Code_CODE_REFUSED, "not_yet", "the slot of schedule %q at %s lies ahead of the cluster's time %s", s.GetName(), stamp(m.GetSlot()), stamp(tx.now()))
	case s.GetSpec().GetUntil() != 0 && m.GetSlot() > s.GetSpec().GetUntil(),
		s.GetSpec().GetAt() != 0 && m.GetSlot() != s.GetSpec().GetAt():
		return refuse(raftlogv1.Code_CODE_INVALID, "slot", "schedule %q has no slot at %s", s.GetName(), stamp(m.GetSlot()))
	}
	f := &raftlogv1.Firing{
		Slot: m.GetSlot(), Result: raftlogv1.FiringResult_FIRING_RESULT_FIRED, At: tx.now(), Index: tx.index, Missed: m.GetMissed(),
		Reason: clip(m.GetReason(), MaxReasonBytes), Detail: clip(m.GetDetail(), MaxDetailBytes),
	}
	open, waits := tx.openFirings(s), m.GetSlot() == s.GetWaitingSlot()
	switch policy := s.GetSpec().GetOverlap(); {
	case m.GetSubmit() == nil:
		if m.GetReason() != NoTargets {
			f.Result = raftlogv1.FiringResult_FIRING_RESULT_SKIPPED
		}
	case open > 0 && policy == raftlogv1.Overlap_OVERLAP_QUEUE && waits:
		return stands(0) // it goes on to wait
	case open > 0 && policy == raftlogv1.Overlap_OVERLAP_QUEUE && s.GetWaitingSlot() == 0:
		f.Result, f.Reason = raftlogv1.FiringResult_FIRING_RESULT_WAITING, "overlap"
	case open > 0 && policy == raftlogv1.Overlap_OVERLAP_QUEUE:
		skip(f, "one_waits", "")
	case open > 0 && policy == raftlogv1.Overlap_OVERLAP_SKIP:
		skip(f, "overlap", "")
	case open >= MaxOpenFirings:
		skip(f, "too_many_open", "")
	default:
		if _, exists := tx.commands.get(m.GetSubmit().GetId()); exists {
			return refuse(raftlogv1.Code_CODE_CONFLICT, "command_exists", "command %q exists", m.GetSubmit().GetId())
		}
		if refusal := tx.checkSubmit(m.GetSubmit()); refusal != nil {
			skip(f, refusal.GetReason(), refusal.GetDetail())
			break
		}
		f.CommandId = tx.addScheduled(s, m).GetId()
	}
	row := clone(s)
	row.LastSlot = max(row.GetLastSlot(), m.GetSlot())
	tx.record(row, f)
	if row.GetSpec().GetAt() != 0 && row.GetWaitingSlot() == 0 {
		row.EndedAt = tx.now()
	}
	put(tx, TableSchedules, tx.schedules, row)
	return ok()
}

// runSchedule makes the command beside the slots, whatever is open: somebody wants it now.
func (tx *tx) runSchedule(s *raftlogv1.Schedule, m *raftlogv1.FireSchedule) *raftlogv1.Outcome {
	c, exists := tx.commands.get(m.GetSubmit().GetId())
	switch {
	case exists && c.GetSchedule() == s.GetName():
		return stands(c.GetSubmittedIndex())
	case exists:
		return refuse(raftlogv1.Code_CODE_CONFLICT, "command_exists", "command %q exists with other content", c.GetId())
	case m.GetVersion() != s.GetVersion():
		return refuse(raftlogv1.Code_CODE_STALE, "schedule_moved", "schedule %q is at version %d, not %d", s.GetName(), s.GetVersion(), m.GetVersion())
	case tx.openFirings(s) >= MaxOpenFirings:
		return refuse(raftlogv1.Code_CODE_EXHAUSTED, "too_many_open", "%d commands of schedule %q are open", MaxOpenFirings, s.GetName())
	}
	if refusal := tx.checkSubmit(m.GetSubmit()); refusal != nil {
		return refusal
	}
	row := clone(s)
	tx.record(row, &raftlogv1.Firing{
		Slot: m.GetSlot(), Result: raftlogv1.FiringResult_FIRING_RESULT_FIRED, CommandId: tx.addScheduled(s, m).GetId(),
		At: tx.now(), Index: tx.index, RunBy: clip(m.GetRunBy(), MaxValueBytes),
	})
	put(tx, TableSchedules, tx.schedules, row)
	return granted(tx.index)
}

func skip(f *raftlogv1.Firing, reason, detail string) {
	f.Result, f.Reason, f.Detail = raftlogv1.FiringResult_FIRING_RESULT_SKIPPED, clip(reason, MaxReasonBytes), clip(detail, MaxDetailBytes)
}

// addScheduled makes the command and names on it whence it comes.
func (tx *tx) addScheduled(s *raftlogv1.Schedule, m *raftlogv1.FireSchedule) *raftlogv1.Command {
	c := tx.addCommand(m.GetSubmit())
	c.Schedule, c.Slot = s.GetName(), m.GetSlot()
	return c
}

// openFirings counts the schedule's commands that are not done.
func (tx *tx) openFirings(s *raftlogv1.Schedule) (n int) {
	for _, f := range s.GetFirings() {
		if tx.isOpen(f) {
			n++
		}
	}
	return n
}

func (tx *tx) isOpen(f *raftlogv1.Firing) bool {
	if f.GetCommandId() == "" {
		return false
	}
	c, found := tx.commands.get(f.GetCommandId())
	return found && !done(c)
}

// record writes what became of a slot into the row, which is a copy. The slot that waited
// keeps its place.
func (tx *tx) record(row *raftlogv1.Schedule, f *raftlogv1.Firing) {
	waits := f.GetResult() == raftlogv1.FiringResult_FIRING_RESULT_WAITING
	switch {
	case f.GetRunBy() != "":
	case waits:
		row.WaitingSlot = f.GetSlot()
	case f.GetResult() == raftlogv1.FiringResult_FIRING_RESULT_FIRED:
		row.Fired++
	default:
		row.Skipped++
	}
	at := slices.IndexFunc(row.GetFirings(), func(have *raftlogv1.Firing) bool {
		return have.GetResult() == raftlogv1.FiringResult_FIRING_RESULT_WAITING && have.GetSlot() == f.GetSlot()
	})
	if at >= 0 && f.GetRunBy() == "" {
		f.Missed = row.Firings[at].GetMissed()
		row.Firings[at], row.WaitingSlot = f, 0
		return
	}
	row.Skipped += uint64(f.GetMissed())
	row.Firings = append(row.Firings, f)
	if len(row.Firings) > MaxFirings {
		// What is open or waits stays; there is always something else, since few are.
		oldest := slices.IndexFunc(row.Firings, func(f *raftlogv1.Firing) bool {
			return f.GetResult() != raftlogv1.FiringResult_FIRING_RESULT_WAITING && !tx.isOpen(f)
		})
		row.Firings = slices.Delete(row.Firings, oldest, oldest+1)
	}
}

// dropWaiting settles the slot that waits, if there is one, in a row that is a copy.
func (tx *tx) dropWaiting(row *raftlogv1.Schedule, reason string) {
	if row.GetWaitingSlot() == 0 {
		return
	}
	tx.record(row, &raftlogv1.Firing{
		Slot: row.GetWaitingSlot(), Result: raftlogv1.FiringResult_FIRING_RESULT_SKIPPED, Reason: reason, At: tx.now(), Index: tx.index,
	})
}

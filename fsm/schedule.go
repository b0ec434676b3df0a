package fsm

import (
	"bytes"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"

	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

const (
	// MaxSchedules bounds the schedules that go on; as many again may have ended.
	MaxSchedules = 1000
	// MaxScheduleBytes bounds what one asks.
	MaxScheduleBytes = 64 << 10
	// MaxScheduleName bounds the name of one.
	MaxScheduleName = 63
)

// ValidScheduleName says that a schedule may have the name: lower-case letters, digits,
// and between them dots, dashes and underscores.
func ValidScheduleName(name string) bool {
	for i := range len(name) {
		inner := i > 0 && i < len(name)-1 && (name[i] == '-' || name[i] == '.' || name[i] == '_')
		if c := name[i]; !inner && (c < 'a' || c > 'z') && (c < '0' || c > '9') {
			return false
		}
	}
	return name != "" && len(name) <= MaxScheduleName
}

// putSchedule creates a schedule or changes what it asks. The same content again answers
// what stands.
func (tx *tx) putSchedule(m *raftlogv1.PutSchedule) *raftlogv1.Outcome {
	have, found := tx.schedules.get(m.GetName())
	d := digest(m.GetSpec())
	switch {
	case found && bytes.Equal(have.GetDigest(), d):
		return stands(have.GetVersion())
	case found && m.GetExpectedVersion() == 0:
		return refuse(raftlogv1.Code_CODE_CONFLICT, "schedule_exists", "schedule %q exists with other content, at version %d", m.GetName(), have.GetVersion())
	case found && m.GetExpectedVersion() != have.GetVersion():
		return refuse(raftlogv1.Code_CODE_STALE, "schedule_moved", "schedule %q is at version %d, not %d", m.GetName(), have.GetVersion(), m.GetExpectedVersion())
	case !found && m.GetExpectedVersion() != 0:
		return refuse(raftlogv1.Code_CODE_NOT_FOUND, "no_schedule", "there is no schedule %q", m.GetName())
	}
	if refusal := tx.checkSchedule(m.GetName(), m.GetSpec()); refusal != nil {
		return refusal
	}
	by := clip(m.GetBy(), MaxValueBytes)
	if found {
		put(tx, TableSchedules, tx.schedules, tx.changedSchedule(have, m.GetSpec(), d, by))
		return granted(tx.index)
	}
	if refusal := tx.checkNewSchedule(m.GetId()); refusal != nil {
		return refusal
	}
	put(tx, TableSchedules, tx.schedules, &raftlogv1.Schedule{
		Name: m.GetName(), Id: m.GetId(), Spec: m.GetSpec(), Digest: d, CreatedBy: by, CreatedAt: tx.now(), CreatedIndex: tx.index,
		Version: tx.index, LastSlot: tx.now(),
	})
	return granted(tx.index)
}

func (tx *tx) checkNewSchedule(text string) *raftlogv1.Outcome {
	id, err := uuid.Parse(text)
	if err != nil || id.Version() != 7 || id.String() != text {
		return refuse(raftlogv1.Code_CODE_INVALID, "id", "schedule id %.50q is not a UUIDv7 in lower case", text)
	}
	goOn := 0
	for s := range tx.schedules.all() {
		if s.GetEndedAt() == 0 {
			goOn++
		}
	}
	switch made := madeAt(id); {
	case made > tx.now()/int64(time.Millisecond)+idAhead.Milliseconds():
		return refuse(raftlogv1.Code_CODE_INVALID, "id_ahead", "schedule id %q was made more than %v ahead of the cluster's time %s: set the clock of the machine that made it", text, idAhead, stamp(tx.now()))
	case made < tx.cluster.GetSchedulesFloor():
		return refuse(raftlogv1.Code_CODE_REFUSED, "id_old", "schedule id %q is older than one that was deleted", text)
	case goOn >= MaxSchedules || tx.schedules.len() >= 2*MaxSchedules:
		return refuse(raftlogv1.Code_CODE_EXHAUSTED, "too_many_schedules", "there are %d schedules that go on and %d in all, at most %d and %d are allowed",
			goOn, tx.schedules.len(), MaxSchedules, 2*MaxSchedules)
	}
	return nil
}

func (tx *tx) checkSchedule(name string, s *raftlogv1.ScheduleSpec) *raftlogv1.Outcome {
	switch {
	case !ValidScheduleName(name):
		return refuse(raftlogv1.Code_CODE_INVALID, "name", "schedule name %.80q is not of 1 to %d lower-case letters and digits, with dots, dashes and underscores between them", name, MaxScheduleName)
	case len(s.GetCommand()) == 0:
		return refuse(raftlogv1.Code_CODE_INVALID, "no_program", "schedule %q asks nothing", name)
	case proto.Size(s) > MaxScheduleBytes:
		return refuse(raftlogv1.Code_CODE_INVALID, "too_large", "schedule %q has %d bytes, at most %d are allowed", name, proto.Size(s), MaxScheduleBytes)
	case (s.GetCron() == "") == (s.GetAt() == 0) || s.GetAt() < 0 || s.GetUntil() < 0:
		return refuse(raftlogv1.Code_CODE_INVALID, "time", "schedule %q needs a cron expression or a time, and not both", name)
	case s.GetTtl() <= 0:
		return refuse(raftlogv1.Code_CODE_INVALID, "no_end", "the commands of schedule %q would have no time after which they expire", name)
	case s.GetOverlap() < raftlogv1.Overlap_OVERLAP_SKIP || s.GetOverlap() > raftlogv1.Overlap_OVERLAP_ALLOW:
		return refuse(raftlogv1.Code_CODE_INVALID, "overlap", "overlap policy %d is none of skip, queue, allow", s.GetOverlap())
	case s.GetMissed() < raftlogv1.Missed_MISSED_SKIP || s.GetMissed() > raftlogv1.Missed_MISSED_ONCE:
		return refuse(raftlogv1.Code_CODE_INVALID, "missed", "missed policy %d is none of skip, once", s.GetMissed())
	case s.GetAt() != 0 && s.GetAt() <= tx.now():
		return refuse(raftlogv1.Code_CODE_REFUSED, "past", "schedule %q would fire at %s; the cluster's time is %s", name, stamp(s.GetAt()), stamp(tx.now()))
	case s.GetUntil() != 0 && s.GetUntil() <= tx.now():
		return refuse(raftlogv1.Code_CODE_REFUSED, "past", "schedule %q would end at %s; the cluster's time is %s", name, stamp(s.GetUntil()), stamp(tx.now()))
	}
	return nil
}

// changedSchedule is the row with another spec. Whoever changes what is asked loses no
// slot; whoever changes the times, or revives a schedule that has ended, gets slots from
// now on, since older ones were never meant.
func (tx *tx) changedSchedule(have *raftlogv1.Schedule, spec *raftlogv1.ScheduleSpec, d []byte, by string) *raftlogv1.Schedule {
	row := clone(have)
	row.Spec, row.Digest, row.Version, row.ChangedBy, row.ChangedAt = spec, d, tx.index, by, tx.now()
	was := have.GetSpec()
	sameTimes := was.GetCron() == spec.GetCron() && was.GetAt() == spec.GetAt() && was.GetTimeZone() == spec.GetTimeZone()
	revived := have.GetEndedAt() != 0 && (!sameTimes || was.GetUntil() != spec.GetUntil())
	if revived {
		row.EndedAt = 0
	}
	if !sameTimes || revived {
		row.LastSlot = max(row.GetLastSlot(), tx.now())
	}
	if !sameTimes || spec.GetOverlap() != raftlogv1.Overlap_OVERLAP_QUEUE {
		tx.dropWaiting(row, "changed")
	}
	return row
}

// schedule returns the row of the life that is meant; any when id is empty.
func (tx *tx) schedule(name, id string) (*raftlogv1.Schedule, *raftlogv1.Outcome) {
	s, found := tx.schedules.get(name)
	if !found || id != "" && id != s.GetId() {
		return nil, refuse(raftlogv1.Code_CODE_NOT_FOUND, "no_schedule", "there is no schedule %q", name)
	}
	return s, nil
}

// deleteSchedule removes a schedule. Ids as old as its own are refused from here on, so
// that no late repetition brings it back.
func (tx *tx) deleteSchedule(m *raftlogv1.DeleteSchedule) *raftlogv1.Outcome {
	s, found := tx.schedules.get(m.GetName())
	if !found || m.GetId() != s.GetId() {
		return stands(0) // the life that is meant is over
	}
	tx.removeSchedule(s)
	return ok()
}

func (tx *tx) removeSchedule(s *raftlogv1.Schedule) {
	remove(tx, TableSchedules, tx.schedules, s.GetName())
	if id, err := uuid.Parse(s.GetId()); err == nil {
		// Of an id that is ahead, what lies ahead stays allowed: others have the right time.
		floor := min(madeAt(id)+1, tx.now()/int64(time.Millisecond))
		tx.cluster.SchedulesFloor = max(tx.cluster.GetSchedulesFloor(), floor)
		tx.clusterChanged = true
	}
}

func (tx *tx) pauseSchedule(m *raftlogv1.PauseSchedule) *raftlogv1.Outcome {
	s, refusal := tx.schedule(m.GetName(), "")
	switch {
	case refusal != nil:
		return refusal
	case s.GetPausedAt() != 0:
		return stands(0)
	}
	row := clone(s)
	row.PausedAt, row.PausedBy = tx.now(), clip(m.GetBy(), MaxValueBytes)
	tx.dropWaiting(row, "paused")
	put(tx, TableSchedules, tx.schedules, row)
	return ok()
}

// resumeSchedule ends a pause. What was due within it was not missed, but not wanted.
func (tx *tx) resumeSchedule(m *raftlogv1.ResumeSchedule) *raftlogv1.Outcome {
	s, refusal := tx.schedule(m.GetName(), "")
	switch {
	case refusal != nil:
		return refusal
	case s.GetPausedAt() == 0:
		return stands(0)
	}
	row := clone(s)
	row.PausedAt, row.PausedBy = 0, ""
	row.LastSlot = max(row.GetLastSlot(), tx.now())
	put(tx, TableSchedules, tx.schedules, row)
	return ok()
}

// endSchedules notes that no slot follows; the leader knows, since it knows the slots.
func (tx *tx) endSchedules(m *raftlogv1.EndSchedules) *raftlogv1.Outcome {
	o := ok()
	for _, k := range m.GetKeys() {
		s, refusal := tx.schedule(k.GetName(), k.GetId())
		if refusal != nil || s.GetVersion() != k.GetVersion() || s.GetEndedAt() != 0 || s.GetWaitingSlot() != 0 {
			continue
		}
		row := clone(s)
		row.EndedAt = tx.now()
		put(tx, TableSchedules, tx.schedules, row)
		o.Count++
	}
	return o
}

// purgeSchedules removes schedules that have ended.
func (tx *tx) purgeSchedules(m *raftlogv1.PurgeSchedules) *raftlogv1.Outcome {
	o := ok()
	for _, k := range m.GetKeys() {
		if s, refusal := tx.schedule(k.GetName(), k.GetId()); refusal == nil && s.GetVersion() == k.GetVersion() && s.GetEndedAt() != 0 {
			tx.removeSchedule(s)
			o.Count++
		}
	}
	return o
}

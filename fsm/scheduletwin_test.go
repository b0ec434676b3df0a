package fsm

import (
	"fmt"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

// scheduleTwin is a slow, obvious model of one schedule: every slot that was ever settled
// with its command, in a map.
type scheduleTwin struct {
	id      string
	version uint64
	spec    *raftlogv1.ScheduleSpec
	paused  bool
	ended   bool
	last    int64
	waits   int64
	settled map[int64]string // "" = no command
	byHand  map[string]bool
}

// TestSchedulesMatchTheirTwin follows in a model what settles slots: each has one end and
// one command at most, for ever.
func TestSchedulesMatchTheirTwin(t *testing.T) {
	count := 0
	rapid.Check(t, func(t *rapid.T) {
		g := newGen(t)
		all := make(map[string]*scheduleTwin)
		for range 2 * historyEntries {
			e := g.entry(1)
			if len(e.GetMutations()) == 1 && e.GetLeaderEpoch() != 0 && !g.rarely(3) {
				e.Mutations[0] = g.scheduleMutation()
			}
			before := g.m.View()
			outcomes := g.apply(e)
			if len(outcomes) != 1 || outcomes[0].GetCode() != raftlogv1.Code_CODE_OK {
				continue
			}
			now, again, v := g.m.Now(), outcomes[0].GetRepeated(), g.m.View()
			switch m := e.GetMutations()[0].GetKind().(type) {
			case *raftlogv1.Mutation_PutSchedule:
				w := all[m.PutSchedule.GetName()]
				switch spec := m.PutSchedule.GetSpec(); {
				case again && (w == nil || !proto.Equal(w.spec, spec)):
					t.Fatalf("entry %d: %v is said to stand, the model has %+v", g.index, m, w)
				case again:
				case w == nil:
					all[m.PutSchedule.GetName()] = &scheduleTwin{id: m.PutSchedule.GetId(), version: g.index, spec: spec, last: now, settled: make(map[int64]string), byHand: make(map[string]bool)}
				default:
					sameTimes := w.spec.GetCron() == spec.GetCron() && w.spec.GetAt() == spec.GetAt()
					revived := w.ended && (!sameTimes || w.spec.GetUntil() != spec.GetUntil())
					if !sameTimes || revived {
						w.last = max(w.last, now)
					}
					w.ended = w.ended && !revived
					if !sameTimes || spec.GetOverlap() != raftlogv1.Overlap_OVERLAP_QUEUE {
						w.drop()
					}
					w.spec, w.version = spec, g.index
				}
			case *raftlogv1.Mutation_DeleteSchedule:
				if w := all[m.DeleteSchedule.GetName()]; w != nil && w.id == m.DeleteSchedule.GetId() {
					delete(all, m.DeleteSchedule.GetName())
				}
			case *raftlogv1.Mutation_PauseSchedule:
				all[m.PauseSchedule.GetName()].paused = true
				all[m.PauseSchedule.GetName()].drop()
			case *raftlogv1.Mutation_ResumeSchedule:
				if w := all[m.ResumeSchedule.GetName()]; w.paused {
					w.paused, w.last = false, max(w.last, now)
				}
			case *raftlogv1.Mutation_EndSchedules:
				k := m.EndSchedules.GetKeys()[0]
				if w := all[k.GetName()]; w != nil && w.id == k.GetId() && w.version == k.GetVersion() && w.waits == 0 {
					w.ended = true
				}
			case *raftlogv1.Mutation_PurgeSchedules:
				k := m.PurgeSchedules.GetKeys()[0]
				if w := all[k.GetName()]; w != nil && w.id == k.GetId() && w.version == k.GetVersion() && w.ended {
					delete(all, k.GetName())
				}
			case *raftlogv1.Mutation_FireSchedule:
				w, f := all[m.FireSchedule.GetName()], m.FireSchedule
				_, stood := before.Command(f.GetSubmit().GetId())
				_, stands := v.Command(f.GetSubmit().GetId())
				made := stands && !stood
				if f.GetRunBy() != "" {
					if made {
						w.byHand[f.GetSubmit().GetId()] = true
					}
					break
				}
				if made {
					count++
				}
				if err := w.fire(before, f, now, made); err != nil {
					t.Fatalf("entry %d (%v) answered %v: %v; the model has %+v", g.index, e, outcomes[0], err, w)
				}
			}
			compareSchedules(t, all, v)
		}
	})
	if count < 20 {
		t.Errorf("only %d slots fired in all histories", count)
	}
}

func (w *scheduleTwin) drop() {
	if w.waits != 0 {
		w.settled[w.waits], w.waits = "", 0
	}
}

// fire follows an OK; made says that the command came to be.
func (w *scheduleTwin) fire(before *View, f *raftlogv1.FireSchedule, now int64, made bool) error {
	waits := f.GetSlot() == w.waits
	if f.GetSlot() <= w.last && !waits {
		if made {
			return fmt.Errorf("a settled slot made a command")
		}
		return nil
	}
	open := 0
	for c := range before.OpenCommands() {
		for _, id := range w.settled {
			if id == c.GetId() {
				open++
			}
		}
		if w.byHand[c.GetId()] {
			open++
		}
	}
	policy := w.spec.GetOverlap()
	may := f.GetSubmit() != nil && f.GetSubmit().GetRunTimeout() > 0 && f.GetSubmit().GetId()[:13] >= floorOf(before) && (open == 0 || policy == raftlogv1.Overlap_OVERLAP_ALLOW && open < MaxOpenFirings)
	switch {
	case w.paused, w.ended, f.GetSlot() > now, w.version != f.GetVersion(), w.id != f.GetId():
		return fmt.Errorf("must not fire at %d", now)
	case made != may:
		return fmt.Errorf("made is %v, may is %v with %d open", made, may, open)
	case waits && open > 0 && f.GetSubmit() != nil:
		return nil
	}
	w.last = max(w.last, f.GetSlot())
	if f.GetSubmit() != nil && open > 0 && policy == raftlogv1.Overlap_OVERLAP_QUEUE && w.waits == 0 {
		w.waits = f.GetSlot()
		return nil
	}
	if _, twice := w.settled[f.GetSlot()]; twice {
		return fmt.Errorf("the slot is settled twice")
	}
	w.settled[f.GetSlot()] = ""
	if made {
		w.settled[f.GetSlot()] = f.GetSubmit().GetId()
	}
	if waits {
		w.waits = 0
	}
	if w.spec.GetAt() != 0 && w.waits == 0 {
		w.ended = true
	}
	return nil
}

// floorOf is the beginning of the first id of a command that is not too old.
func floorOf(v *View) string {
	return commandFloor(v.Cluster().GetCommandsFloor() * int64(time.Millisecond))
}

func compareSchedules(t *rapid.T, all map[string]*scheduleTwin, v *View) {
	if v.ScheduleCount() != len(all) {
		t.Fatalf("there are %d schedules, in the model %d", v.ScheduleCount(), len(all))
	}
	for name, w := range all {
		s, _ := v.Schedule(name)
		if s.GetId() != w.id || s.GetVersion() != w.version || s.GetLastSlot() != w.last || s.GetWaitingSlot() != w.waits || (s.GetPausedAt() != 0) != w.paused || (s.GetEndedAt() != 0) != w.ended {
			t.Fatalf("schedule is %v, in the model %+v", s, w)
		}
		for _, f := range s.GetFirings() {
			id, settled := w.settled[f.GetSlot()]
			switch {
			case f.GetRunBy() != "":
				if !w.byHand[f.GetCommandId()] {
					t.Fatalf("schedule %s says %v, the model knows nothing of it", name, f)
				}
			case f.GetResult() == raftlogv1.FiringResult_FIRING_RESULT_WAITING:
			case !settled || id != f.GetCommandId():
				t.Fatalf("schedule %s says %v, the model %q", name, f, id)
			}
		}
	}
}

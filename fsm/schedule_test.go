package fsm

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

// genSchedules are the schedules of the random world; the last name is no name.
var genSchedules = []string{"s1", "s2", "s3", "S!"}

// scheduleID is the id of the n-th life of a schedule.
func scheduleID(name string, life int) string {
	made := storyBegin.Add(time.Duration(life) * time.Millisecond)
	if life%5 == 4 {
		made = made.Add(4 * time.Minute)
	}
	return commandID(made, fmt.Sprint("schedule ", name, life))
}

func putSchedule(name string, life int, edit func(*raftlogv1.PutSchedule)) *raftlogv1.Mutation {
	m := &raftlogv1.PutSchedule{Name: name, Id: scheduleID(name, life), By: "ann", Spec: &raftlogv1.ScheduleSpec{
		Command: []byte("command"), Cron: "* * * * *", Ttl: int64(time.Minute), Overlap: raftlogv1.Overlap_OVERLAP_SKIP, Missed: raftlogv1.Missed_MISSED_SKIP,
		Summary: "true", Selector: "all",
	}}
	if edit != nil {
		edit(m)
	}
	return &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_PutSchedule{PutSchedule: m}}
}

// fireSchedule fires the schedule at the cluster's time and after, for the first agent.
func fireSchedule(m *Machine, name string, after time.Duration) *raftlogv1.Mutation {
	v := m.View()
	s, _ := v.Schedule(name)
	slot := max(v.Now(), s.GetLastSlot()+1) + int64(after)
	return &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_FireSchedule{FireSchedule: &raftlogv1.FireSchedule{
		Name: name, Id: s.GetId(), Version: s.GetVersion(), Slot: slot, Submit: &raftlogv1.SubmitCommand{
			Id: commandID(time.Unix(0, v.Now()), fmt.Sprint("fired ", name, slot)), Envelope: []byte("e"), Digest: []byte("d"), AgentOrdinals: []uint32{1},
			Ttl: int64(100 * time.Second), RunTimeout: 1, QueueOffline: true,
		},
	}}}
}

// applyAfter gives the machine the leader's next entry when some time has passed.
func applyAfter(m *Machine, d time.Duration, muts ...*raftlogv1.Mutation) []*raftlogv1.Outcome {
	index, office := m.Published()
	return m.Apply(index+1, 1, &raftlogv1.Entry{Format: 1, LeaderEpoch: office.GetEpoch(), Now: m.Now() + int64(d), Mutations: muts})
}

func (g *gen) scheduleMutation() *raftlogv1.Mutation {
	name := g.of(genSchedules)
	s, found := g.m.View().Schedule(name)
	switch g.random.IntN(14) {
	case 0, 1:
		return putSchedule(name, g.pick(0, 1, 2, 3, 4), func(m *raftlogv1.PutSchedule) {
			m.ExpectedVersion = g.near(s.GetVersion())
			m.Spec.Overlap, m.Spec.Missed = raftlogv1.Overlap(g.pick(0, 1, 2, 2, 2, 3, 3)), raftlogv1.Missed(g.pick(1, 1, 1, 2, 2, 3))
			m.Spec.Command = []byte(g.of([]string{"c", "c", "d", strings.Repeat("x", MaxScheduleBytes), ""}))
			if g.rarely(3) {
				m.Spec.Cron, m.Spec.At = g.of([]string{"", "", "@daily"}), g.now.Add(time.Duration(g.pick(-1, 5, 5, 30))*time.Second).UnixNano()
			}
			if g.rarely(6) {
				m.Spec.Until = g.now.Add(time.Duration(g.pick(-1, 20)) * time.Second).UnixNano()
			}
		})
	case 2:
		return &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_DeleteSchedule{DeleteSchedule: &raftlogv1.DeleteSchedule{Name: name, Id: g.of([]string{s.GetId(), scheduleID(name, 1)})}}}
	case 3:
		return &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_PauseSchedule{PauseSchedule: &raftlogv1.PauseSchedule{Name: name, By: "ann"}}}
	case 4, 5:
		return &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_ResumeSchedule{ResumeSchedule: &raftlogv1.ResumeSchedule{Name: name}}}
	case 6:
		key := &raftlogv1.ScheduleKey{Name: name, Id: s.GetId(), Version: g.near(s.GetVersion())}
		if s.GetEndedAt() != 0 {
			return &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_PurgeSchedules{PurgeSchedules: &raftlogv1.PurgeSchedules{Keys: []*raftlogv1.ScheduleKey{key, {Name: "x"}}}}}
		}
		return &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_EndSchedules{EndSchedules: &raftlogv1.EndSchedules{Keys: []*raftlogv1.ScheduleKey{key, {Name: "x"}}}}}
	case 7:
		if !found || g.rarely(3) {
			break
		}
		m := fireSchedule(g.m, name, 0)
		m.GetFireSchedule().RunBy = "ann"
		m.GetFireSchedule().Version = g.near(s.GetVersion())
		return m
	}
	if !found && !g.rarely(4) {
		return putSchedule(name, g.pick(0, 1, 2, 3, 4), func(m *raftlogv1.PutSchedule) { m.Spec.Overlap = raftlogv1.Overlap(g.pick(1, 2, 2, 3)) })
	}
	m := fireSchedule(g.m, name, time.Duration(g.pick(0, 0, 0, 0, -1, -3600, 1))*time.Second)
	f := m.GetFireSchedule()
	if at := s.GetSpec().GetAt(); at != 0 && !g.rarely(4) {
		f.Slot = at
	}
	if s.GetWaitingSlot() != 0 && g.rarely(2) {
		f.Slot = s.GetWaitingSlot()
	}
	f.Version, f.Missed = g.near(f.GetVersion()), uint32(g.pick(0, 0, 0, 3))
	switch {
	case g.rarely(5):
		f.Submit, f.Reason = nil, g.of([]string{NoTargets, "missed"})
	case g.rarely(8):
		f.Submit.RunTimeout = 0 // refused by itself
	case g.rarely(8):
		f.Submit.Id = g.command()
	}
	return m
}

// checkSchedules says whether a schedule contradicts itself or its commands.
func checkSchedules(t *tables) error {
	made := make(map[string]string)
	for s := range t.schedules.all() {
		waiting, open := 0, 0
		for _, f := range s.GetFirings() {
			if f.GetCommandId() != "" {
				if other, twice := made[f.GetCommandId()]; twice {
					return fmt.Errorf("command %s was fired by %s and %s", f.GetCommandId(), other, s.GetName())
				}
				made[f.GetCommandId()] = s.GetName()
				if c, found := t.commands.get(f.GetCommandId()); found {
					if c.GetSchedule() != s.GetName() || c.GetSlot() != f.GetSlot() {
						return fmt.Errorf("command %s is of schedule %s at %d, which says %v", c.GetId(), c.GetSchedule(), c.GetSlot(), f)
					}
					if !done(c) {
						open++
					}
				}
			}
			if f.GetResult() == raftlogv1.FiringResult_FIRING_RESULT_WAITING {
				waiting++
				if f.GetSlot() != s.GetWaitingSlot() {
					return fmt.Errorf("schedule %s: slot %d waits, the row says %d", s.GetName(), f.GetSlot(), s.GetWaitingSlot())
				}
			}
			if (f.GetCommandId() != "") != (f.GetResult() == raftlogv1.FiringResult_FIRING_RESULT_FIRED && f.GetReason() != NoTargets) {
				return fmt.Errorf("schedule %s: %v", s.GetName(), f)
			}
		}
		if waiting > 1 || (waiting == 1) != (s.GetWaitingSlot() != 0) || open > MaxOpenFirings || len(s.GetFirings()) > MaxFirings || s.GetLastSlot() > t.cluster.GetNow() ||
			s.GetPausedAt() != 0 && waiting > 0 || !ValidScheduleName(s.GetName()) || !bytes.Equal(s.GetDigest(), digest(s.GetSpec())) {
			return fmt.Errorf("schedule %s: %d wait and %d are open in %v", s.GetName(), waiting, open, s)
		}
	}
	for c := range t.commands.all() {
		s, found := t.schedules.get(c.GetSchedule())
		if c.GetSchedule() == "" || !found || s.GetCreatedAt() > c.GetSubmittedAt() || s.GetCreatedIndex() > c.GetSubmittedIndex() || done(c) {
			continue
		}
		if made[c.GetId()] != s.GetName() {
			return fmt.Errorf("schedule %s has forgotten its open command %s", s.GetName(), c.GetId())
		}
	}
	return nil
}

// The firings that are remembered are few, whatever was fired; those of open commands
// are never forgotten.
func TestFiringsAreBounded(t *testing.T) {
	m := full(t)
	apply(t, m, putSchedule("often", 1, func(p *raftlogv1.PutSchedule) { p.Spec.Overlap = raftlogv1.Overlap_OVERLAP_ALLOW }))
	var first string
	for n := range 200 {
		f := fireSchedule(m, "often", 0)
		if n > 0 && n%2 == 0 {
			f.GetFireSchedule().Submit, f.GetFireSchedule().Reason = nil, NoTargets
		}
		if n == 0 {
			first = f.GetFireSchedule().GetSubmit().GetId()
		}
		if o := applyAfter(m, time.Millisecond, f)[0]; o.GetCode() != raftlogv1.Code_CODE_OK || o.GetRepeated() {
			t.Fatal(o)
		}
	}
	s, _ := m.View().Schedule("often")
	open := m.View().OpenFirings(s)
	if len(s.GetFirings()) != MaxFirings || open != MaxOpenFirings || s.GetFirings()[0].GetCommandId() != first {
		t.Fatalf("%d firings, %d open, the first %v", len(s.GetFirings()), open, s.GetFirings()[0])
	}
	if n := len(slices.DeleteFunc(slices.Clone(s.GetFirings()), func(f *raftlogv1.Firing) bool { return f.GetReason() != "too_many_open" })); n == 0 {
		t.Error("nothing was skipped as too many")
	}
	if err := check(m); err != nil {
		t.Error(err)
	}
}

func TestSchedulesAreBounded(t *testing.T) {
	m := full(t)
	for n := m.View().ScheduleCount(); n < MaxSchedules; n++ {
		apply(t, m, putSchedule(fmt.Sprint("s", n), n, nil))
	}
	if o := applyAfter(m, 0, putSchedule("more", 1, nil))[0]; o.GetReason() != "too_many_schedules" {
		t.Errorf("one too many: %v", o)
	}
}

func TestSplayDelaysClaims(t *testing.T) {
	seen := make(map[int64]bool)
	for n := range 100 {
		d := Delay("c", fmt.Sprint("agent", n), int64(time.Minute))
		if d < 0 || d >= int64(time.Minute) || d != Delay("c", fmt.Sprint("agent", n), int64(time.Minute)) {
			t.Fatalf("delay %v", time.Duration(d))
		}
		seen[d/int64(6*time.Second)] = true
	}
	if len(seen) != 10 {
		t.Errorf("100 agents fall into %d of 10 parts of the splay", len(seen))
	}
}

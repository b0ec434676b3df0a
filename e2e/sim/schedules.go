package sim

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/agentplane/agentplane/agent/execute"
	"github.com/agentplane/agentplane/fsm"
	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/client"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

// scheduled is a schedule that fires some seconds after it was made, and few of them once more
// a minute later.
type scheduled struct {
	req  *agentplanev1.PutScheduleRequest
	made fate // guarded by operators.mu
}

// schedule makes one for a moment that most likely falls into the life, through whichever
// leader there will be then; sometimes one that was made is made again.
func (o *operators) schedule(ctx context.Context, c *client.Client, rng *rand.Rand) {
	s := o.composeSchedule(rng)
	r, err := agentplanev1.NewScheduleServiceClient(c).PutSchedule(ctx, s.req)
	o.heed(err)
	e := client.AsError(err)
	o.mu.Lock()
	defer o.mu.Unlock()
	switch {
	case err == nil:
		s.made.acked++
		o.writes++
		if s.made.index != 0 && s.made.index != r.GetSchedule().GetVersion() {
			o.w.fault("I8: schedule %s was acknowledged at index %d and then at %d", s.req.Name, s.made.index, r.GetSchedule().GetVersion())
		}
		s.made.index = r.GetSchedule().GetVersion()
	case e.OutcomeUnknown:
		s.made.unknown++
	default:
		s.made.refused++
	}
	o.w.trace.Note("operator", "schedule %s for %d: %v", s.req.Name, s.req.GetSpec().GetAt(), err)
}

func (o *operators) composeSchedule(rng *rand.Rand) *scheduled {
	v := o.w.newest()
	o.mu.Lock()
	defer o.mu.Unlock()
	if n := len(o.schedules); n > 0 && rng.IntN(4) == 0 {
		return o.schedules[n-1]
	}
	o.serial++
	spec := &agentplanev1.ScheduleSpec{
		Command: &agentplanev1.CommandSpec{
			Argv: []string{"work", "10ms", "0"}, RunTimeout: int64(5 * time.Second), KillGrace: int64(killGrace), QueueOffline: rng.IntN(2) == 0,
		},
		At: v.Now() + int64(time.Second) + rng.Int64N(int64(10*time.Second)), Ttl: int64(20 * time.Second),
		Overlap: agentplanev1.Overlap(1 + rng.IntN(3)), Missed: agentplanev1.Missed(1 + rng.IntN(2)),
	}
	if rng.IntN(2) == 0 {
		spec.Command.Selector = "all"
	} else {
		spec.Command.Agents = []string{o.w.agents[rng.IntN(len(o.w.agents))].name}
	}
	if rng.IntN(3) == 0 {
		spec.Command.Splay = int64(3 * time.Second)
	}
	if rng.IntN(2) == 0 {
		recur(spec, v.Now(), rng)
	}
	s := &scheduled{req: &agentplanev1.PutScheduleRequest{Name: fmt.Sprint("s", o.serial), Id: madeID(v.Now(), o.serial), Spec: spec}}
	o.schedules = append(o.schedules, s)
	return s
}

// recur gives a schedule a slot at each full minute, until some seconds after the next one. A
// life begins within a minute whose end most likely falls into its work (minuteEnds).
func recur(spec *agentplanev1.ScheduleSpec, now int64, rng *rand.Rand) {
	until := time.Unix(0, now).Truncate(time.Minute).Add(time.Minute + time.Duration(rng.Int64N(int64(20*time.Second))))
	if rng.IntN(24) == 0 {
		until = until.Add(time.Minute)
	}
	spec.At, spec.Cron, spec.Until = 0, "* * * * *", until.UnixNano()
}

// minuteEnds is how long after its begin a life comes to the end of a minute.
func minuteEnds(seed uint64, breaking time.Duration) time.Duration {
	rng := rand.New(rand.NewPCG(seed, 0x736c6f74))
	return formTakes + time.Duration(rng.Int64N(int64(breaking)))
}

// unsettledSchedules counts those that still have a slot.
func unsettledSchedules(v *fsm.View) (n int) {
	for s := range v.Schedules() {
		if s.GetEndedAt() == 0 {
			n++
		}
	}
	return n
}

// judgeSchedule wants that each slot was settled once and not before its time, by one
// command at most, and answers how many commands there are.
func (w *World) judgeSchedule(v *fsm.View, s *scheduled, made []*raftlogv1.Command, starts map[execute.Attempt][]Start) int {
	name := s.req.GetName()
	row, there := v.Schedule(name)
	switch {
	case !there && s.made.acked > 0:
		w.fault("I1: schedule %s was acknowledged and is not there", name)
	case there && s.made.acked == 0 && s.made.unknown == 0:
		w.fault("I8: schedule %s is there, and the operator was told that nothing happened", name)
	case there && s.made.index != 0 && row.GetVersion() != s.made.index:
		w.fault("I8: schedule %s was acknowledged at %d and stands at %d", name, s.made.index, row.GetVersion())
	}
	if !there {
		if len(made) > 0 {
			w.fault("I8: schedule %s is not there, and has made %v", name, made)
		}
		return 0
	}
	for _, wrong := range judgeFirings(row, slotsOf(s.req.GetSpec(), row.GetCreatedAt()), made) {
		w.fault("schedule %s %s; it says %v", name, wrong, row.GetFirings())
	}
	for _, c := range made {
		for i := range v.Invocations(c.GetId()) {
			w.judgeInvocation(c, i, starts)
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, f := range row.GetFirings() {
		w.accepted["slot "+f.GetReason()]++
		if s.req.GetSpec().GetCron() != "" {
			w.accepted["slot that recurs"]++
		}
	}
	return len(made)
}

// slotsOf are those of a schedule that was made at a time of the cluster.
func slotsOf(spec *agentplanev1.ScheduleSpec, made int64) (slots []int64) {
	if spec.GetAt() != 0 {
		return []int64{spec.GetAt()} // it was to come when the schedule was made
	}
	for slot := time.Unix(0, made).Truncate(time.Minute).Add(time.Minute); slot.UnixNano() <= spec.GetUntil(); slot = slot.Add(time.Minute) {
		slots = append(slots, slot.UnixNano())
	}
	return slots
}

// judgeFirings says what is wrong with what has become of slots, which were all over.
func judgeFirings(row *raftlogv1.Schedule, slots []int64, made []*raftlogv1.Command) (wrong []string) {
	commands := make(map[int64][]string)
	for _, c := range made {
		commands[c.GetSlot()] = append(commands[c.GetSlot()], c.GetId())
	}
	settled := 0
	for _, f := range row.GetFirings() {
		settled += 1 + int(f.GetMissed())
		switch of := commands[f.GetSlot()]; {
		case settled > len(slots) || slots[settled-1] != f.GetSlot():
			wrong = append(wrong, fmt.Sprintf("I8: has settled its slot at %d as the %d. of %v", f.GetSlot(), settled, slots))
		case f.GetAt() < f.GetSlot():
			wrong = append(wrong, fmt.Sprintf("has settled its slot at %d before its time", f.GetSlot()))
		case len(of) > 1, (f.GetCommandId() != "") != (len(of) == 1):
			wrong = append(wrong, fmt.Sprintf("I2: has made %d commands at %d: %v", len(of), f.GetSlot(), of))
		case f.GetCommandId() == "" && f.GetReason() == "":
			wrong = append(wrong, fmt.Sprintf("has made no command at %d and says no reason", f.GetSlot()))
		}
		delete(commands, f.GetSlot())
	}
	if settled != len(slots) {
		wrong = append(wrong, fmt.Sprintf("has settled %d of its slots at %v", settled, slots))
	}
	if len(commands) > 0 {
		wrong = append(wrong, fmt.Sprintf("has made commands beside its slots: %v", commands))
	}
	return wrong
}

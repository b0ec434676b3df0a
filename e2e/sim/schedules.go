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

// scheduled is a schedule that fires once, some seconds after it was made.
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
	s := &scheduled{req: &agentplanev1.PutScheduleRequest{Name: fmt.Sprint("s", o.serial), Id: madeID(v.Now(), o.serial), Spec: spec}}
	o.schedules = append(o.schedules, s)
	return s
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

// judgeSchedule wants that the slot was settled once and not before its time, by one
// command at most, and answers how many commands there are.
func (w *World) judgeSchedule(v *fsm.View, s *scheduled, made []*raftlogv1.Command, starts map[execute.Attempt][]Start) int {
	name, at := s.req.GetName(), s.req.GetSpec().GetAt()
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
	fired := row.GetFirings()
	if len(fired) != 1 || fired[0].GetSlot() != at || fired[0].GetAt() < at {
		w.fault("schedule %s has settled %v, want its slot at %d once", name, fired, at)
		return len(made)
	}
	switch f := fired[0]; {
	case len(made) > 1, (f.GetCommandId() != "") != (len(made) == 1):
		w.fault("I2: schedule %s has made %d commands: %v; it says %v", name, len(made), made, f)
	case f.GetCommandId() == "" && f.GetReason() == "":
		w.fault("schedule %s has made no command and says no reason: %v", name, f)
	}
	for _, c := range made {
		for i := range v.Invocations(c.GetId()) {
			w.judgeInvocation(c, i, starts)
		}
	}
	w.mu.Lock()
	w.accepted["slot "+fired[0].GetReason()]++
	w.mu.Unlock()
	return len(made)
}

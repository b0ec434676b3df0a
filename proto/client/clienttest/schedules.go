package clienttest

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/timetable"
)

// scheduleService keeps schedules, and runs them when it is asked to: nobody waits for
// their times.
type scheduleService struct {
	agentplanev1.UnimplementedScheduleServiceServer
	service
}

func (s *State) scheduleLocked(name string) (*agentplanev1.Schedule, error) {
	for _, have := range s.schedules {
		if have.Name == name {
			return have, nil
		}
	}
	return nil, Refusal(codes.NotFound, "no_schedule", fmt.Sprintf("there is no schedule %q", name), `see "agentctl schedule list"`)
}

func tableOf(s *agentplanev1.ScheduleSpec) (*timetable.Timetable, error) {
	table, err := timetable.OfNanos(s.GetCron(), s.GetTimeZone(), s.GetAt(), s.GetUntil())
	if err != nil {
		return nil, Refusal(codes.InvalidArgument, "time", err.Error(), "")
	}
	return table, nil
}

func (c scheduleService) PutSchedule(_ context.Context, req *agentplanev1.PutScheduleRequest) (*agentplanev1.PutScheduleResponse, error) {
	s := c.state
	s.mu.Lock()
	defer s.mu.Unlock()
	have, err := s.scheduleLocked(req.Name)
	switch {
	case err == nil && proto.Equal(have.Spec, req.Spec):
		return &agentplanev1.PutScheduleResponse{Schedule: clone(have), Repeated: true}, nil
	case err == nil && req.ExpectedVersion == 0:
		return nil, Refusal(codes.AlreadyExists, "schedule_exists", fmt.Sprintf("schedule %q exists with other content, at version %d", req.Name, have.Version), "create it again with --version N")
	case err == nil && req.ExpectedVersion != have.Version:
		return nil, Refusal(codes.Aborted, "schedule_moved", fmt.Sprintf("schedule %q is at version %d, not %d", req.Name, have.Version, req.ExpectedVersion), "")
	case err != nil && req.ExpectedVersion != 0:
		return nil, err
	}
	table, err := tableOf(req.Spec)
	if err != nil {
		return nil, err
	}
	s.changedLocked()
	now := time.Now()
	if have == nil {
		have = &agentplanev1.Schedule{Name: req.Name, Id: req.Id, State: "active", CreatedBy: "admin", CreatedAt: now.UnixNano()}
		s.schedules = append(s.schedules, have)
		slices.SortFunc(s.schedules, func(x, y *agentplanev1.Schedule) int { return strings.Compare(x.Name, y.Name) })
	} else {
		have.ChangedBy, have.ChangedAt = "admin", now.UnixNano()
	}
	have.Spec, have.Version = clone(req.Spec), s.index
	have.Summary, have.Selector = strings.Join(req.Spec.GetCommand().GetArgv(), " "), req.Spec.GetCommand().GetSelector()
	have.NextAt = 0
	if next := table.Next(now); !next.IsZero() {
		have.NextAt = next.UnixNano()
	}
	return &agentplanev1.PutScheduleResponse{Schedule: clone(have)}, nil
}

func (c scheduleService) GetSchedule(_ context.Context, req *agentplanev1.GetScheduleRequest) (*agentplanev1.GetScheduleResponse, error) {
	c.state.mu.Lock()
	defer c.state.mu.Unlock()
	have, err := c.state.scheduleLocked(req.Name)
	if err != nil {
		return nil, err
	}
	return &agentplanev1.GetScheduleResponse{Schedule: clone(have)}, nil
}

func (c scheduleService) ListSchedules(context.Context, *agentplanev1.ListSchedulesRequest) (*agentplanev1.ListSchedulesResponse, error) {
	c.state.mu.Lock()
	defer c.state.mu.Unlock()
	answer := &agentplanev1.ListSchedulesResponse{}
	for _, have := range c.state.schedules {
		answer.Schedules = append(answer.Schedules, clone(have))
	}
	return answer, nil
}

func (c scheduleService) DeleteSchedule(_ context.Context, req *agentplanev1.DeleteScheduleRequest) (*agentplanev1.DeleteScheduleResponse, error) {
	c.state.mu.Lock()
	defer c.state.mu.Unlock()
	have, err := c.state.scheduleLocked(req.Name)
	if err != nil {
		return nil, err
	}
	c.state.changedLocked()
	c.state.schedules = slices.DeleteFunc(c.state.schedules, func(s *agentplanev1.Schedule) bool { return s == have })
	return &agentplanev1.DeleteScheduleResponse{}, nil
}

func (c scheduleService) PauseSchedule(_ context.Context, req *agentplanev1.PauseScheduleRequest) (*agentplanev1.PauseScheduleResponse, error) {
	c.state.mu.Lock()
	defer c.state.mu.Unlock()
	have, err := c.state.scheduleLocked(req.Name)
	if err != nil {
		return nil, err
	}
	have.State, have.PausedBy, have.PausedAt, have.NextAt = "paused", "admin", time.Now().UnixNano(), 0
	return &agentplanev1.PauseScheduleResponse{Schedule: clone(have)}, nil
}

func (c scheduleService) ResumeSchedule(_ context.Context, req *agentplanev1.ResumeScheduleRequest) (*agentplanev1.ResumeScheduleResponse, error) {
	c.state.mu.Lock()
	defer c.state.mu.Unlock()
	have, err := c.state.scheduleLocked(req.Name)
	if err != nil {
		return nil, err
	}
	table, err := tableOf(have.Spec)
	if err != nil {
		return nil, err
	}
	have.State, have.PausedBy, have.PausedAt = "active", "", 0
	have.NextAt = table.Next(time.Now()).UnixNano()
	return &agentplanev1.ResumeScheduleResponse{Schedule: clone(have)}, nil
}

// RunSchedule submits the schedule's command and notes the firing.
func (c scheduleService) RunSchedule(ctx context.Context, req *agentplanev1.RunScheduleRequest) (*agentplanev1.RunScheduleResponse, error) {
	c.state.mu.Lock()
	have, err := c.state.scheduleLocked(req.Name)
	if err != nil {
		c.state.mu.Unlock()
		return nil, err
	}
	if old := c.state.commandLocked(req.CommandId); old != nil {
		defer c.state.mu.Unlock()
		return &agentplanev1.RunScheduleResponse{Command: old.view(false, false), Repeated: true}, nil
	}
	spec, now := clone(have.Spec.Command), time.Now().UnixNano()
	spec.ClusterId, spec.CommandId, spec.NotAfter = c.state.bundle.ClusterId, req.CommandId, now+have.Spec.Ttl
	c.state.mu.Unlock()
	data, err := proto.Marshal(spec)
	if err == nil {
		data, err = proto.Marshal(&agentplanev1.Envelope{Spec: data})
	}
	if err != nil {
		return nil, err
	}
	r, err := commandService{service: c.service}.Submit(ctx, &agentplanev1.SubmitRequest{Envelope: data})
	if err != nil {
		return nil, err
	}
	c.state.mu.Lock()
	defer c.state.mu.Unlock()
	cmd := c.state.commandLocked(req.CommandId)
	cmd.command.Schedule, cmd.command.Slot = req.Name, now
	have.Firings = slices.Insert(have.Firings, 0, &agentplanev1.Firing{
		Slot: now, At: now, Result: agentplanev1.FiringResult_FIRING_RESULT_FIRED, CommandId: req.CommandId, RunBy: "admin", Index: c.state.index,
		CommandState: strings.TrimPrefix(r.Command.State.String(), "COMMAND_STATE_"),
	})
	return &agentplanev1.RunScheduleResponse{Command: cmd.view(false, false)}, nil
}

func (c scheduleService) NextSlots(_ context.Context, req *agentplanev1.NextSlotsRequest) (*agentplanev1.NextSlotsResponse, error) {
	c.state.mu.Lock()
	defer c.state.mu.Unlock()
	have, err := c.state.scheduleLocked(req.Name)
	if err != nil {
		return nil, err
	}
	table, err := tableOf(have.Spec)
	if err != nil {
		return nil, err
	}
	answer := &agentplanev1.NextSlotsResponse{TimeZone: have.Spec.TimeZone}
	for slot := table.Next(time.Now()); !slot.IsZero() && len(answer.Slots) < int(req.Count); slot = table.Next(slot) {
		answer.Slots = append(answer.Slots, slot.UnixNano())
	}
	return answer, nil
}

package operator

import (
	"context"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/agentplane/agentplane/fsm"
	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

const (
	// A command that says nothing may wait so long to be started, as one that agentctl
	// submits.
	defaultScheduledTTL = 5 * time.Minute
	defaultWavesTTL     = 24 * time.Hour
	defaultSlots        = 5
	maxSlots            = 1000
)

// Schedules makes commands at times.
type Schedules struct {
	agentplanev1.UnimplementedScheduleServiceServer
	*service
	commands *Commands
}

var exact = proto.MarshalOptions{Deterministic: true}

// PutSchedule creates a schedule, or changes the one whose version is expected. The
// same content again answers what stands.
func (s *Schedules) PutSchedule(ctx context.Context, req *agentplanev1.PutScheduleRequest) (*agentplanev1.PutScheduleResponse, error) {
	v := s.o.Machine.View()
	spec, err := s.scheduleSpec(req.GetSpec(), s.now(v))
	if err != nil {
		return nil, err
	}
	if err := s.commands.ofTemplate(v, req.GetSpec().GetCommand()); err != nil {
		return nil, err
	}
	if agents := req.GetSpec().GetCommand().GetAgents(); len(agents) > 0 {
		if _, err := s.commands.named(v, agents); err != nil {
			return nil, err
		}
	}
	o, v, err := s.propose(ctx, &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_PutSchedule{PutSchedule: &raftlogv1.PutSchedule{
		Name: req.GetName(), Id: req.GetId(), Spec: spec, ExpectedVersion: req.GetExpectedVersion(), By: s.callerName(ctx),
	}}})
	if err != nil {
		return nil, err
	}
	row, err := s.schedule(v, req.GetName())
	if err != nil {
		return nil, err // deleted meanwhile
	}
	s.o.Logger.Info("schedule put", "schedule", row.GetName(), "version", row.GetVersion(), "by", s.callerName(ctx))
	return &agentplanev1.PutScheduleResponse{Schedule: s.scheduleRow(v, row, 1), Repeated: o.GetRepeated()}, nil
}

// GetSchedule answers a schedule with its last firings, the newest first.
func (s *Schedules) GetSchedule(ctx context.Context, req *agentplanev1.GetScheduleRequest) (*agentplanev1.GetScheduleResponse, error) {
	v, err := s.read(ctx, req.GetStale())
	if err != nil {
		return nil, err
	}
	row, err := s.schedule(v, req.GetName())
	if err != nil {
		return nil, err
	}
	return &agentplanev1.GetScheduleResponse{Schedule: s.scheduleRow(v, row, fsm.MaxFirings)}, nil
}

// ListSchedules answers all schedules by name, each with its last firing.
func (s *Schedules) ListSchedules(ctx context.Context, req *agentplanev1.ListSchedulesRequest) (*agentplanev1.ListSchedulesResponse, error) {
	v, err := s.read(ctx, req.GetStale())
	if err != nil {
		return nil, err
	}
	answer, size := &agentplanev1.ListSchedulesResponse{}, 0
	for row := range v.Schedules() {
		r := s.scheduleRow(v, row, 1)
		r.Spec.Command = nil // "get" has it
		if size += proto.Size(r); size > maxAnswerBytes {
			return nil, s.refuseHint(codes.ResourceExhausted, "too_large", `ask for one with "agentctl schedule get"`, "the schedules are above %d bytes", maxAnswerBytes)
		}
		answer.Schedules = append(answer.Schedules, r)
	}
	return answer, nil
}

// DeleteSchedule ends a schedule. Its commands go on.
func (s *Schedules) DeleteSchedule(ctx context.Context, req *agentplanev1.DeleteScheduleRequest) (*agentplanev1.DeleteScheduleResponse, error) {
	row, found := s.o.Machine.View().Schedule(req.GetName())
	if !found {
		return &agentplanev1.DeleteScheduleResponse{}, nil // a repetition, perhaps
	}
	if _, _, err := s.propose(ctx, &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_DeleteSchedule{
		DeleteSchedule: &raftlogv1.DeleteSchedule{Name: row.GetName(), Id: row.GetId()},
	}}); err != nil {
		return nil, err
	}
	s.o.Logger.Info("schedule deleted", "schedule", row.GetName(), "by", s.callerName(ctx))
	return &agentplanev1.DeleteScheduleResponse{}, nil
}

// PauseSchedule keeps a schedule from firing until it is resumed.
func (s *Schedules) PauseSchedule(ctx context.Context, req *agentplanev1.PauseScheduleRequest) (*agentplanev1.PauseScheduleResponse, error) {
	row, err := s.changed(ctx, req.GetName(), &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_PauseSchedule{
		PauseSchedule: &raftlogv1.PauseSchedule{Name: req.GetName(), By: s.callerName(ctx)},
	}})
	return &agentplanev1.PauseScheduleResponse{Schedule: row}, err
}

// ResumeSchedule ends a pause. Slots within it are gone.
func (s *Schedules) ResumeSchedule(ctx context.Context, req *agentplanev1.ResumeScheduleRequest) (*agentplanev1.ResumeScheduleResponse, error) {
	row, err := s.changed(ctx, req.GetName(), &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_ResumeSchedule{
		ResumeSchedule: &raftlogv1.ResumeSchedule{Name: req.GetName()},
	}})
	return &agentplanev1.ResumeScheduleResponse{Schedule: row}, err
}

// RunSchedule makes the schedule's command now. The same id again answers what stands.
func (s *Schedules) RunSchedule(ctx context.Context, req *agentplanev1.RunScheduleRequest) (*agentplanev1.RunScheduleResponse, error) {
	v := s.o.Machine.View()
	if have, found := v.Command(req.GetCommandId()); found && have.GetSchedule() == req.GetName() {
		return &agentplanev1.RunScheduleResponse{Command: commandRow(have), Repeated: true}, nil
	}
	row, err := s.schedule(v, req.GetName())
	if err != nil {
		return nil, err
	}
	now := s.now(v)
	submit, gone, err := s.PlanScheduled(v, row, req.GetCommandId(), now)
	if err != nil {
		return nil, err
	}
	var notes []string
	if len(gone) > 0 {
		notes = append(notes, "agents that the schedule names are not there any more: "+strings.Join(gone, ", "))
	}
	if err := s.commands.mayAsk(ctx); err != nil {
		return nil, err
	}
	submit.SubmittedBy = s.callerName(ctx)
	o, v, err := s.propose(ctx, &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_FireSchedule{FireSchedule: &raftlogv1.FireSchedule{
		Name: row.GetName(), Id: row.GetId(), Version: row.GetVersion(), Slot: now, Submit: submit, RunBy: s.callerName(ctx),
	}}})
	if err != nil {
		return nil, err
	}
	made, err := s.commands.submitted(v, req.GetCommandId(), o)
	if err != nil {
		return nil, err
	}
	return &agentplanev1.RunScheduleResponse{Command: commandRow(made), Repeated: o.GetRepeated(), Notes: notes}, nil
}

// NextSlots answers when a schedule will be due, as this node computes it.
func (s *Schedules) NextSlots(ctx context.Context, req *agentplanev1.NextSlotsRequest) (*agentplanev1.NextSlotsResponse, error) {
	count := int(req.GetCount())
	switch {
	case count == 0:
		count = defaultSlots
	case count > maxSlots:
		return nil, s.refuse(codes.InvalidArgument, "count", "%d slots are above the maximum %d", count, maxSlots)
	}
	v, err := s.read(ctx, req.GetStale())
	if err != nil {
		return nil, err
	}
	row, err := s.schedule(v, req.GetName())
	if err != nil {
		return nil, err
	}
	table, err := tableOf(row)
	if err != nil {
		return nil, s.refuse(codes.FailedPrecondition, "time", "this node cannot compute the slots of schedule %q: %v", row.GetName(), err)
	}
	answer := &agentplanev1.NextSlotsResponse{TimeZone: row.GetSpec().GetTimeZone()}
	for slot := s.nextSlot(v, row, table); slot != 0 && len(answer.Slots) < count; {
		answer.Slots = append(answer.Slots, slot)
		next := table.Next(time.Unix(0, slot))
		if next.IsZero() {
			break
		}
		slot = next.UnixNano()
	}
	return answer, nil
}

// changed proposes and answers the schedule as it is then.
func (s *Schedules) changed(ctx context.Context, name string, m *raftlogv1.Mutation) (*agentplanev1.Schedule, error) {
	_, v, err := s.propose(ctx, m)
	if err != nil {
		return nil, err
	}
	row, err := s.schedule(v, name)
	if err != nil {
		return nil, err // deleted meanwhile
	}
	return s.scheduleRow(v, row, 1), nil
}

func (s *Schedules) schedule(v *fsm.View, name string) (*raftlogv1.Schedule, error) {
	if row, found := v.Schedule(name); found {
		return row, nil
	}
	return nil, s.refuse(codes.NotFound, "no_schedule", "there is no schedule %.100q", name)
}

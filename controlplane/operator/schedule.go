package operator

import (
	"context"
	"crypto/sha256"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/agentplane/agentplane/fsm"
	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
	"github.com/agentplane/agentplane/proto/timetable"
)

const (
	defaultScheduledTTL = 5 * time.Minute
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

// scheduleSpec checks what is asked as a submission at the first slot would be, but for
// whom it means, which is asked at each slot.
func (s *Schedules) scheduleSpec(asked *agentplanev1.ScheduleSpec, now int64) (*raftlogv1.ScheduleSpec, error) {
	if in := raftlogv1.Unknown(asked); in != "" {
		return nil, s.refuse(codes.InvalidArgument, "bad_schedule", "the schedule holds a field of %s that this node does not know: upgrade the nodes, or ask with an older agentctl", in.Name())
	}
	command := proto.CloneOf(asked.GetCommand())
	ttl := asked.GetTtl()
	if ttl == 0 {
		ttl = int64(defaultScheduledTTL)
	}
	switch {
	case command == nil:
		return nil, s.refuse(codes.InvalidArgument, "no_program", "the schedule asks nothing")
	case command.GetClusterId() != "" || command.GetIncarnation() != nil || command.GetCommandId() != "" || command.GetNotBefore() != 0 || command.GetNotAfter() != 0 || command.GetTraceparent() != "":
		return nil, s.refuse(codes.InvalidArgument, "bad_schedule", "the schedule's command names a cluster, an id, a time or a trace of its own: each firing has its own")
	case ttl < 0 || ttl+command.GetSplay() > int64(MaxTTL):
		return nil, s.refuse(codes.InvalidArgument, "ttl", "ttl %v with a splay of %v is not between 0 and %v", time.Duration(ttl), time.Duration(command.GetSplay()), MaxTTL)
	}
	if _, err := timetable.OfNanos(asked.GetCron(), asked.GetTimeZone(), asked.GetAt(), asked.GetUntil()); err != nil {
		return nil, s.refuseHint(codes.InvalidArgument, "time", `spell it like --cron "0 3 * * *" --tz Europe/Vienna, or --at 2026-12-01T03:00`, "%v", err)
	}
	probe := proto.CloneOf(command)
	probe.NotAfter = now + ttl + command.GetSplay()
	if p := check(probe, now); p != nil {
		return nil, s.refuse(codes.InvalidArgument, p.reason, "%s", p.text)
	}
	if command.GetSelector() != "" {
		if _, err := s.parseSelector(command.GetSelector(), false); err != nil {
			return nil, err
		}
	}
	b, err := exact.Marshal(command)
	if err != nil {
		return nil, s.refuse(codes.InvalidArgument, "bad_schedule", "the schedule's command cannot be kept: %v", err)
	}
	spec := &raftlogv1.ScheduleSpec{
		Command: b, Cron: asked.GetCron(), At: asked.GetAt(), TimeZone: asked.GetTimeZone(), Until: asked.GetUntil(), Ttl: ttl,
		Overlap: raftlogv1.Overlap(asked.GetOverlap()), Missed: raftlogv1.Missed(asked.GetMissed()), Summary: summary(command), Selector: command.GetSelector(),
	}
	if spec.Overlap == 0 {
		spec.Overlap = raftlogv1.Overlap_OVERLAP_SKIP
	}
	if spec.Missed == 0 {
		spec.Missed = raftlogv1.Missed_MISSED_SKIP
	}
	return spec, nil
}

// PlanScheduled is what the leader proposes for a firing, or a refusal: the command as
// its operator would submit it now.
func (s *Schedules) PlanScheduled(v *fsm.View, row *raftlogv1.Schedule, commandID string, now int64) (*raftlogv1.SubmitCommand, error) {
	spec := new(agentplanev1.CommandSpec)
	if err := decodeStrictly("schedule", row.GetSpec().GetCommand(), spec); err != nil {
		return nil, s.refuse(codes.FailedPrecondition, "bad_schedule", "%v", err)
	}
	spec.ClusterId, spec.Incarnation, spec.CommandId = v.Cluster().GetClusterId(), incarnation(v.Cluster()), commandID
	spec.NotAfter = now + row.GetSpec().GetTtl() + spec.GetSplay()
	if p := check(spec, now); p != nil {
		return nil, s.refuse(codes.InvalidArgument, p.reason, "%s", p.text)
	}
	ordinals, err := s.commands.targets(v, spec)
	if err != nil {
		return nil, err
	}
	data, err := exact.Marshal(spec)
	if err == nil {
		data, err = exact.Marshal(&agentplanev1.Envelope{Spec: data})
	}
	if err != nil {
		return nil, s.refuse(codes.Internal, "bad_schedule", "the command of schedule %q cannot be made: %v", row.GetName(), err)
	}
	sum := sha256.Sum256(data)
	m, _ := s.commands.submitOf(v, &submission{envelope: data, digest: sum[:], spec: spec}, ordinals, "schedule "+row.GetName())
	return m, nil
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
	row, err := s.schedule(s.o.Machine.View(), req.GetName())
	if err != nil {
		return nil, err
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
	row, err := s.schedule(v, req.GetName())
	if err != nil {
		return nil, err
	}
	if have, found := v.Command(req.GetCommandId()); found && have.GetSchedule() == row.GetName() {
		return &agentplanev1.RunScheduleResponse{Command: commandRow(have), Repeated: true}, nil
	}
	now := s.now(v)
	submit, err := s.PlanScheduled(v, row, req.GetCommandId(), now)
	if err != nil {
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
	return &agentplanev1.RunScheduleResponse{Command: commandRow(made), Repeated: o.GetRepeated()}, nil
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
			Command: command, Cron: spec.GetCron(), At: spec.GetAt(), TimeZone: spec.GetTimeZone(), Until: spec.GetUntil(), Ttl: spec.GetTtl(),
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

package operator

import (
	"crypto/sha256"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/agentplane/agentplane/fsm"
	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
	"github.com/agentplane/agentplane/proto/timetable"
)

// scheduleSpec checks what is asked as a submission at the first slot would be, but for
// whom it means, which is asked at each slot.
func (s *Schedules) scheduleSpec(asked *agentplanev1.ScheduleSpec, now int64) (*raftlogv1.ScheduleSpec, error) {
	if in := raftlogv1.Unknown(asked); in != "" {
		return nil, s.refuse(codes.InvalidArgument, "bad_schedule", "the schedule holds a field of %s that this node does not know: upgrade the nodes, or ask with an older agentctl", in.Name())
	}
	command := proto.CloneOf(asked.GetCommand())
	ttl := asked.GetTtl()
	switch {
	case ttl == 0 && severalWaves(command.GetRollout()):
		ttl = int64(defaultWavesTTL)
	case ttl == 0:
		ttl = int64(defaultScheduledTTL)
	}
	switch {
	case command == nil:
		return nil, s.refuse(codes.InvalidArgument, "no_program", "the schedule asks nothing")
	case command.GetClusterId() != "" || command.GetIncarnation() != nil || command.GetCommandId() != "" || command.GetNotBefore() != 0 || command.GetNotAfter() != 0 || command.GetTraceparent() != "":
		return nil, s.refuse(codes.InvalidArgument, "bad_schedule", "the schedule's command names a cluster, an id, a time or a trace of its own: each firing has its own")
	case len(command.GetFiles()) > 0 || command.GetStdin() != nil:
		return nil, s.refuseHint(codes.InvalidArgument, "files", "let the program fetch them, or write them from its script",
			"the schedule's command brings files or an input along, which are kept for commands and not for schedules")
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
		Template: command.GetTemplate().GetName(), TemplateVersion: command.GetTemplate().GetVersion(),
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
// its operator would submit it now, without the agents that have gone since.
func (s *Schedules) PlanScheduled(v *fsm.View, row *raftlogv1.Schedule, commandID string, now int64) (m *raftlogv1.SubmitCommand, gone []string, err error) {
	spec := new(agentplanev1.CommandSpec)
	if err := decodeStrictly("schedule", row.GetSpec().GetCommand(), spec); err != nil {
		return nil, nil, s.refuse(codes.FailedPrecondition, "bad_schedule", "%v", err)
	}
	if gone = s.leaveOut(v, spec); len(gone) > 0 && len(spec.GetAgents()) == 0 {
		return nil, nil, s.refuse(codes.NotFound, fsm.NoTargets, "none of the %d agents that schedule %q names is there any more", len(gone), row.GetName())
	}
	spec.ClusterId, spec.Incarnation, spec.CommandId = v.Cluster().GetClusterId(), incarnation(v.Cluster()), commandID
	spec.NotAfter = now + row.GetSpec().GetTtl() + spec.GetSplay()
	if p := check(spec, now); p != nil {
		return nil, nil, s.refuse(codes.InvalidArgument, p.reason, "%s", p.text)
	}
	if err := s.commands.ofTemplate(v, spec); err != nil { // which may have been deleted meanwhile
		return nil, nil, err
	}
	ordinals, err := s.commands.targets(v, spec)
	if err != nil {
		return nil, nil, err
	}
	data, err := exact.Marshal(spec)
	if err == nil {
		data, err = exact.Marshal(&agentplanev1.Envelope{Spec: data})
	}
	if err != nil {
		return nil, nil, s.refuse(codes.Internal, "bad_schedule", "the command of schedule %q cannot be made: %v", row.GetName(), err)
	}
	sum := sha256.Sum256(data)
	m, _ = s.commands.submitOf(v, &submission{envelope: data, digest: sum[:], spec: spec}, ordinals, "schedule "+row.GetName())
	return m, gone, nil
}

// leaveOut takes agents out of a spec that are not there any more, and answers them.
func (s *Schedules) leaveOut(v *fsm.View, spec *agentplanev1.CommandSpec) (gone []string) {
	spec.Agents = slices.DeleteFunc(spec.GetAgents(), func(who string) bool {
		_, err := s.agent(v, who)
		is := agentplanev1.DetailOf(err).GetReason() == "no_agent"
		if is {
			gone = append(gone, who)
		}
		return is
	})
	return gone
}

package client

import (
	"context"
	"fmt"
	"time"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
)

// Schedule is when a command is made again and again, or once. Package timetable says
// what Cron, Zone, At and Until may be.
type Schedule struct {
	Name string
	// ID is a UUIDv7. PutSchedule sets it when it is empty.
	ID string
	// Command is what each firing submits; its ID is not used, and its TTL counts from
	// the firing: zero is 5 minutes, and a day with several waves.
	Command *Command

	// Cron is an expression of five fields; exclusive with At.
	Cron string
	// At is the one time at which it fires.
	At time.Time
	// Until is the last time at which it may fire; zero is never.
	Until time.Time
	// Zone is the name of the time zone of Cron; empty is UTC.
	Zone string
	// Overlap is what becomes of a slot while an earlier command is open, and Missed what
	// of slots at which nobody could fire.
	Overlap agentplanev1.Overlap
	Missed  agentplanev1.Missed

	// Version is that of the schedule which this one replaces; 0 means that there must
	// be none.
	Version uint64
}

func (s *Schedule) spec() (*agentplanev1.ScheduleSpec, error) {
	if s.Command == nil {
		return nil, fmt.Errorf("schedule %q has no command", s.Name)
	}
	command, err := s.Command.spec()
	if err != nil {
		return nil, err
	}
	command.NotAfter = 0 // each firing has its own
	return &agentplanev1.ScheduleSpec{
		Command: command, Cron: s.Cron, TimeZone: s.Zone, At: nanos(s.At), Until: nanos(s.Until), Ttl: int64(s.Command.TTL),
		Overlap: s.Overlap, Missed: s.Missed,
	}, nil
}

// PutSchedule makes the schedule, or replaces the one of its Version. It sets s.ID when
// it is empty; repeated says that it stood so already.
func (c *Client) PutSchedule(ctx context.Context, s *Schedule) (made *agentplanev1.Schedule, repeated bool, err error) {
	spec, err := s.spec()
	if err != nil {
		return nil, false, err
	}
	if s.ID, err = c.idOr(ctx, s.ID); err != nil {
		return nil, false, err
	}
	r, err := agentplanev1.NewScheduleServiceClient(c).PutSchedule(ctx, &agentplanev1.PutScheduleRequest{
		Name: s.Name, Id: s.ID, Spec: spec, ExpectedVersion: s.Version,
	})
	return r.GetSchedule(), r.GetRepeated(), err
}

// Schedule returns one schedule, with what became of its last slots.
func (c *Client) Schedule(ctx context.Context, name string, opts ...ReadOption) (*agentplanev1.Schedule, error) {
	r, err := agentplanev1.NewScheduleServiceClient(c).GetSchedule(ctx, &agentplanev1.GetScheduleRequest{Name: name, Stale: readOf(opts).stale})
	return r.GetSchedule(), err
}

// Schedules returns all schedules.
func (c *Client) Schedules(ctx context.Context, opts ...ReadOption) ([]*agentplanev1.Schedule, error) {
	r, err := agentplanev1.NewScheduleServiceClient(c).ListSchedules(ctx, &agentplanev1.ListSchedulesRequest{Stale: readOf(opts).stale})
	return r.GetSchedules(), err
}

// DeleteSchedule ends a schedule. What it has started goes on.
func (c *Client) DeleteSchedule(ctx context.Context, name string) error {
	_, err := agentplanev1.NewScheduleServiceClient(c).DeleteSchedule(ctx, &agentplanev1.DeleteScheduleRequest{Name: name})
	return err
}

// PauseSchedule keeps a schedule from firing.
func (c *Client) PauseSchedule(ctx context.Context, name string) (*agentplanev1.Schedule, error) {
	r, err := agentplanev1.NewScheduleServiceClient(c).PauseSchedule(ctx, &agentplanev1.PauseScheduleRequest{Name: name})
	return r.GetSchedule(), err
}

// ResumeSchedule lets a schedule fire again. What was due meanwhile is gone.
func (c *Client) ResumeSchedule(ctx context.Context, name string) (*agentplanev1.Schedule, error) {
	r, err := agentplanev1.NewScheduleServiceClient(c).ResumeSchedule(ctx, &agentplanev1.ResumeScheduleRequest{Name: name})
	return r.GetSchedule(), err
}

// RunSchedule submits what a schedule submits, now. id is that of the command, a UUIDv7;
// when it is empty one is made. The id is answered beside every error, so that the call
// can be repeated.
func (c *Client) RunSchedule(ctx context.Context, name, id string) (used string, s *Submission, err error) {
	if id, err = c.idOr(ctx, id); err != nil {
		return "", nil, err
	}
	r, err := agentplanev1.NewScheduleServiceClient(c).RunSchedule(ctx, &agentplanev1.RunScheduleRequest{Name: name, CommandId: id})
	if err != nil {
		return id, nil, err
	}
	return id, &Submission{Command: r.GetCommand(), Repeated: r.GetRepeated(), Notes: r.GetNotes()}, nil
}

// NextSlots returns when a schedule will fire next, up to n times, and the name of its
// time zone.
func (c *Client) NextSlots(ctx context.Context, name string, n uint32, opts ...ReadOption) (slots []time.Time, zone string, err error) {
	r, err := agentplanev1.NewScheduleServiceClient(c).NextSlots(ctx, &agentplanev1.NextSlotsRequest{Name: name, Count: n, Stale: readOf(opts).stale})
	for _, ns := range r.GetSlots() {
		slots = append(slots, time.Unix(0, ns))
	}
	return slots, r.GetTimeZone(), err
}

// idOr is the id, or a new one of the cluster's time when it is empty.
func (c *Client) idOr(ctx context.Context, id string) (string, error) {
	if id != "" {
		return id, nil
	}
	now, err := c.Now(ctx)
	if err != nil {
		return "", err
	}
	return NewID(now)
}

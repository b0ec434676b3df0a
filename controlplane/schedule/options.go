package schedule

import (
	"context"
	"errors"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/agentplane/agentplane/fsm"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

// Proposer puts mutations into one entry and answers one outcome for each.
type Proposer interface {
	Propose(ctx context.Context, mutations ...*raftlogv1.Mutation) ([]*raftlogv1.Outcome, error)
}

// Planner turns what a schedule asks into a submission under the id, at the cluster's
// time now. gone are agents that it names and that are not there any more: the rest is
// meant. Its error says why there can be none, with an ErrorDetail.
type Planner interface {
	PlanScheduled(v *fsm.View, s *raftlogv1.Schedule, commandID string, now int64) (m *raftlogv1.SubmitCommand, gone []string, err error)
}

// Options configures an Engine. Machine, Proposer and Planner are required.
type Options struct {
	// Machine is this node's state.
	Machine  *fsm.Machine
	Proposer Proposer
	Planner  Planner
	// Now is the cluster's time between entries. Nil: this machine's clock.
	Now func() time.Time
	// MissedAfter is how late a slot fires as if it were in time; 0 means 1 min.
	MissedAfter time.Duration
	// Retain is how long schedules are kept that have ended; 0 means 30 days.
	Retain time.Duration
	// RetainCount is how many of them are kept at most; 0 means 500.
	RetainCount int
	// MaxMutations is how many mutations the proposer takes at once; 0 means 64, above
	// which it does not matter.
	MaxMutations int
	// Logger may be nil.
	Logger hclog.Logger
}

func (o *Options) complete() error {
	switch {
	case o.Machine == nil || o.Proposer == nil || o.Planner == nil:
		return errors.New("schedule: machine, proposer and planner are needed")
	case o.MissedAfter < 0 || o.Retain < 0 || o.RetainCount < 0 || o.MaxMutations < 0:
		return errors.New("schedule: times and counts must not be below zero")
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.MissedAfter == 0 {
		o.MissedAfter = time.Minute
	}
	if o.Retain == 0 {
		o.Retain = 30 * 24 * time.Hour
	}
	if o.RetainCount == 0 {
		o.RetainCount = 500
	}
	if o.MaxMutations == 0 || o.MaxMutations > maxBatch {
		o.MaxMutations = maxBatch
	}
	if o.Logger == nil {
		o.Logger = hclog.NewNullLogger()
	}
	return nil
}

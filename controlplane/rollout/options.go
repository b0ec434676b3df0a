package rollout

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

// Options configures an Engine. Machine and Proposer are required.
type Options struct {
	// Machine is this node's state.
	Machine  *fsm.Machine
	Proposer Proposer
	// LostAfter is how long a claimed attempt may be without contact or without an
	// answer; 0 means 15 min.
	LostAfter time.Duration
	// Retain is how long finished commands are kept; 0 means 30 days.
	Retain time.Duration
	// RetainCount is how many are kept at most; 0 means 100 000.
	RetainCount int
	// RetainTokens is how long tokens are kept that are over; 0 means 30 days.
	RetainTokens time.Duration
	// RetainTokenCount is how many tokens are kept at most beside those that may still be
	// used; 0 means 10 000.
	RetainTokenCount int
	// ReleaseMax bounds the invocations that one entry moves; 0 means 10 000.
	ReleaseMax int
	// MaxMutations is how many mutations the proposer takes at once; 0 means 128, above
	// which it does not matter.
	MaxMutations int
	// Logger may be nil.
	Logger hclog.Logger
}

func (o *Options) complete() error {
	if o.Machine == nil || o.Proposer == nil {
		return errors.New("rollout: machine and proposer are needed")
	}
	if o.LostAfter < 0 || o.Retain < 0 || o.RetainCount < 0 || o.RetainTokens < 0 || o.RetainTokenCount < 0 || o.ReleaseMax < 0 || o.MaxMutations < 0 {
		return errors.New("rollout: times and counts must not be below zero")
	}
	if o.LostAfter == 0 {
		o.LostAfter = 15 * time.Minute
	}
	if o.Retain == 0 {
		o.Retain = 30 * 24 * time.Hour
	}
	if o.RetainCount == 0 {
		o.RetainCount = 100_000
	}
	if o.RetainTokens == 0 {
		o.RetainTokens = 30 * 24 * time.Hour
	}
	if o.RetainTokenCount == 0 {
		o.RetainTokenCount = 10_000
	}
	if o.ReleaseMax == 0 {
		o.ReleaseMax = 10_000
	}
	if o.MaxMutations == 0 || o.MaxMutations > maxBatch {
		o.MaxMutations = maxBatch
	}
	if o.Logger == nil {
		o.Logger = hclog.NewNullLogger()
	}
	return nil
}

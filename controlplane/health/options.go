package health

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

// State is what gossip says of a node.
type State uint8

// Gossip's words. StateUnknown: it does not know the node.
const (
	StateUnknown State = iota
	StateAlive
	StateSuspect
	StateDead
	StateLeft
)

// NodeLife is gossip's word on one node.
type NodeLife struct {
	ID    string
	State State
	// Since tells one death from the next; it is compared, never subtracted.
	Since time.Time
}

// HeldSession is one session that a node holds.
type HeldSession struct {
	AgentID string
	Epoch   uint64
}

// Options configures a Monitor. Machine, Proposer, Nodes and Sessions are required.
type Options struct {
	// Machine is this node's state.
	Machine  *fsm.Machine
	Proposer Proposer
	// Nodes answers what gossip says now. It must not block.
	Nodes func() []NodeLife
	// Sessions asks a node, this one included, at which start it is and which
	// sessions it holds. It is called from other goroutines, at most one per node, and
	// must return when ctx ends: Run waits for it.
	Sessions func(ctx context.Context, nodeID string) (startCounter uint64, held []HeldSession, err error)
	// NodeDeathGrace is the grace of sessions that end with their node, and how long a
	// node is waited for whom gossip does not know; 0 means 30 s.
	NodeDeathGrace time.Duration
	// BrakeCount, BrakePercent and BrakeWindow configure the [Brake]; 0 means 10,
	// 15 and a minute.
	BrakeCount, BrakePercent int
	BrakeWindow              time.Duration
	// CollectTimeout bounds one asking of one node; 0 means 2 s.
	CollectTimeout time.Duration
	// Logger may be nil.
	Logger hclog.Logger
}

func (o *Options) complete() error {
	if o.Machine == nil || o.Proposer == nil || o.Nodes == nil || o.Sessions == nil {
		return errors.New("health: machine, proposer, nodes and sessions are needed")
	}
	if o.NodeDeathGrace < 0 || o.BrakeCount < 0 || o.BrakePercent < 0 || o.BrakeWindow < 0 || o.CollectTimeout < 0 {
		return errors.New("health: grace, brake and timeout must not be below zero")
	}
	if o.NodeDeathGrace == 0 {
		o.NodeDeathGrace = 30 * time.Second
	}
	if o.BrakeCount == 0 {
		o.BrakeCount = 10
	}
	if o.BrakePercent == 0 {
		o.BrakePercent = 15
	}
	if o.BrakeWindow == 0 {
		o.BrakeWindow = time.Minute
	}
	if o.CollectTimeout == 0 {
		o.CollectTimeout = 2 * time.Second
	}
	if o.Logger == nil {
		o.Logger = hclog.NewNullLogger()
	}
	return nil
}

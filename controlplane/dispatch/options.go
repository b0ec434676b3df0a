package dispatch

import (
	"cmp"
	"context"
	"errors"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/agentplane/agentplane/fsm"
	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

// Proposer puts mutations into the log through whoever leads and answers one outcome
// for each. After an error it is not known whether they took effect.
type Proposer interface {
	Propose(ctx context.Context, mutations ...*raftlogv1.Mutation) ([]*raftlogv1.Outcome, error)
}

// Options configures a Dispatcher.
type Options struct {
	// NodeID is this node; StartCounter the number of this start of its process.
	NodeID       string
	StartCounter uint64
	// Machine is this node's state.
	Machine *fsm.Machine
	// Proposer is the way into the log.
	Proposer Proposer
	// CatchUp returns when the state holds all that was acknowledged before the call.
	CatchUp func(ctx context.Context) error
	// Caller answers which agent the connection has proved to be, and with which key.
	Caller func(ctx context.Context) (agentID string, publicKey []byte, err error)
	// Bundle answers whom to trust. What it returns is never changed.
	Bundle func() *agentplanev1.Bundle
	// LeaderSeen answers when this node last had contact with a leader; zero is never.
	// nil means always now.
	LeaderSeen func() time.Time

	// HeartbeatInterval and HeartbeatMisses say after which silence a stream is ended;
	// 0 means 3 s and 3.
	HeartbeatInterval time.Duration
	HeartbeatMisses   int
	// NodeDeathGrace is the grace of an agent whose stream broke; 0 means 30 s.
	NodeDeathGrace time.Duration
	// RebootGrace is the grace of an agent whose host said that it reboots; 0 means 5 min.
	RebootGrace time.Duration
	// SessionsPerSecond bounds the admission of new sessions; 0 means 500.
	SessionsPerSecond int
	// MaxStreams bounds the streams held at once; 0 means 20 000.
	MaxStreams int
	// NoLeaderAfter is how long this node may be without a leader before it sends its
	// agents away; 0 means 10 s.
	NoLeaderAfter time.Duration
	// HandshakeTimeout bounds the way from Challenge to Welcome, and again from Welcome
	// to Ready; 0 means 30 s.
	HandshakeTimeout time.Duration
	// AskMargin is how long past its timeout and grace an attempt is asked for, and how
	// often; 0 means 1 min.
	AskMargin time.Duration
	// DrainOver is the time over which Drain spreads its messages; 0 means 30 s. A
	// nearer deadline of Drain shortens it.
	DrainOver time.Duration
	// MaxMutations bounds what one proposal may hold: what the leader's entries take; 0
	// means 256.
	MaxMutations int
	// Logger may be nil.
	Logger hclog.Logger
}

func (o Options) withDefaults() (Options, error) {
	switch {
	case o.NodeID == "":
		return o, errors.New("dispatch: NodeID is empty")
	case o.Machine == nil, o.Proposer == nil, o.CatchUp == nil, o.Caller == nil, o.Bundle == nil:
		return o, errors.New("dispatch: Machine, Proposer, CatchUp, Caller and Bundle are needed")
	case o.HeartbeatInterval < 0, o.HeartbeatMisses < 0, o.NodeDeathGrace < 0, o.RebootGrace < 0, o.SessionsPerSecond < 0,
		o.MaxStreams < 0, o.MaxMutations < 0, o.NoLeaderAfter < 0, o.HandshakeTimeout < 0, o.AskMargin < 0, o.DrainOver < 0:
		return o, errors.New("dispatch: durations and numbers must not be negative")
	}
	if o.LeaderSeen == nil {
		o.LeaderSeen = time.Now
	}
	if o.Logger == nil {
		o.Logger = hclog.NewNullLogger()
	}
	o.HeartbeatInterval = cmp.Or(o.HeartbeatInterval, 3*time.Second)
	o.HeartbeatMisses = cmp.Or(o.HeartbeatMisses, 3)
	o.NodeDeathGrace = cmp.Or(o.NodeDeathGrace, 30*time.Second)
	o.RebootGrace = cmp.Or(o.RebootGrace, 5*time.Minute)
	o.SessionsPerSecond = cmp.Or(o.SessionsPerSecond, 500)
	o.MaxStreams = cmp.Or(o.MaxStreams, 20_000)
	o.NoLeaderAfter = cmp.Or(o.NoLeaderAfter, 10*time.Second)
	o.HandshakeTimeout = cmp.Or(o.HandshakeTimeout, 30*time.Second)
	o.AskMargin = cmp.Or(o.AskMargin, time.Minute)
	o.MaxMutations = cmp.Or(o.MaxMutations, raftlogv1.MaxMutations)
	o.DrainOver = cmp.Or(o.DrainOver, 30*time.Second)
	return o, nil
}

// Bounds on what one agent can make large.
const (
	maxSlots          = 128
	maxIDBytes        = 128
	maxOpenReports    = 1024    // waiting for the log, or listed in a Hello
	maxReportBytes    = 4 << 20 // of those that wait
	maxQueued         = 4096    // messages towards the agent
	maxHellos         = 8       // on one stream
	maxStreamsOfAgent = 4
	messagesPerSecond = 200
	messagesBurst     = 2000
	factsEvery        = 5 * time.Second
)

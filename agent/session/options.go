package session

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/go-hclog"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
)

// Node is where a session may be opened. The id is empty for a configured address that
// the bundle does not know.
type Node struct {
	ID      string
	Address string
}

func (n Node) key() string {
	if n.ID != "" {
		return n.ID
	}
	return n.Address
}

// Stream is the client's half of AgentService.Session.
type Stream interface {
	Send(*agentplanev1.SessionRequest) error
	Recv() (*agentplanev1.SessionResponse, error)
	CloseSend() error
}

// Opener reaches nodes.
type Opener interface {
	// Open opens a stream to the very node. The stream ends with ctx; release, called
	// after that, frees its connection.
	Open(ctx context.Context, n Node) (stream Stream, release func(), err error)
}

// Trust knows the cluster.
type Trust interface {
	// Nodes lists where sessions may be opened.
	Nodes() []Node
	// Incarnation is the newest one that the trust bundle has shown.
	Incarnation() *agentplanev1.Incarnation
	// Learn takes a bundle that a node sent, when it is newer, and makes it durable.
	Learn(*agentplanev1.Bundle) error
}

// Standing is what Hello tells of the journal.
type Standing struct {
	Journal *agentplanev1.JournalState
	// Previous is the last session epoch journalled.
	Previous uint64
	// Open are the records whose result is not confirmed.
	Open []*agentplanev1.Report
}

// Grant is a session that a node has granted.
type Grant struct {
	Incarnation *agentplanev1.Incarnation
	Epoch       uint64
	Now         int64 // cluster time, Unix nanoseconds
}

// Work is what sessions are for. Its methods may be called at any time.
type Work interface {
	// Standing may read the disk but not wait for a write.
	Standing() (Standing, error)
	// Incarnation is that of the last session epoch journalled; nil when there is none.
	Incarnation() *agentplanev1.Incarnation
	// Begin makes the grant durable. After a nil error work under it may be accepted.
	Begin(Grant) error
	// Rotate begins a new journal whose floor is the cluster time now.
	Rotate(now int64) error
	// Offer hands over a Deliver, CancelAttempt, KeepAttempt, Confirm or Ask. It never blocks and
	// answers false when the queue is full.
	Offer(*agentplanev1.SessionResponse) bool
	// Reports gives what is to be said beyond Hello. A report that is taken and not sent
	// is no loss: it stands in the next Hello.
	Reports() <-chan *agentplanev1.Report
	// Running counts the attempts that run.
	Running() int
}

// Facts are what the host says of itself.
type Facts interface {
	// Facts gives the latest facts with their hash, and a channel that is closed when
	// there are others.
	Facts() (facts []*agentplanev1.Label, hash []byte, changed <-chan struct{})
}

// Options configure a Keeper.
type Options struct {
	AgentID   string
	ClusterID string
	Version   string
	BootID    string // the kernel's
	StartID   []byte // random per process
	Slots     int

	Opener Opener
	Trust  Trust
	Work   Work
	Facts  Facts
	Clock  *Clock

	// Removed is called when every node that could be asked has let the agent in no more,
	// and one has said that the cluster does not know it or its key; nil is returned when
	// that was mended (by a token). May be nil.
	Removed func(context.Context) error
	// Beside runs beside each session, from Ready on, and returns when ctx ends, which the
	// session awaits. What it does must not need the session's stream. May be nil.
	Beside func(ctx context.Context, n Node, epoch uint64)
	// Rebooting says whether the host is going down, for Goodbye. May be nil.
	Rebooting func() bool
	Logger    hclog.Logger

	// BackoffCap is the cap until a Welcome gives one; 15 s.
	BackoffCap time.Duration
	// AnswerTimeout bounds the wait for each answer of the handshake; 20 s, above the
	// time for which a node holds a call without a leader.
	AnswerTimeout time.Duration
}

func (o *Options) fill() error {
	switch {
	case o.Opener == nil || o.Trust == nil || o.Work == nil || o.Facts == nil:
		return errors.New("make session keeper: opener, trust, work and facts are required")
	case o.AgentID == "" || o.ClusterID == "" || len(o.StartID) == 0:
		return errors.New("make session keeper: agent id, cluster id and start id are required")
	case o.Slots < 1:
		return fmt.Errorf("make session keeper: %d slots, at least 1 is required", o.Slots)
	}
	if o.Clock == nil {
		o.Clock = &Clock{}
	}
	if o.Logger == nil {
		o.Logger = hclog.NewNullLogger()
	}
	if o.BackoffCap <= 0 {
		o.BackoffCap = 15 * time.Second
	}
	if o.AnswerTimeout <= 0 {
		o.AnswerTimeout = 20 * time.Second
	}
	return nil
}

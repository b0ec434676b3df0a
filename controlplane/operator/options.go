package operator

import (
	"context"
	"errors"
	"time"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/grpc"

	"github.com/agentplane/agentplane/fsm"
	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

// Proposer puts mutations into one entry and answers one outcome for each. Its
// errors are those of consensus and forward.
type Proposer interface {
	Propose(ctx context.Context, mutations ...*raftlogv1.Mutation) ([]*raftlogv1.Outcome, error)
}

// Raft is the part of this node's consensus that operators see and change.
type Raft interface {
	Configuration() Configuration
	Term() uint64
	// Transfer hands leadership to the voter, or to the best one when to is empty.
	Transfer(ctx context.Context, to string) error
	// RemoveServer takes another node out of raft's configuration, unless that is
	// no longer the one at index previous.
	RemoveServer(ctx context.Context, id string, previous uint64) error
}

// Wait is why a candidate is not a voter yet; Node says that it waits for one more
// node to join.
type Wait struct {
	Why  string
	Node bool
}

// Configuration is raft's, by node id.
type Configuration struct {
	Index     uint64
	Voters    []string
	NonVoters []string
	// Leader is whom this node's raft follows; empty when it knows none.
	Leader string
}

// Issuer is this node's CA. It signs what was found registered.
type Issuer interface {
	// Issue returns a certificate (DER) for the name over the key (SPKI, DER). The
	// kind is "agent" or "operator".
	Issue(kind, name string, publicKey []byte) (certificate []byte, err error)
	// CACertificate is the CA's own (DER).
	CACertificate() []byte
}

// Options configures the services.
type Options struct {
	// NodeID is this node.
	NodeID string
	// Version of this build, for people.
	Version string
	// Machine is this node's state.
	Machine  *fsm.Machine
	Proposer Proposer
	// Read answers a state that holds everything acknowledged before the call, or
	// this node's state as it is.
	Read   func(ctx context.Context, stale bool) (*fsm.View, error)
	Raft   Raft
	Issuer Issuer
	// Caller is who calls: kind is "operator", "agent", "node", "local", or "" for
	// somebody without a certificate; from is the address, for people.
	Caller func(ctx context.Context) (name, kind string, key []byte, from string)
	// Allowed says whether whoever calls has the permission, and as what. Nil: everybody has
	// all; what is called at all is judged before.
	Allowed func(ctx context.Context, permission string) (role string, ok bool)

	// Peers answers how the nodes are of which this node has seen or heard something,
	// by id: alive, suspect, dead or left. Nil: it hears of nobody.
	Peers func() map[string]string
	// Unreached answers the nodes to which this node cannot connect, and why. Nil: it
	// is not known of any.
	Unreached func() map[string]string
	// Silent answers from which nodes this node hears nothing, and for how long. Nil: it is
	// not known of any.
	Silent func() map[string]time.Duration
	// Trusted answers the cluster's id and the addresses of its nodes by id, as known
	// before the state is. Nil: nothing is.
	Trusted func() (clusterID string, addresses map[string]string)
	// WaitsFor says why a candidate is not a voter yet. Nil: nobody knows.
	WaitsFor func(nodeID string) Wait
	// Reach finds out whether a node that wants to join is reached at its address, by
	// its key. The error is a clause. Nil: it is not looked at.
	Reach func(ctx context.Context, address string, key []byte) error
	// Behind answers how many entries a node lags, for those of whom that is known.
	Behind func() map[string]uint64
	// ClockDistance is how far this node's clock is from the voters' median.
	ClockDistance func() time.Duration
	// Process is what this node's process takes of its machine. Nil: that is not known.
	Process func() *agentplanev1.Process
	// Now is the cluster's time as well as this node knows it between entries; the
	// time in the state is its lower bound. Nil: this machine's clock.
	Now func() time.Time

	// QueueMax bounds the open invocations of one agent; 0 leaves it to the state.
	QueueMax uint32
	// RatePerOperator bounds the commands that one operator submits in a second, after
	// RateBurst at once; 0 is no bound.
	RatePerOperator, RateBurst int
	// BatchMutations and BatchBytes bound what one proposal may hold; 0 means 256 and
	// 512 KiB.
	BatchMutations, BatchBytes int
	// MaxAttempts is how often an idempotent command is tried on one agent; 0 means 3.
	MaxAttempts uint32
	// WatchInterval is the least time between two answers of a watch; 0 means 25 ms.
	WatchInterval time.Duration
	// LeaderPatience is how long a watch goes on without a leader; 0 means 10 s.
	LeaderPatience time.Duration
	// Logger gets what operators of the node must know. Nil: nothing is logged.
	Logger hclog.Logger
}

// Services are the implementations, one for each service of the API.
type Services struct {
	Cluster   *Cluster
	Commands  *Commands
	Fleet     *Fleet
	Tokens    *Tokens
	Operators *Operators
	Schedules *Schedules
	Enroll    *Enrolment
	Templates *Templates
	Locks     *Locks
}

// New returns the services. It touches nothing outside.
func New(o Options) (*Services, error) {
	switch {
	case o.NodeID == "":
		return nil, errors.New("operator: the node id is missing")
	case o.Machine == nil || o.Proposer == nil || o.Read == nil || o.Raft == nil || o.Issuer == nil || o.Caller == nil:
		return nil, errors.New("operator: machine, proposer, read, raft, issuer and caller are needed")
	}
	if o.Peers == nil {
		o.Peers = func() map[string]string { return nil }
	}
	if o.Process == nil {
		o.Process = func() *agentplanev1.Process { return nil }
	}
	if o.WaitsFor == nil {
		o.WaitsFor = func(string) Wait { return Wait{} }
	}
	if o.Unreached == nil {
		o.Unreached = func() map[string]string { return nil }
	}
	if o.Silent == nil {
		o.Silent = func() map[string]time.Duration { return nil }
	}
	if o.Trusted == nil {
		o.Trusted = func() (string, map[string]string) { return "", nil }
	}
	if o.Reach == nil {
		o.Reach = func(context.Context, string, []byte) error { return nil }
	}
	if o.Behind == nil {
		o.Behind = func() map[string]uint64 { return nil }
	}
	if o.ClockDistance == nil {
		o.ClockDistance = func() time.Duration { return 0 }
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.BatchMutations == 0 {
		o.BatchMutations = raftlogv1.MaxMutations
	}
	if o.BatchBytes == 0 {
		o.BatchBytes = 512 << 10
	}
	if o.MaxAttempts == 0 {
		o.MaxAttempts = 3
	}
	if o.WatchInterval == 0 {
		o.WatchInterval = 25 * time.Millisecond
	}
	if o.LeaderPatience == 0 {
		o.LeaderPatience = 10 * time.Second
	}
	if o.Logger == nil {
		o.Logger = hclog.NewNullLogger()
	}
	s := &service{o: o}
	commands := &Commands{service: s, rate: submitRate{perSecond: o.RatePerOperator, burst: max(o.RateBurst, 1)}}
	return &Services{
		Cluster:   &Cluster{service: s, checking: make(chan struct{}, 1)},
		Commands:  commands,
		Schedules: &Schedules{service: s, commands: commands},
		Fleet:     &Fleet{service: s},
		Tokens:    &Tokens{service: s},
		Operators: &Operators{service: s},
		Enroll:    &Enrolment{service: s},
		Templates: &Templates{service: s, commands: commands},
		Locks:     &Locks{service: s, waiters: make(chan struct{}, maxLockWaiters)},
	}, nil
}

// Register makes the services known to whoever serves them.
func (s *Services) Register(r grpc.ServiceRegistrar) {
	agentplanev1.RegisterClusterServiceServer(r, s.Cluster)
	agentplanev1.RegisterCommandServiceServer(r, s.Commands)
	agentplanev1.RegisterFleetServiceServer(r, s.Fleet)
	agentplanev1.RegisterTokenServiceServer(r, s.Tokens)
	agentplanev1.RegisterOperatorServiceServer(r, s.Operators)
	agentplanev1.RegisterEnrollServiceServer(r, s.Enroll)
	agentplanev1.RegisterScheduleServiceServer(r, s.Schedules)
	agentplanev1.RegisterTemplateServiceServer(r, s.Templates)
	agentplanev1.RegisterLockServiceServer(r, s.Locks)
}

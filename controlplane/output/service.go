package output

import (
	"context"
	"errors"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/codes"

	"github.com/agentplane/agentplane/fsm"
	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

// Proposer puts mutations into the log through whoever leads, and answers one outcome for
// each.
type Proposer interface {
	Propose(ctx context.Context, mutations ...*raftlogv1.Mutation) ([]*raftlogv1.Outcome, error)
}

// Peers are the connections to other nodes.
type Peers interface {
	Client(nodeID string) (agentplanev1.PeerServiceClient, error)
	// Linked answers to which nodes a connection is open.
	Linked() map[string]time.Time
}

// Options configure a Service. All fields but the last ones are required.
type Options struct {
	NodeID   string
	Store    *Store
	Machine  *fsm.Machine
	Proposer Proposer
	Peers    Peers
	// Voters are the ids of the cluster's voters.
	Voters func() []string
	// Read answers a state that holds everything acknowledged before the call, or this
	// node's as it is. Its error is a refusal.
	Read func(ctx context.Context, stale bool) (*fsm.View, error)
	// Agent is who calls [Service.Output].
	Agent func(ctx context.Context) string

	// LeaderSeen is when this node last had contact with a leader; nil when that does not
	// matter.
	LeaderSeen func() time.Time
	// Patience is how long the output of an attempt that has ended is waited for; 15 s.
	Patience time.Duration
	Logger   hclog.Logger
}

// Service takes output from agents, copies it, and shows it. Its methods may be called at
// once.
type Service struct {
	o      Options
	log    hclog.Logger
	copies *copies
}

// New returns a Service. It touches nothing outside.
func New(o Options) (*Service, error) {
	switch {
	case o.NodeID == "":
		return nil, errors.New("output: the node id is missing")
	case o.Store == nil || o.Machine == nil || o.Proposer == nil || o.Peers == nil || o.Voters == nil || o.Read == nil || o.Agent == nil:
		return nil, errors.New("output: store, machine, proposer, peers, voters, read and agent are needed")
	}
	if o.Patience == 0 {
		o.Patience = 15 * time.Second
	}
	if o.Logger == nil {
		o.Logger = hclog.NewNullLogger()
	}
	s := &Service{o: o, log: o.Logger}
	s.copies = newCopies(s)
	return s, nil
}

// Run copies and records output, and removes what nobody wants any more, until ctx ends.
// The store runs beside it.
func (s *Service) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return s.copies.run(ctx) })
	g.Go(func() error { return s.sweep(ctx) })
	return g.Wait()
}

// final says that the attempt has ended for the cluster.
func final(i *raftlogv1.Invocation, attempt uint32) bool {
	return attempt < i.GetAttempt() || i.GetState() >= raftlogv1.AttemptState_ATTEMPT_STATE_LOST
}

// told says that the agent has said how the newest attempt ended, in a report through a
// node. LOST may be what the cluster says of it: what the row has for a result then is of
// the report that it runs, and the agent may still come and say more.
func told(i *raftlogv1.Invocation) bool {
	all := i.GetTransitions()
	return i.GetResult() != nil && (i.GetState() != raftlogv1.AttemptState_ATTEMPT_STATE_LOST || len(all) > 0 && all[len(all)-1].GetNodeId() != "")
}

// whole says that the result holds all output of the attempt.
func whole(i *raftlogv1.Invocation, attempt uint32) bool {
	if attempt != i.GetAttempt() || !final(i, attempt) || !told(i) {
		return false
	}
	for _, o := range []*raftlogv1.Output{i.GetResult().GetStdout(), i.GetResult().GetStderr()} {
		if uint64(len(o.GetHead())+len(o.GetTail())) != o.GetTotalBytes() {
			return false
		}
	}
	return true
}

// recorded gives what is recorded of the attempt's output.
func recorded(i *raftlogv1.Invocation, attempt uint32) *raftlogv1.OutputRecord {
	for _, o := range i.GetOutputs() {
		if o.GetAttempt() == attempt {
			return o
		}
	}
	return nil
}

func refusal(code codes.Code, reason, format string, args ...any) error {
	return agentplanev1.Refusal(code, &agentplanev1.ErrorDetail{Reason: reason}, format, args...)
}

func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

package peer

import (
	"context"
	"errors"

	"google.golang.org/grpc/codes"

	"github.com/agentplane/agentplane/controlplane/consensus"
	"github.com/agentplane/agentplane/controlplane/forward"
	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

// ReasonUnreachable is why a node is refused that advertises an address where it is not
// reached.
const ReasonUnreachable = "unreachable_address"

// ReasonExpired is why a caller is refused that has shown a certificate which may only be
// renewed.
const ReasonExpired = "certificate_expired"

// Consensus is this node's, as peers ask it.
type Consensus interface {
	TermReply() consensus.TermReply
	LostLeader(consensus.LostQuery) consensus.LostReply
	ReadIndex(ctx context.Context) (uint64, error)
	Propose(ctx context.Context, mutations ...*raftlogv1.Mutation) ([]*raftlogv1.Outcome, error)
}

// ServiceOptions configures a Service. All fields are required.
type ServiceOptions struct {
	Consensus Consensus
	// StartCounter of this process.
	StartCounter uint64
	// BootIndex is the index of this node's boot.state; Boot answers what a peer may
	// have of it.
	BootIndex func() uint64
	// RingIndex is the index of the boot.state whose gossip keys this node uses.
	RingIndex func() uint64
	Boot      func() ([]byte, error)
	// Forward runs a forwarded call here.
	Forward func(ctx context.Context, req *agentplanev1.ForwardRequest) (*agentplanev1.ForwardResponse, error)
	// Held answers which agent sessions this node holds.
	Held func() []*agentplanev1.HeldSession
	// Reach says why a node that has started is not reached at the address that it tells
	// of; nil also where this one knows it by that already.
	Reach func(ctx context.Context, nodeID, address string) error
	// AddServer makes a registered node a non-voter.
	AddServer func(ctx context.Context, nodeID string) (*agentplanev1.AddServerResponse, error)
}

// Service answers peers. The gate has let nodes through only, and the preface has
// been judged.
type Service struct {
	agentplanev1.UnimplementedPeerServiceServer
	o ServiceOptions
}

// NewService returns a Service.
func NewService(o ServiceOptions) *Service { return &Service{o: o} }

// Forward is the API's.
func (s *Service) Forward(ctx context.Context, req *agentplanev1.ForwardRequest) (*agentplanev1.ForwardResponse, error) {
	return s.o.Forward(ctx, req)
}

// Propose is the API's. A node may propose only what is its own business.
func (s *Service) Propose(ctx context.Context, req *agentplanev1.ProposeRequest) (*agentplanev1.ProposeResponse, error) {
	caller, _ := Caller(ctx)
	for _, m := range req.GetMutations() {
		if err := s.judge(ctx, caller.ID.Name, m); err != nil {
			return nil, err
		}
	}
	outcomes, err := s.o.Consensus.Propose(ctx, req.GetMutations()...)
	if err != nil {
		return nil, refusal(err)
	}
	return &agentplanev1.ProposeResponse{Outcomes: outcomes}, nil
}

// judge says why a node may not propose the mutation.
func (s *Service) judge(ctx context.Context, nodeID string, m *raftlogv1.Mutation) error {
	if !ownBusiness(nodeID, m) {
		return agentplanev1.Refusal(codes.PermissionDenied, &agentplanev1.ErrorDetail{Reason: "not_its_business"},
			"node %q may not propose this mutation (%T)", nodeID, m.GetKind())
	}
	started := m.GetNodeStarted()
	if started == nil {
		return nil
	}
	// Once it is in the log, nobody looks for the node where it was.
	if err := s.o.Reach(ctx, nodeID, started.GetAddress()); err != nil {
		return agentplanev1.Refusal(codes.FailedPrecondition, &agentplanev1.ErrorDetail{
			Reason: ReasonUnreachable, Hint: "start the node again with an --advertise HOST:PORT at which the other nodes reach it",
		}, "you advertise %s, and the leader cannot reach it: %v", started.GetAddress(), err)
	}
	return nil
}

// ownBusiness says that the mutation is of a kind that nodes propose, and names no
// other node than the proposer.
func ownBusiness(nodeID string, m *raftlogv1.Mutation) bool {
	switch k := m.GetKind().(type) {
	case *raftlogv1.Mutation_NodeStarted:
		return k.NodeStarted.GetNodeId() == nodeID
	case *raftlogv1.Mutation_OpenSession:
		return k.OpenSession.GetNodeId() == nodeID
	case *raftlogv1.Mutation_ClaimAttempt:
		return k.ClaimAttempt.GetNodeId() == nodeID
	case *raftlogv1.Mutation_ReportAttempt:
		return k.ReportAttempt.GetNodeId() == nodeID
	// Of these the state refuses what is not the holder's. Without a node they would be
	// the leader's own word.
	case *raftlogv1.Mutation_ReadySession:
		return k.ReadySession.GetNodeId() == nodeID
	case *raftlogv1.Mutation_EndSession:
		return k.EndSession.GetNodeId() == nodeID
	case *raftlogv1.Mutation_ReportFacts:
		return k.ReportFacts.GetNodeId() == nodeID
	case *raftlogv1.Mutation_LoseAttempt:
		return k.LoseAttempt.GetNodeId() == nodeID
	case *raftlogv1.Mutation_RecordOutput:
		return k.RecordOutput.GetNodeId() == nodeID
	case *raftlogv1.Mutation_RecordBlob:
		return k.RecordBlob.GetNodeId() == nodeID
	default:
		return false
	}
}

// ReadIndex is the API's.
func (s *Service) ReadIndex(ctx context.Context, _ *agentplanev1.ReadIndexRequest) (*agentplanev1.ReadIndexResponse, error) {
	index, err := s.o.Consensus.ReadIndex(ctx)
	if err != nil {
		return nil, refusal(err)
	}
	return &agentplanev1.ReadIndexResponse{Index: index}, nil
}

// ReadTerm is the API's.
func (s *Service) ReadTerm(context.Context, *agentplanev1.ReadTermRequest) (*agentplanev1.ReadTermResponse, error) {
	r := s.o.Consensus.TermReply()
	return &agentplanev1.ReadTermResponse{
		Term: r.Term, WallClock: r.WallClock.UnixNano(), LastIndex: r.LastIndex, AppliedIndex: r.Published, Willing: r.Willing,
		BootIndex: s.o.BootIndex(), RingIndex: s.o.RingIndex(), StartCounter: s.o.StartCounter,
	}, nil
}

// LostLeader is the API's.
func (s *Service) LostLeader(ctx context.Context, req *agentplanev1.LostLeaderRequest) (*agentplanev1.LostLeaderResponse, error) {
	caller, _ := Caller(ctx)
	r := s.o.Consensus.LostLeader(consensus.LostQuery{
		From: consensus.ServerID(caller.ID.Name), Leader: consensus.ServerID(req.GetLeaderId()),
		Term: req.GetTerm(), LastIndex: req.GetLastIndex(), LastTerm: req.GetLastTerm(),
	})
	return &agentplanev1.LostLeaderResponse{Lost: r.Lost, Reason: r.Reason}, nil
}

// Sessions is the API's.
func (s *Service) Sessions(context.Context, *agentplanev1.SessionsRequest) (*agentplanev1.SessionsResponse, error) {
	return &agentplanev1.SessionsResponse{StartCounter: s.o.StartCounter, Sessions: s.o.Held()}, nil
}

// AddServer is the API's.
func (s *Service) AddServer(ctx context.Context, _ *agentplanev1.AddServerRequest) (*agentplanev1.AddServerResponse, error) {
	caller, _ := Caller(ctx)
	r, err := s.o.AddServer(ctx, caller.ID.Name)
	if err != nil {
		return nil, refusal(err)
	}
	return r, nil
}

// BootState is the API's.
func (s *Service) BootState(_ context.Context, req *agentplanev1.BootStateRequest) (*agentplanev1.BootStateResponse, error) {
	if req.GetIndex() >= s.o.BootIndex() {
		return &agentplanev1.BootStateResponse{}, nil
	}
	b, err := s.o.Boot()
	if err != nil {
		return nil, agentplanev1.Refusal(codes.Internal, &agentplanev1.ErrorDetail{Reason: "boot_state"}, "%v", err)
	}
	return &agentplanev1.BootStateResponse{BootState: b}, nil
}

// refusal turns an error of consensus into what the asking node understands.
func refusal(err error) error {
	if agentplanev1.DetailOf(err) != nil {
		return err
	}
	d := &agentplanev1.ErrorDetail{Reason: "refused"}
	code := codes.Unavailable
	var notLeader *consensus.NotLeaderError
	switch {
	case errors.As(err, &notLeader):
		d.Reason, d.LeaderId, d.LeaderAddress = forward.ReasonNotLeader, string(notLeader.LeaderID), string(notLeader.LeaderAddress)
	case errors.Is(err, consensus.ErrUnknown):
		d.Reason, d.OutcomeUnknown = "outcome_unknown", true
	case errors.Is(err, consensus.ErrBacklog):
		d.Reason, code = "backlog", codes.ResourceExhausted
	case errors.Is(err, consensus.ErrTooLarge):
		d.Reason, code = "too_large", codes.InvalidArgument
	case errors.Is(err, consensus.ErrNoQuorum):
		d.Reason = "no_quorum"
	case errors.Is(err, consensus.ErrShutdown):
		d.Reason = forward.ReasonNotLeader // nothing happened, and another will lead
	}
	return agentplanev1.Refusal(code, d, "%v", err)
}

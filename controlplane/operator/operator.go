package operator

import (
	"context"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/identity"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

// Operators knows the operators.
type Operators struct {
	agentplanev1.UnimplementedOperatorServiceServer
	*service
}

// ListOperators answers all operators by name, also revoked ones.
func (s *Operators) ListOperators(ctx context.Context, req *agentplanev1.ListOperatorsRequest) (*agentplanev1.ListOperatorsResponse, error) {
	v, err := s.read(ctx, req.GetStale())
	if err != nil {
		return nil, err
	}
	answer := &agentplanev1.ListOperatorsResponse{}
	for o := range v.Operators() {
		answer.Operators = append(answer.Operators, &agentplanev1.Operator{
			Name: o.GetName(), Role: o.GetRole(), EnrolledAt: o.GetEnrolledAt(), RevokedAt: o.GetRevokedAt(),
			Fingerprint: identity.PublicKey(o.GetPublicKey()).Fingerprint(),
		})
	}
	return answer, nil
}

// RevokeOperator ends an operator's rights. The last admin stays.
func (s *Operators) RevokeOperator(ctx context.Context, req *agentplanev1.RevokeOperatorRequest) (*agentplanev1.RevokeOperatorResponse, error) {
	if _, _, err := s.propose(ctx, &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_RevokeOperator{
		RevokeOperator: &raftlogv1.RevokeOperator{Name: req.GetName()},
	}}); err != nil {
		return nil, err
	}
	s.o.Logger.Info("operator revoked", "name", req.GetName(), "by", s.callerName(ctx))
	return &agentplanev1.RevokeOperatorResponse{}, nil
}

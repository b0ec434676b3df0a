package controlplane

import (
	"context"

	"google.golang.org/grpc/codes"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
)

// socketCluster is the part of the cluster's service that the local socket has: how the
// cluster looks from here. Over the network a node tells that only to those whom its
// state knows, and a node that was started without the others may not know anybody; the
// owner of its files is known by the kernel.
type socketCluster struct {
	agentplanev1.UnimplementedClusterServiceServer
	n *Node
}

// Status is the API's.
func (s *socketCluster) Status(ctx context.Context, req *agentplanev1.StatusRequest) (*agentplanev1.StatusResponse, error) {
	m := s.n.member.Load()
	if m == nil {
		return nil, agentplanev1.Refusal(codes.FailedPrecondition,
			&agentplanev1.ErrorDetail{Reason: "no_cluster", Hint: `make it one with "agentctl cluster init", or let it join with "agentctl cluster join"`},
			"this node belongs to no cluster yet")
	}
	answer, err := m.trailer(ctx, req, nil, func(ctx context.Context, _ any) (any, error) {
		return m.services.Cluster.Status(ctx, req)
	})
	if err != nil {
		return nil, err
	}
	return answer.(*agentplanev1.StatusResponse), nil
}

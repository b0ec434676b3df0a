package operator

import (
	"context"
	"crypto/rand"
	"slices"

	"google.golang.org/grpc/codes"

	"github.com/agentplane/agentplane/fsm"
	"github.com/agentplane/agentplane/gossip"
	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

// ListKeys answers the gossip keys by their ids.
func (c *Cluster) ListKeys(ctx context.Context, req *agentplanev1.ListKeysRequest) (*agentplanev1.ListKeysResponse, error) {
	v, err := c.read(ctx, req.GetStale())
	if err != nil {
		return nil, err
	}
	return &agentplanev1.ListKeysResponse{Keys: keysOf(v.Cluster().GetKeyring())}, nil
}

func keysOf(ring []*raftlogv1.GossipKey) (all []*agentplanev1.GossipKey) {
	for i, k := range ring {
		state := agentplanev1.GossipKeyState_GOSSIP_KEY_STATE_LEAVING
		switch {
		case i == 0:
			state = agentplanev1.GossipKeyState_GOSSIP_KEY_STATE_IN_USE
		case k == fsm.YoungestKey(ring):
			state = agentplanev1.GossipKeyState_GOSSIP_KEY_STATE_NEXT
		}
		all = append(all, &agentplanev1.GossipKey{Id: gossip.KeyID(k.GetKey()), State: state, MadeAt: k.GetMadeAt()})
	}
	return all
}

// RotateKey begins a rotation, on the leader, whose membership loop goes on with it. The key
// that it answers is in the state, and so on the disks of a majority.
func (c *Cluster) RotateKey(ctx context.Context, req *agentplanev1.RotateKeyRequest) (*agentplanev1.RotateKeyResponse, error) {
	v := c.o.Machine.View()
	ring := v.Cluster().GetKeyring()
	if len(ring) == 0 {
		return nil, c.refuse(codes.Unavailable, "no_cluster", "this node does not know the gossip keys yet")
	}
	to := fsm.YoungestKey(ring)
	id := gossip.KeyID(to.GetKey())
	there := slices.ContainsFunc(ring, func(k *raftlogv1.GossipKey) bool { return gossip.KeyID(k.GetKey()) == req.GetFrom() })
	if len(ring) > 1 || req.GetFrom() != "" && !there {
		return &agentplanev1.RotateKeyResponse{Id: id, Done: len(ring) == 1}, nil
	}
	key := make([]byte, gossip.KeyBytes)
	_, _ = rand.Read(key) // it never fails
	next := &raftlogv1.GossipKey{Key: key, MadeAt: max(c.now(v), to.GetMadeAt()+1)}
	_, _, err := c.propose(ctx, &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_SetKeyring{
		SetKeyring: &raftlogv1.SetKeyring{Keyring: append(slices.Clone(ring), next), ExpectedTrustIndex: v.Cluster().GetTrustIndex()},
	}})
	if err != nil {
		return nil, err
	}
	c.o.Logger.Info("rotation of the gossip key begun", "from", id, "to", gossip.KeyID(key), "by", c.callerName(ctx))
	return &agentplanev1.RotateKeyResponse{Id: gossip.KeyID(key)}, nil
}

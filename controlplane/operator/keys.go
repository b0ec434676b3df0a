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

// rotateTries bounds how often a rotation is begun again when trust changes in between.
const rotateTries = 5

// RotateKey begins a rotation, on the leader, whose membership loop goes on with it. The key
// that it answers is in the state, and so on the disks of a majority. Whether there is one
// already is read as anything is: a leader that was deposed would answer what it remembers.
func (c *Cluster) RotateKey(ctx context.Context, req *agentplanev1.RotateKeyRequest) (*agentplanev1.RotateKeyResponse, error) {
	if req.GetFrom() == "" {
		return nil, c.refuseHint(codes.InvalidArgument, "no_key", `see "agentctl keys list"`, "the key that is to be replaced was not named")
	}
	key := make([]byte, gossip.KeyBytes)
	_, _ = rand.Read(key) // it never fails
	for try := 1; ; try++ {
		v, err := c.read(ctx, false)
		if err != nil {
			return nil, err
		}
		ring := v.Cluster().GetKeyring()
		if len(ring) == 0 {
			return nil, c.refuse(codes.Unavailable, "no_cluster", "this node does not know the gossip keys yet")
		}
		youngest := fsm.YoungestKey(ring)
		id := gossip.KeyID(youngest.GetKey())
		if len(ring) > 1 || id != req.GetFrom() {
			return &agentplanev1.RotateKeyResponse{Id: id, Done: len(ring) == 1}, nil
		}
		next := &raftlogv1.GossipKey{Key: key, MadeAt: max(c.now(v), youngest.GetMadeAt()+1)}
		_, _, err = c.propose(ctx, &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_SetKeyring{
			SetKeyring: &raftlogv1.SetKeyring{Keyring: append(slices.Clone(ring), next), ExpectedTrustIndex: v.Cluster().GetTrustIndex()},
		}})
		switch {
		case err == nil:
			c.o.Logger.Info("rotation of the gossip key begun", "from", id, "to", gossip.KeyID(key), "by", c.callerName(ctx))
			return &agentplanev1.RotateKeyResponse{Id: gossip.KeyID(key)}, nil
		case agentplanev1.DetailOf(err).GetReason() != "version_moved" || try == rotateTries:
			return nil, err
		}
		// Trust has changed: somebody joined or left, or a rotation is there, perhaps this one.
	}
}

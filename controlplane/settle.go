package controlplane

import (
	"context"
	"fmt"
	"time"

	"github.com/agentplane/agentplane/controlplane/membership"
	"github.com/agentplane/agentplane/fsm"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

// ringPatience is how long a rotation of the gossip keys waits, at each step, for a node that
// does not answer.
const ringPatience = time.Minute

// settler does on the leader what follows from what the members say of themselves: it raises the
// feature level, and goes on with a rotation of the gossip keys. It remembers only for how
// long it has waited. It is used by the promoter's goroutine.
type settler struct {
	m     *member
	ring  uint64 // the index of the ring that it waits with
	since time.Time
}

// settle answers whether there was something to do.
func (s *settler) settle(ctx context.Context, servers []membership.Server) (bool, error) {
	c := s.m.state.View().Cluster()
	if level, ids, rises := membership.NextLevel(c.GetFeatureLevel(), servers); rises {
		s.m.logger.Info("all nodes know a higher feature level", "level", level)
		return true, s.propose(ctx, &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_RaiseFeatureLevel{
			RaiseFeatureLevel: &raftlogv1.RaiseFeatureLevel{Level: level, ServerIds: ids},
		}})
	}
	if c.GetTrustIndex() != s.ring {
		s.ring, s.since = c.GetTrustIndex(), time.Now()
	}
	next := membership.NextKeyring(c.GetKeyring(), c.GetTrustIndex(), servers, time.Since(s.since) < ringPatience)
	if next == nil {
		return false, nil
	}
	s.m.logger.Info("the rotation of the gossip keys goes on", "keys", len(next))
	return true, s.propose(ctx, &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_SetKeyring{
		SetKeyring: &raftlogv1.SetKeyring{Keyring: next, ExpectedTrustIndex: c.GetTrustIndex()},
	}})
}

func (s *settler) propose(ctx context.Context, m *raftlogv1.Mutation) error {
	outcomes, err := s.m.host.Propose(ctx, m)
	if err != nil {
		return err
	}
	if o := outcomes[0]; o.GetCode() != raftlogv1.Code_CODE_OK {
		return fmt.Errorf("it was refused: %s", o.GetDetail())
	}
	return nil
}

// level is the feature level that this build has, or stands for.
func (n *Node) level() uint32 {
	if l := n.o.Surroundings.FeatureLevel; l != nil {
		return l()
	}
	return fsm.FeatureLevel
}

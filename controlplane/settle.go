package controlplane

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/agentplane/agentplane/controlplane/membership"
	"github.com/agentplane/agentplane/fsm"
	"github.com/agentplane/agentplane/gossip"
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
	step  string // of a rotation, in a term, for which it waits
	since time.Time
}

// settle answers whether there was something to do.
func (s *settler) settle(ctx context.Context, servers []membership.Server) (bool, error) {
	c := s.m.state.View().Cluster()
	// A leader that is older than it has said so far takes nothing from itself.
	if level, ids, rises := membership.NextLevel(c.GetFeatureLevel(), servers); rises && level <= s.m.n.level() {
		s.m.logger.Info("all nodes know a higher feature level", "level", level)
		return true, s.propose(ctx, "raise the feature level", &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_RaiseFeatureLevel{
			RaiseFeatureLevel: &raftlogv1.RaiseFeatureLevel{Level: level, ServerIds: ids},
		}})
	}
	step := stepOf(c)
	anew := step != s.step
	if anew {
		s.step, s.since = step, time.Now()
	}
	next, waits := membership.NextKeyring(c.GetKeyring(), c.GetTrustIndex(), servers, time.Since(s.since) < ringPatience)
	switch {
	case anew && len(waits) > 0:
		s.m.logger.Info("the rotation of the gossip keys waits for nodes that do not use the last step yet", "node_ids", waits)
		return false, nil
	case next == nil:
		return false, nil
	}
	s.m.logger.Info("the rotation of the gossip keys goes on", "in_use", gossip.KeyID(next[0].GetKey()), "keys", len(next))
	return true, s.propose(ctx, "rotate the gossip keys", &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_SetKeyring{
		SetKeyring: &raftlogv1.SetKeyring{Keyring: next, ExpectedTrustIndex: c.GetTrustIndex()},
	}})
}

// stepOf names a step of a rotation in a term: patience begins anew with each.
func stepOf(c *raftlogv1.Cluster) string {
	var b strings.Builder
	fmt.Fprint(&b, c.GetOffice().GetEpoch())
	for _, k := range c.GetKeyring() {
		fmt.Fprint(&b, " ", gossip.KeyID(k.GetKey()))
	}
	return b.String()
}

func (s *settler) propose(ctx context.Context, what string, m *raftlogv1.Mutation) error {
	outcomes, err := s.m.host.Propose(ctx, m)
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	if o := outcomes[0]; o.GetCode() != raftlogv1.Code_CODE_OK {
		return fmt.Errorf("%s: it was refused: %s", what, o.GetDetail())
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

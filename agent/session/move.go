package session

import (
	"context"
	"math/rand/v2"
	"time"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
)

// move looks for another node, beside the session that goes on. Told again while it does,
// it has nothing to add. It is called by the reader only.
func (s *session) move(ctx context.Context, m *agentplanev1.MoveAway) {
	if s.seeking {
		return
	}
	s.seeking = true
	s.log.Info("told to move away", "reason", m.GetReason(), "within", (time.Duration(m.GetWithinMs()) * time.Millisecond).String())
	var first time.Duration
	if m.GetWithinMs() > 0 {
		// Spread evenly over the time that the node gives, so that a drain is no stampede.
		first = rand.N(time.Duration(m.GetWithinMs()) * time.Millisecond)
	}
	limit := s.k.backoff.cap // that of the Welcome of this session
	s.group.Go(func() { s.seek(ctx, first, backoff{cap: limit}) })
}

// seek ends with the session, or with a stream on which another node has spoken.
func (s *session) seek(ctx context.Context, wait time.Duration, pause backoff) {
	for sleep(ctx, wait) {
		for _, n := range rank(s.k.o.AgentID, s.k.o.Trust.Nodes()) {
			if n.key() == s.link.node.key() || n.Address == s.link.node.Address || n.ID != "" && n.ID == s.nodeID {
				continue
			}
			l, err := s.k.connect(ctx, n)
			if err == nil {
				s.found <- l
				return
			}
			if ctx.Err() != nil {
				return
			}
			s.log.Debug("cannot move there", "to", n.Address, "err", err)
		}
		wait = pause.next()
	}
}

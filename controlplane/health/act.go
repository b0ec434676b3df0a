package health

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/agentplane/agentplane/fsm"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

const (
	// maxBatch bounds the mutations of one proposal.
	maxBatch = 128
	// maxLost bounds the sessions that one mutation touches.
	maxLost = 500
)

var errDeposed = errors.New("the entry came from a deposed leader and changed nothing")

// propose puts mutations into one entry. An entry that was not applied is an error;
// every other outcome is left to the caller.
func (l *term) propose(ctx context.Context, mutations []*raftlogv1.Mutation) ([]*raftlogv1.Outcome, error) {
	outcomes, err := l.o.Proposer.Propose(ctx, mutations...)
	if err != nil {
		return nil, err
	}
	if len(outcomes) != len(mutations) {
		return nil, fmt.Errorf("%d mutations were answered by %d outcomes", len(mutations), len(outcomes))
	}
	for _, o := range outcomes {
		switch o.GetCode() {
		case raftlogv1.Code_CODE_NOT_APPLIED:
			return nil, errDeposed
		case raftlogv1.Code_CODE_INVALID:
			return nil, fmt.Errorf("the state calls a proposal malformed: %s", o.GetDetail())
		}
	}
	return outcomes, nil
}

// shows says that the state shows a live session on the node of a start up to the
// given one.
func shows(v *fsm.View, nodeID string, upTo uint64) bool {
	for s := range v.LiveSessions(nodeID) {
		if s.GetNodeStartCounter() <= upTo {
			return true
		}
	}
	return false
}

// grace is what the agents of a lost node are given.
func (l *term) grace() time.Duration {
	if !givesGrace {
		return 0
	}
	return l.o.NodeDeathGrace
}

// lose begins the grace of the node's sessions up to a start, until none is left.
func (l *term) lose(ctx context.Context, nodeID string, upTo uint64, reason string) error {
	if !shows(l.o.Machine.View(), nodeID, upTo) {
		return nil
	}
	lost := uint32(0)
	for more := true; more; {
		outcomes, err := l.propose(ctx, []*raftlogv1.Mutation{{Kind: &raftlogv1.Mutation_LoseNodeSessions{LoseNodeSessions: &raftlogv1.LoseNodeSessions{
			NodeId: nodeID, UpToStartCounter: upTo, Grace: int64(l.grace()), Reason: reason, Max: maxLost,
		}}}})
		if err != nil {
			return fmt.Errorf("lose sessions of node %q: %w", nodeID, err)
		}
		lost += outcomes[0].GetCount()
		more = outcomes[0].GetReason() == "more"
	}
	l.o.Logger.Info("sessions of a node are over", "node_id", nodeID, "up_to_start", upTo, "reason", reason, "sessions", lost)
	return nil
}

// endMissing begins the grace of sessions that their nodes do not hold. What a failed
// proposal leaves is found again when the node is asked next.
func (l *term) endMissing(ctx context.Context) error {
	ends := l.ends
	l.ends = nil
	for len(ends) > 0 {
		n := min(len(ends), maxBatch)
		batch := make([]*raftlogv1.Mutation, n)
		for i, s := range ends[:n] {
			batch[i] = &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_EndSession{EndSession: &raftlogv1.EndSession{
				AgentId: s.AgentID, SessionEpoch: s.Epoch, Grace: int64(l.grace()), Reason: "not_held",
			}}}
		}
		if _, err := l.propose(ctx, batch); err != nil {
			return fmt.Errorf("end %d sessions that their node does not hold: %w", n, err)
		}
		l.o.Logger.Info("sessions are over that their node does not hold", "sessions", n, "first_agent_id", ends[0].AgentID)
		ends = ends[n:]
	}
	return nil
}

// markDown proposes DOWN for those without grace, as many as the brake allows, first
// come first served.
func (l *term) markDown(ctx context.Context, now time.Duration) error {
	state, allow := l.brake.Decide(l.held, now, l.graces.load(now, l.o.BrakeWindow))
	l.announce(state)
	l.held = state
	for allow > 0 {
		due := l.graces.due(now, min(allow, maxBatch))
		if len(due) == 0 {
			return nil
		}
		allow -= len(due)
		batch := make([]*raftlogv1.Mutation, len(due))
		for i, a := range due {
			batch[i] = &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_MarkDown{MarkDown: &raftlogv1.MarkDown{AgentId: a.agentID, SessionEpoch: a.epoch}}}
		}
		outcomes, err := l.propose(ctx, batch)
		if err != nil {
			for _, a := range due {
				l.graces.enqueue(a, a.due)
			}
			return fmt.Errorf("mark %d agents DOWN: %w", len(due), err)
		}
		l.held = l.held.Fell(now, l.weigh(due, outcomes, now))
	}
	return nil
}

// weigh counts who fell. Who moved meanwhile is told by the feed; whose grace is not
// over by the cluster's time comes again when it should be.
func (l *term) weigh(due []*grace, outcomes []*raftlogv1.Outcome, now time.Duration) (fallen int) {
	view := l.o.Machine.View()
	for i, o := range outcomes {
		switch o.GetCode() {
		case raftlogv1.Code_CODE_OK:
			fallen++
			l.o.Logger.Info("agent is DOWN", "agent_id", due[i].agentID, "session_epoch", due[i].epoch)
		case raftlogv1.Code_CODE_REFUSED:
			s, _ := view.Session(due[i].agentID)
			l.graces.enqueue(due[i], now+max(every, time.Duration(s.GetGraceUntil()-view.Now())))
		}
	}
	return fallen
}

// announce tells people when the brake engages and releases.
func (l *term) announce(s BrakeState) {
	was := l.status.Load()
	now := &BrakeStatus{Engaged: s.Engaged, Held: s.Held, Limit: s.Limit, Since: was.Since}
	switch {
	case s.Engaged && !was.Engaged:
		now.Since = time.Now()
		l.o.Logger.Warn("too many agents would be DOWN at once: holding them RECONNECTING; look at the network between agents and nodes",
			"held", s.Held, "limit", s.Limit, "window", l.o.BrakeWindow)
	case !s.Engaged && was.Engaged:
		now = &BrakeStatus{}
		l.o.Logger.Warn("the brake on DOWN is released", "held_for", time.Since(was.Since))
	case !s.Engaged:
		return
	}
	l.status.Store(now)
}

package operator

import (
	"context"
	"fmt"

	"github.com/agentplane/agentplane/fsm"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

// service is what all services share.
type service struct{ o Options }

// now is the cluster's time, Unix nanoseconds, also when no entry has moved it for
// long.
func (s *service) now(v *fsm.View) int64 { return max(v.Now(), s.o.Now().UnixNano()) }

// read answers the state to read from, or the refusal.
func (s *service) read(ctx context.Context, stale bool) (*fsm.View, error) {
	v, err := s.o.Read(ctx, stale)
	if err != nil {
		return nil, s.readRefusal(err)
	}
	return v, nil
}

// propose proposes one mutation and answers its outcome and a state that holds it.
// The error is a refusal.
func (s *service) propose(ctx context.Context, m *raftlogv1.Mutation) (*raftlogv1.Outcome, *fsm.View, error) {
	outcomes, v, err := s.proposeAll(ctx, m)
	if err == nil {
		err = s.outcomeRefusal(outcomes[0])
	}
	if err != nil {
		return nil, nil, err
	}
	return outcomes[0], v, nil
}

// proposeAll proposes mutations of one entry and answers their outcomes, whatever they
// are, and a state that holds them. The error is a refusal.
func (s *service) proposeAll(ctx context.Context, mutations ...*raftlogv1.Mutation) ([]*raftlogv1.Outcome, *fsm.View, error) {
	outcomes, err := s.o.Proposer.Propose(ctx, mutations...)
	if err == nil && len(outcomes) != len(mutations) {
		err = fmt.Errorf("%d outcomes were answered for %d mutations", len(outcomes), len(mutations))
	}
	if err != nil {
		return nil, nil, s.proposeRefusal(err)
	}
	// A proposer on this node answers after the state has the entry; one that asks
	// another node may be ahead of it.
	if err := s.o.Machine.WaitPublished(ctx, outcomes[0].GetIndex()); err != nil {
		return nil, nil, s.proposeRefusal(fmt.Errorf("it was applied, but this node has not seen it in time: %w: %w", errApplied, err))
	}
	return outcomes, s.o.Machine.View(), nil
}

// callerLocal is how rows name whoever calls over the node's own socket.
const callerLocal = "local"

// callerName is how rows name whoever calls.
func (s *service) callerName(ctx context.Context) string {
	name, kind, _, from := s.o.Caller(ctx)
	switch kind {
	case "operator":
		return name
	case "":
		return "somebody at " + from
	case callerLocal:
		return callerLocal
	default:
		return kind + " " + name
	}
}

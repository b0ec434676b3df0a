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
	outcomes, err := s.o.Proposer.Propose(ctx, m)
	if err == nil && len(outcomes) != 1 {
		err = fmt.Errorf("%d outcomes were answered for one mutation", len(outcomes))
	}
	if err != nil {
		return nil, nil, s.proposeRefusal(err)
	}
	o := outcomes[0]
	if err := s.outcomeRefusal(o); err != nil {
		return nil, nil, err
	}
	// A proposer on this node answers after the state has the entry; one that asks
	// another node may be ahead of it.
	if err := s.o.Machine.WaitPublished(ctx, o.GetIndex()); err != nil {
		return nil, nil, s.proposeRefusal(fmt.Errorf("it was applied, but this node has not seen it in time: %w: %w", errApplied, err))
	}
	return o, s.o.Machine.View(), nil
}

// callerName is how rows name whoever calls.
func (s *service) callerName(ctx context.Context) string {
	name, kind, _, from := s.o.Caller(ctx)
	switch kind {
	case "operator":
		return name
	case "":
		return "somebody at " + from
	case "local":
		return "local"
	default:
		return kind + " " + name
	}
}

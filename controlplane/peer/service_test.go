package peer

import (
	"context"
	"errors"
	"strings"
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

// A node proposes in its own name only: whatever it may propose names it, and
// without a name a mutation is the leader's word, which no peer may give.
func TestNodesProposeInTheirOwnNameOnly(t *testing.T) {
	may := map[protoreflect.Name]bool{
		"node_started": true, "open_session": true, "ready_session": true, "end_session": true, "report_facts": true,
		"claim_attempt": true, "report_attempt": true, "lose_attempt": true, "record_output": true, "record_blob": true,
	}
	kinds := (&raftlogv1.Mutation{}).ProtoReflect().Descriptor().Oneofs().ByName("kind").Fields()
	for i := range kinds.Len() {
		kind := kinds.Get(i)
		for _, names := range []string{"me", "other", ""} {
			m := &raftlogv1.Mutation{}
			body := m.ProtoReflect().Mutable(kind).Message()
			if f := body.Descriptor().Fields().ByName("node_id"); f != nil {
				body.Set(f, protoreflect.ValueOfString(names))
			}
			if got, want := ownBusiness("me", m), may[kind.Name()] && names == "me"; got != want {
				t.Errorf("%s naming node %q: ownBusiness = %v, want %v", kind.Name(), names, got, want)
			}
		}
	}
}

// A node that comes back with an address where nobody reaches it does not get that into
// the log, in which the address where it was would be lost.
func TestNodeIsNotMovedToWhereItIsNotReached(t *testing.T) {
	s := NewService(ServiceOptions{Reach: func(_ context.Context, nodeID, address string) error {
		if nodeID != "me" || address != "10.0.0.1:7460" {
			return errors.New("connection refused")
		}
		return nil
	}})
	started := func(node, address string) *raftlogv1.Mutation {
		return &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_NodeStarted{NodeStarted: &raftlogv1.NodeStarted{NodeId: node, Address: address}}}
	}
	if err := s.judge(t.Context(), "me", started("me", "10.0.0.1:7460")); err != nil {
		t.Errorf("where it is reached: %v", err)
	}
	err := s.judge(t.Context(), "me", started("me", "10.0.0.9:7460"))
	if d := agentplanev1.DetailOf(err); d.GetReason() != ReasonUnreachable || d.GetHint() == "" || !strings.Contains(err.Error(), "you advertise 10.0.0.9:7460") {
		t.Errorf("where it is not: %v (%v)", err, d)
	}
	if err := s.judge(t.Context(), "me", started("other", "10.0.0.1:7460")); agentplanev1.DetailOf(err).GetReason() != "not_its_business" {
		t.Errorf("another node's: %v", err)
	}
}

package peer

import (
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"

	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

// A node proposes in its own name only: whatever it may propose names it, and
// without a name a mutation is the leader's word, which no peer may give.
func TestNodesProposeInTheirOwnNameOnly(t *testing.T) {
	may := map[protoreflect.Name]bool{
		"node_started": true, "open_session": true, "ready_session": true, "end_session": true, "report_facts": true,
		"claim_attempt": true, "report_attempt": true, "lose_attempt": true, "record_output": true,
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

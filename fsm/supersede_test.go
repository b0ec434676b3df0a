package fsm

import (
	"fmt"
	"testing"
	"time"

	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

func TestOpenCommandsOfOneKeyAreBounded(t *testing.T) {
	m := founded(t, Options{})
	submit := func(n int, key string) *raftlogv1.Outcome {
		index, office := m.Published()
		return m.Apply(index+1, 1, &raftlogv1.Entry{Format: 1, LeaderEpoch: office.GetEpoch(), Now: m.Now(), Mutations: []*raftlogv1.Mutation{{Kind: &raftlogv1.Mutation_SubmitCommand{SubmitCommand: &raftlogv1.SubmitCommand{
			Id: commandID(storyBegin.Add(time.Duration(n)*time.Millisecond), fmt.Sprint("bound", n)), Envelope: []byte("e"), Digest: []byte("d"),
			AgentOrdinals: []uint32{uint32(n)}, Ttl: int64(time.Hour), RunTimeout: 1, QueueOffline: true, Supersede: key,
		}}}}})[0]
	}
	apply(t, m, token("many", raftlogv1.TokenKind_TOKEN_KIND_AGENT, 1000))
	for n := range maxSupersede + 1 {
		id := fmt.Sprint("agent", n)
		apply(t, m, &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_EnrollAgent{EnrollAgent: &raftlogv1.EnrollAgent{AgentId: id, Name: id, PublicKey: keyOf(id), TokenId: tokenID("many")}}})
	}
	for n := 1; n <= maxSupersede; n++ {
		if o := submit(n, "k"); o.GetCode() != raftlogv1.Code_CODE_OK {
			t.Fatalf("command %d: %v", n, o)
		}
	}
	if o := submit(maxSupersede+1, "k"); o.GetReason() != "supersede_full" || o.GetCode() != raftlogv1.Code_CODE_EXHAUSTED {
		t.Fatalf("one too many is answered %v", o)
	}
	if o := submit(maxSupersede+1, "l"); o.GetCode() != raftlogv1.Code_CODE_OK {
		t.Fatalf("another key is answered %v", o)
	}
}

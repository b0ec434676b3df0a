package fsm

import (
	"fmt"
	"testing"

	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

// Removals are remembered up to a bound; the oldest goes first.
func TestRemovalsAreBounded(t *testing.T) {
	m := founded(t, Options{})
	var first *raftlogv1.RemoveAgent
	for n := range MaxRemovals + 10 {
		if n%MaxTokenUses == 0 {
			apply(t, m, token(fmt.Sprint("tok", n/MaxTokenUses), raftlogv1.TokenKind_TOKEN_KIND_AGENT, MaxTokenUses))
		}
		id := fmt.Sprint("a", n)
		apply(t, m, &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_EnrollAgent{EnrollAgent: &raftlogv1.EnrollAgent{
			AgentId: id, PublicKey: keyOf(id), TokenId: tokenID(fmt.Sprint("tok", n/MaxTokenUses)),
		}}})
		a, _ := m.View().Agent(id)
		r := &raftlogv1.RemoveAgent{AgentId: id, EnrolledIndex: a.GetEnrolledIndex()}
		if first == nil {
			first = r
		}
		apply(t, m, &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_RemoveAgent{RemoveAgent: r}})
	}
	if n := m.tables.removals.len(); n != MaxRemovals {
		t.Errorf("%d removals are remembered, want %d", n, MaxRemovals)
	}
	index, office := m.Published()
	o := m.Apply(index+1, 1, &raftlogv1.Entry{Format: 1, LeaderEpoch: office.GetEpoch(), Mutations: []*raftlogv1.Mutation{
		{Kind: &raftlogv1.Mutation_RemoveAgent{RemoveAgent: first}},
		{Kind: &raftlogv1.Mutation_RemoveAgent{RemoveAgent: &raftlogv1.RemoveAgent{AgentId: fmt.Sprint("a", MaxRemovals)}}},
	}})
	if o[0].GetCode() != raftlogv1.Code_CODE_NOT_FOUND || !o[1].GetRepeated() {
		t.Errorf("the first removal again: %v, a later one: %v; want it forgotten and remembered", o[0], o[1])
	}
}

// A removal ends what many commands had for the agent, and each of them once.
func TestRemovalEndsManyCommands(t *testing.T) {
	m := fleet(t, 2)
	const commands = 3 * maxLookedThrough
	for n := range commands {
		apply(t, m, submitTo(commandID(storyBegin, fmt.Sprint(n)), 1, 2))
	}
	apply(t, m, &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_RemoveAgent{RemoveAgent: &raftlogv1.RemoveAgent{AgentId: "agent-00000"}}})
	if err := check(m); err != nil {
		t.Error(err)
	}
	if n := m.View().CommandCount(); n != commands {
		t.Errorf("%d commands are kept, want %d", n, commands)
	}
	for c := range m.View().CommandsNewestFirst(0) {
		if n := c.GetCounts(); done(c) || len(n) != 2 || n[0].GetCount() != 1 || n[1].GetCount() != 1 {
			t.Errorf("command %s has %v after one of its two agents was removed", c.GetId(), n)
		}
	}
}

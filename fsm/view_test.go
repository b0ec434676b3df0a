package fsm

import (
	"cmp"
	"iter"
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

// TestViewsListWhatAWalkFinds compares each reader of an index with a walk over all
// rows.
func TestViewsListWhatAWalkFinds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v := history(t).m.View()
		all := slices.Collect(v.t.commands.all())
		same(t, "commands not done", v.OpenCommands(), filter(all, func(c *raftlogv1.Command) bool { return !done(c) }))
		finished := filter(all, done)
		slices.SortStableFunc(finished, func(a, b *raftlogv1.Command) int { return int(a.GetFinishedIndex()) - int(b.GetFinishedIndex()) })
		same(t, "commands done", v.FinishedCommands(), finished)
		newest := slices.Clone(all)
		slices.SortStableFunc(newest, func(a, b *raftlogv1.Command) int { return int(a.GetSubmittedIndex()) - int(b.GetSubmittedIndex()) })
		slices.Reverse(newest)
		before := uint64(rapid.IntRange(0, int(v.Index())+1).Draw(t, "before"))
		same(t, "newest commands", v.CommandsNewestFirst(before), filter(newest, func(c *raftlogv1.Command) bool { return before == 0 || c.GetSubmittedIndex() < before }))

		sessions := slices.Collect(v.t.sessions.all())
		for _, n := range genNodes {
			same(t, "sessions of "+n, v.LiveSessions(n), filter(sessions, func(s *raftlogv1.Session) bool { return live(s) && s.GetNodeId() == n }))
		}
		grace := filter(sessions, func(s *raftlogv1.Session) bool {
			return s.GetState() == raftlogv1.SessionState_SESSION_STATE_RECONNECTING
		})
		slices.SortStableFunc(grace, func(a, b *raftlogv1.Session) int {
			if a.GetGraceUntil() < b.GetGraceUntil() {
				return -1
			}
			return int(min(1, a.GetGraceUntil()-b.GetGraceUntil()))
		})
		same(t, "sessions in grace", v.ReconnectingSessions(), grace)

		for a := range v.Agents() {
			if got, ok := v.AgentByOrdinal(a.GetOrdinal()); !ok || got != a {
				t.Fatalf("agent %d is %v, want %v", a.GetOrdinal(), got, a)
			}
			got, ok := v.AgentByKey(a.GetPublicKey())
			if ok != (len(a.GetPublicKey()) > 0) || (ok && got != a) {
				t.Fatalf("agent with key %q is %v, want %v", a.GetPublicKey(), got, a)
			}
			if !slices.Contains(slices.Collect(v.AgentsByName(a.GetName())), a) {
				t.Fatalf("agent %v is not found by its name", a)
			}
			for _, state := range []raftlogv1.AttemptState{pending, released, claimedS, running} {
				work := filter(slices.Collect(v.t.invocations.all()), func(i *raftlogv1.Invocation) bool {
					return i.GetAgentOrdinal() == a.GetOrdinal() && i.GetState() == state
				})
				slices.SortStableFunc(work, func(i, j *raftlogv1.Invocation) int {
					return cmp.Or(int(j.GetPrecedence()-i.GetPrecedence()), int(submittedIndex(i))-int(submittedIndex(j)))
				})
				same(t, "work", v.Work(a.GetOrdinal(), state), work)
			}
		}
		for o := range v.Operators() {
			if got, ok := v.OperatorByKey(o.GetPublicKey()); !ok || got != o {
				t.Fatalf("operator with key %q is %v, want %v", o.GetPublicKey(), got, o)
			}
		}
		for n := range v.RegisteredNodes() {
			if removed(n) {
				t.Fatalf("removed node %v is listed", n)
			}
		}
		for _, c := range all {
			if b, ok := v.Envelope(c.GetId()); !ok || len(b) == 0 {
				t.Fatalf("command %s has no envelope", c.GetId())
			}
			for i := range v.Invocations(c.GetId()) {
				if got, ok := v.Invocation(i.GetId()); !ok || got != i {
					t.Fatalf("invocation %s is %v, want %v", i.GetId(), got, i)
				}
				if open(i) && !slices.Contains(slices.Collect(v.OpenInvocations(c.GetId(), i.GetState())), i) {
					t.Fatalf("invocation %v is not among the open ones", i)
				}
			}
		}
	})
}

func filter[R any](rows []R, keep func(R) bool) (kept []R) {
	for _, r := range rows {
		if keep(r) {
			kept = append(kept, r)
		}
	}
	return kept
}

func same[R interface {
	comparable
	proto.Message
}](t *rapid.T, what string, got iter.Seq[R], want []R,
) {
	if g := slices.Collect(got); !slices.Equal(g, want) {
		t.Fatalf("%s: %v, want %v", what, g, want)
	}
}

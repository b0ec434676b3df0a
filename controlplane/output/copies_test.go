package output

import (
	"testing"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

// A node that keeps output is removed when the record is about to be proposed: it is not
// proposed with those that are left, which are too few, but copied further.
func TestNothingIsRecordedOfTooFew(t *testing.T) {
	w := newWorld(t, StoreOptions{})
	c := newCopies(w.nodes["a"].copies.s)
	empty := &agentplanev1.OutputTotal{Sha256: make([]byte, 32)}
	totals := &agentplanev1.OutputTotals{Stdout: &agentplanev1.OutputTotal{Bytes: 9, Sha256: make([]byte, 32)}, Stderr: empty}
	k := w.claim()
	a := &attempt{key: k, copied: true, held: Held{Ends: Ends{9, 0}, Totals: totals}, replicas: map[string]*replica{"b": {held: Ends{9, 0}, totals: totals}}}
	p := newPusher(c, "b")
	p.end = func() {}
	c.mu.Lock()
	c.attempts[k], c.pushers["b"] = a, p
	c.judgeLocked(a)
	c.mu.Unlock()
	if !a.recorded {
		t.Fatal("two nodes have it, and it is not to be recorded")
	}
	w.apply(&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_RemoveNode{RemoveNode: &raftlogv1.RemoveNode{NodeId: "b"}}})
	c.forgetRemoved()
	if keys, _ := c.due(); len(keys) > 0 || a.replicas["b"] != nil || a.replicas["c"] == nil {
		t.Errorf("to be recorded are %v; copies are on %v", keys, a.replicas)
	}
}

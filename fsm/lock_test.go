package fsm

import (
	"fmt"
	"testing"
	"time"

	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

// Leases that are over are remembered up to a bound; the oldest goes first.
func TestEndedLeasesAreBounded(t *testing.T) {
	m := founded(t, Options{})
	for n := 0; n < MaxEnded+10; n += 100 {
		var muts []*raftlogv1.Mutation
		for i := range 100 {
			muts = append(muts, &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_ReleaseLock{ReleaseLock: &raftlogv1.ReleaseLock{Lock: "l", LeaseId: genLease(n + i), Holder: "ann"}}})
		}
		apply(t, m, muts...)
	}
	if n := m.tables.ended.len(); n != MaxEnded {
		t.Fatalf("%d leases are remembered, want %d", n, MaxEnded)
	}
	if _, found := m.tables.ended.get(genLease(0)); found {
		t.Error("the oldest was not forgotten")
	}
}

func TestLocksAndBudgetsAreBounded(t *testing.T) {
	m := founded(t, Options{})
	create := func(name, selector string) *raftlogv1.Outcome {
		index, office := m.Published()
		return m.Apply(index+1, 1, &raftlogv1.Entry{Format: 1, LeaderEpoch: office.GetEpoch(), Now: m.Now(), Mutations: []*raftlogv1.Mutation{
			{Kind: &raftlogv1.Mutation_CreateLock{CreateLock: &raftlogv1.CreateLock{Name: name, Limit: 1, Selector: selector}}},
		}})[0]
	}
	for n := range MaxLocks {
		selector := ""
		if n < MaxBudgets {
			selector = "all"
		}
		if o := create(fmt.Sprint("l", n), selector); o.GetCode() != raftlogv1.Code_CODE_OK {
			t.Fatalf("lock %d: %v", n, o)
		}
		if n == MaxBudgets {
			if o := create("more", "all"); o.GetReason() != "too_many_budgets" {
				t.Fatalf("one budget too many is answered %v", o)
			}
		}
	}
	if o := create("more", ""); o.GetReason() != "too_many_locks" {
		t.Fatalf("one lock too many is answered %v", o)
	}
}

// A claim pays for locks only where there are some.
func TestPlainClaimAsksForNoLock(t *testing.T) {
	m := full(t)
	apply(t, m, &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_DeleteLock{DeleteLock: &raftlogv1.DeleteLock{Name: "all", Force: true}}},
		&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_DeleteLock{DeleteLock: &raftlogv1.DeleteLock{Name: "budget", Force: true}}})
	a, _ := m.View().Agent("web-1")
	c, _ := m.View().Command(commandID(storyBegin, "0"))
	if n := testing.AllocsPerRun(100, func() {
		if m.tables.needs(a, c) != nil {
			t.Error("it needs a place")
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestRepeatedAcquireAnswersTheFenceThatStands(t *testing.T) {
	m := founded(t, Options{})
	acquire := &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_AcquireLock{AcquireLock: &raftlogv1.AcquireLock{
		Lock: "l", LeaseId: genLease(1), Holder: "ann", Ttl: int64(time.Minute), Limit: 1,
	}}}
	ask := func() *raftlogv1.Outcome {
		index, office := m.Published()
		return m.Apply(index+1, 1, &raftlogv1.Entry{Format: 1, LeaderEpoch: office.GetEpoch(), Now: m.Now(), Mutations: []*raftlogv1.Mutation{acquire}})[0]
	}
	first, again := ask(), ask()
	if first.GetNumber() == 0 || again.GetNumber() != first.GetNumber() || !again.GetRepeated() {
		t.Errorf("answered %v, then %v", first, again)
	}
}

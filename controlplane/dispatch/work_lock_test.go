package dispatch

import (
	"slices"
	"testing"
	"time"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

func withLocks(names ...string) func(*raftlogv1.SubmitCommand) {
	return func(m *raftlogv1.SubmitCommand) { m.Locks = names }
}

func alone(m *raftlogv1.SubmitCommand) { m.Exclusive = true }

func commandsOf(d []*agentplanev1.Deliver) (ids []string) {
	for _, x := range d {
		ids = append(ids, x.GetCommandId())
	}
	return ids
}

func TestStuckAttemptBlocksNobodyOfAnotherLock(t *testing.T) {
	bubble(t, func(t *testing.T, l *testLog) {
		n := l.node(0, nil)
		a := newAgent(t, 0)
		a.slots = 3
		stuck := l.submit(withLocks("apt"), 0)
		waits := l.submit(withLocks("apt"), 0)
		other := l.submit(withLocks("deploy"), 0)
		plain := l.submit(nil, 0)
		s := a.live(n.Dispatcher)
		settle(time.Minute)
		if got := commandsOf(s.deliveries()); !slices.Equal(got, []string{stuck, other, plain}) {
			t.Fatalf("delivered %v, want %v", got, []string{stuck, other, plain})
		}
		if got := n.Stats().Claims; got != 3 {
			t.Errorf("%d claims were proposed for the three that may run", got)
		}
		// Its end, and nothing else, wakes the one that waits.
		before := time.Now()
		s.tellEnd(s.deliveries()[0], agentplanev1.AttemptState_ATTEMPT_STATE_SUCCEEDED)
		settle(100 * time.Millisecond)
		if got := l.invocation(waits, 0).GetState(); got != claimed {
			t.Errorf("what waited for the lock is %v %v after its end", got, time.Since(before))
		}
	})
}

func TestExclusiveHasTheHostForItselfAndItsTurn(t *testing.T) {
	bubble(t, func(t *testing.T, l *testLog) {
		n := l.node(0, nil)
		a := newAgent(t, 0)
		a.slots = 4
		s := a.live(n.Dispatcher)
		first := l.submit(nil, 0)
		settle(time.Second)
		wants := l.submit(alone, 0)
		younger := l.submit(nil, 0)
		settle(time.Second)
		if got := commandsOf(s.deliveries()); !slices.Equal(got, []string{first}) {
			t.Fatalf("delivered %v beside one that waits for the whole host", got)
		}
		s.tellEnd(s.deliveries()[0], agentplanev1.AttemptState_ATTEMPT_STATE_SUCCEEDED)
		settle(time.Second)
		if got := commandsOf(s.deliveries()); !slices.Equal(got, []string{first, wants}) {
			t.Fatalf("delivered %v, want the exclusive one and nothing else", got)
		}
		s.tellEnd(s.deliveries()[1], agentplanev1.AttemptState_ATTEMPT_STATE_SUCCEEDED)
		settle(time.Second)
		if got := commandsOf(s.deliveries()); !slices.Equal(got, []string{first, wants, younger}) {
			t.Fatalf("delivered %v in the end", got)
		}
	})
}

// Another node's claim may be on its way while this one's state shows the lock free.
func TestClaimThatMetALockIsTriedAgainWhenItIsFree(t *testing.T) {
	bubble(t, func(t *testing.T, l *testLog) {
		n := l.node(0, nil)
		a := newAgent(t, 0)
		a.slots = 2
		s := a.live(n.Dispatcher)
		settle(time.Second)
		l.lag(n.machine, true)
		first := l.submit(withLocks("apt"), 0)
		i := l.invocation(first, 0)
		l.must(&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_ClaimAttempt{ClaimAttempt: &raftlogv1.ClaimAttempt{
			InvocationId: i.GetId(), Attempt: 1, AgentId: agentName(0), SessionEpoch: s.epoch, NodeId: n.o.NodeID,
		}}})
		second := l.submit(withLocks("apt"), 0)
		l.lag(n.machine, false)
		settle(time.Second)
		s.tellEnd(s.deliveries()[0], agentplanev1.AttemptState_ATTEMPT_STATE_SUCCEEDED)
		settle(100 * time.Millisecond)
		if got := commandsOf(s.deliveries()); !slices.Equal(got, []string{first, second}) {
			t.Fatalf("delivered %v, want %v", got, []string{first, second})
		}
	})
}

func lockRow(m *raftlogv1.CreateLock) *raftlogv1.Mutation {
	return &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_CreateLock{CreateLock: m}}
}

func onFleet(names ...string) func(*raftlogv1.SubmitCommand) {
	return func(m *raftlogv1.SubmitCommand) { m.FleetLocks = names }
}

// A budget lets one after the other of many agents on several nodes do its work, each is
// woken by the end of another, and few claims are made in vain.
func TestBudgetLetsOneAfterTheOtherThrough(t *testing.T) {
	bubble(t, func(t *testing.T, l *testLog) {
		const agents, limit = 20, 3
		l.enroll(agents)
		l.must(lockRow(&raftlogv1.CreateLock{Name: "db", Limit: limit, Selector: "all"}))
		l.must(lockRow(&raftlogv1.CreateLock{Name: "deploy", Limit: 2}))
		runs := []*testNodeRun{l.node(0, nil), l.node(1, nil)}
		all := make([]int, agents)
		sessions := make([]*fakeSession, agents)
		for n := range all {
			all[n] = n
			a := newAgent(t, n)
			a.slots = 2
			sessions[n] = a.live(runs[n%len(runs)].Dispatcher)
		}
		settle(time.Second)
		command := l.submit(onFleet("deploy"), all...)
		plain := l.submit(nil, all...)
		began := time.Now()
		for done := 0; done < 2*agents; {
			settle(50 * time.Millisecond)
			if held := l.view().Held("db"); held > limit || l.view().Held("deploy") > 2 {
				t.Fatalf("%d places of %d are taken", held, limit)
			}
			if time.Since(began) > time.Minute {
				t.Fatalf("%d of %d ended: %d places of db and %d of deploy are taken", done, 2*agents, l.view().Held("db"), l.view().Held("deploy"))
			}
			for n, s := range sessions {
				for _, d := range s.deliveries() {
					if i := l.invocation(d.GetCommandId(), n); i.GetState() == claimed {
						s.tellEnd(d, agentplanev1.AttemptState_ATTEMPT_STATE_SUCCEEDED)
						done++
						settle(5 * time.Millisecond)
					}
				}
			}
		}
		for n := range all {
			if a, b := l.invocation(command, n).GetState(), l.invocation(plain, n).GetState(); a != succeeded || b != succeeded {
				t.Errorf("agent %d: %v and %v", n, a, b)
			}
		}
		claims := l.count(func(m *raftlogv1.Mutation) bool { return m.GetClaimAttempt() != nil })
		t.Logf("%d claims for %d attempts", claims, 2*agents)
		if claims > 2*2*agents+4*limit {
			t.Errorf("%d claims were proposed for %d attempts", claims, 2*agents)
		}
		settle(time.Second)
		if n := len(runs[0].places.lines) + len(runs[1].places.lines); n != 0 {
			t.Errorf("%d lines are left", n)
		}
	})
}

// Of a budget that is deleted while it is full nobody waits for a place any more.
func TestWhoWaitsForABudgetHearsThatItIsGone(t *testing.T) {
	bubble(t, func(t *testing.T, l *testLog) {
		const agents = 5
		l.enroll(agents)
		l.must(lockRow(&raftlogv1.CreateLock{Name: "db", Limit: 1, Selector: "all"}))
		n := l.node(0, nil)
		all := make([]int, agents)
		for k := range all {
			all[k] = k
			newAgent(t, k).live(n.Dispatcher)
		}
		settle(time.Second)
		id := l.submit(nil, all...)
		settle(time.Second)
		running := func() (are int) {
			for _, k := range all {
				if l.invocation(id, k).GetState() == claimed {
					are++
				}
			}
			return are
		}
		if got := running(); got != 1 {
			t.Fatalf("void: %d run under a budget of one", got)
		}
		l.must(&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_DeleteLock{DeleteLock: &raftlogv1.DeleteLock{Name: "db", Force: true}}})
		settle(200 * time.Millisecond)
		if got := running(); got != agents {
			t.Errorf("without the budget %d of %d run", got, agents)
		}
		if got := len(n.places.lines); got != 0 {
			t.Errorf("%d lines are left", got)
		}
	})
}

// What lacks a place keeps nothing from those behind it, and a session that ends passes
// its turn on.
func TestWhoLacksAPlaceBarsNobody(t *testing.T) {
	bubble(t, func(t *testing.T, l *testLog) {
		l.enroll(3)
		l.must(lockRow(&raftlogv1.CreateLock{Name: "one", Limit: 1}))
		n := l.node(0, nil)
		var s []*fakeSession
		for k := range 3 {
			s = append(s, newAgent(t, k).live(n.Dispatcher))
		}
		settle(time.Second)
		holds := l.submit(onFleet("one"), 0)
		settle(time.Second)
		waits := l.submit(onFleet("one"), 1, 2)
		plain := l.submit(nil, 1)
		settle(time.Second)
		if got := commandsOf(s[1].deliveries()); !slices.Equal(got, []string{plain}) {
			t.Fatalf("delivered %v, want what needs no place", got)
		}
		claims := n.Stats().Claims
		settle(5 * time.Minute)
		if got := n.Stats().Claims; got != claims {
			t.Errorf("%d claims were made while nothing was free", got-claims)
		}
		s[1].hangUp() // it was first in the line
		settle(time.Second)
		l.must(&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_DeleteLock{DeleteLock: &raftlogv1.DeleteLock{Name: "one", Force: true}}})
		settle(time.Second)
		if got := l.invocation(waits, 2).GetState(); got != released {
			t.Errorf("without the lock it is %v", got)
		}
		l.must(lockRow(&raftlogv1.CreateLock{Name: "one", Limit: 1}))
		settle(time.Second)
		if got := l.invocation(waits, 2).GetState(); got != claimed {
			t.Errorf("with a free place it is %v", got)
		}
		if got := l.invocation(holds, 0).GetState(); got != claimed {
			t.Errorf("the first is %v", got)
		}
	})
}

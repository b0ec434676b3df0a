package fsm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

// historyEntries is how long a random history is.
const historyEntries = 60

// history draws a history and returns the machine that lived it and its steps.
func history(t *rapid.T) *gen {
	g := newGen(t)
	for range historyEntries {
		g.apply(g.entry(3))
	}
	return g
}

// replay gives steps to a machine, as raft would, and compares outcomes and hashes.
func replay(t *rapid.T, m *Machine, steps []step) {
	for _, s := range steps {
		e, err := raftlogv1.Unseal(s.sealed)
		if err != nil {
			t.Fatal(err)
		}
		for i, o := range m.Apply(s.index, s.term, e) {
			if !proto.Equal(o, s.outcomes[i]) {
				t.Fatalf("entry %d, mutation %d (%v): answered %v, the other replica %v", s.index, i, e.GetMutations()[i], o, s.outcomes[i])
			}
		}
		if m.View().Hash() != s.hash {
			t.Fatalf("entry %d: hash differs from the other replica's", s.index)
		}
	}
}

// drain returns all that the feed holds after the cursor.
func drain(t interface{ Fatal(...any) }, m *Machine, after Cursor) []Change {
	ctx, cancel := context.WithCancel(context.Background())
	cancel() // Changes answers what is there before it looks at the context
	var all []Change
	for {
		changes, err := m.Changes(ctx, after)
		if errors.Is(err, context.Canceled) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, changes...)
		after = changes[len(changes)-1].Cursor
	}
}

func sameChanges(a, b []Change) error {
	if len(a) != len(b) {
		return fmt.Errorf("feeds have %d and %d changes", len(a), len(b))
	}
	for i := range a {
		if a[i].Cursor != b[i].Cursor || a[i].Table != b[i].Table || a[i].Key != b[i].Key || (a[i].Row == nil) != (b[i].Row == nil) || !proto.Equal(a[i].Row, b[i].Row) {
			return fmt.Errorf("change %d is %v and %v", i, a[i], b[i])
		}
	}
	return nil
}

func TestTwoReplicasAgree(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g := history(t)
		other := New(Options{})
		replay(t, other, g.steps)
		if err := sameChanges(drain(t, g.m, Cursor{}), drain(t, other, Cursor{})); err != nil {
			t.Fatal(err)
		}
	})
}

func TestSnapshotAndRestIsTheWholeLog(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g := history(t)
		at := rapid.IntRange(0, len(g.steps)).Draw(t, "snapshot at")
		first, second := New(Options{}), New(Options{})
		replay(t, first, g.steps[:at])
		_, cursor := first.ViewAndWatch()
		var snapshot bytes.Buffer
		if err := first.View().WriteSnapshot(&snapshot); err != nil {
			t.Fatal(err)
		}
		if err := (Raft{second}).Restore(io.NopCloser(&snapshot)); err != nil {
			t.Fatal(err)
		}
		if first.View().Hash() != second.View().Hash() {
			t.Fatal("a restored state has another hash")
		}
		if err := check(second); err != nil {
			t.Fatal(err)
		}
		replay(t, second, g.steps[at:])
		if err := check(second); err != nil {
			t.Fatal(err)
		}
		if err := sameChanges(drain(t, g.m, cursor), drain(t, second, cursor)); err != nil {
			t.Fatal(err)
		}
	})
}

// TestStateKeepsItsPromises checks after every entry of a random history what must
// hold of any state, and of any two that follow each other.
func TestStateKeepsItsPromises(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g := newGen(t)
		epochs, fences := make(map[string]uint64), make(map[string]uint64)
		for range historyEntries {
			before := g.m.View()
			e := g.entry(3)
			outcomes := g.apply(e)
			after := g.m.View()
			for _, err := range []error{
				check(g.m), checkRefusals(before, after, outcomes), checkGrowth(before, after), checkPaused(before, after), checkSlots(after, e, outcomes),
				checkEpochs(epochs, after), checkLockFences(fences, before, after),
			} {
				if err != nil {
					t.Fatalf("entry %d (%v): %v", g.index, e, err)
				}
			}
		}
		checkMirror(t, g.m)
	})
}

// checkGrowth says whether anything went back that must not.
func checkGrowth(before, after *View) error {
	b, a := before.Cluster(), after.Cluster()
	if a.GetNow() < b.GetNow() || a.GetCommandsFloor() < b.GetCommandsFloor() || a.GetTokensFloor() < b.GetTokensFloor() || a.GetSchedulesFloor() < b.GetSchedulesFloor() || a.GetNextAgentOrdinal() < b.GetNextAgentOrdinal() ||
		a.GetOffice().GetEpoch() < b.GetOffice().GetEpoch() || a.GetTrustIndex() < b.GetTrustIndex() {
		return fmt.Errorf("the cluster went back from %v to %v", b, a)
	}
	for n := range before.Nodes() {
		m, found := after.Node(n.GetId())
		if !found || m.GetState() < n.GetState() || m.GetStartCounter() < n.GetStartCounter() || !bytes.Equal(m.GetPublicKey(), n.GetPublicKey()) {
			return fmt.Errorf("node went back from %v to %v", n, m)
		}
	}
	for s := range before.Schedules() {
		r, found := after.Schedule(s.GetName())
		if found && r.GetId() == s.GetId() && (r.GetLastSlot() < s.GetLastSlot() || r.GetFired() < s.GetFired() || r.GetSkipped() < s.GetSkipped() || r.GetVersion() < s.GetVersion()) {
			return fmt.Errorf("schedule went back from %v to %v", s, r)
		}
	}
	for c := range before.OpenCommands() {
		d, found := after.Command(c.GetId())
		if !found && c.GetId() < commandFloor(a.GetCommandsFloor()*int64(time.Millisecond)) {
			continue // it was done and purged by the same entry
		}
		if !found || d.GetState() < c.GetState() || d.GetReleased() < c.GetReleased() || (c.GetCancelIndex() != 0 && d.GetCancelIndex() != c.GetCancelIndex()) {
			return fmt.Errorf("command went back from %v to %v", c, d)
		}
	}
	for i := range before.t.invocations.all() {
		j, found := after.Invocation(i.GetId())
		if !found {
			if _, kept := after.Command(i.GetCommandId()); kept {
				return fmt.Errorf("invocation %v is gone, its command is not", i)
			}
			continue
		}
		if len(j.GetTransitions()) < len(i.GetTransitions()) {
			return fmt.Errorf("invocation %v forgot steps: %v", i, j)
		}
		for n, s := range i.GetTransitions() {
			if !proto.Equal(s, j.GetTransitions()[n]) {
				return fmt.Errorf("invocation %v changed step %d: %v", i, n, j)
			}
		}
	}
	return nil
}

// checkSlots says whether a claim was granted above the slots of its session.
func checkSlots(v *View, e *raftlogv1.Entry, outcomes []*raftlogv1.Outcome) error {
	for n, mut := range e.GetMutations() {
		c := mut.GetClaimAttempt()
		if c == nil || outcomes[n].GetCode() != raftlogv1.Code_CODE_OK || outcomes[n].GetRepeated() || len(e.GetMutations()) > 1 {
			continue // a later mutation may have ended it or opened a session
		}
		a, _ := v.Agent(c.GetAgentId())
		s, _ := v.Session(c.GetAgentId())
		running := 0
		for i := range v.t.invocations.all() {
			if i.GetAgentOrdinal() == a.GetOrdinal() && (i.GetState() == raftlogv1.AttemptState_ATTEMPT_STATE_CLAIMED || i.GetState() == raftlogv1.AttemptState_ATTEMPT_STATE_RUNNING) {
				running++
			}
		}
		if running > int(s.GetSlots()) || s.GetState() != raftlogv1.SessionState_SESSION_STATE_READY {
			return fmt.Errorf("claim granted: %d of %d slots run in session %v", running, s.GetSlots(), s)
		}
	}
	return nil
}

// checkEpochs says whether an agent's session epoch went back, also past a removal.
func checkEpochs(highest map[string]uint64, v *View) error {
	for s := range v.t.sessions.all() {
		if s.GetEpoch() < highest[s.GetAgentId()] {
			return fmt.Errorf("agent %q went from epoch %d to %d", s.GetAgentId(), highest[s.GetAgentId()], s.GetEpoch())
		}
		highest[s.GetAgentId()] = s.GetEpoch()
	}
	return nil
}

// checkMirror builds the state from the feed alone and compares.
func checkMirror(t *rapid.T, m *Machine) {
	type place struct {
		table Table
		key   string
	}
	mirror := make(map[place]proto.Message)
	for _, c := range drain(t, m, Cursor{}) {
		if c.Row == nil {
			delete(mirror, place{c.Table, c.Key})
		} else {
			mirror[place{c.Table, c.Key}] = c.Row
		}
	}
	rows := 0
	expect := func(table Table, key string, row proto.Message) {
		rows++
		if have, found := mirror[place{table, key}]; !found || !proto.Equal(have, row) {
			t.Fatalf("the feed ends with %v at table %d, key %q; the state has %v", have, table, key, row)
		}
	}
	s := m.tables
	cluster, _ := mirror[place{TableCluster, ""}].(*raftlogv1.Cluster)
	cluster = clone(cluster)
	cluster.Index, cluster.Now = s.cluster.GetIndex(), s.cluster.GetNow() // they move with every entry
	mirror[place{TableCluster, ""}] = cluster
	expect(TableCluster, "", s.cluster)
	expectAll(TableNodes, s.nodes, expect)
	expectAll(TableSettings, s.settings, expect)
	expectAll(TableTokens, s.tokens, expect)
	expectAll(TableOperators, s.operators, expect)
	expectAll(TableAgents, s.agents, expect)
	expectAll(TableFacts, s.facts, expect)
	expectAll(TableSessions, s.sessions, expect)
	expectAll(TableEnvelopes, s.envelopes, expect)
	expectAll(TableCommands, s.commands, expect)
	expectAll(TableInvocations, s.invocations, expect)
	expectAll(TableRemovals, s.removals, expect)
	expectAll(TableTokenUses, s.tokenUses, expect)
	expectAll(TableSchedules, s.schedules, expect)
	expectAll(TableTemplates, s.templates, expect)
	expectAll(TableLocks, s.locks, expect)
	expectAll(TablePlaces, s.places, expect)
	expectAll(TableEnded, s.ended, expect)
	expectAll(TableBlobs, s.blobs, expect)
	if rows != len(mirror) {
		t.Fatalf("the feed leaves %d rows, the state has %d", len(mirror), rows)
	}
}

func expectAll[R proto.Message](name Table, t *table[R], expect func(Table, string, proto.Message)) {
	for r := range t.all() {
		expect(name, t.key(r), r)
	}
}

// TestDuplicatesChangeNothing repeats every mutation in an entry of its own.
func TestDuplicatesChangeNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g := newGen(t)
		for range historyEntries {
			e := g.entry(1)
			if len(e.GetMutations()) == 0 {
				continue
			}
			mut := e.GetMutations()[0]
			firstTime := g.apply(e)[0]
			_, office := mut.GetKind().(*raftlogv1.Mutation_TakeOffice) // which may say nothing
			if firstTime.GetCode() == raftlogv1.Code_CODE_NOT_APPLIED || office {
				continue // a repetition is the first time; a leader may take office again
			}
			before := contentHash(g.m.View())
			again := g.one(mut)
			if contentHash(g.m.View()) != before && !goesOn(mut) {
				t.Fatalf("entry %d: %v answered %v, again %v, and changed the state", g.index, mut, firstTime, again)
			}
			if err := checkAgain(mut, firstTime, again); err != nil {
				t.Fatalf("entry %d: %v: %v", g.index, mut, err)
			}
		}
	})
}

// goesOn says that a mutation takes a part each time.
func goesOn(mut *raftlogv1.Mutation) bool {
	return mut.GetExpireCommands() != nil || mut.GetLoseNodeSessions() != nil || mut.GetAdvanceRollout() != nil || mut.GetExpireLeases() != nil || mut.GetExpireBlobs() != nil
}

// checkAgain says whether the answer to a repetition is that to the first.
func checkAgain(mut *raftlogv1.Mutation, first, again *raftlogv1.Outcome) error {
	switch {
	case first.GetReason() == "clone" || first.GetReason() == "journal_behind":
		return nil // what it refused is now in quarantine
	case first.GetCode() != again.GetCode():
		if first.GetCode() == raftlogv1.Code_CODE_OK && mut.GetReleaseCommand() != nil {
			return nil // the count has moved
		}
		if first.GetCode() == raftlogv1.Code_CODE_OK && mut.GetAdvanceRollout() != nil {
			return nil // as above, or it has begun a probe, or a gate has stopped it
		}
	case first.GetNumber() == again.GetNumber():
		return nil
	case again.GetNumber() == 0 && (mut.GetReportAttempt() != nil || mut.GetLoseAttempt() != nil):
		return nil // another attempt stands
	}
	return fmt.Errorf("answered %v, and again %v", first, again)
}

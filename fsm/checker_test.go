package fsm

import (
	"bytes"
	"cmp"
	"fmt"
	"iter"
	"slices"

	"google.golang.org/protobuf/proto"

	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

// check walks all tables of a machine and says what in them contradicts itself.
// It is called between two entries.
func check(m *Machine) error {
	t := m.tables
	for _, err := range []error{
		checkTable("nodes", t.nodes), checkTable("settings", t.settings), checkTable("tokens", t.tokens),
		checkTable("operators", t.operators), checkTable("agents", t.agents), checkTable("facts", t.facts),
		checkTable("sessions", t.sessions), checkTable("envelopes", t.envelopes), checkTable("commands", t.commands),
		checkTable("invocations", t.invocations), checkTable("removals", t.removals), checkRemovals(t),
		checkTable("token uses", t.tokenUses), checkTable("schedules", t.schedules), checkSchedules(t),
		checkTable("templates", t.templates), checkTemplates(t),
		checkTable("locks", t.locks), checkTable("places", t.places), checkTable("ended", t.ended), checkPlaces(t),
		checkTable("blobs", t.blobs), checkBlobs(t),
		checkAgents(t), checkCommands(t), checkRollouts(t), checkWork(t), checkHostLocks(t), checkFences(t), checkTokens(t),
	} {
		if err != nil {
			return err
		}
	}
	return nil
}

// checkTable builds every index again, by hand, and compares.
func checkTable[R proto.Message](name string, t *table[R]) error {
	for n, x := range t.indexes {
		want := make(map[string]R)
		for r := range t.all() {
			if k, ok := x.key(r); ok {
				if _, twice := want[k]; twice {
					return fmt.Errorf("%s: two rows have the key %q in index %d", name, k, n)
				}
				want[k] = r
			}
		}
		got, last := 0, ""
		for k, r := range indexRows(x) {
			if got++; got > 1 && k <= last {
				return fmt.Errorf("%s: index %d is out of order at %q", name, n, k)
			}
			last = k
			if w, ok := want[k]; !ok || any(w) != any(r) {
				return fmt.Errorf("%s: index %d holds %v at %q, the table %v", name, n, r, k, w)
			}
		}
		if got != len(want) {
			return fmt.Errorf("%s: index %d holds %d rows, want %d", name, n, got, len(want))
		}
	}
	for r := range t.all() {
		if have, ok := t.get(t.key(r)); !ok || any(have) != any(r) {
			return fmt.Errorf("%s: row %v is not at its key", name, r)
		}
	}
	return nil
}

func indexRows[R proto.Message](x *index[R]) func(func(string, R) bool) {
	return func(yield func(string, R) bool) { x.rows.Scan(yield) }
}

func checkAgents(t *tables) error {
	ordinals := make(map[uint32]string)
	for a := range t.agents.all() {
		if other, twice := ordinals[a.GetOrdinal()]; twice || a.GetOrdinal() == 0 || a.GetOrdinal() >= t.cluster.GetNextAgentOrdinal() {
			return fmt.Errorf("agent %q has number %d (also %q, next is %d)", a.GetId(), a.GetOrdinal(), other, t.cluster.GetNextAgentOrdinal())
		}
		ordinals[a.GetOrdinal()] = a.GetId()
		if len(a.GetPublicKey()) == 0 && a.GetQuarantine() != raftlogv1.Quarantine_QUARANTINE_CLONE {
			return fmt.Errorf("agent %q has no key and is no clone", a.GetId())
		}
	}
	for s := range t.sessions.all() {
		if _, found := t.agents.get(s.GetAgentId()); !found {
			return fmt.Errorf("session of %q has no agent", s.GetAgentId())
		}
		for _, at := range s.GetFlapsAt() {
			if !slices.Contains(s.GetGrantedAt(), at) && at >= s.GetGrantedAt()[0] || len(s.GetFlapsAt()) > grantBurst {
				return fmt.Errorf("session of %q: flaps at %v, grants at %v", s.GetAgentId(), s.GetFlapsAt(), s.GetGrantedAt())
			}
		}
		if s.GetLastClaimEpoch() > s.GetEpoch() {
			return fmt.Errorf("session of %q: a claim of epoch %d is newer than the session %d", s.GetAgentId(), s.GetLastClaimEpoch(), s.GetEpoch())
		}
	}
	for f := range t.facts.all() {
		if _, found := t.agents.get(f.GetAgentId()); !found {
			return fmt.Errorf("facts of %q have no agent", f.GetAgentId())
		}
	}
	return nil
}

// checkRemovals says whether an enrolment is removed and there, or more is remembered
// than may be.
func checkRemovals(t *tables) error {
	if t.removals.len() > MaxRemovals {
		return fmt.Errorf("%d removals are remembered", t.removals.len())
	}
	for r := range t.removals.all() {
		if a, found := t.agents.get(r.GetAgentId()); found && a.GetEnrolledIndex() <= r.GetEnrolledIndex() {
			return fmt.Errorf("agent %q, enrolled at %d, is there and was removed", r.GetAgentId(), a.GetEnrolledIndex())
		}
	}
	return nil
}

// checkCommands counts the invocations of each command again.
func checkCommands(t *tables) error {
	counts := make(map[string]map[raftlogv1.AttemptState]uint32)
	for i := range t.invocations.all() {
		if counts[i.GetCommandId()] == nil {
			counts[i.GetCommandId()] = make(map[raftlogv1.AttemptState]uint32)
		}
		counts[i.GetCommandId()][i.GetState()]++
		if err := checkInvocation(t, i); err != nil {
			return fmt.Errorf("invocation %s: %w", i.GetId(), err)
		}
	}
	probes := len(collect(where(t.commands.all(), func(c *raftlogv1.Command) bool { return c.GetParentId() != "" })))
	if t.envelopes.len() != t.commands.len()-probes || len(counts) != t.commands.len() {
		return fmt.Errorf("%d commands, %d of them probes, %d envelopes, invocations of %d commands", t.commands.len(), probes, t.envelopes.len(), len(counts))
	}
	keyed := 0
	for c := range t.commands.all() {
		if c.GetSupersede() != "" && !done(c) {
			if keyed++; t.keyed.Len() < keyed || collect(where(prefixed(t.keyed, supersedeKey(c)), func(have *raftlogv1.Command) bool { return have == c })) == nil {
				return fmt.Errorf("command %s is not among those with the key %q", c.GetId(), c.GetSupersede())
			}
		}
		total, waiting := uint32(0), uint32(0)
		for _, n := range c.GetCounts() {
			if counts[c.GetId()][n.GetState()] != n.GetCount() || n.GetCount() == 0 {
				return fmt.Errorf("command %s: counts say %v, invocations %v", c.GetId(), c.GetCounts(), counts[c.GetId()])
			}
			total += n.GetCount()
			if n.GetState() < raftlogv1.AttemptState_ATTEMPT_STATE_LOST {
				waiting += n.GetCount()
			}
		}
		if total != c.GetTargets() || len(c.GetCounts()) != len(counts[c.GetId()]) {
			return fmt.Errorf("command %s: %d targets, counts %v, invocations %v", c.GetId(), c.GetTargets(), c.GetCounts(), counts[c.GetId()])
		}
		if (waiting == 0) != done(c) || done(c) != (c.GetFinishedIndex() != 0) {
			return fmt.Errorf("command %s is %v with %d invocations that wait", c.GetId(), c.GetState(), waiting)
		}
		if c.GetState() == raftlogv1.CommandState_COMMAND_STATE_CANCELING && c.GetCancelIndex() == 0 {
			return fmt.Errorf("command %s is CANCELING without a cancel", c.GetId())
		}
	}
	if keyed != t.keyed.Len() {
		return fmt.Errorf("%d commands have keys, want %d", t.keyed.Len(), keyed)
	}
	return nil
}

var (
	neverClaimed = []raftlogv1.AttemptState{
		raftlogv1.AttemptState_ATTEMPT_STATE_PENDING, raftlogv1.AttemptState_ATTEMPT_STATE_RELEASED,
		raftlogv1.AttemptState_ATTEMPT_STATE_EXPIRED, raftlogv1.AttemptState_ATTEMPT_STATE_SKIPPED,
	}
	claimed = []raftlogv1.AttemptState{
		raftlogv1.AttemptState_ATTEMPT_STATE_CLAIMED, raftlogv1.AttemptState_ATTEMPT_STATE_RUNNING,
		raftlogv1.AttemptState_ATTEMPT_STATE_LOST, raftlogv1.AttemptState_ATTEMPT_STATE_SUCCEEDED,
		raftlogv1.AttemptState_ATTEMPT_STATE_FAILED, raftlogv1.AttemptState_ATTEMPT_STATE_TIMED_OUT,
		raftlogv1.AttemptState_ATTEMPT_STATE_REJECTED,
	}
)

func checkInvocation(t *tables, i *raftlogv1.Invocation) error {
	c, found := t.commands.get(i.GetCommandId())
	if !found {
		return fmt.Errorf("there is no command %q", i.GetCommandId())
	}
	canceled := i.GetState() == raftlogv1.AttemptState_ATTEMPT_STATE_CANCELED
	switch {
	case slices.Contains(neverClaimed, i.GetState()) && (i.GetFence() != 0 || i.GetResult() != nil || i.GetDetail() != ""):
		return fmt.Errorf("is %s with the fence, result or detail of a claim", word(i.GetState()))
	case slices.Contains(claimed, i.GetState()) && i.GetFence() == 0:
		return fmt.Errorf("is %s without a fence", word(i.GetState()))
	case !canceled && !slices.Contains(neverClaimed, i.GetState()) && !slices.Contains(claimed, i.GetState()):
		return fmt.Errorf("is in state %d, which does not exist", i.GetState())
	case open(i) && !slices.Contains(claimed, i.GetState()) && !active(c):
		return fmt.Errorf("is %s although its command is %v", word(i.GetState()), c.GetState())
	case i.GetAttempt() == 0 || i.GetAttempt() > c.GetMaxAttempts():
		return fmt.Errorf("is at attempt %d of %d", i.GetAttempt(), c.GetMaxAttempts())
	}
	for n, o := range i.GetOutputs() {
		switch {
		case o.GetAttempt() == 0 || o.GetAttempt() > i.GetAttempt() || n > 0 && o.GetAttempt() <= i.GetOutputs()[n-1].GetAttempt():
			return fmt.Errorf("is at attempt %d with records of output %v", i.GetAttempt(), i.GetOutputs())
		case len(o.GetNodeIds()) == 0 || !slices.IsSorted(o.GetNodeIds()) || len(slices.Compact(slices.Clone(o.GetNodeIds()))) != len(o.GetNodeIds()):
			return fmt.Errorf("its output is on the nodes %q", o.GetNodeIds())
		}
		if !slices.ContainsFunc(i.GetTransitions(), func(s *raftlogv1.Transition) bool {
			return s.GetAttempt() == o.GetAttempt() && s.GetState() == raftlogv1.AttemptState_ATTEMPT_STATE_CLAIMED
		}) {
			return fmt.Errorf("has output of attempt %d, which was never claimed", o.GetAttempt())
		}
	}
	if a, found := t.agents.get(i.GetAgentId()); open(i) && (!found || a.GetOrdinal() != i.GetAgentOrdinal()) {
		return fmt.Errorf("is %s on agent %q, which is gone", word(i.GetState()), i.GetAgentId())
	}
	if err := checkUndoRow(c, i); err != nil {
		return err
	}
	return checkTransitions(c, i)
}

func active(c *raftlogv1.Command) bool {
	return c.GetState() == raftlogv1.CommandState_COMMAND_STATE_ACTIVE
}

// checkTransitions says whether the proof of an invocation is one: states grow
// within an attempt, attempts grow by one after LOST, LOST is superseded once at
// most, and nothing is claimed after a cancel.
func checkTransitions(c *raftlogv1.Command, i *raftlogv1.Invocation) error {
	steps := i.GetTransitions()
	if len(steps) == 0 || steps[len(steps)-1].GetState() != i.GetState() || steps[len(steps)-1].GetAttempt() != i.GetAttempt() {
		return fmt.Errorf("its last step is not its state %s: %v", word(i.GetState()), steps)
	}
	superseded, bound := false, 1
	if c.GetUndo() != nil {
		bound += 3 // armed, armed once more, undone
	}
	for n, s := range steps {
		if s.GetState() == raftlogv1.AttemptState_ATTEMPT_STATE_CLAIMED && c.GetCancelIndex() != 0 && s.GetIndex() > c.GetCancelIndex() {
			return fmt.Errorf("was claimed at %d, after the cancel at %d", s.GetIndex(), c.GetCancelIndex())
		}
		if n == 0 {
			continue
		}
		was := steps[n-1]
		switch {
		case s.GetIndex() < was.GetIndex() || s.GetAt() < was.GetAt():
			return fmt.Errorf("step %d goes back in time", n)
		case s.GetAttempt() == was.GetAttempt()+1:
			if was.GetState() != raftlogv1.AttemptState_ATTEMPT_STATE_LOST || s.GetState() != raftlogv1.AttemptState_ATTEMPT_STATE_RELEASED {
				return fmt.Errorf("attempt %d followed %s", s.GetAttempt(), word(was.GetState()))
			}
		case s.GetAttempt() != was.GetAttempt():
			return fmt.Errorf("attempt %d followed attempt %d", s.GetAttempt(), was.GetAttempt())
		case s.GetState() == running && was.GetState() == running && c.GetUndo() != nil && slices.Contains([]string{reasonArmed, reasonRearmed, reasonUndoing}, s.GetReason()):
		case s.GetState() <= was.GetState(), was.GetState() > raftlogv1.AttemptState_ATTEMPT_STATE_LOST:
			return fmt.Errorf("%s followed %s", word(s.GetState()), word(was.GetState()))
		case was.GetState() == raftlogv1.AttemptState_ATTEMPT_STATE_LOST:
			superseded = true
		}
	}
	if runs := len(slices.Collect(ofState(steps, running))); runs > bound*int(i.GetAttempt()) {
		return fmt.Errorf("%d steps say that it runs: %v", runs, steps)
	}
	if superseded != i.GetLate() {
		return fmt.Errorf("late is %v after %v", i.GetLate(), steps)
	}
	return nil
}

func ofState(steps []*raftlogv1.Transition, state raftlogv1.AttemptState) iter.Seq[*raftlogv1.Transition] {
	return func(yield func(*raftlogv1.Transition) bool) {
		for _, s := range steps {
			if s.GetState() == state && !yield(s) {
				return
			}
		}
	}
}

// checkUndoRow says whether the undo of an invocation can have come about.
func checkUndoRow(c *raftlogv1.Command, i *raftlogv1.Invocation) error {
	switch u := i.GetUndo(); {
	case u == nil:
	case c.GetUndo() == nil:
		return fmt.Errorf("has an undo %v that its command has not", u)
	case !undoPhase(u.GetPhase()):
		return fmt.Errorf("its undo is in phase %d, which does not exist", u.GetPhase())
	case u.GetConfirmIndex() != 0 && (u.GetArmedIndex() == 0 || u.GetConfirmIndex() <= u.GetArmedIndex() || u.GetConfirmedBy() != "ann"):
		return fmt.Errorf("was confirmed before it waited: %v", u)
	case u.GetConfirmIndex() != 0 && c.GetUndo().GetBy() == raftlogv1.ConfirmBy_CONFIRM_BY_CONTACT:
		return fmt.Errorf("was confirmed by an operator: %v", u)
	}
	return nil
}

// checkWork collects what each agent has to do again, and compares.
func checkWork(t *tables) error {
	want := make(map[uint32][]*raftlogv1.Invocation)
	for i := range t.invocations.all() {
		if open(i) {
			want[i.GetAgentOrdinal()] = append(want[i.GetAgentOrdinal()], i)
		}
	}
	if n := t.work.agents.Len(); n != len(want) {
		return fmt.Errorf("%d agents have work, want %d", n, len(want))
	}
	for ordinal, rows := range want {
		slices.SortFunc(rows, func(a, b *raftlogv1.Invocation) int {
			return cmp.Or(cmp.Compare(a.GetState(), b.GetState()), inOrder(a, b))
		})
		if got := collect(t.work.in(ordinal, openStates[:]...)); !slices.Equal(got, rows) {
			return fmt.Errorf("agent %d has the work %v, want %v", ordinal, got, rows)
		}
		if n := t.work.count(ordinal); n != len(rows) {
			return fmt.Errorf("agent %d has %d open invocations, want %d", ordinal, n, len(rows))
		}
	}
	return nil
}

// checkHostLocks says whether two attempts run on one host that must not.
func checkHostLocks(t *tables) error {
	holders := make(map[string]string)
	alone, runs := make(map[uint32]string), make(map[uint32]string)
	for i := range t.invocations.all() {
		if i.GetState() != claimedS && i.GetState() != running {
			continue
		}
		c, _ := t.commands.get(i.GetCommandId())
		if c.GetExclusive() != i.GetExclusive() {
			return fmt.Errorf("invocation %s: exclusive is %v, of its command %v", i.GetId(), i.GetExclusive(), c.GetExclusive())
		}
		o := i.GetAgentOrdinal()
		if other := cmp.Or(alone[o], map[bool]string{true: runs[o]}[c.GetExclusive()]); other != "" {
			return fmt.Errorf("%s runs beside %s, and one of them is exclusive", i.GetId(), other)
		}
		if runs[o] = i.GetId(); c.GetExclusive() {
			alone[o] = i.GetId()
		}
		for _, name := range c.GetLocks() {
			key := fmt.Sprint(o, " ", name)
			if other := holders[key]; other != "" {
				return fmt.Errorf("lock %q is held by %s and by %s", name, other, i.GetId())
			}
			holders[key] = i.GetId()
		}
	}
	return nil
}

// checkFences says whether two claims share a number.
func checkFences(t *tables) error {
	seen := make(map[uint64]string)
	for i := range t.invocations.all() {
		for _, s := range i.GetTransitions() {
			if s.GetState() != raftlogv1.AttemptState_ATTEMPT_STATE_CLAIMED {
				continue
			}
			if other, twice := seen[s.GetFence()]; twice || s.GetFence() == 0 {
				return fmt.Errorf("fence %d belongs to %s and to %s", s.GetFence(), other, i.GetId())
			}
			seen[s.GetFence()] = i.GetId()
		}
	}
	return nil
}

// checkTokens counts the uses of each token again.
func checkTokens(t *tables) error {
	total := 0
	for k := range t.tokens.all() {
		var uses []*raftlogv1.TokenUse
		for u := range t.tokenUses.all() {
			if u.GetTokenId() == k.GetId() {
				uses = append(uses, u)
			}
		}
		total += len(uses)
		if len(uses) != int(k.GetUsed()) || k.GetUsed() > k.GetMaxUses() || (k.GetUsedUpAt() != 0) != (k.GetUsed() == k.GetMaxUses()) || len(k.GetUses()) > 0 {
			return fmt.Errorf("token %q has %d uses, its row says %v", k.GetId(), len(uses), k)
		}
		for n, u := range uses {
			if int(u.GetNumber()) != n+1 {
				return fmt.Errorf("token %q: use %d has number %d", k.GetId(), n+1, u.GetNumber())
			}
			for _, v := range uses[:n] {
				if bytes.Equal(u.GetPublicKey(), v.GetPublicKey()) && u.GetIdentity() == v.GetIdentity() {
					return fmt.Errorf("token %q counts %q twice", k.GetId(), u.GetIdentity())
				}
			}
		}
	}
	if total != t.tokenUses.len() {
		return fmt.Errorf("%d uses are of no token", t.tokenUses.len()-total)
	}
	return nil
}

package fsm

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"

	"pgregory.net/rapid"

	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

// The twin is a slow, obvious model of attempts: one struct for each, in a slice,
// written from DESIGN section 9. Of agents and sessions it looks at what the
// machine had before the mutation, and of a session's opening at the outcome.
type twin struct {
	commands map[string]*twinCommand
	attempts []*twinAttempt
	locks    map[string]*twinLock
	places   []twinPlace
	over     map[string]bool // leases
	index    uint64          // of the entry at hand
}

type twinCommand struct {
	digest              string
	notBefore, notAfter int64
	splay               int64
	tries               uint32
	released            uint32
	canceled            bool
	locks, fleet        []string
	exclusive           bool
	supersede           string
	queued              bool // waits for agents that are offline
	ended               bool // the last judgement has seen it done
	twinBrake
	rollout *twinRollout
	undo    *raftlogv1.UndoPlan
}

type twinAttempt struct {
	id, command, agent string
	ordinal            uint32
	n                  uint32
	state              raftlogv1.AttemptState
	fence, epoch       uint64
	late, asked        bool
	superseded         bool // it is not tried again
	rank               uint32
	released           int64  // when; 0 = it is not, or is another attempt
	outputs            string // what is recorded, in words
	undo               twinUndo
}

const (
	pending  = raftlogv1.AttemptState_ATTEMPT_STATE_PENDING
	released = raftlogv1.AttemptState_ATTEMPT_STATE_RELEASED
	claimedS = raftlogv1.AttemptState_ATTEMPT_STATE_CLAIMED
	running  = raftlogv1.AttemptState_ATTEMPT_STATE_RUNNING
	lost     = raftlogv1.AttemptState_ATTEMPT_STATE_LOST
	canceled = raftlogv1.AttemptState_ATTEMPT_STATE_CANCELED
	expired  = raftlogv1.AttemptState_ATTEMPT_STATE_EXPIRED
	skipped  = raftlogv1.AttemptState_ATTEMPT_STATE_SKIPPED
)

func isFinal(s raftlogv1.AttemptState) bool { return s >= lost }

func (w *twin) find(id string) *twinAttempt {
	for _, a := range w.attempts {
		if a.id == id {
			return a
		}
	}
	return nil
}

func (w *twin) of(command string) (all []*twinAttempt) {
	for _, a := range w.attempts {
		if a.command == command {
			all = append(all, a)
		}
	}
	slices.SortFunc(all, func(a, b *twinAttempt) int { return int(a.ordinal) - int(b.ordinal) })
	return all
}

func (w *twin) done(command string) bool {
	return !slices.ContainsFunc(w.of(command), func(a *twinAttempt) bool { return !isFinal(a.state) })
}

// count counts the attempts of the agent that are in one of the states.
func (w *twin) count(ordinal uint32, states ...raftlogv1.AttemptState) (n uint32) {
	for _, a := range w.attempts {
		if a.ordinal == ordinal && slices.Contains(states, a.state) {
			n++
		}
	}
	return n
}

// lose makes an attempt LOST, or a next attempt of it when the command may be
// repeated, still stands, and its agent is there.
func (w *twin) lose(before *View, a *twinAttempt, now int64, agentStays bool) {
	c := w.commands[a.command]
	a.state = lost
	if agent, found := before.Agent(a.agent); found && c.rollout != nil && !c.queued && !isOnline(before, agent) {
		return
	}
	if a.n < c.tries && !c.canceled && !c.aborted && now < c.notAfter && agentStays && !a.superseded {
		*a = twinAttempt{id: a.id, command: a.command, agent: a.agent, ordinal: a.ordinal, n: a.n + 1, state: released, rank: a.rank, outputs: a.outputs}
	}
}

// apply predicts the code of a mutation's outcome, where the model knows it, and
// follows the change.
func (w *twin) apply(before *View, now int64, number uint64, mut *raftlogv1.Mutation, got *raftlogv1.Outcome) (want raftlogv1.Code, knows bool) {
	if want, knows := w.applyLock(before, now, number, mut, got); knows {
		return want, true
	}
	w.index = number >> 8 & (1<<44 - 1)
	switch m := mut.GetKind().(type) {
	case *raftlogv1.Mutation_ConfirmCommand:
		return w.confirm(m.ConfirmCommand), true
	case *raftlogv1.Mutation_SubmitCommand:
		return w.submit(before, now, m.SubmitCommand, got)
	case *raftlogv1.Mutation_ReleaseCommand:
		return w.release(now, m.ReleaseCommand), true
	case *raftlogv1.Mutation_ClaimAttempt:
		return w.claim(before, now, number, m.ClaimAttempt), true
	case *raftlogv1.Mutation_ReportAttempt:
		return w.report(before, now, m.ReportAttempt), true
	case *raftlogv1.Mutation_LoseAttempt:
		return w.loseAttempt(before, now, m.LoseAttempt), true
	case *raftlogv1.Mutation_CancelCommand:
		return w.cancel(m.CancelCommand), true
	case *raftlogv1.Mutation_ExpireCommands:
		w.expire(now, m.ExpireCommands)
		return raftlogv1.Code_CODE_OK, true
	case *raftlogv1.Mutation_PurgeCommands:
		for _, id := range m.PurgeCommands.GetCommandIds() {
			ahead := id > commandFloor(now)
			if c, found := w.commands[id]; found && w.done(id) && !ahead && c.parent == "" && w.openProbe(c) == "" {
				for _, gone := range append(w.probesOf(c), id) {
					delete(w.commands, gone)
					w.attempts = slices.DeleteFunc(w.attempts, func(a *twinAttempt) bool { return a.command == gone })
				}
			}
		}
		return raftlogv1.Code_CODE_OK, true
	case *raftlogv1.Mutation_AdvanceRollout:
		return w.advance(before, now, number, m.AdvanceRollout), true
	case *raftlogv1.Mutation_PauseCommand:
		return w.pause(number, m.PauseCommand), true
	case *raftlogv1.Mutation_ResumeCommand:
		return w.resume(m.ResumeCommand), true
	case *raftlogv1.Mutation_AbortCommand:
		return w.abortCommand(m.AbortCommand), true
	case *raftlogv1.Mutation_RecordOutput:
		return w.recordOutput(before, m.RecordOutput), true
	case *raftlogv1.Mutation_OpenSession:
		w.openSession(before, now, m.OpenSession, got)
	case *raftlogv1.Mutation_MarkDown:
		if got.GetCode() == raftlogv1.Code_CODE_OK && !got.GetRepeated() {
			w.unreachable(before, m.MarkDown.GetAgentId())
		}
	case *raftlogv1.Mutation_EndSession:
		if got.GetCode() == raftlogv1.Code_CODE_OK && !got.GetRepeated() && m.EndSession.GetLeft() {
			w.unreachable(before, m.EndSession.GetAgentId())
		}
	case *raftlogv1.Mutation_RemoveAgent:
		a, found := before.Agent(m.RemoveAgent.GetAgentId())
		if meant := m.RemoveAgent.GetEnrolledIndex(); found && (meant == 0 || meant == a.GetEnrolledIndex()) {
			for _, x := range w.attempts {
				switch {
				case x.ordinal != a.GetOrdinal() || isFinal(x.state):
				case x.state == claimedS || x.state == running:
					w.lose(before, x, now, false)
				default:
					x.state = skipped
				}
			}
		}
	}
	return 0, false
}

// commandFloor is the beginning of all ids that are made now: ids order by time.
func commandFloor(now int64) string {
	return fmt.Sprintf("%08x-%04x", uint64(now/1e6)>>16, uint64(now/1e6)&0xffff)
}

func (w *twin) submit(before *View, now int64, m *raftlogv1.SubmitCommand, got *raftlogv1.Outcome) (raftlogv1.Code, bool) {
	if c, found := w.commands[m.GetId()]; found {
		if c.digest == string(m.GetDigest()) {
			return raftlogv1.Code_CODE_OK, true
		}
		return raftlogv1.Code_CODE_CONFLICT, true
	}
	if got.GetCode() != raftlogv1.Code_CODE_OK {
		return 0, false // what is malformed is not the model's matter
	}
	c := &twinCommand{
		digest: string(m.GetDigest()), notBefore: m.GetNotBefore(), notAfter: now + m.GetTtl(), tries: max(1, m.GetMaxAttempts()),
		queued: m.GetQueueOffline(), locks: m.GetLocks(), fleet: m.GetFleetLocks(), exclusive: m.GetExclusive(), supersede: m.GetSupersede(), splay: m.GetSplay(), undo: m.GetUndo(),
	}
	queue := m.GetQueueMax()
	if queue == 0 {
		queue = 4096
	}
	refused := func(ordinal, gone uint32) bool {
		a, found := before.AgentByOrdinal(ordinal)
		return !found || !isOnline(before, a) && !m.GetQueueOffline() || w.count(ordinal, pending, released, claimedS, running)-gone >= queue
	}
	takes := map[uint32]bool{} // where it runs, earlier ones give way
	for _, o := range m.GetAgentOrdinals() {
		gone := uint32(0)
		for _, x := range w.attempts {
			if x.ordinal == o && w.commands[x.command].supersede == c.supersede && (x.state == pending || x.state == released) {
				gone++
			}
		}
		takes[o] = !refused(o, gone)
	}
	for _, x := range w.attempts {
		if c.supersede == "" || w.commands[x.command].supersede != c.supersede || !takes[x.ordinal] {
			continue
		}
		switch x.state {
		case pending, released:
			x.state = canceled
		case claimedS, running:
			x.superseded = true
		}
	}
	w.commands[m.GetId()] = c
	var all []*twinAttempt
	for _, o := range m.GetAgentOrdinals() {
		x := &twinAttempt{id: InvocationID(m.GetId(), o), command: m.GetId(), ordinal: o, n: 1, state: pending}
		a, _ := before.AgentByOrdinal(o)
		x.agent = a.GetId()
		if refused(o, 0) {
			x.state = skipped
		} else if m.GetRollout() == nil && c.released < m.GetRelease() && m.GetNotBefore() <= now {
			x.state, x.released = released, now
			c.released++
		}
		all = append(all, x)
	}
	if m.GetRollout() != nil {
		w.begin(now, c, m, all)
	}
	w.attempts = append(w.attempts, all...)
	return raftlogv1.Code_CODE_OK, true
}

func (w *twin) release(now int64, m *raftlogv1.ReleaseCommand) raftlogv1.Code {
	c, found := w.commands[m.GetCommandId()]
	switch {
	case !found:
		return raftlogv1.Code_CODE_NOT_FOUND
	case c.released != m.GetExpectedReleased():
		return raftlogv1.Code_CODE_STALE
	case c.canceled || w.done(m.GetCommandId()), c.rollout != nil, c.stopped():
		return raftlogv1.Code_CODE_REFUSED
	}
	left := m.GetMax()
	for _, a := range w.of(m.GetCommandId()) {
		if a.state == pending && left > 0 {
			a.state, a.released = released, now
			c.released++
			left--
		}
	}
	return raftlogv1.Code_CODE_OK
}

// locked says that what runs on the host does not go together with the attempt.
func (w *twin) locked(a *twinAttempt) bool {
	c := w.commands[a.command]
	return slices.ContainsFunc(w.attempts, func(b *twinAttempt) bool {
		if b.ordinal != a.ordinal || (b.state != claimedS && b.state != running) {
			return false
		}
		d := w.commands[b.command]
		return c.exclusive || d.exclusive || slices.ContainsFunc(c.locks, func(name string) bool { return slices.Contains(d.locks, name) })
	})
}

func (w *twin) claim(before *View, now int64, number uint64, m *raftlogv1.ClaimAttempt) raftlogv1.Code {
	a := w.find(m.GetInvocationId())
	s, hasSession := before.Session(m.GetAgentId())
	agent, _ := before.Agent(m.GetAgentId())
	node, _ := before.Node(m.GetNodeId())
	switch {
	case a == nil || a.agent != m.GetAgentId() || !hasSession:
		return raftlogv1.Code_CODE_NOT_FOUND
	case s.GetEpoch() != m.GetSessionEpoch():
		return raftlogv1.Code_CODE_STALE
	case node == nil:
		return raftlogv1.Code_CODE_NOT_FOUND
	case node.GetState() != raftlogv1.NodeState_NODE_STATE_REGISTERED:
		return raftlogv1.Code_CODE_REFUSED
	case a.n != m.GetAttempt():
		return raftlogv1.Code_CODE_STALE
	case a.state == claimedS && a.epoch == m.GetSessionEpoch():
		return raftlogv1.Code_CODE_OK
	case a.state != released:
		return raftlogv1.Code_CODE_STALE
	}
	c := w.commands[a.command]
	switch {
	case c.canceled, w.frozen(c), now >= c.notAfter, now < c.notBefore, a.released != 0 && c.splay > 0 && now < a.released+Delay(a.command, a.agent, c.splay), s.GetState() != raftlogv1.SessionState_SESSION_STATE_READY,
		s.GetNodeId() != m.GetNodeId(), agent.GetQuarantine() != 0:
		return raftlogv1.Code_CODE_REFUSED
	case w.count(a.ordinal, claimedS, running) >= s.GetSlots(), w.locked(a):
		return raftlogv1.Code_CODE_EXHAUSTED
	}
	takes, free := w.takes(a, agent)
	if !free {
		return raftlogv1.Code_CODE_EXHAUSTED
	}
	a.state, a.fence, a.epoch = claimedS, number, s.GetEpoch()
	w.take(takes, a, agent)
	return raftlogv1.Code_CODE_OK
}

func (w *twin) report(before *View, now int64, m *raftlogv1.ReportAttempt) raftlogv1.Code {
	a := w.find(m.GetInvocationId())
	s, hasSession := before.Session(m.GetAgentId())
	switch {
	case a == nil || a.agent != m.GetAgentId() || !hasSession:
		return raftlogv1.Code_CODE_NOT_FOUND
	case s.GetEpoch() != m.GetSessionEpoch():
		return raftlogv1.Code_CODE_STALE
	case s.GetNodeId() != m.GetNodeId():
		return raftlogv1.Code_CODE_REFUSED
	case !slices.Contains([]raftlogv1.AttemptState{40, 50, 60, 61, 62, 63, 64}, m.GetState()),
		len(m.GetResult().GetStdout().GetHead()) > MaxOutputBytes, len(m.GetResult().GetSteps()) > MaxSteps,
		slices.ContainsFunc(m.GetResult().GetSteps(), func(s *raftlogv1.StepResult) bool { return len(s.GetName()) > MaxStepBytes }):
		return raftlogv1.Code_CODE_INVALID
	case m.GetAttempt() >= 1 && m.GetAttempt() < a.n:
		return raftlogv1.Code_CODE_OK
	case m.GetAttempt() != a.n, m.GetFence() != a.fence, a.state < claimedS:
		return raftlogv1.Code_CODE_STALE
	}
	switch {
	case a.state == lost && m.GetState() > lost:
		a.state, a.late = m.GetState(), true
		w.tellUndo(a, m.GetUndo())
	case isFinal(a.state):
		if a.state == lost && (m.GetState() == lost || m.GetState() == running) {
			w.tellUndo(a, m.GetUndo())
		}
	case m.GetState() == lost:
		w.tellUndo(a, m.GetUndo())
		w.lose(before, a, now, true)
	case m.GetState() >= a.state:
		a.state = m.GetState()
		w.tellUndo(a, m.GetUndo())
	}
	return raftlogv1.Code_CODE_OK
}

func (w *twin) loseAttempt(before *View, now int64, m *raftlogv1.LoseAttempt) raftlogv1.Code {
	a := w.find(m.GetKey().GetInvocationId())
	if a == nil {
		return raftlogv1.Code_CODE_NOT_FOUND
	}
	s, _ := before.Session(a.agent)
	switch {
	case m.GetKey().GetAttempt() >= 1 && m.GetKey().GetAttempt() < a.n, a.state == lost:
		return raftlogv1.Code_CODE_OK
	case a.state != claimedS && a.state != running, a.state != m.GetExpectedState(), a.fence != m.GetExpectedFence(),
		a.n != m.GetKey().GetAttempt(), s.GetEpoch() != m.GetExpectedSessionEpoch():
		return raftlogv1.Code_CODE_STALE
	case m.GetNodeId() != "" && m.GetNodeId() != s.GetNodeId():
		return raftlogv1.Code_CODE_REFUSED
	}
	w.lose(before, a, now, true)
	return raftlogv1.Code_CODE_OK
}

func (w *twin) cancel(m *raftlogv1.CancelCommand) raftlogv1.Code {
	c, found := w.commands[m.GetCommandId()]
	if !found {
		return raftlogv1.Code_CODE_NOT_FOUND
	}
	ids := []string{m.GetCommandId(), w.openProbe(c)}
	if c.canceled || w.done(m.GetCommandId()) {
		ids = ids[1:]
	}
	for _, id := range ids {
		if id == "" || w.commands[id].canceled {
			continue
		}
		w.commands[id].canceled = true
		for _, a := range w.of(id) {
			switch a.state {
			case pending, released:
				a.state = canceled
			case claimedS, running:
				a.asked = true
			}
		}
	}
	return raftlogv1.Code_CODE_OK
}

func (w *twin) expire(now int64, m *raftlogv1.ExpireCommands) {
	left := m.GetMax()
	for _, id := range m.GetCommandIds() {
		c, found := w.commands[id]
		if !found || now < c.notAfter {
			continue
		}
		for _, a := range w.of(id) {
			if (a.state == pending || a.state == released) && left > 0 {
				a.state = expired
				left--
			}
		}
	}
}

// outputWords writes down what is recorded of each attempt: "attempt stdout/missing
// stderr/missing nodes;", ascending.
func outputWords(all []*raftlogv1.OutputRecord) string {
	var words string
	for _, o := range all {
		words += fmt.Sprintf("%d %s %v;", o.GetAttempt(), contentWords(o), o.GetNodeIds())
	}
	return words
}

func contentWords(o *raftlogv1.OutputRecord) string {
	return fmt.Sprintf("%d/%d/%x %d/%d/%x", o.GetStdout().GetBytes(), o.GetStdout().GetMissing(), o.GetStdout().GetSha256(),
		o.GetStderr().GetBytes(), o.GetStderr().GetMissing(), o.GetStderr().GetSha256())
}

func (w *twin) recordOutput(before *View, m *raftlogv1.RecordOutput) raftlogv1.Code {
	a, r := w.find(m.GetInvocationId()), m.GetRecord()
	if a == nil {
		return raftlogv1.Code_CODE_NOT_FOUND
	}
	switch n, known := before.Node(m.GetNodeId()); {
	case !known:
		return raftlogv1.Code_CODE_NOT_FOUND
	case n.GetState() != raftlogv1.NodeState_NODE_STATE_REGISTERED:
		return raftlogv1.Code_CODE_REFUSED
	}
	if r.GetAttempt() == 0 || !slices.Contains(r.GetNodeIds(), m.GetNodeId()) {
		return raftlogv1.Code_CODE_INVALID
	}
	for _, s := range []*raftlogv1.StreamRecord{r.GetStdout(), r.GetStderr()} {
		if len(s.GetSha256()) != 32 || s.GetMissing() > s.GetBytes() {
			return raftlogv1.Code_CODE_INVALID
		}
	}
	for n, id := range r.GetNodeIds() {
		if _, known := before.Node(id); !known {
			return raftlogv1.Code_CODE_NOT_FOUND
		}
		if n > 0 && r.GetNodeIds()[n-1] >= id {
			return raftlogv1.Code_CODE_INVALID
		}
	}
	if r.GetAttempt() > a.n || (r.GetAttempt() == a.n && a.fence == 0) {
		return raftlogv1.Code_CODE_STALE
	}
	i, _ := before.Invocation(a.id)
	all := slices.Clone(i.GetOutputs())
	for n, o := range all {
		if o.GetAttempt() != r.GetAttempt() {
			continue
		}
		if contentWords(o) != contentWords(r) {
			return raftlogv1.Code_CODE_CONFLICT
		}
		nodes := map[string]bool{}
		for _, id := range append(slices.Clone(o.GetNodeIds()), r.GetNodeIds()...) {
			nodes[id] = true
		}
		all[n] = &raftlogv1.OutputRecord{Attempt: o.GetAttempt(), NodeIds: slices.Sorted(maps.Keys(nodes)), Stdout: o.GetStdout(), Stderr: o.GetStderr()}
		a.outputs = outputWords(all)
		return raftlogv1.Code_CODE_OK
	}
	all = append(all, r)
	slices.SortFunc(all, func(a, b *raftlogv1.OutputRecord) int { return int(a.GetAttempt()) - int(b.GetAttempt()) })
	a.outputs = outputWords(all)
	return raftlogv1.Code_CODE_OK
}

// openSession follows what became of claims that the agent's journal may not hold.
func (w *twin) openSession(before *View, now int64, m *raftlogv1.OpenSession, got *raftlogv1.Outcome) {
	a, _ := before.Agent(m.GetAgentId())
	s, had := before.Session(m.GetAgentId())
	fresh := got.GetCode() == raftlogv1.Code_CODE_OK && !got.GetRepeated() && had && string(s.GetJournal().GetId()) != string(m.GetJournal().GetId())
	behind := got.GetReason() == "journal_behind" && a.GetQuarantine() == 0
	if behind || got.GetReason() == "clone" && a.GetQuarantine() == 0 {
		defer w.unreachable(before, a.GetId())
	}
	if !fresh && !behind {
		return
	}
	for _, x := range w.attempts {
		known := slices.ContainsFunc(m.GetOpenAttempts(), func(k *raftlogv1.AttemptKey) bool { return k.GetInvocationId() == x.id && k.GetAttempt() == x.n })
		if x.ordinal == a.GetOrdinal() && (x.state == claimedS || x.state == running) && !known {
			w.lose(before, x, now, true)
		}
	}
}

// compare says where the machine and the model differ.
func (w *twin) compare(v *View) error {
	if v.CommandCount() != len(w.commands) || v.t.invocations.len() != len(w.attempts) {
		return fmt.Errorf("%d commands and %d invocations, the model has %d and %d", v.CommandCount(), v.t.invocations.len(), len(w.commands), len(w.attempts))
	}
	for _, a := range w.attempts {
		i, _ := v.Invocation(a.id)
		got := twinAttempt{
			id: i.GetId(), command: i.GetCommandId(), agent: i.GetAgentId(), ordinal: i.GetAgentOrdinal(), n: i.GetAttempt(), state: i.GetState(),
			fence: i.GetFence(), epoch: i.GetSessionEpoch(), late: i.GetLate(), asked: i.GetCancelIndex() != 0,
			rank: i.GetRank(), released: a.released, outputs: outputWords(i.GetOutputs()), undo: undoOf(i),
		}
		want := *a
		want.superseded = false // the machine notes it only where there are attempts left
		if got != want {
			return fmt.Errorf("invocation is %+v, in the model %+v", got, *a)
		}
	}
	for id, c := range w.commands {
		have, _ := v.Command(id)
		if have.GetReleased() != c.released || (have.GetCancelIndex() != 0) != c.canceled || done(have) != w.done(id) || have.GetNotAfter() != c.notAfter {
			return fmt.Errorf("command is %v, in the model %+v, done %v", have, c, w.done(id))
		}
		if err := c.compare(have); err != nil {
			return fmt.Errorf("command is %v, in the model %+v with %+v: %w", have, c, c.rollout, err)
		}
	}
	return nil
}

// fired is the submission that a schedule has made, since whether it does is another
// model's matter; else the mutation itself.
func fired(before, after *View, mut *raftlogv1.Mutation) *raftlogv1.Mutation {
	submit := mut.GetFireSchedule().GetSubmit()
	_, stood := before.Command(submit.GetId())
	if _, stands := after.Command(submit.GetId()); stood || !stands {
		return mut
	}
	return &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_SubmitCommand{SubmitCommand: submit}}
}

func TestAttemptsMatchTheirTwin(t *testing.T) {
	met, whole := make(map[string]int), true
	for name, undoes := range map[string]bool{"of all kinds": false, "with an undo": true} {
		ran := false
		t.Run(name, func(t *testing.T) {
			attemptsMatchTheirTwin(t, undoes, met)
			ran = true
		})
		whole = whole && ran
	}
	if whole { // else it has failed, or one alone was asked for
		wantEvents(t, met)
	}
}

func attemptsMatchTheirTwin(t *testing.T, undoes bool, met map[string]int) {
	rapid.Check(t, func(t *rapid.T) {
		g := newGen(t)
		g.undoes = undoes
		w := &twin{commands: make(map[string]*twinCommand), locks: make(map[string]*twinLock), over: make(map[string]bool)}
		for l := range g.m.View().Locks() {
			w.locks[l.GetName()] = &twinLock{limit: l.GetLimit(), per: l.GetPerLabel(), selector: l.GetSelector()}
		}
		for range historyEntries {
			before := g.m.View()
			e := g.entry(1)
			outcomes := g.apply(e)
			if len(outcomes) == 1 && outcomes[0].GetCode() != raftlogv1.Code_CODE_NOT_APPLIED {
				number := raftlogv1.Number(1, g.index, 0)
				want, knows := w.apply(before, g.m.Now(), number, fired(before, g.m.View(), e.GetMutations()[0]), outcomes[0])
				w.judge(g.m.Now(), number)
				met[event(before, g.m.View(), e.GetMutations()[0], outcomes[0])]++
				if knows && outcomes[0].GetCode() != want {
					t.Fatalf("entry %d (%v): answered %v, the model says %v", g.index, e, outcomes[0], want)
				}
			}
			w.settle()
			if err := errors.Join(w.compare(g.m.View()), w.compareLocks(g.m.View())); err != nil {
				t.Fatalf("entry %d (%v): %v", g.index, e, err)
			}
		}
	})
}

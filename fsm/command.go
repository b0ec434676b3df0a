package fsm

import (
	"bytes"
	"cmp"
	"iter"
	"slices"
	"time"

	"github.com/google/uuid"

	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

const (
	// MaxTargets bounds the targets of one command.
	MaxTargets = 10_000
	// NormalPriority is that of a command that names none.
	NormalPriority = 50
	// MaxPriority is the highest.
	MaxPriority = 100
	// MaxAttempts bounds the attempts of an idempotent command on one target.
	MaxAttempts = 10
	// idAhead is how far a command's id may lie ahead of the cluster's time.
	idAhead = 5 * time.Minute
	// defaultQueueMax bounds the open invocations of one agent.
	defaultQueueMax = 4096
	// maxLookedThrough is how many commands that a mutation edits are looked through
	// before they are put into a map.
	maxLookedThrough = 16
	// firstWave is the number of the wave that a submission may release itself.
	firstWave = 1
)

// Why a command skips a target.
const (
	ReasonAgentRemoved = "agent_removed"
	ReasonOffline      = "offline"
	ReasonQueueFull    = "queue_full"
)

// submitCommand registers a command, freezes its targets and releases the first of
// them. The same id with the same digest answers what stands.
func (tx *tx) submitCommand(m *raftlogv1.SubmitCommand) *raftlogv1.Outcome {
	if have, found := tx.commands.get(m.GetId()); found {
		if !comparesDigests || bytes.Equal(have.GetDigest(), m.GetDigest()) {
			return stands(have.GetSubmittedIndex())
		}
		return refuse(raftlogv1.Code_CODE_CONFLICT, "command_exists", "command %q exists with other content", m.GetId())
	}
	if refusal := tx.checkSubmit(m); refusal != nil {
		return refusal
	}
	tx.addCommand(m)
	return granted(tx.index)
}

// addCommand makes the command of a submission that was checked. Its row is put when the
// mutation ends.
func (tx *tx) addCommand(m *raftlogv1.SubmitCommand) *raftlogv1.Command {
	notAfter := m.GetNotAfter()
	if notAfter == 0 {
		notAfter = later(tx.now(), m.GetTtl())
	}
	release := m.GetRelease()
	if m.GetNotBefore() > tx.now() {
		release = 0
	}
	put(tx, TableEnvelopes, tx.envelopes, &raftlogv1.Envelope{CommandId: m.GetId(), Envelope: m.GetEnvelope()})
	tx.supersede(m)
	l, _ := tx.layRollout(m, release) // checked; there may be room in queues by now
	c := &raftlogv1.Command{
		Id: m.GetId(), Digest: m.GetDigest(), SubmittedBy: m.GetSubmittedBy(), SubmittedAt: tx.now(), SubmittedIndex: tx.index,
		NotBefore: m.GetNotBefore(), NotAfter: notAfter, RunTimeout: m.GetRunTimeout(), KillGrace: m.GetKillGrace(),
		Delivery: m.GetDelivery(), MaxAttempts: max(1, m.GetMaxAttempts()), QueueOffline: m.GetQueueOffline(),
		State: raftlogv1.CommandState_COMMAND_STATE_ACTIVE, Targets: uint32(len(m.GetAgentOrdinals())),
		Summary: m.GetSummary(), Selector: m.GetSelector(), RerunOf: m.GetRerunOf(), Locks: m.GetLocks(), Exclusive: m.GetExclusive(),
		Precedence: m.GetPrecedence(), Supersede: m.GetSupersede(), Splay: m.GetSplay(), FleetLocks: m.GetFleetLocks(),
		Undo: m.GetUndo(),
	}
	tx.useBlobs(c, m.GetBlobs())
	tx.edited = append(tx.edited, c) // put when all its invocations are there
	if l == nil {
		for _, ordinal := range m.GetAgentOrdinals() {
			tx.addInvocation(c, ordinal, 0, m.GetQueueMax(), c.GetReleased() < release)
		}
		return c
	}
	tx.beginRollout(c, l)
	for n, ordinal := range m.GetAgentOrdinals() {
		tx.addInvocation(c, ordinal, l.ranks[n], m.GetQueueMax(), l.ranks[n] <= l.release)
	}
	return c
}

func (tx *tx) checkSubmit(m *raftlogv1.SubmitCommand) *raftlogv1.Outcome {
	id, err := uuid.Parse(m.GetId())
	if err != nil || id.Version() != 7 || id.String() != m.GetId() {
		return refuse(raftlogv1.Code_CODE_INVALID, "id", "command id %q is not a UUIDv7 in lower case", m.GetId())
	}
	made := madeAt(id)
	switch {
	case made > tx.now()/int64(time.Millisecond)+idAhead.Milliseconds():
		return refuse(raftlogv1.Code_CODE_INVALID, "id_ahead", "command id %q was made more than %v ahead of the cluster's time %s: set the clock of the machine that made it", m.GetId(), idAhead, stamp(tx.now()))
	case made < tx.cluster.GetCommandsFloor():
		return refuse(raftlogv1.Code_CODE_REFUSED, "id_old", "command id %q is older than the commands that were purged", m.GetId())
	case len(m.GetEnvelope()) == 0 || len(m.GetDigest()) == 0:
		return refuse(raftlogv1.Code_CODE_INVALID, "no_envelope", "command %q has no envelope", m.GetId())
	case len(m.GetAgentOrdinals()) == 0:
		return refuse(raftlogv1.Code_CODE_INVALID, "no_targets", "command %q means no agent", m.GetId())
	case len(m.GetAgentOrdinals()) > MaxTargets:
		return refuse(raftlogv1.Code_CODE_INVALID, "too_many", "%d targets are above the maximum %d", len(m.GetAgentOrdinals()), MaxTargets)
	case m.GetNotAfter() == 0 && m.GetTtl() <= 0:
		return refuse(raftlogv1.Code_CODE_INVALID, "no_end", "command %q has no time after which it expires", m.GetId())
	case m.GetNotAfter() != 0 && m.GetNotAfter() <= tx.now():
		return refuse(raftlogv1.Code_CODE_REFUSED, "expired", "command %q expired at %s; the cluster's time is %s", m.GetId(), stamp(m.GetNotAfter()), stamp(tx.now()))
	case m.GetRunTimeout() <= 0 || m.GetKillGrace() < 0:
		return refuse(raftlogv1.Code_CODE_INVALID, "timeout", "command %q has run timeout %v and kill grace %v; they must be above zero and not below it",
			m.GetId(), time.Duration(m.GetRunTimeout()), time.Duration(m.GetKillGrace()))
	case m.GetDelivery() < raftlogv1.Delivery_DELIVERY_UNSPECIFIED || m.GetDelivery() > raftlogv1.Delivery_DELIVERY_IDEMPOTENT:
		return refuse(raftlogv1.Code_CODE_INVALID, "delivery", "delivery class %d is none of at-most-once, idempotent", m.GetDelivery())
	case m.GetMaxAttempts() > MaxAttempts || (m.GetMaxAttempts() > 1 && m.GetDelivery() != raftlogv1.Delivery_DELIVERY_IDEMPOTENT):
		return refuse(raftlogv1.Code_CODE_INVALID, "attempts", "%d attempts: at most %d, and more than one only for class idempotent", m.GetMaxAttempts(), MaxAttempts)
	case m.GetSplay() < 0 || m.GetSplay() > int64(MaxSplay):
		return refuse(raftlogv1.Code_CODE_INVALID, "splay", "splay %v is not between 0 and %v", time.Duration(m.GetSplay()), MaxSplay)
	}
	for i, o := range m.GetAgentOrdinals() {
		if i > 0 && o <= m.GetAgentOrdinals()[i-1] {
			return refuse(raftlogv1.Code_CODE_INVALID, "order", "the agents' numbers do not ascend")
		}
	}
	if n := m.GetPrecedence(); n < -NormalPriority || n > MaxPriority-NormalPriority {
		return refuse(raftlogv1.Code_CODE_INVALID, "priority", "priority %d is not between 0 and %d", NormalPriority+int64(n), MaxPriority)
	}
	for _, name := range m.GetFleetLocks() {
		if _, found := tx.locks.get(name); !found {
			return refuse(raftlogv1.Code_CODE_NOT_FOUND, ReasonNoLock, "there is no lock %.80q of the fleet", name)
		}
	}
	if refusal := cmp.Or(checkLockNames(m.GetLocks()), checkLockNames(m.GetFleetLocks()), tx.checkSupersede(m), tx.checkBlobs(m), checkUndo(m)); refusal != nil {
		return refusal
	}
	_, refusal := tx.layRollout(m, 0)
	return refusal
}

// madeAt is the Unix time in milliseconds that a UUIDv7 carries (RFC 9562).
func madeAt(id uuid.UUID) int64 {
	var ms int64
	for _, b := range id[:6] {
		ms = ms<<8 | int64(b)
	}
	return ms
}

// addInvocation makes the command's invocation on one agent: PENDING or at once
// RELEASED, or SKIPPED with the reason.
func (tx *tx) addInvocation(c *raftlogv1.Command, ordinal, rank, queueMax uint32, release bool) {
	state, agentID := raftlogv1.AttemptState_ATTEMPT_STATE_PENDING, ""
	a, found := tx.agents.getBy(agentsByOrdinal, be32(ordinal))
	if found {
		agentID = a.GetId()
	}
	reason := tx.skips(a, ordinal, c.GetQueueOffline(), queueMax)
	switch {
	case reason != "":
		state = raftlogv1.AttemptState_ATTEMPT_STATE_SKIPPED
	case release:
		state = raftlogv1.AttemptState_ATTEMPT_STATE_RELEASED
		c.Released, c.Wave = c.GetReleased()+1, max(c.GetWave(), firstWave)
	}
	i := &raftlogv1.Invocation{
		Id: InvocationID(c.GetId(), ordinal), CommandId: c.GetId(), AgentId: agentID, AgentOrdinal: ordinal,
		Attempt: 1, State: state, Reason: reason, Rank: rank, Exclusive: c.GetExclusive(), Precedence: c.GetPrecedence(),
		Transitions: []*raftlogv1.Transition{{State: state, Index: tx.index, At: tx.now(), Attempt: 1, Reason: reason}},
	}
	put(tx, TableInvocations, tx.invocations, i)
	count(c, 0, state)
}

// skips says why a command that is submitted now would skip the agent with the number; ""
// = it would not. a is nil when there is none.
func (t *tables) skips(a *raftlogv1.Agent, ordinal uint32, queueOffline bool, queueMax uint32) (reason string) {
	return t.skipsWithout(a, ordinal, queueOffline, queueMax, 0)
}

// skipsWithout is skips when so many of what waits for the agent have gone.
func (t *tables) skipsWithout(a *raftlogv1.Agent, ordinal uint32, queueOffline bool, queueMax uint32, gone int) (reason string) {
	if queueMax == 0 {
		queueMax = defaultQueueMax
	}
	switch {
	case a == nil:
		return ReasonAgentRemoved
	case !queueOffline && !t.reachable(a):
		return ReasonOffline
	case boundsQueues && t.work.count(ordinal)-gone >= int(queueMax):
		return ReasonQueueFull
	default:
		return ""
	}
}

// reachable says that the agent counts as online: it has a session or its grace runs,
// and it may claim. A quarantined one may keep its session and claims nothing.
func (t *tables) reachable(a *raftlogv1.Agent) bool {
	s, found := t.sessions.get(a.GetId())
	return found && s.GetState() < raftlogv1.SessionState_SESSION_STATE_DOWN &&
		a.GetQuarantine() == raftlogv1.Quarantine_QUARANTINE_UNSPECIFIED
}

// releaseCommand lets up to max PENDING invocations be claimed, lowest agent
// number first.
func (tx *tx) releaseCommand(m *raftlogv1.ReleaseCommand) *raftlogv1.Outcome {
	c, found := tx.commands.get(m.GetCommandId())
	switch {
	case !found:
		return refuse(raftlogv1.Code_CODE_NOT_FOUND, "no_command", "there is no command %q", m.GetCommandId())
	case c.GetReleased() != m.GetExpectedReleased():
		return refuse(raftlogv1.Code_CODE_STALE, "released_moved", "command %q has %d released, not %d", c.GetId(), c.GetReleased(), m.GetExpectedReleased())
	case c.GetRollout() != nil:
		return refuse(raftlogv1.Code_CODE_REFUSED, "has_waves", "command %q goes on wave by wave", c.GetId())
	}
	if refusal := stopped(c); refusal != nil {
		return refusal
	}
	o := ok()
	for _, i := range collectMax(notHeld(tx.openInvocations(c.GetId(), raftlogv1.AttemptState_ATTEMPT_STATE_PENDING)), int(m.GetMax())) {
		tx.move(i, raftlogv1.AttemptState_ATTEMPT_STATE_RELEASED, "", nil)
		o.Count++
	}
	if o.Count > 0 || m.GetWave() != c.GetWave() {
		e := tx.editCommand(c.GetId())
		e.Released += o.Count
		e.Wave = m.GetWave()
	}
	return o
}

func notHeld(rows iter.Seq[*raftlogv1.Invocation]) iter.Seq[*raftlogv1.Invocation] {
	return where(rows, func(i *raftlogv1.Invocation) bool { return !i.GetHeld() })
}

// cancelCommand makes sure that what is not claimed never starts, and asks the
// agents to end what is.
func (tx *tx) cancelCommand(m *raftlogv1.CancelCommand) *raftlogv1.Outcome {
	c, found := tx.commands.get(m.GetCommandId())
	if !found {
		return refuse(raftlogv1.Code_CODE_NOT_FOUND, "no_command", "there is no command %q", m.GetCommandId())
	}
	o, probe := granted(tx.index), tx.openProbe(c)
	switch {
	case c.GetState() == raftlogv1.CommandState_COMMAND_STATE_ACTIVE:
		o.Count = tx.cancel(c, m.GetCanceledBy())
		if probe != nil {
			tx.cancel(probe, m.GetCanceledBy())
		}
	case probe != nil && probe.GetState() == raftlogv1.CommandState_COMMAND_STATE_ACTIVE:
		o.Count = tx.cancel(probe, m.GetCanceledBy()) // it outlives a command of which nothing is left
	default:
		return stands(c.GetCancelIndex())
	}
	return o
}

// cancel cancels the command, and answers how many invocations that ends or asks to end.
func (tx *tx) cancel(c *raftlogv1.Command, by string) (touched uint32) {
	e := tx.editCommand(c.GetId())
	e.State = raftlogv1.CommandState_COMMAND_STATE_CANCELING
	e.CancelIndex, e.CanceledAt, e.CanceledBy = tx.index, tx.now(), by
	for _, i := range collect(where(tx.invocations.withPrefix(c.GetId()+"."), open)) {
		if cancelMeansNever && i.GetState() < raftlogv1.AttemptState_ATTEMPT_STATE_CLAIMED {
			tx.move(i, raftlogv1.AttemptState_ATTEMPT_STATE_CANCELED, "canceled", nil)
		} else {
			row := clone(i)
			row.CancelIndex = tx.index
			put(tx, TableInvocations, tx.invocations, row)
		}
		touched++
	}
	return touched
}

// expireCommands ends what was not claimed in time. A command that is not there, or whose
// time is not over, is passed over: the leader looks again.
func (tx *tx) expireCommands(m *raftlogv1.ExpireCommands) *raftlogv1.Outcome {
	o := ok()
	for _, id := range m.GetCommandIds() {
		if o.Count >= m.GetMax() {
			break
		}
		if c, found := tx.commands.get(id); !found || done(c) || tx.now() < c.GetNotAfter() {
			continue
		}
		for _, i := range collectMax(where(tx.invocations.withPrefix(id+"."), unclaimed), int(m.GetMax()-o.Count)) {
			tx.move(i, raftlogv1.AttemptState_ATTEMPT_STATE_EXPIRED, "expired", nil)
			o.Count++
		}
		tx.flush()
	}
	return o
}

func unclaimed(i *raftlogv1.Invocation) bool {
	return i.GetState() < raftlogv1.AttemptState_ATTEMPT_STATE_CLAIMED
}

// purgeCommands removes finished commands. Ids as old as theirs are refused from
// here on, so that a late repetition cannot bring one back. A command whose id lies
// ahead of the cluster's time stays until then: its id as the floor would refuse
// whoever has the right time. Probes go with the command whose waves they probed, and
// not without it.
func (tx *tx) purgeCommands(m *raftlogv1.PurgeCommands) *raftlogv1.Outcome {
	o := ok()
	for _, id := range m.GetCommandIds() {
		c, found := tx.commands.get(id)
		if !found || !done(c) || c.GetParentId() != "" || tx.openProbe(c) != nil {
			continue
		}
		u, err := uuid.Parse(id)
		if err != nil || madeAt(u) >= tx.now()/int64(time.Millisecond) {
			continue // the first cannot be: submitCommand parsed it
		}
		tx.purge(id)
		for _, w := range c.GetRollout().GetWaves() {
			if w.GetProbeId() != "" {
				tx.purge(w.GetProbeId())
			}
		}
		tx.cluster.CommandsFloor = max(tx.cluster.GetCommandsFloor(), madeAt(u)+1)
		tx.clusterChanged = true
		o.Count++
	}
	return o
}

func (tx *tx) purge(id string) {
	for _, i := range collect(tx.invocations.withPrefix(id + ".")) {
		key, _ := invocationKey(i.GetId())
		remove(tx, TableInvocations, tx.invocations, key)
	}
	remove(tx, TableEnvelopes, tx.envelopes, id)
	remove(tx, TableCommands, tx.commands, id)
}

// editCommand returns a copy of the command's row that this mutation may write; flush
// puts it, when the mutation ends or before, however many invocations moved.
func (tx *tx) editCommand(id string) *raftlogv1.Command {
	for _, c := range slices.Backward(tx.edited[len(tx.editedBefore):]) {
		if c.GetId() == id {
			return c
		}
	}
	if c, found := tx.editedBefore[id]; found {
		return c
	}
	have, found := tx.commands.get(id)
	if !found {
		panic("fsm: an invocation belongs to no command: " + id) // they are put and purged together
	}
	c := clone(have)
	tx.edited = append(tx.edited, c)
	if n := len(tx.editedBefore); len(tx.edited) == n+maxLookedThrough {
		if tx.editedBefore == nil {
			tx.editedBefore = make(map[string]*raftlogv1.Command)
		}
		for _, c := range tx.edited[n:] {
			tx.editedBefore[c.GetId()] = c
		}
	}
	return c
}

// flush puts the commands that the mutation at hand has edited. What follows from the
// counts follows here, in the entry that moves them: that a command is done, that a probe
// has ended, that failures are too many.
func (tx *tx) flush() {
	for n := 0; n < len(tx.edited); n++ { // probes first: what they probed is edited with them
		if c := tx.edited[n]; c.GetParentId() != "" && !done(c) {
			if tx.settle(c); done(c) {
				tx.probed(c)
			}
		}
	}
	for _, c := range tx.edited {
		c.ChangedIndex = tx.index
		if c.GetRollout() != nil {
			tx.judgeRollout(c)
		}
		tx.settle(c)
		put(tx, TableCommands, tx.commands, c)
	}
	tx.edited, tx.editedBefore = nil, nil
}

// settle ends the command when every invocation is final. A LOST one that evidence
// supersedes changes the counts of a command that stays done.
func (tx *tx) settle(c *raftlogv1.Command) {
	waiting := uint32(0)
	for _, n := range c.GetCounts() {
		if n.GetState() < raftlogv1.AttemptState_ATTEMPT_STATE_LOST {
			waiting += n.GetCount()
		}
	}
	if waiting == 0 && !done(c) {
		c.State = raftlogv1.CommandState_COMMAND_STATE_DONE
		c.FinishedAt, c.FinishedIndex = tx.now(), tx.index
		tx.leaveBlobs(c)
	}
}

// count moves one invocation of the command between states; from 0 it is new.
func count(c *raftlogv1.Command, from, to raftlogv1.AttemptState) {
	at := func(s raftlogv1.AttemptState) *raftlogv1.StateCount {
		i, found := slices.BinarySearchFunc(c.GetCounts(), s, func(n *raftlogv1.StateCount, s raftlogv1.AttemptState) int {
			return int(n.GetState()) - int(s)
		})
		if !found {
			c.Counts = slices.Insert(c.Counts, i, &raftlogv1.StateCount{State: s})
		}
		return c.Counts[i]
	}
	at(to).Count++
	if from == 0 {
		return
	}
	at(from).Count--
	c.Counts = slices.DeleteFunc(c.Counts, func(n *raftlogv1.StateCount) bool { return n.GetCount() == 0 })
}

func collectMax[R any](rows func(func(R) bool), most int) []R {
	var some []R
	for r := range rows {
		if len(some) >= most {
			break
		}
		some = append(some, r)
	}
	return some
}

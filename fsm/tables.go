package fsm

import (
	"encoding/binary"
	"iter"
	"strconv"
	"strings"

	"github.com/tidwall/btree"
	"google.golang.org/protobuf/proto"

	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

// Table names a table in changes. Its numbers are the field numbers of
// raftlog.v1.SnapshotRecord, below 64 (a set of tables is 64 bits).
type Table uint8

// The tables, in the order in which a snapshot holds them.
const (
	TableCluster Table = iota + 1
	TableNodes
	TableSettings
	TableTokens
	TableOperators
	TableAgents
	TableFacts
	TableSessions
	TableEnvelopes
	TableCommands
	TableInvocations
	TableRemovals
	TableTokenUses

	TableSchedules Table = 24
	TableLocks     Table = 30
	TablePlaces    Table = 31
	TableEnded     Table = 32
	TableTemplates Table = 34
	TableBlobs     Table = 60
)

// tables is the state, whole. The cluster row is replaced, never written into,
// once it is published.
type tables struct {
	cluster     *raftlogv1.Cluster
	nodes       *table[*raftlogv1.Node]
	settings    *table[*raftlogv1.Setting]
	tokens      *table[*raftlogv1.Token]
	operators   *table[*raftlogv1.Operator]
	agents      *table[*raftlogv1.Agent]
	facts       *table[*raftlogv1.Facts]
	sessions    *table[*raftlogv1.Session]
	envelopes   *table[*raftlogv1.Envelope]
	commands    *table[*raftlogv1.Command]
	invocations *table[*raftlogv1.Invocation]
	removals    *table[*raftlogv1.Removal]
	tokenUses   *table[*raftlogv1.TokenUse]
	schedules   *table[*raftlogv1.Schedule]
	templates   *table[*raftlogv1.Template]
	locks       *table[*raftlogv1.Lock]
	places      *table[*raftlogv1.Place]
	ended       *table[*raftlogv1.EndedLease]
	blobs       *table[*raftlogv1.Blob]
	work        *work
	// keyed are the commands that are not done and may be superseded, by key and in order
	// of submission. Only Apply asks for them.
	keyed *btree.Map[string, *raftlogv1.Command]
	held  *holdings
	// budgets are the locks with a selector, by name. The list is replaced, never written
	// into.
	budgets []budget
}

// Indexes, by their place in newTables.
const (
	tokensByEnd    = 0
	tokenUsesByKey = 0

	operatorsByKey = 0

	agentsByOrdinal = 0
	agentsByName    = 1
	agentsByKey     = 2

	sessionsByNode  = 0
	sessionsByGrace = 1

	commandsByIndex  = 0
	commandsFinished = 1

	placesByLease   = 0
	placesByAttempt = 1
	placesByEnd     = 2

	endedInOrder = 0

	blobsIdle = 0

	removalsInOrder = 0
	removalsByName  = 1
)

func newTables() *tables {
	t := &tables{
		cluster:  &raftlogv1.Cluster{},
		nodes:    newTable((*raftlogv1.Node).GetId),
		settings: newTable((*raftlogv1.Setting).GetKey),
		tokens: newTable((*raftlogv1.Token).GetId,
			func(t *raftlogv1.Token) (string, bool) { return be64(uint64(TokenEnd(t))) + t.GetId(), true },
		),
		operators: newTable((*raftlogv1.Operator).GetName,
			func(o *raftlogv1.Operator) (string, bool) {
				return sized(o.GetPublicKey()) + o.GetName(), true
			},
		),
		agents: newTable((*raftlogv1.Agent).GetId,
			func(a *raftlogv1.Agent) (string, bool) { return be32(a.GetOrdinal()), true },
			func(a *raftlogv1.Agent) (string, bool) { return sized(a.GetName()) + a.GetId(), true },
			func(a *raftlogv1.Agent) (string, bool) {
				return sized(a.GetPublicKey()) + a.GetId(), len(a.GetPublicKey()) > 0
			},
		),
		facts: newTable((*raftlogv1.Facts).GetAgentId),
		sessions: newTable((*raftlogv1.Session).GetAgentId,
			// Live sessions, by the node that holds them.
			func(s *raftlogv1.Session) (string, bool) {
				return sized(s.GetNodeId()) + s.GetAgentId(), live(s)
			},
			// Those whose grace runs, by its end.
			func(s *raftlogv1.Session) (string, bool) {
				return be64(uint64(s.GetGraceUntil())) + s.GetAgentId(),
					s.GetState() == raftlogv1.SessionState_SESSION_STATE_RECONNECTING
			},
		),
		envelopes: newTable((*raftlogv1.Envelope).GetCommandId),
		commands: newTable((*raftlogv1.Command).GetId,
			func(c *raftlogv1.Command) (string, bool) { return be64Of(c.GetSubmittedIndex(), c.GetId()), true },
			func(c *raftlogv1.Command) (string, bool) {
				if !done(c) {
					return "", false
				}
				return be64Of(c.GetFinishedIndex(), c.GetId()), true
			},
		),
		invocations: newTable(invocationKeyOf),
		removals: newTable(
			func(r *raftlogv1.Removal) string { return sized(r.GetAgentId()) + be64(r.GetEnrolledIndex()) },
			func(r *raftlogv1.Removal) (string, bool) { return be64(r.GetNumber()), true },
			func(r *raftlogv1.Removal) (string, bool) { return sized(r.GetName()) + be64(r.GetNumber()), true },
		),
		tokenUses: newTable(
			func(u *raftlogv1.TokenUse) string { return useKey(u.GetTokenId(), u.GetNumber()) },
			func(u *raftlogv1.TokenUse) (string, bool) {
				return userKey(u.GetTokenId(), u.GetPublicKey(), u.GetIdentity()), true
			},
		),
		schedules: newTable((*raftlogv1.Schedule).GetName),
		templates: newTable(func(r *raftlogv1.Template) string { return templateKey(r.GetName(), r.GetVersion()) }),
	}
	t.locks = newTable((*raftlogv1.Lock).GetName)
	t.places = newTable(placeKey,
		func(p *raftlogv1.Place) (string, bool) { return p.GetLeaseId(), p.GetLeaseId() != "" },
		func(p *raftlogv1.Place) (string, bool) {
			return sized(p.GetInvocationId()) + p.GetLock(), p.GetInvocationId() != ""
		},
		func(p *raftlogv1.Place) (string, bool) {
			return be64(uint64(leaseEnd(p))) + p.GetLeaseId(), p.GetLeaseId() != ""
		},
	)
	t.ended = newTable((*raftlogv1.EndedLease).GetLeaseId,
		func(e *raftlogv1.EndedLease) (string, bool) { return be64Of(e.GetNumber(), e.GetLeaseId()), true },
	)
	t.blobs = newTable((*raftlogv1.Blob).GetSha256,
		// Those that nobody names, the longest idle first.
		func(b *raftlogv1.Blob) (string, bool) {
			return be64Of(uint64(b.GetIdleSince()), b.GetSha256()), b.GetIdleSince() != 0
		},
	)
	t.keyed = newTree[string, *raftlogv1.Command]()
	t.commands.moved = t.commandMoved
	t.held = newHoldings()
	t.places.moved = t.held.moved
	t.locks.moved = t.lockMoved
	t.followInvocations()
	return t
}

// commandMoved keeps keyed.
func (t *tables) commandMoved(old, row *raftlogv1.Command) {
	if old.GetSupersede() == "" && row.GetSupersede() == "" {
		return
	}
	if old != nil {
		t.keyed.Delete(supersedeKey(old))
	}
	if row != nil && !done(row) {
		t.keyed.Set(supersedeKey(row), row)
	}
}

func supersedeKey(c *raftlogv1.Command) string {
	return sized(c.GetSupersede()) + be64Of(c.GetSubmittedIndex(), c.GetId())
}

// lockMoved keeps the list of budgets.
func (t *tables) lockMoved(old, row *raftlogv1.Lock) {
	if old.GetSelector() == "" && row.GetSelector() == "" {
		return
	}
	t.budgets = nil
	for l := range t.locks.all() {
		if l.GetSelector() == "" {
			continue
		}
		b, problem := readBudget(l)
		if problem != "" { // createLock and load have read it
			panic("fsm: the selector of lock " + l.GetName() + " cannot be read: " + problem)
		}
		t.budgets = append(t.budgets, b)
	}
}

// followInvocations has the work of agents follow the table of invocations from now on.
func (t *tables) followInvocations() {
	t.work = collectWork(t.invocations.all())
	t.invocations.moved = t.work.moved
}

// published is the state as readers get it.
func (t *tables) published() *tables {
	return &tables{
		cluster: t.cluster, nodes: t.nodes.published(), settings: t.settings.published(), tokens: t.tokens.published(),
		operators: t.operators.published(), agents: t.agents.published(), facts: t.facts.published(),
		sessions: t.sessions.published(), envelopes: t.envelopes.published(), commands: t.commands.published(),
		invocations: t.invocations.published(), removals: t.removals.published(), tokenUses: t.tokenUses.published(),
		schedules: t.schedules.published(), templates: t.templates.published(),
		locks: t.locks.published(), places: t.places.published(), ended: t.ended.published(), blobs: t.blobs.published(),
		work: t.work.published(), held: t.held.published(), budgets: t.budgets,
	}
}

// openInvocations yields those of the command that are in the state, by number of the
// agent. It looks at all of the command's: an index for it would cost every submission
// and every step of every attempt more than it spares the few who ask.
func (t *tables) openInvocations(commandID string, state raftlogv1.AttemptState) iter.Seq[*raftlogv1.Invocation] {
	return where(t.invocations.withPrefix(commandID+"."), func(i *raftlogv1.Invocation) bool { return i.GetState() == state })
}

// maxKeyBytes is what the keys of invocations and commands have at most, all but
// those that are derived from other text: an id of 36 bytes and a few numbers. They
// are put together on the stack.
const maxKeyBytes = 64

func invocationKeyOf(i *raftlogv1.Invocation) string {
	b := append(make([]byte, 0, maxKeyBytes), i.GetCommandId()...)
	return string(binary.BigEndian.AppendUint32(append(b, '.'), i.GetAgentOrdinal()))
}

// be64Of is the number before the id.
func be64Of(n uint64, id string) string {
	b := binary.BigEndian.AppendUint64(make([]byte, 0, maxKeyBytes), n)
	return string(append(b, id...))
}

func useKey(tokenID string, number uint32) string { return sized(tokenID) + be32(number) }

func userKey(tokenID string, publicKey []byte, identity string) string {
	return sized(tokenID) + sized(publicKey) + identity
}

// invocationKey turns an invocation's id, COMMAND.ORDINAL, into its primary key.
func invocationKey(id string) (string, bool) {
	dot := strings.LastIndexByte(id, '.')
	if dot < 0 {
		return "", false
	}
	ordinal, err := strconv.ParseUint(id[dot+1:], 10, 32)
	if err != nil || id[dot+1:] != strconv.FormatUint(ordinal, 10) {
		return "", false
	}
	return id[:dot+1] + be32(uint32(ordinal)), true
}

// InvocationID is the id of the invocation of a command on an agent.
func InvocationID(commandID string, agentOrdinal uint32) string {
	return commandID + "." + strconv.FormatUint(uint64(agentOrdinal), 10)
}

func live(s *raftlogv1.Session) bool {
	return s.GetState() == raftlogv1.SessionState_SESSION_STATE_OPEN || s.GetState() == raftlogv1.SessionState_SESSION_STATE_READY
}

func done(c *raftlogv1.Command) bool {
	return c.GetState() == raftlogv1.CommandState_COMMAND_STATE_DONE
}

// open says that an invocation has no final state. LOST is final here, although
// evidence may supersede it.
func open(i *raftlogv1.Invocation) bool {
	return i.GetState() < raftlogv1.AttemptState_ATTEMPT_STATE_LOST
}

// claimedOrRunning says that an attempt holds what it needs.
func claimedOrRunning(i *raftlogv1.Invocation) bool {
	return i.GetState() == raftlogv1.AttemptState_ATTEMPT_STATE_CLAIMED || i.GetState() == raftlogv1.AttemptState_ATTEMPT_STATE_RUNNING
}

func submittedIndex(i *raftlogv1.Invocation) uint64 {
	if t := i.GetTransitions(); len(t) > 0 {
		return t[0].GetIndex()
	}
	return 0
}

// clone returns a copy of a row that may be written before it is put.
func clone[R proto.Message](row R) R { return proto.CloneOf(row) }

package fsm

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"pgregory.net/rapid"

	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

// A gen draws random mutations of a small world. Most are what an honest node
// would propose on the state as it is; some are late, wrong or malformed.
type gen struct {
	t       *rapid.T
	random  *rand.Rand
	m       *Machine
	now     time.Time
	index   uint64
	term    uint64
	streams int
	steps   []step
	// drives says that most mutations bring rollouts on; else they are of all kinds.
	drives bool
	// undoes says that many mutations are about the undo of attempts.
	undoes bool
	// troubled says that hosts are started anew, wiped, copied and put back in mid-work.
	troubled bool
}

// A step is one applied entry.
type step struct {
	index, term uint64
	sealed      []byte
	outcomes    []*raftlogv1.Outcome
	hash        [32]byte
}

var (
	genAgents    = []string{"a1", "a2", "a3"}
	genNodes     = []string{"n1", "n2", "n3"}
	genTokens    = []string{"t1", "t2", "t3", "t4", "t5"}
	genOperators = []string{"o1", "o2", "o3"}
)

// newGen returns a gen whose cluster is founded, with a few agents in it.
func newGen(t *rapid.T) *gen {
	g := &gen{t: t, random: rand.New(rand.NewPCG(0, 0)), m: New(Options{}), now: storyBegin, term: 1, drives: rapid.Bool().Draw(t, "drives rollouts"), troubled: rapid.Bool().Draw(t, "troubled")}
	g.apply(&raftlogv1.Entry{Mutations: []*raftlogv1.Mutation{{Kind: &raftlogv1.Mutation_TakeOffice{TakeOffice: &raftlogv1.TakeOffice{NodeId: "n1", Term: 1}}}}})
	g.one(&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_InitCluster{InitCluster: &raftlogv1.InitCluster{
		ClusterId: "c", Incarnation: &raftlogv1.Incarnation{Number: 1, Id: bytes.Repeat([]byte{1}, 16)}, FeatureLevel: 1,
		Node:    &raftlogv1.Node{Id: "n1", Name: "n1", Address: "n1:1", PublicKey: keyOf("n1"), CaCertificate: []byte("ca"), FeatureLevel: 1},
		Keyring: []*raftlogv1.GossipKey{{Key: []byte("k")}},
	}}})
	g.one(token("t0", raftlogv1.TokenKind_TOKEN_KIND_AGENT, 100))
	g.one(token("tn", raftlogv1.TokenKind_TOKEN_KIND_NODE, 1))
	g.one(registerNode("n2", "tn", "n2"))
	g.one(&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_CreateLock{CreateLock: genLocks[0]}})
	g.one(&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_CreateLock{CreateLock: genLocks[2]}})
	agents := genAgents[:2]
	if g.drives {
		agents = genAgents
	}
	for n, a := range agents {
		g.one(&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_EnrollAgent{EnrollAgent: &raftlogv1.EnrollAgent{
			AgentId: a, Name: a, PublicKey: keyOf(a), TokenId: tokenID("t0"), Labels: []*raftlogv1.Label{{Name: "x", Value: fmt.Sprint(n + 1)}},
		}}})
		g.one(g.openSession(a, true))
		s, _ := g.m.View().Session(a)
		g.one(&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_ReadySession{ReadySession: &raftlogv1.ReadySession{AgentId: a, SessionEpoch: s.GetEpoch(), NodeId: s.GetNodeId()}}})
	}
	return g
}

// tokenID is the id of the token that tests call name. Those whose name ends with 5
// come from a clock that is ahead.
func tokenID(name string) string {
	made := storyBegin
	if n := len(name) - 1; n >= 0 {
		made = made.Add(time.Duration(name[n]) * time.Millisecond)
		if name[n] == '5' {
			made = made.Add(4 * time.Minute)
		}
	}
	return commandID(made, "token "+name)
}

func token(name string, kind raftlogv1.TokenKind, uses uint32) *raftlogv1.Mutation {
	return &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_CreateToken{CreateToken: &raftlogv1.CreateToken{Ttl: int64(time.Hour), Token: &raftlogv1.Token{
		Id: tokenID(name), Kind: kind, MaxUses: uses, ProofKey: []byte("p"), AuthenticatorHash: bytes.Repeat([]byte{2}, 32), Role: RoleAdmin,
	}}}}
}

func registerNode(id, token, key string) *raftlogv1.Mutation {
	return &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_RegisterNode{RegisterNode: &raftlogv1.RegisterNode{TokenId: tokenID(token), Node: &raftlogv1.Node{
		Id: id, Name: id, Address: id + ":1", PublicKey: keyOf(key), CaCertificate: []byte("ca"), FeatureLevel: 1,
	}}}}
}

// one applies an honest entry with one mutation.
func (g *gen) one(mut *raftlogv1.Mutation) *raftlogv1.Outcome {
	_, office := g.m.Published()
	return g.apply(&raftlogv1.Entry{LeaderEpoch: office.GetEpoch(), Mutations: []*raftlogv1.Mutation{mut}})[0]
}

func (g *gen) apply(e *raftlogv1.Entry) []*raftlogv1.Outcome {
	g.index++
	e.Format, e.Now = raftlogv1.EntryFormat, g.now.UnixNano()
	sealed, err := raftlogv1.Seal(e)
	if err != nil {
		g.t.Fatal(err)
	}
	// As raft gives it: a mutation without content is an empty one once it has been written.
	if e, err = raftlogv1.Unseal(sealed); err != nil {
		g.t.Fatal(err)
	}
	outcomes := g.m.Apply(g.index, g.term, e)
	g.steps = append(g.steps, step{index: g.index, term: g.term, sealed: sealed, outcomes: outcomes, hash: g.m.View().Hash()})
	return outcomes
}

// entry draws an entry of up to most mutations: mostly the leader's, sometimes a
// deposed one's, sometimes one that takes office.
//
// Its seed is rapid's, the choices are not: rapid prefers small numbers, which here
// mean the first case of every switch. A seed of 0 is an empty entry, to which a
// failing history shrinks.
func (g *gen) entry(most int) *raftlogv1.Entry {
	seed := rapid.Uint64().Draw(g.t, "entry")
	g.random = rand.New(rand.NewPCG(seed, 0))
	g.now = g.now.Add(time.Duration(g.pick(0, 0, 0, 1, 1000, 1000, 6000, 6000, 20000, -3000, 40000)) * time.Millisecond)
	_, office := g.m.Published()
	e := &raftlogv1.Entry{LeaderEpoch: office.GetEpoch()}
	if seed == 0 {
		return e
	}
	switch g.pick(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2) {
	case 1:
		g.term++
		e.LeaderEpoch = 0
		e.Mutations = []*raftlogv1.Mutation{{Kind: &raftlogv1.Mutation_TakeOffice{TakeOffice: &raftlogv1.TakeOffice{NodeId: g.of(genNodes), Term: g.term - uint64(g.pick(0, 0, 0, 1))}}}}
		return e
	case 2:
		e.LeaderEpoch = uint64(g.pick(0, 256, 1))
	}
	for range 1 + g.random.IntN(most) {
		e.Mutations = append(e.Mutations, g.mutation())
	}
	return e
}

func (g *gen) pick(from ...int) int { return from[g.random.IntN(len(from))] }

func (g *gen) of(from []string) string { return from[g.random.IntN(len(from))] }

// rarely answers true once in about n.
func (g *gen) rarely(n int) bool { return g.random.IntN(n) == 0 }

// near is v, or rarely something else.
func (g *gen) near(v uint64) uint64 {
	if !g.rarely(12) {
		return v
	}
	return []uint64{0, v - 1, v + 1, v + 256, 1 << 63, 3}[g.pick(0, 1, 2, 3, 4, 5)]
}

// genCommandID names the i-th command of the world; every fifth comes from a clock
// that is ahead.
func genCommandID(i int) string {
	ahead := time.Duration(0)
	if i%5 == 4 {
		ahead = 4 * time.Minute
	}
	return commandID(storyBegin.Add(time.Duration(i)*time.Millisecond+ahead), fmt.Sprint("command", i))
}

func (g *gen) command() string { return genCommandID(g.random.IntN(12)) }

// invocation draws one that exists, in the wanted states rather than in others.
func (g *gen) invocation(want ...raftlogv1.AttemptState) *raftlogv1.Invocation {
	var wanted, all []*raftlogv1.Invocation
	for i := range g.m.tables.invocations.all() {
		all = append(all, i)
		if slices.Contains(want, i.GetState()) {
			wanted = append(wanted, i)
		}
	}
	if len(wanted) > 0 && !g.rarely(6) {
		all = wanted
	}
	if len(all) == 0 {
		return &raftlogv1.Invocation{Id: InvocationID(g.command(), 1), AgentId: "a1", Attempt: 1}
	}
	return all[g.random.IntN(len(all))]
}

func (g *gen) epochOf(agent string) uint64 {
	s, _ := g.m.View().Session(agent)
	return g.near(s.GetEpoch())
}

// holder is the node that holds the agent's session, or rarely another.
func (g *gen) holder(agent string) string {
	if s, found := g.m.View().Session(agent); found && !g.rarely(12) {
		return s.GetNodeId()
	}
	return g.of(genNodes)
}

func (g *gen) labels() []*raftlogv1.Label {
	var ls []*raftlogv1.Label
	for range g.pick(0, 1, 2) {
		ls = append(ls, &raftlogv1.Label{Name: g.of([]string{"x", "y", "z", ""}), Value: g.of([]string{"1", "2", strings.Repeat("v", 300)})})
	}
	return ls
}

func (g *gen) openSession(agent string, honest bool) *raftlogv1.Mutation {
	v := g.m.View()
	s, _ := v.Session(agent)
	g.streams++
	start, journal := s.GetStartId(), s.GetJournal().GetId()
	if len(start) == 0 {
		start = []byte("p-" + agent)
	}
	if a, _ := v.Agent(agent); len(journal) == 0 || a.GetReadmitted() {
		journal = fmt.Append(nil, "journal", g.streams)
	}
	m := &raftlogv1.OpenSession{
		AgentId: agent, NodeId: "n1", SeenEpoch: s.GetEpoch(), StreamId: fmt.Append(nil, "stream", g.streams), StartId: start,
		Journal: &raftlogv1.Journal{Id: journal, Seq: s.GetJournal().GetSeq()}, PreviousEpoch: s.GetEpoch(), Slots: 2,
	}
	if !honest {
		m.NodeId = g.of([]string{"n1", "n1", "n1", "n2", "n2", "n3"})
		n, _ := v.Node(m.NodeId)
		m.NodeStartCounter, m.SeenEpoch, m.PreviousEpoch = g.near(n.GetStartCounter()), g.near(s.GetEpoch()), g.near(s.GetEpoch())
		m.Journal.Seq = g.near(m.Journal.Seq)
		m.Slots = uint32(g.pick(0, 1, 2, 2, 3, 3))
		if g.rarely(3) {
			m.StartId = []byte(g.of([]string{"p1", "p2"}))
		}
		if g.rarely(6) {
			m.Journal.Id = []byte(g.of([]string{"j1", "j2", ""}))
		}
		if g.rarely(10) {
			m.StreamId = s.GetStreamId()
		}
		for i := range g.m.tables.invocations.all() {
			if i.GetAgentId() == agent && i.GetState() >= raftlogv1.AttemptState_ATTEMPT_STATE_CLAIMED && !g.rarely(3) {
				m.OpenAttempts = append(m.OpenAttempts, &raftlogv1.AttemptKey{InvocationId: i.GetId(), Attempt: i.GetAttempt()})
			}
		}
	}
	return &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_OpenSession{OpenSession: m}}
}

// mutation draws one mutation: work more often than the rest.
func (g *gen) mutation() *raftlogv1.Mutation {
	if g.troubled {
		switch i := g.invocation(raftlogv1.AttemptState_ATTEMPT_STATE_CLAIMED, raftlogv1.AttemptState_ATTEMPT_STATE_RUNNING); {
		case i.GetState() == raftlogv1.AttemptState_ATTEMPT_STATE_CLAIMED, i.GetState() == raftlogv1.AttemptState_ATTEMPT_STATE_RUNNING, g.rarely(4):
			if g.rarely(3) {
				return g.trouble(i.GetAgentId())
			}
		default:
			return g.workMutation()
		}
	}
	if g.drives && !g.rarely(5) {
		return g.drive()
	}
	if g.undoes && g.rarely(2) {
		return g.undoMutation()
	}
	switch g.random.IntN(16) {
	case 0:
		return g.registryMutation()
	case 12:
		return g.scheduleMutation()
	case 13:
		return g.templateMutation()
	case 1, 2, 3:
		return g.agentMutation()
	case 14, 15:
		return g.lockMutation()
	case 11:
		return g.blobMutation()
	default:
		return g.workMutation()
	}
}

// trouble draws what befalls the host of an agent: it is started anew, its disk is wiped, a copy of it lives beside it, or an older image of it is put back.
// Before that comes what makes it whole again after the last time.
func (g *gen) trouble(agent string) *raftlogv1.Mutation {
	v := g.m.View()
	s, _ := v.Session(agent)
	a, _ := v.Agent(agent)
	switch {
	case a.GetQuarantine() != raftlogv1.Quarantine_QUARANTINE_UNSPECIFIED:
		return &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_ReadmitAgent{ReadmitAgent: &raftlogv1.ReadmitAgent{AgentId: agent}}}
	case s.GetState() == raftlogv1.SessionState_SESSION_STATE_OPEN:
		return &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_ReadySession{ReadySession: &raftlogv1.ReadySession{AgentId: agent, SessionEpoch: s.GetEpoch(), NodeId: s.GetNodeId()}}}
	}
	mut := g.openSession(agent, true)
	m := mut.GetOpenSession()
	n, _ := v.Node(m.NodeId)
	m.NodeStartCounter = n.GetStartCounter()
	m.StartId = fmt.Append(nil, "start", g.streams)
	known := true
	switch g.random.IntN(4) {
	case 0: // it is started anew
	case 1:
		m.Journal, known = &raftlogv1.Journal{Id: fmt.Append(nil, "journal", g.streams)}, false
	case 2:
		if before := s.GetPreviousStartId(); len(before) > 0 {
			m.StartId = before
		}
	case 3:
		m.PreviousEpoch, known = max(s.GetLastClaimEpoch(), 1)-1, g.rarely(2)
	}
	for i := range g.m.tables.invocations.all() {
		if known && i.GetAgentId() == agent && i.GetState() >= raftlogv1.AttemptState_ATTEMPT_STATE_CLAIMED {
			m.OpenAttempts = append(m.OpenAttempts, &raftlogv1.AttemptKey{InvocationId: i.GetId(), Attempt: i.GetAttempt()})
		}
	}
	return mut
}

func (g *gen) registryMutation() *raftlogv1.Mutation {
	switch g.random.IntN(13) {
	case 12:
		return &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_PurgeTokens{PurgeTokens: &raftlogv1.PurgeTokens{
			TokenIds: []string{tokenID(g.of(genTokens)), tokenID(g.of(genTokens)), "x"},
		}}}
	case 0:
		return registerNode(g.of(genNodes), g.of(genTokens), g.of(genNodes))
	case 1:
		return &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_NodeStarted{NodeStarted: &raftlogv1.NodeStarted{NodeId: g.of(genNodes), StartCounter: uint64(g.pick(0, 1, 2, 3)), FeatureLevel: 1}}}
	case 2:
		return &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_RemoveNode{RemoveNode: &raftlogv1.RemoveNode{NodeId: g.of([]string{"n2", "n3", "n4"})}}}
	case 3:
		return &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_RaiseFeatureLevel{RaiseFeatureLevel: &raftlogv1.RaiseFeatureLevel{Level: uint32(g.pick(0, 1, 2)), ServerIds: genNodes[:g.pick(0, 1, 2)]}}}
	case 4:
		s, _ := g.m.View().Setting("s")
		return &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_PutSetting{PutSetting: &raftlogv1.PutSetting{Key: g.of([]string{"s", "s", ""}), Value: g.of([]string{"1", "2", "3"}), ExpectedVersion: g.near(s.GetVersion())}}}
	case 5:
		return &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_SetKeyring{SetKeyring: &raftlogv1.SetKeyring{
			Keyring: []*raftlogv1.GossipKey{{Key: []byte(g.of([]string{"k", "l"}))}}, ExpectedTrustIndex: g.near(g.m.View().Cluster().GetTrustIndex()),
		}}}
	case 6, 7:
		kind := raftlogv1.TokenKind(g.pick(0, 1, 1, 2, 2, 3, 3, 4))
		return token(g.of(genTokens), kind, uint32(g.pick(0, 1, 1, 1, 2, 1001)))
	case 8:
		return &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_RevokeToken{RevokeToken: &raftlogv1.RevokeToken{Id: tokenID(g.of(genTokens))}}}
	case 9:
		return &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_EnrollOperator{EnrollOperator: &raftlogv1.EnrollOperator{
			Name: g.of(genOperators), PublicKey: keyOf(g.of(genOperators)), Role: g.of([]string{RoleAdmin, RoleViewer, "x"}), TokenId: g.of([]string{"", tokenID(g.of(genTokens)), tokenID(g.of(genTokens))}),
		}}}
	case 10:
		return &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_RevokeOperator{RevokeOperator: &raftlogv1.RevokeOperator{Name: g.of(genOperators)}}}
	default:
		return []*raftlogv1.Mutation{
			{},
			{Kind: &raftlogv1.Mutation_TakeOffice{}},
			{Kind: &raftlogv1.Mutation_InitCluster{InitCluster: &raftlogv1.InitCluster{ClusterId: "c"}}},
			{Kind: &raftlogv1.Mutation_OpenSession{OpenSession: &raftlogv1.OpenSession{AgentId: "a1", NodeId: "n1"}}},
			{Kind: &raftlogv1.Mutation_LoseAttempt{LoseAttempt: &raftlogv1.LoseAttempt{}}},
			{Kind: &raftlogv1.Mutation_ClaimAttempt{ClaimAttempt: &raftlogv1.ClaimAttempt{InvocationId: ".1"}}},
			{Kind: &raftlogv1.Mutation_SubmitCommand{SubmitCommand: &raftlogv1.SubmitCommand{Id: "x", Envelope: make([]byte, raftlogv1.MaxMutationBytes)}}},
		}[g.random.IntN(7)]
	}
}

func (g *gen) agentMutation() *raftlogv1.Mutation {
	agent := g.of(genAgents)
	switch g.random.IntN(16) {
	case 0, 1:
		return &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_EnrollAgent{EnrollAgent: &raftlogv1.EnrollAgent{
			AgentId: agent, Name: agent, PublicKey: keyOf(g.of([]string{agent, agent, agent + "'", "a1", ""})), TokenId: tokenID(g.of(append([]string{"t0"}, genTokens...))), Labels: g.labels(),
		}}}
	case 2:
		if !g.rarely(3) {
			return g.openSession(agent, false)
		}
		m := &raftlogv1.RemoveAgent{AgentId: agent}
		if a, found := g.m.View().Agent(agent); found && !g.rarely(3) {
			m.EnrolledIndex = g.near(a.GetEnrolledIndex())
		}
		return &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_RemoveAgent{RemoveAgent: m}}
	case 3:
		return &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_SetAgentLabels{SetAgentLabels: &raftlogv1.SetAgentLabels{AgentId: agent, Set: g.labels(), Remove: []string{"x"}[:g.pick(0, 1)]}}}
	case 4:
		return &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_ReportFacts{ReportFacts: &raftlogv1.ReportFacts{AgentId: agent, SessionEpoch: g.epochOf(agent), NodeId: g.holder(agent), Facts: g.labels(), Version: g.of([]string{"", "1", "2"})}}}
	case 5, 6:
		return &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_ReadmitAgent{ReadmitAgent: &raftlogv1.ReadmitAgent{AgentId: agent}}}
	case 7, 8, 9:
		return g.openSession(agent, false)
	case 10, 11, 12:
		return &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_ReadySession{ReadySession: &raftlogv1.ReadySession{AgentId: agent, SessionEpoch: g.epochOf(agent), NodeId: g.holder(agent)}}}
	case 13:
		return &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_EndSession{EndSession: &raftlogv1.EndSession{AgentId: agent, SessionEpoch: g.epochOf(agent), NodeId: g.of([]string{"", g.holder(agent)}), Left: g.rarely(3), SentAway: g.rarely(3), Grace: int64(g.pick(-1, 0, 1000, 1<<62))}}}
	case 14:
		return &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_LoseNodeSessions{LoseNodeSessions: &raftlogv1.LoseNodeSessions{NodeId: g.of(genNodes), UpToStartCounter: uint64(g.pick(0, 1, 9)), Max: uint32(g.pick(0, 1))}}}
	default:
		return &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_MarkDown{MarkDown: &raftlogv1.MarkDown{AgentId: agent, SessionEpoch: g.epochOf(agent)}}}
	}
}

func (g *gen) workMutation() *raftlogv1.Mutation {
	switch g.random.IntN(18) {
	case 17:
		return g.confirm()
	case 0, 1, 2:
		return g.submit()
	case 3:
		return g.rolloutMutation()
	case 4:
		id := g.command()
		c, _ := g.m.View().Command(id)
		if c.GetRollout() != nil && !g.rarely(6) {
			return g.rolloutMutation()
		}
		return &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_ReleaseCommand{ReleaseCommand: &raftlogv1.ReleaseCommand{
			CommandId: id, ExpectedReleased: uint32(g.near(uint64(c.GetReleased()))), Max: uint32(g.pick(0, 1, 2, 100)), Wave: uint32(g.pick(0, 1, 2)),
		}}}
	case 5, 6, 7, 8:
		i := g.invocation(raftlogv1.AttemptState_ATTEMPT_STATE_RELEASED)
		if g.rarely(4) { // a claim again, under the same session or a later one
			i = g.invocation(raftlogv1.AttemptState_ATTEMPT_STATE_CLAIMED)
		}
		s, _ := g.m.View().Session(i.GetAgentId())
		if !g.rarely(4) { // what stands in the way comes first
			a, enrolled := g.m.View().Agent(i.GetAgentId())
			switch {
			case enrolled && len(a.GetPublicKey()) == 0:
				return &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_EnrollAgent{EnrollAgent: &raftlogv1.EnrollAgent{AgentId: a.GetId(), Name: a.GetId(), PublicKey: fmt.Append(nil, "new", g.index), TokenId: tokenID("t0")}}}
			case enrolled && a.GetQuarantine() != 0:
				return &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_ReadmitAgent{ReadmitAgent: &raftlogv1.ReadmitAgent{AgentId: a.GetId()}}}
			case enrolled && !live(s):
				return g.openSession(a.GetId(), g.rarely(2))
			case enrolled && i.GetState() == raftlogv1.AttemptState_ATTEMPT_STATE_CLAIMED && i.GetSessionEpoch() == s.GetEpoch() && g.rarely(2):
				return g.openSession(a.GetId(), true) // the claim outlives its session
			case enrolled && s.GetState() == raftlogv1.SessionState_SESSION_STATE_OPEN:
				return &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_ReadySession{ReadySession: &raftlogv1.ReadySession{AgentId: a.GetId(), SessionEpoch: s.GetEpoch(), NodeId: s.GetNodeId()}}}
			}
		}
		node := s.GetNodeId()
		if g.rarely(12) {
			node = g.of(genNodes)
		}
		return &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_ClaimAttempt{ClaimAttempt: &raftlogv1.ClaimAttempt{
			InvocationId: i.GetId(), Attempt: uint32(g.near(uint64(i.GetAttempt()))), AgentId: i.GetAgentId(), SessionEpoch: g.near(s.GetEpoch()), NodeId: node,
		}}}
	case 9, 10, 11, 12:
		return g.report()
	case 16:
		return g.recordOutput()
	case 13:
		if g.rarely(3) {
			return &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_PurgeCommands{PurgeCommands: &raftlogv1.PurgeCommands{CommandIds: []string{g.command(), g.command(), "x"}}}}
		}
		if g.rarely(2) {
			return g.submit()
		}
		return &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_CancelCommand{CancelCommand: &raftlogv1.CancelCommand{CommandId: g.command()}}}
	case 14:
		return &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_ExpireCommands{ExpireCommands: &raftlogv1.ExpireCommands{CommandIds: []string{g.command(), "x", g.command()}, Max: uint32(g.pick(0, 1, 2, 100))}}}
	default:
		i := g.invocation(raftlogv1.AttemptState_ATTEMPT_STATE_CLAIMED, raftlogv1.AttemptState_ATTEMPT_STATE_RUNNING)
		s, _ := g.m.View().Session(i.GetAgentId())
		return &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_LoseAttempt{LoseAttempt: &raftlogv1.LoseAttempt{
			Key:           &raftlogv1.AttemptKey{InvocationId: i.GetId(), Attempt: uint32(g.near(uint64(i.GetAttempt())))},
			ExpectedState: i.GetState(), ExpectedFence: g.near(i.GetFence()), ExpectedSessionEpoch: g.near(s.GetEpoch()), NodeId: g.of([]string{"", g.holder(i.GetAgentId())}), Reason: "no_contact",
		}}}
	}
}

func (g *gen) submit() *raftlogv1.Mutation {
	m := &raftlogv1.SubmitCommand{
		Id: g.command(), Envelope: []byte("e"), Digest: []byte(g.of([]string{"d", "d", "d", "other"})),
		Ttl: int64(g.pick(0, 10, 100, 1000, 1000, 1000, 1000, 1000, 1000, 1000)) * int64(time.Second), RunTimeout: int64(g.pick(0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1)),
		QueueOffline: !g.rarely(3), QueueMax: uint32(g.pick(0, 1, 3, 3, 9, 9)), Delivery: raftlogv1.Delivery(g.pick(0, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 3)),
	}
	if m.Delivery == raftlogv1.Delivery_DELIVERY_IDEMPOTENT {
		m.MaxAttempts = uint32(g.pick(0, 1, 2, 2, 2, 3, 3, 3, 3, 11))
	}
	m.Release = uint32(g.pick(0, 0, 1, 2, 100))
	if !g.drives || g.rarely(4) { // else little comes in the way of a rollout
		m.Locks = [][]string{nil, nil, nil, {"x"}, {"x"}, {"x", "y"}, {"y"}, {"y", "x"}, {"-"}}[g.random.IntN(9)]
		m.Exclusive = g.rarely(6)
		m.FleetLocks = g.fleetLocks()
		m.Blobs = g.blobs()
		m.Precedence = int32(g.pick(0, 0, 0, 0, -50, 50, 51))
		m.Supersede = g.of([]string{"", "", "", "k", "k", "l", "/"})
		if g.rarely(5) {
			m.Splay = int64(g.pick(-1, 10, 10, 100)) * int64(time.Second)
		}
	}
	defer g.addRollout(m)
	m.Undo = g.undoPlan(m)
	if g.undoes && !g.rarely(6) {
		m.Delivery, m.MaxAttempts = raftlogv1.Delivery_DELIVERY_AT_MOST_ONCE, 1
		m.Undo = &raftlogv1.UndoPlan{Within: int64(time.Minute), By: raftlogv1.ConfirmBy_CONFIRM_BY_OPERATOR}
	}
	if g.rarely(6) {
		m.NotBefore = g.now.Add(5 * time.Second).UnixNano()
	}
	for a := range g.m.tables.agents.by(agentsByOrdinal, "") {
		if !g.rarely(6) {
			m.AgentOrdinals = append(m.AgentOrdinals, a.GetOrdinal())
		}
	}
	if g.rarely(8) {
		m.AgentOrdinals = append(m.AgentOrdinals, 1000) // nobody
	}
	if g.rarely(10) {
		slices.Reverse(m.AgentOrdinals)
	}
	return &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_SubmitCommand{SubmitCommand: m}}
}

func (g *gen) recordOutput() *raftlogv1.Mutation {
	i := g.invocation(raftlogv1.AttemptState_ATTEMPT_STATE_RUNNING, raftlogv1.AttemptState_ATTEMPT_STATE_LOST, raftlogv1.AttemptState_ATTEMPT_STATE_SUCCEEDED)
	nodes := [][]string{{"n1"}, {"n1"}, {"n1", "n2"}, {"n2"}, {"n2", "n1"}, {"n1", "n4"}, nil}[g.random.IntN(7)]
	stream := func() *raftlogv1.StreamRecord {
		s := &raftlogv1.StreamRecord{Bytes: uint64(g.pick(9, 9, 9, 8)), Missing: uint64(g.pick(0, 0, 0, 0, 5, 9, 10)), Sha256: make([]byte, 32)}
		if g.rarely(12) {
			s.Sha256 = nil
		}
		return s
	}
	return &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_RecordOutput{RecordOutput: &raftlogv1.RecordOutput{
		InvocationId: i.GetId(), NodeId: g.of([]string{"n1", "n1", "n1", "n2", "n3"}),
		Record: &raftlogv1.OutputRecord{Attempt: uint32(g.near(uint64(i.GetAttempt()))), NodeIds: nodes, Stdout: stream(), Stderr: stream()},
	}}}
}

func (g *gen) report() *raftlogv1.Mutation {
	i := g.invocation(raftlogv1.AttemptState_ATTEMPT_STATE_CLAIMED, raftlogv1.AttemptState_ATTEMPT_STATE_RUNNING, raftlogv1.AttemptState_ATTEMPT_STATE_LOST)
	m := &raftlogv1.ReportAttempt{
		InvocationId: i.GetId(), Attempt: uint32(g.near(uint64(i.GetAttempt()))), Fence: g.near(i.GetFence()), AgentId: i.GetAgentId(),
		SessionEpoch: g.epochOf(i.GetAgentId()), NodeId: g.holder(i.GetAgentId()), State: raftlogv1.AttemptState(g.pick(40, 40, 40, 40, 40, 50, 50, 50, 60, 60, 61, 62, 63, 64, 65, 66, 45, 30, 0)),
		Reason: strings.Repeat("é", g.pick(0, 1, 200)), Detail: strings.Repeat("d", g.pick(0, 2000)), CancelTooLate: g.rarely(5), Undo: g.undo(),
	}
	if !g.rarely(3) {
		m.Result = &raftlogv1.Result{JournalSeq: uint64(g.pick(0, 1, 2, 5)), Stdout: &raftlogv1.Output{Head: make([]byte, MaxOutputBytes+1)[:g.pick(0, 0, 0, 1, 1, MaxOutputBytes+1)]}}
	}
	for range g.pick(0, 0, 0, 1, 2, 3, MaxSteps+1) {
		if m.Result == nil {
			m.Result = &raftlogv1.Result{}
		}
		m.Result.Steps = append(m.Result.Steps, &raftlogv1.StepResult{
			Number: uint32(len(m.Result.Steps) + 1), Name: strings.Repeat("n", g.pick(1, 1, 1, MaxStepBytes, MaxStepBytes, MaxStepBytes+1)), State: raftlogv1.AttemptState(g.pick(40, 40, 60, 61)),
		})
	}
	return &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_ReportAttempt{ReportAttempt: m}}
}

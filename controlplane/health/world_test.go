package health

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/agentplane/agentplane/fsm"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

// world is a cluster of one real state machine. Its nodes and agents are only as much
// as a Monitor can see of them. It is a Proposer that applies at once.
type world struct {
	t testing.TB
	m *fsm.Machine

	mu     sync.Mutex // guards all below
	index  uint64
	term   uint64
	skew   time.Duration // of the cluster's time
	broken error         // what Propose answers
	lives  map[string]NodeLife
	tables map[string]func() (uint64, []HeldSession, error)
	kinds  map[string]int // mutations proposed, by kind
}

func newWorld(t testing.TB, nodes ...string) *world { return newWorldWith(t, fsm.Options{}, nodes...) }

func newWorldWith(t testing.TB, o fsm.Options, nodes ...string) *world {
	w := &world{
		t: t, m: fsm.New(o), lives: make(map[string]NodeLife),
		tables: make(map[string]func() (uint64, []HeldSession, error)), kinds: make(map[string]int),
	}
	w.takeOffice()
	row := func(id string) *raftlogv1.Node {
		return &raftlogv1.Node{Id: id, Name: id, Address: id + ":1", PublicKey: []byte("key of " + id), CaCertificate: []byte("ca"), StartCounter: 1, FeatureLevel: 1}
	}
	w.must(&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_InitCluster{InitCluster: &raftlogv1.InitCluster{
		ClusterId: "c", Incarnation: &raftlogv1.Incarnation{Number: 1, Id: make([]byte, 16)}, Node: row(nodes[0]), FeatureLevel: 1,
	}}})
	for _, id := range nodes[1:] {
		w.token(join(id), raftlogv1.TokenKind_TOKEN_KIND_NODE, 1)
		w.must(&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_RegisterNode{RegisterNode: &raftlogv1.RegisterNode{Node: row(id), TokenId: join(id)}}})
	}
	for _, id := range nodes {
		w.gossip(id, StateAlive)
		w.holds(id, 1)
	}
	return w
}

func (w *world) takeOffice() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.index++
	w.term++
	w.m.Apply(w.index, w.term, &raftlogv1.Entry{Format: raftlogv1.EntryFormat, Now: w.now(), Mutations: []*raftlogv1.Mutation{
		{Kind: &raftlogv1.Mutation_TakeOffice{TakeOffice: &raftlogv1.TakeOffice{NodeId: "a", Term: w.term}}},
	}})
}

func (w *world) now() int64 { return time.Now().Add(w.skew).UnixNano() }

func (w *world) Propose(ctx context.Context, mutations ...*raftlogv1.Mutation) ([]*raftlogv1.Outcome, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if w.broken != nil {
		return nil, w.broken
	}
	if len(mutations) > 128 {
		w.t.Errorf("%d mutations were proposed at once", len(mutations))
	}
	for _, mut := range mutations {
		w.kinds[fmt.Sprintf("%T", mut.GetKind())[len("*raftlogv1.Mutation_"):]]++
	}
	_, office := w.m.Published()
	w.index++
	return w.m.Apply(w.index, w.term, &raftlogv1.Entry{
		Format: raftlogv1.EntryFormat, LeaderEpoch: office.GetEpoch(), Now: w.now(), Mutations: mutations,
	}), nil
}

func (w *world) proposed(kind string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.kinds[kind]
}

func (w *world) must(mut *raftlogv1.Mutation) *raftlogv1.Outcome {
	w.t.Helper()
	o, err := w.Propose(context.Background(), mut)
	if err != nil || o[0].GetCode() != raftlogv1.Code_CODE_OK {
		w.t.Fatalf("%v: %v %v", mut, o, err)
	}
	return o[0]
}

// join is the id of the token with which the node joins.
func join(node string) string { return fmt.Sprintf("00000000-0000-7000-8001-%012x", node) }

func (w *world) token(id string, kind raftlogv1.TokenKind, uses uint32) {
	w.must(&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_CreateToken{CreateToken: &raftlogv1.CreateToken{
		Token: &raftlogv1.Token{Id: id, Kind: kind, ProofKey: []byte("p"), AuthenticatorHash: make([]byte, 32), MaxUses: uses}, Ttl: int64(time.Hour),
	}}})
}

// enrol makes n agents, whose sessions are ready on the nodes in turn.
func (w *world) enrol(n int, nodes ...string) []string {
	ids := make([]string, n)
	for i := range ids {
		ids[i] = fmt.Sprintf("agent-%05d", i)
		token := fmt.Sprintf("00000000-0000-7000-8000-%012d", i/20)
		if i%20 == 0 {
			w.token(token, raftlogv1.TokenKind_TOKEN_KIND_AGENT, 20)
		}
		w.must(&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_EnrollAgent{EnrollAgent: &raftlogv1.EnrollAgent{
			AgentId: ids[i], Name: ids[i], PublicKey: []byte("key of " + ids[i]), TokenId: token,
		}}})
		w.open(ids[i], nodes[i%len(nodes)])
	}
	return ids
}

// open opens a session and makes it ready.
func (w *world) open(agent, node string) (epoch uint64) {
	w.t.Helper()
	n, _ := w.m.View().Node(node)
	s, _ := w.m.View().Session(agent)
	epoch = w.must(&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_OpenSession{OpenSession: &raftlogv1.OpenSession{
		AgentId: agent, NodeId: node, NodeStartCounter: n.GetStartCounter(), SeenEpoch: s.GetEpoch(), PreviousEpoch: s.GetEpoch(),
		StreamId: fmt.Appendf(nil, "stream-%s-%d", agent, s.GetEpoch()), StartId: []byte("start"), Slots: 4,
		Journal: &raftlogv1.Journal{Id: []byte("journal")},
	}}}).GetNumber()
	w.must(&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_ReadySession{ReadySession: &raftlogv1.ReadySession{AgentId: agent, SessionEpoch: epoch, NodeId: node}}})
	return epoch
}

// end ends the agent's session with a grace.
func (w *world) end(agent string, grace time.Duration) {
	s, _ := w.m.View().Session(agent)
	w.must(&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_EndSession{EndSession: &raftlogv1.EndSession{
		AgentId: agent, SessionEpoch: s.GetEpoch(), Grace: int64(grace), Reason: "stream",
	}}})
}

// started says that a new process of the node has begun.
func (w *world) started(node string, start uint64) {
	w.must(&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_NodeStarted{NodeStarted: &raftlogv1.NodeStarted{NodeId: node, StartCounter: start, FeatureLevel: 1}}})
}

func (w *world) gossip(node string, s State) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lives[node] = NodeLife{ID: node, State: s, Since: time.Now()}
}

// forget makes gossip know nothing of the node.
func (w *world) forget(node string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.lives, node)
}

// holds makes the node answer what the state shows of the given start, but for some
// agents.
func (w *world) holds(node string, start uint64, but ...string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.tables[node] = func() (uint64, []HeldSession, error) {
		var held []HeldSession
		for s := range w.m.View().LiveSessions(node) {
			if s.GetNodeStartCounter() == start && !slices.Contains(but, s.GetAgentId()) {
				held = append(held, HeldSession{s.GetAgentId(), s.GetEpoch()})
			}
		}
		return start, held, nil
	}
}

func (w *world) silent(node string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.tables[node] = func() (uint64, []HeldSession, error) { return 0, nil, errors.New("no answer") }
}

func (w *world) breakProposals(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.broken = err
}

func (w *world) options() Options {
	return Options{
		Machine: w.m, Proposer: w,
		Nodes: func() []NodeLife {
			w.mu.Lock()
			defer w.mu.Unlock()
			return slices.Collect(maps.Values(w.lives))
		},
		Sessions: func(_ context.Context, node string) (uint64, []HeldSession, error) {
			w.mu.Lock()
			table := w.tables[node]
			w.mu.Unlock()
			return table()
		},
	}
}

// lead runs a Monitor until stop is called, which waits for its end.
func (w *world) lead(o Options) (m *Monitor, stop func()) {
	w.t.Helper()
	m, err := New(o)
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- m.Run(ctx) }()
	synctest.Wait()
	return m, func() {
		w.t.Helper()
		cancel()
		if err := <-ended; err != nil {
			w.t.Errorf("Run = %v", err)
		}
	}
}

// pass lets time pass and what follows from it happen.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// want fails unless the agents' sessions are in the state.
func (w *world) want(state raftlogv1.SessionState, agents ...string) {
	w.t.Helper()
	for _, id := range agents {
		if s, _ := w.m.View().Session(id); s.GetState() != state {
			w.t.Fatalf("session of %s is %s (%s), want %s", id, s.GetState(), s.GetReason(), state)
		}
	}
}

// in counts the agents whose session is in the state.
func (w *world) in(state raftlogv1.SessionState) (n int) {
	v := w.m.View()
	for a := range v.Agents() {
		if s, _ := v.Session(a.GetId()); s.GetState() == state {
			n++
		}
	}
	return n
}

const (
	ready        = raftlogv1.SessionState_SESSION_STATE_READY
	reconnecting = raftlogv1.SessionState_SESSION_STATE_RECONNECTING
	down         = raftlogv1.SessionState_SESSION_STATE_DOWN
)

package dispatch

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"

	"github.com/agentplane/agentplane/fsm"
	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

// fault is what a log does to one Propose call.
type fault int

const (
	fine      fault = iota
	refused         // nothing happens, an error is answered
	unknown         // it is applied, an error is answered
	forgotten       // it is applied twice, as by a proposer that repeats
	later           // it is applied after a while, an error is answered at once
)

var errUnknown = errors.New("outcome unknown")

// testLog is a cluster's log in memory: it applies entries to a leader's machine at
// once, and to the others, which lag, when told.
type testLog struct {
	t *testing.T

	mu       sync.Mutex
	index    uint64
	epoch    uint64
	entries  [][]byte // sealed; 0 is index 1
	machines []*fsm.Machine
	lagging  map[*fsm.Machine]bool
	fault    func(n int, ms []*raftlogv1.Mutation) fault
	calls    int
	ids      uint32
	largest  int // mutations in one call
	proposed []*raftlogv1.Mutation
	late     sync.WaitGroup
}

const nodes = 3

func nodeID(n int) string { return fmt.Sprintf("node-%d", n) }

func newLog(t *testing.T) *testLog {
	l := &testLog{t: t, lagging: make(map[*fsm.Machine]bool)}
	m := fsm.New(fsm.Options{})
	l.machines = []*fsm.Machine{m}
	o := l.must(&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_TakeOffice{TakeOffice: &raftlogv1.TakeOffice{NodeId: nodeID(0), Term: 1}}})
	l.epoch = o.GetNumber()
	l.must(&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_InitCluster{InitCluster: &raftlogv1.InitCluster{
		ClusterId: "c1", Incarnation: &raftlogv1.Incarnation{Number: 1, Id: make([]byte, 16)}, FeatureLevel: 1,
		Node: testNode(0),
	}}})
	for n := range nodes {
		if n > 0 {
			token := l.token(raftlogv1.TokenKind_TOKEN_KIND_NODE, 1)
			l.must(&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_RegisterNode{RegisterNode: &raftlogv1.RegisterNode{Node: testNode(n), TokenId: token}}})
		}
		l.must(&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_NodeStarted{NodeStarted: &raftlogv1.NodeStarted{NodeId: nodeID(n), StartCounter: 1, FeatureLevel: 1}}})
	}
	return l
}

func testNode(n int) *raftlogv1.Node {
	return &raftlogv1.Node{
		Id: nodeID(n), Name: nodeID(n), Address: fmt.Sprintf("10.0.0.%d:7460", n), PublicKey: []byte(nodeID(n)),
		CaCertificate: []byte("ca"), FeatureLevel: 1,
	}
}

func (l *testLog) token(kind raftlogv1.TokenKind, uses uint32) string {
	id := fmt.Sprintf("00000000-0000-7000-8000-%012d", l.index)
	sum := sha256.Sum256([]byte(id))
	l.must(&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_CreateToken{CreateToken: &raftlogv1.CreateToken{
		Token: &raftlogv1.Token{Id: id, Kind: kind, MaxUses: uses, ProofKey: []byte("k"), AuthenticatorHash: sum[:]}, Ttl: int64(1000 * time.Hour),
	}}})
	return id
}

// apply puts one entry into the log. Entries are sealed and opened, so that machines
// share nothing with proposers.
func (l *testLog) apply(ms ...*raftlogv1.Mutation) []*raftlogv1.Outcome {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.applyLocked(ms)
}

func (l *testLog) applyLocked(ms []*raftlogv1.Mutation) []*raftlogv1.Outcome {
	b, err := raftlogv1.Seal(&raftlogv1.Entry{Format: raftlogv1.EntryFormat, LeaderEpoch: l.epoch, Now: time.Now().UnixNano(), Mutations: ms})
	if err != nil {
		panic(err)
	}
	l.entries = append(l.entries, b)
	l.index++
	var outcomes []*raftlogv1.Outcome
	for i, m := range l.machines {
		if i == 0 {
			outcomes = l.deliver(m)
		} else if !l.lagging[m] {
			l.deliver(m)
		}
	}
	return outcomes
}

// deliver applies to m what it does not have; the outcomes are those of the last entry.
func (l *testLog) deliver(m *fsm.Machine) (outcomes []*raftlogv1.Outcome) {
	for at, _ := m.Published(); at < l.index; at++ {
		e, err := raftlogv1.Unseal(l.entries[at])
		if err != nil {
			panic(err)
		}
		outcomes = m.Apply(at+1, 1, e)
	}
	return outcomes
}

// machine returns a further replica.
func (l *testLog) machine(o fsm.Options) *fsm.Machine {
	l.mu.Lock()
	defer l.mu.Unlock()
	m := fsm.New(o)
	l.machines = append(l.machines, m)
	l.deliver(m)
	return m
}

func (l *testLog) lag(m *fsm.Machine, lag bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lagging[m] = lag
	if !lag {
		l.deliver(m)
	}
}

func (l *testLog) must(m *raftlogv1.Mutation) *raftlogv1.Outcome {
	l.t.Helper()
	o := l.apply(m)[0]
	if o.GetCode() != raftlogv1.Code_CODE_OK {
		l.t.Fatalf("%v: %v %s %s", m, o.GetCode(), o.GetReason(), o.GetDetail())
	}
	return o
}

func (l *testLog) faults(f func(n int, ms []*raftlogv1.Mutation) fault) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.fault = f
}

// Propose is the Proposer of every node.
func (l *testLog) Propose(ctx context.Context, ms ...*raftlogv1.Mutation) ([]*raftlogv1.Outcome, error) {
	l.mu.Lock()
	l.calls++
	l.largest = max(l.largest, len(ms))
	l.proposed = append(l.proposed, ms...)
	f := fine
	if l.fault != nil {
		f = l.fault(l.calls, ms)
	}
	l.mu.Unlock()
	t := time.NewTimer(time.Millisecond) // a commit takes time, in which others queue
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	switch f {
	case refused:
		return nil, errors.New("no leader")
	case unknown:
		l.apply(ms...)
		return nil, errUnknown
	case forgotten:
		l.apply(ms...)
		return l.apply(ms...), nil
	case later:
		l.late.Go(func() {
			time.Sleep(300 * time.Millisecond)
			l.apply(ms...)
		})
		return nil, errUnknown
	default:
		return l.apply(ms...), nil
	}
}

func (l *testLog) count(match func(*raftlogv1.Mutation) bool) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for _, m := range l.proposed {
		if match(m) {
			n++
		}
	}
	return n
}

// size returns the entries of the log and the calls of Propose so far.
func (l *testLog) size() (index uint64, calls int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.index, l.calls
}

func agentName(n int) string { return fmt.Sprintf("agent-%d", n) }
func agentKey(n int) []byte  { return []byte("key of " + agentName(n)) }

func (l *testLog) enroll(agents int) {
	token := l.token(raftlogv1.TokenKind_TOKEN_KIND_AGENT, 1000)
	for n := range agents {
		l.must(&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_EnrollAgent{EnrollAgent: &raftlogv1.EnrollAgent{
			AgentId: agentName(n), Name: agentName(n), PublicKey: agentKey(n), TokenId: token,
		}}})
	}
}

// commandID makes a UUIDv7 of the bubble's time. The one of package uuid never goes
// back, also when the next bubble begins in 2000 again.
func (l *testLog) commandID() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ids++
	var id uuid.UUID
	binary.BigEndian.PutUint64(id[:8], uint64(time.Now().UnixMilli())<<16)
	id[6], id[8] = 0x70, 0x80
	binary.BigEndian.PutUint32(id[12:], l.ids)
	return id.String()
}

// submit puts a command for the agents, released at once.
func (l *testLog) submit(edit func(*raftlogv1.SubmitCommand), agents ...int) string {
	l.t.Helper()
	id := l.commandID()
	m := &raftlogv1.SubmitCommand{
		Id: id, Envelope: []byte("envelope of " + id), Digest: []byte(id), Ttl: int64(time.Hour), QueueOffline: true,
		RunTimeout: int64(time.Minute), KillGrace: int64(10 * time.Second), Delivery: raftlogv1.Delivery_DELIVERY_AT_MOST_ONCE,
	}
	for _, n := range agents {
		a, _ := l.view().Agent(agentName(n))
		m.AgentOrdinals = append(m.AgentOrdinals, a.GetOrdinal())
	}
	if edit != nil {
		edit(m)
	}
	l.must(&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_SubmitCommand{SubmitCommand: m}})
	if m.GetRollout() != nil {
		l.must(&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_AdvanceRollout{AdvanceRollout: &raftlogv1.AdvanceRollout{CommandId: m.GetId(), Max: 10_000}}})
		return m.GetId()
	}
	l.must(&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_ReleaseCommand{ReleaseCommand: &raftlogv1.ReleaseCommand{CommandId: id, Max: 10000, Wave: 1}}})
	return id
}

func (l *testLog) cancel(id string) {
	l.must(&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_CancelCommand{CancelCommand: &raftlogv1.CancelCommand{CommandId: id}}})
}

func (l *testLog) view() *fsm.View { return l.machines[0].View() }

func (l *testLog) invocation(command string, agent int) *raftlogv1.Invocation {
	l.t.Helper()
	a, _ := l.view().Agent(agentName(agent))
	i, found := l.view().Invocation(fsm.InvocationID(command, a.GetOrdinal()))
	if !found {
		l.t.Fatalf("command %s has no invocation on agent %d", command, agent)
	}
	return i
}

func (l *testLog) session(agent int) *raftlogv1.Session {
	s, _ := l.view().Session(agentName(agent))
	return s
}

// testNodeRun is one node with its dispatcher.
type testNodeRun struct {
	*Dispatcher
	machine *fsm.Machine
	stop    func()
}

// node starts the n-th node on its own replica, and ends it with the test.
func (l *testLog) node(n int, edit func(*Options)) *testNodeRun {
	l.t.Helper()
	m := l.machine(fsm.Options{})
	o := Options{
		NodeID: nodeID(n), StartCounter: 1, Machine: m, Proposer: l,
		CatchUp: func(context.Context) error { l.lag(m, false); return nil },
		Caller:  callerOf,
		Bundle:  func() *agentplanev1.Bundle { return &agentplanev1.Bundle{Index: m.View().Cluster().GetTrustIndex()} },
	}
	if edit != nil {
		edit(&o)
	}
	d, err := New(o)
	if err != nil {
		l.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- d.Run(ctx) }()
	var once sync.Once
	run := &testNodeRun{Dispatcher: d, machine: m}
	run.stop = func() {
		once.Do(func() {
			cancel()
			if err := <-done; !errors.Is(err, context.Canceled) {
				l.t.Errorf("Run = %v", err)
			}
			l.late.Wait()
		})
	}
	l.t.Cleanup(run.stop)
	synctest.Wait()
	return run
}

type callerKey struct{}

type caller struct {
	id  string
	key []byte
}

func callerOf(ctx context.Context) (string, []byte, error) {
	c, ok := ctx.Value(callerKey{}).(caller)
	if !ok {
		return "", nil, errors.New("no caller")
	}
	return c.id, c.key, nil
}

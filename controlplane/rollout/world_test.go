package rollout

import (
	"cmp"
	"context"
	"fmt"
	"sync"
	"testing/synctest"
	"time"

	"github.com/google/uuid"

	"github.com/agentplane/agentplane/fsm"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

// failer is what *testing.T and *rapid.T share.
type failer interface {
	Helper()
	Fatalf(format string, args ...any)
	Errorf(format string, args ...any)
}

// world is one real state machine with agents that do what a test says. It is a
// Proposer that applies at once.
type world struct {
	t failer
	m *fsm.Machine

	mu      sync.Mutex // guards all below
	index   uint64
	term    uint64
	skew    time.Duration  // of the cluster's time
	broken  error          // what Propose answers
	largest map[string]int // by kind of mutation: rows or commands that an entry of the engine moved at most; "" = by all
	most    int            // mutations that Propose takes at once; 0 = maxBatch
	kinds   map[string]int // mutations proposed by the engine; "" = all
	ids     uint16
}

func newWorld(t failer, o fsm.Options) *world {
	w := &world{t: t, m: fsm.New(o), kinds: make(map[string]int), largest: make(map[string]int)}
	w.takeOffice()
	w.must(&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_InitCluster{InitCluster: &raftlogv1.InitCluster{
		ClusterId: "c", Incarnation: &raftlogv1.Incarnation{Number: 1, Id: make([]byte, 16)}, FeatureLevel: 1,
		Node: &raftlogv1.Node{Id: "a", Name: "a", Address: "a:1", PublicKey: []byte("key"), CaCertificate: []byte("ca"), StartCounter: 1, FeatureLevel: 1},
	}}})
	return w
}

func (w *world) takeOffice() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.index++
	w.term++
	w.m.Apply(w.index, w.term, &raftlogv1.Entry{Format: raftlogv1.EntryFormat, Now: time.Now().UnixNano(), Mutations: []*raftlogv1.Mutation{
		{Kind: &raftlogv1.Mutation_TakeOffice{TakeOffice: &raftlogv1.TakeOffice{NodeId: "a", Term: w.term}}},
	}})
}

func (w *world) apply(mutations ...*raftlogv1.Mutation) []*raftlogv1.Outcome {
	w.mu.Lock()
	defer w.mu.Unlock()
	_, office := w.m.Published()
	w.index++
	return w.m.Apply(w.index, w.term, &raftlogv1.Entry{
		Format: raftlogv1.EntryFormat, LeaderEpoch: office.GetEpoch(), Now: time.Now().Add(w.skew).UnixNano(), Mutations: mutations,
	})
}

// Propose is the engine's way into the state.
func (w *world) Propose(ctx context.Context, mutations ...*raftlogv1.Mutation) ([]*raftlogv1.Outcome, error) {
	w.mu.Lock()
	broken := w.broken
	w.mu.Unlock()
	if err := ctx.Err(); err != nil || broken != nil {
		return nil, cmp.Or(err, broken)
	}
	if most := cmp.Or(w.most, maxBatch); len(mutations) > most {
		return nil, fmt.Errorf("%d mutations were proposed at once, at most %d are allowed", len(mutations), most)
	}
	outcomes := w.apply(mutations...)
	w.mu.Lock()
	defer w.mu.Unlock()
	moved := make(map[string]int)
	for i, o := range outcomes {
		kind := fmt.Sprintf("%T", mutations[i].GetKind())[len("*raftlogv1.Mutation_"):]
		w.kinds[kind]++
		w.kinds[""]++
		moved[kind] += int(o.GetCount())
		moved[""] += int(o.GetCount())
	}
	for kind, rows := range moved {
		w.largest[kind] = max(w.largest[kind], rows)
	}
	return outcomes, nil
}

func (w *world) proposed(kind string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.kinds[kind]
}

// largestEntry is how much the mutations of a kind moved at most in one entry; "" means
// all kinds.
func (w *world) largestEntry(kind string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.largest[kind]
}

func (w *world) breakProposals(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.broken = err
}

func (w *world) must(mut *raftlogv1.Mutation) *raftlogv1.Outcome {
	w.t.Helper()
	o := w.apply(mut)[0]
	if o.GetCode() != raftlogv1.Code_CODE_OK {
		w.t.Fatalf("%v: %v", mut, o)
	}
	return o
}

// enrol makes n agents with numbers 1 to n and ready sessions, and returns the
// numbers.
func (w *world) enrol(n int) []uint32 {
	ordinals := make([]uint32, n)
	for i := range ordinals {
		token, id := fmt.Sprintf("00000000-0000-7000-8000-%012d", i/20), agentID(uint32(i+1))
		if i%20 == 0 {
			w.must(&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_CreateToken{CreateToken: &raftlogv1.CreateToken{
				Token: &raftlogv1.Token{Id: token, Kind: raftlogv1.TokenKind_TOKEN_KIND_AGENT, ProofKey: []byte("p"), AuthenticatorHash: make([]byte, 32), MaxUses: 20}, Ttl: int64(time.Hour),
			}}})
		}
		w.must(&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_EnrollAgent{EnrollAgent: &raftlogv1.EnrollAgent{
			AgentId: id, Name: id, PublicKey: []byte("key of " + id), TokenId: token,
		}}})
		ordinals[i] = uint32(i + 1)
		w.open(ordinals[i])
	}
	return ordinals
}

func agentID(ordinal uint32) string { return fmt.Sprintf("agent-%05d", ordinal) }

// open opens a session and makes it ready, unless the grant limit forbids it.
func (w *world) open(ordinal uint32) bool {
	id := agentID(ordinal)
	s, _ := w.m.View().Session(id)
	o := w.apply(&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_OpenSession{OpenSession: &raftlogv1.OpenSession{
		AgentId: id, NodeId: "a", NodeStartCounter: 1, SeenEpoch: s.GetEpoch(), PreviousEpoch: s.GetEpoch(),
		StreamId: fmt.Appendf(nil, "stream-%s-%d", id, s.GetEpoch()), StartId: []byte("start"), Slots: 4,
		Journal: &raftlogv1.Journal{Id: []byte("journal"), Seq: s.GetJournal().GetSeq()},
	}}})[0]
	if o.GetCode() != raftlogv1.Code_CODE_OK {
		return false
	}
	w.must(&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_ReadySession{ReadySession: &raftlogv1.ReadySession{AgentId: id, SessionEpoch: o.GetNumber(), NodeId: "a"}}})
	return true
}

func (w *world) end(ordinal uint32) {
	s, _ := w.m.View().Session(agentID(ordinal))
	w.must(&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_EndSession{EndSession: &raftlogv1.EndSession{AgentId: agentID(ordinal), SessionEpoch: s.GetEpoch(), Grace: int64(time.Second)}}})
}

// submit submits a command; edit may change it.
func (w *world) submit(targets []uint32, edit func(*raftlogv1.SubmitCommand)) string {
	w.t.Helper()
	w.mu.Lock()
	w.ids++
	id := uuid.UUID{6: 0x70, 8: 0x80, 14: byte(w.ids >> 8), 15: byte(w.ids)}
	w.mu.Unlock()
	ms := time.Now().UnixMilli()
	for i := range 6 {
		id[i] = byte(ms >> (40 - 8*i))
	}
	m := &raftlogv1.SubmitCommand{
		Id: id.String(), Envelope: []byte("e"), Digest: []byte("d"), AgentOrdinals: targets, Ttl: int64(5 * time.Minute),
		RunTimeout: int64(10 * time.Minute), KillGrace: int64(10 * time.Second), QueueOffline: true,
	}
	if edit != nil {
		edit(m)
	}
	w.must(&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_SubmitCommand{SubmitCommand: m}})
	return m.GetId()
}

func (w *world) invocation(command string, ordinal uint32) *raftlogv1.Invocation {
	i, _ := w.m.View().Invocation(fsm.InvocationID(command, ordinal))
	return i
}

// claim claims what is released, as the agent's node does; it may be refused.
func (w *world) claim(command string, ordinal uint32) bool {
	i := w.invocation(command, ordinal)
	s, _ := w.m.View().Session(i.GetAgentId())
	return w.apply(&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_ClaimAttempt{ClaimAttempt: &raftlogv1.ClaimAttempt{
		InvocationId: i.GetId(), Attempt: i.GetAttempt(), AgentId: i.GetAgentId(), SessionEpoch: s.GetEpoch(), NodeId: "a",
	}}})[0].GetCode() == raftlogv1.Code_CODE_OK
}

// report reports a claimed attempt in the state; it may be refused.
func (w *world) report(command string, ordinal uint32, state raftlogv1.AttemptState) bool {
	return w.tell(command, ordinal, state, nil)
}

// tellUndo reports how the undo of an attempt that runs stands.
func (w *world) tellUndo(command string, ordinal uint32, u *raftlogv1.Undo) bool {
	return w.tell(command, ordinal, runs, u)
}

func (w *world) tell(command string, ordinal uint32, state raftlogv1.AttemptState, u *raftlogv1.Undo) bool {
	i := w.invocation(command, ordinal)
	s, _ := w.m.View().Session(i.GetAgentId())
	return w.apply(&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_ReportAttempt{ReportAttempt: &raftlogv1.ReportAttempt{
		InvocationId: i.GetId(), Attempt: i.GetAttempt(), Fence: i.GetFence(), AgentId: i.GetAgentId(), SessionEpoch: s.GetEpoch(), NodeId: "a", State: state, Undo: u,
	}}})[0].GetCode() == raftlogv1.Code_CODE_OK
}

func (w *world) options() Options { return Options{Machine: w.m, Proposer: w} }

// lead runs an Engine until stop is called, which waits for its end.
func (w *world) lead(o Options) (stop func()) {
	w.t.Helper()
	e, err := New(o)
	if err != nil {
		w.t.Fatalf("%v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- e.Run(ctx) }()
	synctest.Wait()
	return func() {
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

// want fails unless the command has so many invocations in each state.
func (w *world) want(command string, counts Counts) {
	w.t.Helper()
	c, found := w.m.View().Command(command)
	if !found {
		w.t.Fatalf("command %s is gone", command)
	}
	got := CountsOf(c)
	for state, n := range counts {
		if got[state] != n {
			w.t.Fatalf("%d invocations are %s, want %d; all: %v", got[state], state, n, got)
		}
	}
}

// wantReason fails unless the invocation was ended with the reason.
func (w *world) wantReason(command string, ordinal uint32, reason string) {
	w.t.Helper()
	if i := w.invocation(command, ordinal); i.GetReason() != reason {
		w.t.Fatalf("invocation is %s(%s), want reason %q", i.GetState(), i.GetReason(), reason)
	}
}

const (
	pending   = raftlogv1.AttemptState_ATTEMPT_STATE_PENDING
	released  = raftlogv1.AttemptState_ATTEMPT_STATE_RELEASED
	claimed   = raftlogv1.AttemptState_ATTEMPT_STATE_CLAIMED
	runs      = raftlogv1.AttemptState_ATTEMPT_STATE_RUNNING
	lost      = raftlogv1.AttemptState_ATTEMPT_STATE_LOST
	succeeded = raftlogv1.AttemptState_ATTEMPT_STATE_SUCCEEDED
	canceled  = raftlogv1.AttemptState_ATTEMPT_STATE_CANCELED
	expired   = raftlogv1.AttemptState_ATTEMPT_STATE_EXPIRED
)

// Counts is how many invocations of a command are in each state.
type Counts map[raftlogv1.AttemptState]uint32

// CountsOf reads them from the command's row.
func CountsOf(c *raftlogv1.Command) Counts {
	counts := make(Counts, len(c.GetCounts()))
	for _, n := range c.GetCounts() {
		counts[n.GetState()] = n.GetCount()
	}
	return counts
}

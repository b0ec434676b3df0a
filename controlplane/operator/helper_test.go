package operator

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"net/url"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/agentplane/agentplane/fsm"
	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/identity"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

const testCluster = "c1"

var testStart = time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)

// world is one cluster as the services see it: the real machine behind a log in
// memory, and hands on everything else.
type world struct {
	*Services
	t  testing.TB
	m  *fsm.Machine
	ca *testCA

	mu         sync.Mutex // guards the log and the hands below
	index      uint64
	epoch      uint64
	now        time.Time
	cfg        Configuration
	gossip     map[string]string
	proposeErr error // the next proposals fail so, without an entry
	afterErr   error // the next proposals are applied, then fail so
	deposed    bool  // entries come from an older leader
	readErr    error
	transfers  []string
	removed    []string
	transfer   func(to string) error
	leaving    func(id string) // called before a server leaves raft
	caller     testCaller
	reads      int
}

type testCaller struct {
	name, kind string
	key        []byte
	from       string
}

func newWorld(t testing.TB, edit ...func(*Options)) *world {
	t.Helper()
	return newWorldOn(t, fsm.New(fsm.Options{}), edit...)
}

func newWorldOn(t testing.TB, m *fsm.Machine, edit ...func(*Options)) *world {
	t.Helper()
	w := &world{
		t: t, m: m, now: testStart, cfg: Configuration{Index: 7, Voters: []string{"n1"}, Leader: "n1"},
		gossip: map[string]string{}, caller: testCaller{name: "alice", kind: "operator", from: "10.0.0.9:1"},
	}
	w.ca = newCA(t, "n1")
	out := w.apply(0, &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_TakeOffice{TakeOffice: &raftlogv1.TakeOffice{NodeId: "n1", Term: 1}}})
	w.epoch = out[0].GetNumber()
	w.must(&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_InitCluster{InitCluster: &raftlogv1.InitCluster{
		ClusterId: testCluster, Incarnation: &raftlogv1.Incarnation{Number: 1, Id: []byte("0123456789abcdef")}, FeatureLevel: 1,
		Keyring: []*raftlogv1.GossipKey{{Key: []byte("ring")}},
		Node: &raftlogv1.Node{
			Id: "n1", Name: "node-a", Address: "10.0.0.1:7460", PublicKey: mustKey(t).Public(), CaCertificate: w.ca.der, Candidate: true, FeatureLevel: 1,
		},
	}}})
	o := Options{
		NodeID: "n1", Version: "1.0", Machine: w.m, Proposer: w, Raft: w, Issuer: w.ca,
		Read: func(ctx context.Context, _ bool) (*fsm.View, error) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.reads++
			if w.readErr != nil {
				return nil, w.readErr
			}
			return w.m.View(), nil
		},
		Caller: func(context.Context) (string, string, []byte, string) {
			w.mu.Lock()
			defer w.mu.Unlock()
			return w.caller.name, w.caller.kind, w.caller.key, w.caller.from
		},
		Peers: func() map[string]string { return w.gossip },
		Now: func() time.Time {
			w.mu.Lock()
			defer w.mu.Unlock()
			return w.now
		},
	}
	for _, e := range edit {
		e(&o)
	}
	s, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	w.Services = s
	return w
}

func (w *world) Propose(_ context.Context, muts ...*raftlogv1.Mutation) ([]*raftlogv1.Outcome, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.proposeErr != nil {
		return nil, w.proposeErr
	}
	epoch := w.epoch
	if w.deposed {
		epoch--
	}
	out := w.applyLocked(epoch, muts...)
	if w.afterErr != nil {
		return nil, w.afterErr
	}
	return out, nil
}

func (w *world) apply(epoch uint64, muts ...*raftlogv1.Mutation) []*raftlogv1.Outcome {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.applyLocked(epoch, muts...)
}

func (w *world) applyLocked(epoch uint64, muts ...*raftlogv1.Mutation) []*raftlogv1.Outcome {
	w.index++
	e := &raftlogv1.Entry{Format: raftlogv1.EntryFormat, LeaderEpoch: epoch, Now: w.now.UnixNano(), Mutations: muts}
	b, err := proto.Marshal(e) // as the log has it
	if err != nil {
		panic(err)
	}
	again := new(raftlogv1.Entry)
	if err := proto.Unmarshal(b, again); err != nil {
		panic(err)
	}
	return w.m.Apply(w.index, 1, again)
}

// must applies mutations that are granted.
func (w *world) must(muts ...*raftlogv1.Mutation) *raftlogv1.Outcome {
	w.t.Helper()
	out := w.apply(w.epoch, muts...)
	for _, o := range out {
		if o.GetCode() != raftlogv1.Code_CODE_OK {
			w.t.Fatalf("outcome %v", o)
		}
	}
	return out[0]
}

func (w *world) pass(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now = w.now.Add(d)
}

func (w *world) set(f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f()
}

func (w *world) Configuration() Configuration {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.cfg
}

func (w *world) Term() uint64 { return 1 }

func (w *world) Transfer(_ context.Context, to string) error {
	w.transfers = append(w.transfers, to)
	if w.transfer != nil {
		return w.transfer(to)
	}
	return nil
}

func (w *world) RemoveServer(_ context.Context, id string, previous uint64) error {
	if previous != w.cfg.Index {
		return fmt.Errorf("configuration is at %d, not %d", w.cfg.Index, previous)
	}
	if w.leaving != nil {
		w.leaving(id)
	}
	w.removed = append(w.removed, id)
	is := func(other string) bool { return other == id }
	w.cfg.Voters, w.cfg.NonVoters = slices.DeleteFunc(w.cfg.Voters, is), slices.DeleteFunc(w.cfg.NonVoters, is)
	return nil
}

// agent enrols an agent and, when online, opens its session.
func (w *world) agent(id, name string, online bool, labels ...*raftlogv1.Label) {
	w.t.Helper()
	tok := mustToken(w.t)
	w.must(createToken(tok, raftlogv1.TokenKind_TOKEN_KIND_AGENT))
	w.must(&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_EnrollAgent{EnrollAgent: &raftlogv1.EnrollAgent{
		AgentId: id, Name: name, PublicKey: mustKey(w.t).Public(), TokenId: tok.ID(), Labels: labels,
	}}})
	if online {
		w.session(id)
	}
}

// session opens a session of the agent and makes it ready.
func (w *world) session(id string) uint64 {
	w.t.Helper()
	s, _ := w.m.View().Session(id)
	o := w.must(&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_OpenSession{OpenSession: &raftlogv1.OpenSession{
		AgentId: id, NodeId: "n1", SeenEpoch: s.GetEpoch(), StreamId: []byte(uuid.NewString()), StartId: []byte("start"), Slots: 4,
		Journal: &raftlogv1.Journal{Id: []byte("journal-" + id)}, PreviousEpoch: s.GetEpoch(),
	}}})
	w.must(&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_ReadySession{ReadySession: &raftlogv1.ReadySession{AgentId: id, SessionEpoch: o.GetNumber(), NodeId: "n1"}}})
	return o.GetNumber()
}

func (w *world) endSession(id string, left bool) {
	w.t.Helper()
	s, _ := w.m.View().Session(id)
	w.must(&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_EndSession{EndSession: &raftlogv1.EndSession{
		AgentId: id, SessionEpoch: s.GetEpoch(), Left: left, Grace: int64(30 * time.Second), Reason: "stream_broke",
	}}})
}

// node registers a further node.
func (w *world) node(id, name string, candidate bool) {
	w.t.Helper()
	tok := mustToken(w.t)
	mut := createToken(tok, raftlogv1.TokenKind_TOKEN_KIND_NODE)
	mut.GetCreateToken().Token.Candidate = candidate
	w.must(mut)
	w.must(&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_RegisterNode{RegisterNode: &raftlogv1.RegisterNode{TokenId: tok.ID(), Node: &raftlogv1.Node{
		Id: id, Name: name, Address: name + ":7460", PublicKey: mustKey(w.t).Public(), CaCertificate: newCA(w.t, id).der, FeatureLevel: 1,
	}}}})
}

func createToken(tok identity.Token, kind raftlogv1.TokenKind) *raftlogv1.Mutation {
	rec := tok.Record()
	return &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_CreateToken{CreateToken: &raftlogv1.CreateToken{Ttl: int64(time.Hour), Token: &raftlogv1.Token{
		Id: rec.ID, Kind: kind, ProofKey: rec.ProofKey.Reveal(), AuthenticatorHash: rec.AuthenticatorHash, MaxUses: 1,
	}}}}
}

// spec is a command for the selector, as a client makes it.
func (w *world) spec(selector string) *agentplanev1.CommandSpec {
	id, err := uuid.NewV7()
	if err != nil {
		w.t.Fatal(err)
	}
	ms := uint64(w.now.UnixMilli()) // of the cluster, not of this machine
	for i := range 6 {
		id[i] = byte(ms >> (40 - 8*i))
	}
	c := w.m.View().Cluster()
	return &agentplanev1.CommandSpec{
		ClusterId: testCluster, Incarnation: incarnation(c), CommandId: id.String(), Selector: selector, Argv: []string{"uptime", "-p"},
		RunTimeout: int64(time.Minute), KillGrace: int64(time.Second), NotAfter: w.now.Add(5 * time.Minute).UnixNano(),
		Delivery: agentplanev1.Delivery_DELIVERY_AT_MOST_ONCE,
	}
}

func (w *world) submit(spec *agentplanev1.CommandSpec) *agentplanev1.Command {
	w.t.Helper()
	r, err := w.Commands.Submit(w.t.Context(), &agentplanev1.SubmitRequest{Envelope: envelope(w.t, spec)})
	if err != nil {
		w.t.Fatal(err)
	}
	return r.GetCommand()
}

func envelope(t testing.TB, spec *agentplanev1.CommandSpec) []byte {
	t.Helper()
	b, err := proto.Marshal(spec)
	if err != nil {
		t.Fatal(err)
	}
	e, err := proto.Marshal(&agentplanev1.Envelope{Spec: b})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// run takes the invocation on the agent from PENDING to the state.
func (w *world) run(commandID, agentID string, state raftlogv1.AttemptState, r *raftlogv1.Result) {
	w.t.Helper()
	a, _ := w.m.View().Agent(agentID)
	s, _ := w.m.View().Session(agentID)
	id := fsm.InvocationID(commandID, a.GetOrdinal())
	i, _ := w.m.View().Invocation(id)
	c, _ := w.m.View().Command(commandID)
	if i.GetState() == raftlogv1.AttemptState_ATTEMPT_STATE_PENDING {
		w.must(&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_ReleaseCommand{ReleaseCommand: &raftlogv1.ReleaseCommand{
			CommandId: commandID, ExpectedReleased: c.GetReleased(), Max: fsm.MaxTargets,
		}}})
	}
	if i.GetFence() == 0 {
		w.must(&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_ClaimAttempt{ClaimAttempt: &raftlogv1.ClaimAttempt{
			InvocationId: id, Attempt: 1, AgentId: agentID, SessionEpoch: s.GetEpoch(), NodeId: "n1",
		}}})
	}
	i, _ = w.m.View().Invocation(id)
	w.must(&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_ReportAttempt{ReportAttempt: &raftlogv1.ReportAttempt{
		InvocationId: id, Attempt: 1, Fence: i.GetFence(), AgentId: agentID, SessionEpoch: s.GetEpoch(), NodeId: "n1", State: state, Result: r,
	}}})
}

func label(name, value string) *raftlogv1.Label { return &raftlogv1.Label{Name: name, Value: value} }

func mustKey(t testing.TB) identity.Key {
	t.Helper()
	k, err := identity.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func mustToken(t testing.TB) identity.Token {
	t.Helper()
	id := uuid.New()
	id[6] = 0x70 | id[6]&0x0f // of a time that no clock here is behind
	copy(id[:6], make([]byte, 6))
	tok, err := identity.NewTokenWithID(id.String())
	if err != nil {
		t.Fatal(err)
	}
	return tok
}

// testCA is a node's CA as bundles accept one.
type testCA struct {
	key  identity.Key
	cert *x509.Certificate
	der  []byte
	fail error
}

func newCA(t testing.TB, nodeID string) *testCA {
	t.Helper()
	key := mustKey(t)
	uri, err := url.Parse(identity.CAName(testCluster, nodeID))
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: nodeID}, NotBefore: testStart.AddDate(-1, 0, 0), NotAfter: testStart.AddDate(10, 0, 0),
		BasicConstraintsValid: true, IsCA: true, MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign, URIs: []*url.URL{uri},
		PermittedDNSDomainsCritical: true, PermittedURIDomains: []string{testCluster},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Signer().Public(), key.Signer())
	if err != nil {
		t.Fatal(err)
	}
	cert, err := identity.CA{NodeID: nodeID, CertDER: der}.Certificate(testCluster)
	if err != nil {
		t.Fatal(err)
	}
	return &testCA{key: key, cert: cert, der: der}
}

func (c *testCA) CACertificate() []byte { return c.der }

func (c *testCA) Issue(kind, name string, publicKey []byte) ([]byte, error) {
	if c.fail != nil {
		return nil, c.fail
	}
	public, err := identity.PublicKey(publicKey).Parse()
	if err != nil {
		return nil, err
	}
	uri, err := url.Parse(identity.ID{Cluster: testCluster, Kind: identity.Kind(kind), Name: name}.String())
	if err != nil {
		return nil, err
	}
	return x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(2), NotBefore: testStart, NotAfter: testStart.AddDate(0, 1, 0), URIs: []*url.URL{uri},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, KeyUsage: x509.KeyUsageDigitalSignature,
	}, c.cert, public, c.key.Signer())
}

// wantRefusal fails unless err is a refusal with code and reason.
func wantRefusal(t *testing.T, err error, code codes.Code, reason string) {
	t.Helper()
	d := agentplanev1.DetailOf(err)
	if status.Code(err) != code || d.GetReason() != reason {
		t.Fatalf("got %v (reason %q, hint %q), want %v with reason %q", err, d.GetReason(), d.GetHint(), code, reason)
	}
}

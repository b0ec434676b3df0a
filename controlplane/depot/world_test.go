package depot

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	"github.com/agentplane/agentplane/fsm"
	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/blob"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world is nodes with stores of their own over one state, and one agent.
type world struct {
	t       testing.TB
	machine *fsm.Machine
	nodes   map[string]*testNode
	voters  []string
	options func(*Options)
	store   StoreOptions

	mu    sync.Mutex
	index uint64
	now   int64
	stuck bool // nobody proposes anything
}

type testNode struct {
	w     *world
	id    string
	dir   string
	store *Store
	*Service
	server *grpc.Server
	listen *bufconn.Listener
	conns  map[string]*grpc.ClientConn
	stop   func()

	mu sync.Mutex
	up bool
}

const (
	theAgent = "web-1"
	tokenID  = "00000000-0000-7000-8000-000000000001"
)

func newWorld(t testing.TB, change ...func(*world)) *world {
	w := &world{t: t, machine: fsm.New(fsm.Options{}), nodes: make(map[string]*testNode), now: time.Now().UnixNano(), voters: []string{"a", "b", "c"}, options: func(*Options) {}}
	for _, f := range change {
		f(w)
	}
	w.apply(&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_TakeOffice{TakeOffice: &raftlogv1.TakeOffice{NodeId: "a", Term: 1}}})
	w.apply(&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_InitCluster{InitCluster: &raftlogv1.InitCluster{
		ClusterId: "c", Incarnation: &raftlogv1.Incarnation{Number: 1, Id: make([]byte, 16)}, FeatureLevel: 1, Node: nodeRow("a"),
	}}})
	w.start("a")
	for _, id := range []string{"b", "c"} {
		w.join(id)
	}
	w.token(tokenID, raftlogv1.TokenKind_TOKEN_KIND_AGENT)
	w.apply(&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_EnrollAgent{EnrollAgent: &raftlogv1.EnrollAgent{AgentId: theAgent, Name: "web", PublicKey: []byte("k"), TokenId: tokenID}}})
	w.session("a")
	return w
}

func nodeRow(id string) *raftlogv1.Node {
	return &raftlogv1.Node{Id: id, Name: id, Address: id + ":1", PublicKey: []byte(id), CaCertificate: []byte("ca"), FeatureLevel: 1}
}

func (w *world) token(id string, kind raftlogv1.TokenKind) {
	hash := sha256.Sum256(nil)
	w.apply(&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_CreateToken{CreateToken: &raftlogv1.CreateToken{Ttl: 1e15, Token: &raftlogv1.Token{
		Id: id, Kind: kind, ProofKey: []byte("p"), AuthenticatorHash: hash[:], MaxUses: 1,
	}}}})
}

// join registers a node and starts it.
func (w *world) join(id string) {
	k := fmt.Sprintf("00000000-0000-7000-8000-0000000000%02x", id[0])
	w.token(k, raftlogv1.TokenKind_TOKEN_KIND_NODE)
	w.apply(&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_RegisterNode{RegisterNode: &raftlogv1.RegisterNode{TokenId: k, Node: nodeRow(id)}}})
	w.start(id)
}

func (w *world) start(id string) {
	n := &testNode{w: w, id: id, dir: w.t.TempDir(), conns: make(map[string]*grpc.ClientConn)}
	w.nodes[id] = n
	n.start()
}

// Propose makes the world a Proposer.
func (w *world) Propose(_ context.Context, mutations ...*raftlogv1.Mutation) ([]*raftlogv1.Outcome, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.stuck {
		return nil, errors.New("nobody leads")
	}
	w.index++
	_, office := w.machine.Published()
	e := &raftlogv1.Entry{Format: 1, LeaderEpoch: office.GetEpoch(), Now: w.now, Mutations: mutations}
	if _, takes := mutations[0].GetKind().(*raftlogv1.Mutation_TakeOffice); takes {
		e.LeaderEpoch = 0
	}
	return w.machine.Apply(w.index, 1, e), nil
}

func (w *world) apply(m *raftlogv1.Mutation) *raftlogv1.Outcome {
	w.t.Helper()
	o, err := w.Propose(context.Background(), m)
	must(w.t, err)
	if o[0].GetCode() != raftlogv1.Code_CODE_OK {
		w.t.Fatalf("%v is answered %v", m, o[0])
	}
	return o[0]
}

// advance lets the cluster's time pass.
func (w *world) advance(d time.Duration) {
	w.mu.Lock()
	w.now += int64(d)
	w.mu.Unlock()
	w.apply(&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_PutSetting{PutSetting: &raftlogv1.PutSetting{Key: "k", Value: uuid.NewString(), ExpectedVersion: w.settingVersion()}}})
}

func (w *world) settingVersion() uint64 {
	s, _ := w.machine.View().Setting("k")
	return s.GetVersion()
}

func (w *world) session(node string) {
	s, _ := w.machine.View().Session(theAgent)
	w.apply(&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_OpenSession{OpenSession: &raftlogv1.OpenSession{
		AgentId: theAgent, NodeId: node, SeenEpoch: s.GetEpoch(), PreviousEpoch: s.GetEpoch(), StreamId: []byte(uuid.NewString()), StartId: []byte("p"),
		Journal: &raftlogv1.Journal{Id: []byte("journal"), Seq: s.GetJournal().GetSeq()}, Slots: 8,
	}}})
	s, _ = w.machine.View().Session(theAgent)
	w.apply(&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_ReadySession{ReadySession: &raftlogv1.ReadySession{AgentId: theAgent, SessionEpoch: s.GetEpoch(), NodeId: node}}})
}

// submit submits a command that names the blobs, and gives its id.
func (w *world) submit(refs ...blob.Ref) string {
	id := uuid.Must(uuid.NewV7()).String()
	m := &raftlogv1.SubmitCommand{Id: id, Envelope: []byte("e"), Digest: []byte("d"), AgentOrdinals: []uint32{1}, Ttl: 1e15, RunTimeout: 1e9, Release: 1}
	for _, r := range refs {
		m.Blobs = append(m.Blobs, &raftlogv1.BlobRef{Sha256: r.Sum, Size: uint64(r.Size)})
	}
	w.apply(&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_SubmitCommand{SubmitCommand: m}})
	return id
}

// claim claims the command for the agent, and gives the invocation.
func (w *world) claim(command string) string {
	s, _ := w.machine.View().Session(theAgent)
	w.apply(&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_ClaimAttempt{ClaimAttempt: &raftlogv1.ClaimAttempt{
		InvocationId: fsm.InvocationID(command, 1), Attempt: 1, AgentId: theAgent, SessionEpoch: s.GetEpoch(), NodeId: s.GetNodeId(),
	}}})
	return fsm.InvocationID(command, 1)
}

func (w *world) cancel(command string) {
	w.apply(&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_CancelCommand{CancelCommand: &raftlogv1.CancelCommand{CommandId: command}}})
}

func (n *testNode) start() {
	w := n.w
	o := w.store
	o.Dir = n.dir
	store, err := OpenStore(o)
	must(w.t, err)
	options := Options{
		NodeID: n.id, Store: store, Machine: w.machine, Proposer: w, Peers: n, Voters: func() []string { return w.voters },
		Read:  func(context.Context, bool) (*fsm.View, error) { return w.machine.View(), nil },
		Agent: func(context.Context) string { return theAgent }, SweepEvery: time.Hour,
	}
	w.options(&options)
	s, err := New(options)
	must(w.t, err)
	n.store, n.Service = store, s
	listen := bufconn.Listen(1 << 20)
	n.server = grpc.NewServer(grpc.WaitForHandlers(true))
	agentplanev1.RegisterBlobServiceServer(n.server, s)
	agentplanev1.RegisterAgentServiceServer(n.server, agentAPI{s: s})
	agentplanev1.RegisterPeerServiceServer(n.server, peerAPI{s: s})
	n.mu.Lock()
	n.up, n.listen = true, listen
	n.mu.Unlock()
	server := n.server
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = server.Serve(listen)
	}()
	var once sync.Once
	n.stop = func() {
		once.Do(func() {
			n.mu.Lock()
			n.up = false
			n.mu.Unlock()
			server.Stop()
			<-served
		})
	}
	w.t.Cleanup(n.stop)
}

// conn connects to a node, whichever life of it.
func (w *world) conn(id string) *grpc.ClientConn {
	c, err := grpc.NewClient("passthrough:///"+id, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithConnectParams(grpc.ConnectParams{MinConnectTimeout: time.Second}),
		grpc.WithContextDialer(func(ctx context.Context, id string) (net.Conn, error) {
			n := w.nodes[id]
			n.mu.Lock()
			up, listen := n.up, n.listen
			n.mu.Unlock()
			if !up {
				return nil, errors.New("connection refused")
			}
			return listen.DialContext(ctx)
		}))
	must(w.t, err)
	w.t.Cleanup(func() { _ = c.Close() })
	return c
}

// Client and Linked make a node the Peers of itself.
func (n *testNode) Client(id string) (agentplanev1.PeerServiceClient, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.conns[id] == nil {
		n.conns[id] = n.w.conn(id)
	}
	return agentplanev1.NewPeerServiceClient(n.conns[id]), nil
}

func (n *testNode) Linked() map[string]time.Time {
	all := make(map[string]time.Time)
	for id, p := range n.w.nodes {
		p.mu.Lock()
		if p.up && id != n.id {
			all[id] = time.Time{}
		}
		p.mu.Unlock()
	}
	return all
}

type agentAPI struct {
	agentplanev1.UnimplementedAgentServiceServer
	s *Service
}

func (a agentAPI) FetchBlob(req *agentplanev1.FetchBlobRequest, stream grpc.ServerStreamingServer[agentplanev1.FetchBlobResponse]) error {
	return a.s.FetchBlob(req, stream)
}

type peerAPI struct {
	agentplanev1.UnimplementedPeerServiceServer
	s *Service
}

func (a peerAPI) StoreBlob(stream grpc.ClientStreamingServer[agentplanev1.StoreBlobRequest, agentplanev1.StoreBlobResponse]) error {
	return a.s.StoreBlob(stream)
}

func (a peerAPI) ReadBlob(req *agentplanev1.ReadBlobRequest, stream grpc.ServerStreamingServer[agentplanev1.ReadBlobResponse]) error {
	return a.s.ReadBlob(req, stream)
}

func refOfText(t testing.TB, content string) blob.Ref {
	t.Helper()
	r, err := blob.Of(bytes.NewReader([]byte(content)))
	must(t, err)
	return r
}

// upload uploads what is said to be r through a node.
func (w *world) upload(node string, r blob.Ref, content string) (*agentplanev1.UploadBlobResponse, error) {
	ctx, cancel := context.WithTimeout(w.t.Context(), 20*time.Second)
	defer cancel()
	stream, err := agentplanev1.NewBlobServiceClient(w.conn(node)).UploadBlob(ctx)
	if err != nil {
		return nil, err
	}
	must(w.t, stream.Send(&agentplanev1.UploadBlobRequest{Blob: r.Proto()}))
	for part := range slices.Chunk([]byte(content), 1000) {
		if stream.Send(&agentplanev1.UploadBlobRequest{Data: part}) != nil {
			break
		}
	}
	return stream.CloseAndRecv()
}

// bring uploads a content through a node, and gives its name.
func (w *world) bring(node, content string) blob.Ref {
	w.t.Helper()
	r := refOfText(w.t, content)
	_, err := w.upload(node, r, content)
	must(w.t, err)
	return r
}

// fetch gets a blob as the agent does.
func (w *world) fetch(node, invocation string, r blob.Ref) (string, error) {
	ctx, cancel := context.WithTimeout(w.t.Context(), 20*time.Second)
	defer cancel()
	stream, err := agentplanev1.NewAgentServiceClient(w.conn(node)).FetchBlob(ctx, &agentplanev1.FetchBlobRequest{InvocationId: invocation, Attempt: 1, Blob: r.Proto()})
	if err != nil {
		return "", err
	}
	var b []byte
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return string(b), nil
		}
		if err != nil {
			return string(b), err
		}
		b = append(b, m.GetData()...)
	}
}

// have are the nodes whose disks have the blob, whole.
func (w *world) have(r blob.Ref) (ids []string) {
	for id, n := range w.nodes {
		if n.store.dir.Verify(r) == nil {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}

func (w *world) row(r blob.Ref) *raftlogv1.Blob {
	row, _ := w.machine.View().Blob(r.Sum)
	return row
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func reasonOf(err error) string { return agentplanev1.DetailOf(err).GetReason() }

func (w *world) remove(node string) {
	w.apply(&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_RemoveNode{RemoveNode: &raftlogv1.RemoveNode{NodeId: node}}})
}

// whole gives the content at once.
func whole(content string) func() ([]byte, error) {
	rest := []byte(content)
	return func() ([]byte, error) {
		if rest == nil {
			return nil, io.EOF
		}
		b := rest
		rest = nil
		return b, nil
	}
}

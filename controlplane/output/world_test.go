package output

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/hashicorp/go-hclog"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	"github.com/agentplane/agentplane/fsm"
	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

// world is three nodes with stores of their own over one state, and one agent.
type world struct {
	t       testing.TB
	machine *fsm.Machine
	nodes   map[string]*testNode
	now     int64

	mu    sync.Mutex
	index uint64
}

type testNode struct {
	looks atomic.Int64 // how often it looked for nodes that may keep a copy
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

func newWorld(t testing.TB, o StoreOptions) *world {
	w := &world{t: t, machine: fsm.New(fsm.Options{}), nodes: make(map[string]*testNode), now: time.Now().UnixNano()}
	w.apply(&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_TakeOffice{TakeOffice: &raftlogv1.TakeOffice{NodeId: "a", Term: 1}}})
	row := func(id string) *raftlogv1.Node {
		return &raftlogv1.Node{Id: id, Name: id, Address: id + ":1", PublicKey: []byte(id), CaCertificate: []byte("ca"), FeatureLevel: 1}
	}
	w.apply(&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_InitCluster{InitCluster: &raftlogv1.InitCluster{
		ClusterId: "c", Incarnation: &raftlogv1.Incarnation{Number: 1, Id: make([]byte, 16)}, FeatureLevel: 1, Node: row("a"),
	}}})
	hash := sha256.Sum256(nil)
	token := func(id string, kind raftlogv1.TokenKind) {
		w.apply(&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_CreateToken{CreateToken: &raftlogv1.CreateToken{Ttl: 1e15, Token: &raftlogv1.Token{
			Id: id, Kind: kind, ProofKey: []byte("p"), AuthenticatorHash: hash[:], MaxUses: 1,
		}}}})
	}
	for n, id := range []string{"b", "c"} {
		k := fmt.Sprintf("00000000-0000-7000-8000-00000000001%d", n)
		token(k, raftlogv1.TokenKind_TOKEN_KIND_NODE)
		w.apply(&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_RegisterNode{RegisterNode: &raftlogv1.RegisterNode{TokenId: k, Node: row(id)}}})
	}
	token(tokenID, raftlogv1.TokenKind_TOKEN_KIND_AGENT)
	w.apply(&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_EnrollAgent{EnrollAgent: &raftlogv1.EnrollAgent{AgentId: theAgent, Name: "web", PublicKey: []byte("k"), TokenId: tokenID}}})
	for _, id := range []string{"a", "b", "c"} {
		n := &testNode{w: w, id: id, dir: t.TempDir(), conns: make(map[string]*grpc.ClientConn)}
		w.nodes[id] = n
		n.start(o)
	}
	w.session("a")
	return w
}

// Propose makes the world a Proposer.
func (w *world) Propose(_ context.Context, mutations ...*raftlogv1.Mutation) ([]*raftlogv1.Outcome, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
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

// session moves the agent to a node, and gives the epoch.
func (w *world) session(node string) uint64 {
	s, _ := w.machine.View().Session(theAgent)
	w.apply(&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_OpenSession{OpenSession: &raftlogv1.OpenSession{
		AgentId: theAgent, NodeId: node, SeenEpoch: s.GetEpoch(), PreviousEpoch: s.GetEpoch(), StreamId: []byte(uuid.NewString()), StartId: []byte("p"),
		Journal: &raftlogv1.Journal{Id: []byte("journal"), Seq: s.GetJournal().GetSeq()}, Slots: 8,
	}}})
	s, _ = w.machine.View().Session(theAgent)
	w.apply(&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_ReadySession{ReadySession: &raftlogv1.ReadySession{AgentId: theAgent, SessionEpoch: s.GetEpoch(), NodeId: node}}})
	return s.GetEpoch()
}

// claim submits a command and claims it for the agent.
func (w *world) claim() Key {
	id := uuid.Must(uuid.NewV7()).String()
	w.apply(&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_SubmitCommand{SubmitCommand: &raftlogv1.SubmitCommand{
		Id: id, Envelope: []byte("e"), Digest: []byte("d"), AgentOrdinals: []uint32{1}, Ttl: 1e15, RunTimeout: 1e9, Release: 1,
	}}})
	k := Key{fsm.InvocationID(id, 1), 1}
	s, _ := w.machine.View().Session(theAgent)
	w.apply(&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_ClaimAttempt{ClaimAttempt: &raftlogv1.ClaimAttempt{
		InvocationId: k.Invocation, Attempt: 1, AgentId: theAgent, SessionEpoch: s.GetEpoch(), NodeId: s.GetNodeId(),
	}}})
	return k
}

// succeed reports the end of an attempt whose output has these lengths, with what a
// result holds of it.
func (w *world) succeed(k Key, out, err string) {
	i, _ := w.machine.View().Invocation(k.Invocation)
	s, _ := w.machine.View().Session(theAgent)
	of := func(text string) *raftlogv1.Output {
		o := &raftlogv1.Output{TotalBytes: uint64(len(text)), Head: []byte(text)}
		if len(text) > 4000 {
			o.Head, o.Tail = []byte(text[:2000]), []byte(text[len(text)-2000:])
		}
		return o
	}
	w.apply(&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_ReportAttempt{ReportAttempt: &raftlogv1.ReportAttempt{
		InvocationId: k.Invocation, Attempt: k.Attempt, Fence: i.GetFence(), AgentId: theAgent, SessionEpoch: s.GetEpoch(), NodeId: s.GetNodeId(),
		State:  raftlogv1.AttemptState_ATTEMPT_STATE_SUCCEEDED,
		Result: &raftlogv1.Result{JournalSeq: s.GetJournal().GetSeq() + 1, Stdout: of(out), Stderr: of(err)},
	}}})
}

func (w *world) row(k Key) *raftlogv1.Invocation {
	i, _ := w.machine.View().Invocation(k.Invocation)
	return i
}

// start begins, or begins again, a node on its directory.
func (n *testNode) start(o StoreOptions) {
	w := n.w
	o.Dir, o.ReserveBytes = n.dir, -1
	var log hclog.Logger
	if os.Getenv("OUTPUT_TEST_LOG") != "" {
		log = hclog.New(&hclog.LoggerOptions{Name: n.id, Level: hclog.Debug})
	}
	o.Logger = log
	store, err := OpenStore(o)
	must(w.t, err)
	s, err := New(Options{
		NodeID: n.id, Store: store, Machine: w.machine, Proposer: w, Peers: n, Voters: func() []string { return []string{"a", "b", "c"} },
		Read:  func(context.Context, bool) (*fsm.View, error) { return w.machine.View(), nil },
		Agent: func(context.Context) string { return theAgent }, Patience: 2 * time.Second, Logger: log,
	})
	must(w.t, err)
	n.store, n.Service = store, s
	listen := bufconn.Listen(1 << 20)
	n.server = grpc.NewServer(grpc.WaitForHandlers(true))
	agentplanev1.RegisterAgentServiceServer(n.server, agentAPI{s: s})
	agentplanev1.RegisterPeerServiceServer(n.server, peerAPI{s: s})
	agentplanev1.RegisterCommandServiceServer(n.server, commandAPI{s: s})
	n.mu.Lock()
	n.up, n.listen = true, listen
	n.mu.Unlock()
	server := n.server
	stopServing := background(w.t, func(context.Context) error { _ = server.Serve(listen); return nil })
	stopStore := background(w.t, store.Run)
	stopService := background(w.t, s.Run)
	var once sync.Once
	n.stop = func() {
		once.Do(func() {
			n.mu.Lock()
			n.up = false
			n.mu.Unlock()
			server.Stop()
			stopServing()
			stopService()
			stopStore()
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
	n.looks.Add(1)
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

func (a agentAPI) Output(stream grpc.BidiStreamingServer[agentplanev1.OutputRequest, agentplanev1.OutputResponse]) error {
	return a.s.Output(stream)
}

type peerAPI struct {
	agentplanev1.UnimplementedPeerServiceServer
	s *Service
}

func (a peerAPI) Output(stream grpc.BidiStreamingServer[agentplanev1.PeerServiceOutputRequest, agentplanev1.PeerServiceOutputResponse]) error {
	return a.s.PeerOutput(stream)
}

func (a peerAPI) StoreOutput(stream grpc.BidiStreamingServer[agentplanev1.StoreOutputRequest, agentplanev1.StoreOutputResponse]) error {
	return a.s.StoreOutput(stream)
}

type commandAPI struct {
	agentplanev1.UnimplementedCommandServiceServer
	s *Service
}

func (a commandAPI) Follow(req *agentplanev1.FollowRequest, stream grpc.ServerStreamingServer[agentplanev1.FollowResponse]) error {
	return a.s.Follow(req, stream)
}

// program is what the agent has of one attempt: it sends from here to whichever node
// asks.
type program struct {
	w   *world
	key Key

	mu     sync.Mutex
	chunks []*agentplanev1.OutputChunk
	ends   Ends
	over   bool
	moved  chan struct{} // closed, and made anew, when something was printed
	acked  Ends
	done   string
	told   bool // that the node wants no more but the tail
}

func (w *world) program(k Key) *program { return &program{w: w, key: k, moved: make(chan struct{})} }

func (p *program) print(stream int, text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.chunks = append(p.chunks, &agentplanev1.OutputChunk{Stream: streamOf(stream), Offset: p.ends[stream], Data: []byte(text)})
	p.ends[stream] += uint64(len(text))
	p.wakeLocked()
}

func (p *program) exit() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.over = true
	p.wakeLocked()
}

func (p *program) wakeLocked() {
	close(p.moved)
	p.moved = make(chan struct{})
}

func (p *program) text(stream int) (all string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.chunks {
		if c.GetStream() == streamOf(stream) {
			all += string(c.GetData())
		}
	}
	return all
}

func (p *program) state() (acked Ends, done string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.acked, p.done
}

// send is the agent's stream to a node, until it breaks, everything is done, or ctx ends.
func (p *program) send(ctx context.Context, node string, epoch uint64) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := agentplanev1.NewAgentServiceClient(p.w.conn(node)).Output(ctx)
	if err != nil {
		return err
	}
	wanted := make(chan Ends, 16)
	ended := make(chan error, 1)
	skipped := make(chan *agentplanev1.OutputSkip, 16)
	var skip *agentplanev1.OutputSkip
	go func() {
		for {
			m, err := stream.Recv()
			if err != nil {
				ended <- err
				return
			}
			p.mu.Lock()
			switch m := m.GetMessage().(type) {
			case *agentplanev1.OutputResponse_Wanted:
				wanted <- endsOf(m.Wanted.GetFrom())
			case *agentplanev1.OutputResponse_Ack:
				p.acked = endsOf(m.Ack.GetHeld())
			case *agentplanev1.OutputResponse_Skip:
				skipped <- m.Skip
			case *agentplanev1.OutputResponse_Done:
				p.done = m.Done.GetReason()
				p.mu.Unlock()
				ended <- nil
				return
			}
			p.mu.Unlock()
		}
	}()
	defer func() {
		cancel()
		if err := <-ended; err != nil && ctx.Err() == nil {
			p.w.t.Error(err)
		}
	}()
	acked, _ := p.state()
	_ = stream.Send(&agentplanev1.OutputRequest{Message: &agentplanev1.OutputRequest_Hello{Hello: &agentplanev1.OutputHello{SessionEpoch: epoch}}})
	_ = stream.Send(&agentplanev1.OutputRequest{Message: &agentplanev1.OutputRequest_Offer{Offer: &agentplanev1.OutputOffer{
		InvocationId: p.key.Invocation, Attempt: p.key.Attempt, Acknowledged: acked.proto(),
	}}})
	var at Ends
	begun, finished := false, false
	for {
		p.mu.Lock()
		moved := p.moved
		var out []*agentplanev1.OutputChunk
		for _, c := range p.chunks {
			if part, err := at.take(c); begun && err == nil && part != nil {
				out = append(out, part)
			}
		}
		over, ends := p.over, p.ends
		p.mu.Unlock()
		if skip != nil {
			out = nil
		}
		if skip != nil && over && !finished { // of stdout alone
			from := ends[0] - min(ends[0], skip.GetTailBytes())
			have := skip.GetHeld().GetStdout()
			_ = stream.Send(&agentplanev1.OutputRequest{Message: &agentplanev1.OutputRequest_Data{Data: &agentplanev1.OutputData{
				InvocationId: p.key.Invocation, Attempt: p.key.Attempt, Tail: true, Chunks: []*agentplanev1.OutputChunk{
					{Stream: streamOf(0), Offset: have, GapBytes: from - have, GapReason: skip.GetReason()},
					{Stream: streamOf(0), Offset: from, Data: []byte(p.text(0)[from:])},
				},
			}}})
		}
		for out := range slices.Chunk(out, 8) {
			_ = stream.Send(&agentplanev1.OutputRequest{Message: &agentplanev1.OutputRequest_Data{Data: &agentplanev1.OutputData{
				InvocationId: p.key.Invocation, Attempt: p.key.Attempt, Chunks: out,
			}}})
		}
		if begun && over && !finished {
			finished = true
			_ = stream.Send(&agentplanev1.OutputRequest{Message: &agentplanev1.OutputRequest_Finish{Finish: &agentplanev1.OutputFinish{
				InvocationId: p.key.Invocation, Attempt: p.key.Attempt, Totals: ends.proto(), Whole: ends.total() <= wholeBytes,
			}}})
		}
		select {
		case <-moved:
		case at = <-wanted:
			begun, finished, skip = true, false, nil
		case skip = <-skipped:
			p.mu.Lock()
			p.told = true
			p.mu.Unlock()
		case err := <-ended:
			ended <- err
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// until waits for a condition.
func (w *world) until(what string, ok func() bool) {
	w.t.Helper()
	for end := time.Now().Add(15 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			w.t.Fatalf("%s: not within 15 s", what)
		}
	}
}

// watcher follows one attempt on one node after the other.
type watcher struct {
	mu   sync.Mutex
	said said
	end  *agentplanev1.FollowEnd
	over bool
}

func (f *watcher) state() (said, *agentplanev1.FollowEnd) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.said, f.end
}

// follow reads until the follow is done, or breaks.
func (f *watcher) follow(ctx context.Context, t testing.TB, w *world, node string, k Key) error {
	have, _ := f.state()
	stream, err := agentplanev1.NewCommandServiceClient(w.conn(node)).Follow(ctx, &agentplanev1.FollowRequest{
		CommandId: k.Invocation[:36], Cursors: []*agentplanev1.FollowCursor{{InvocationId: k.Invocation, Attempt: k.Attempt, Have: have.have.proto()}},
	})
	if err != nil {
		return err
	}
	for {
		m, err := stream.Recv()
		if err != nil {
			return err
		}
		f.mu.Lock()
		for _, i := range m.GetItems() {
			b := Batch{Key: k, Chunks: i.GetChunks()}
			next := f.said.have
			for _, c := range b.Chunks {
				_, _ = next.take(c)
			}
			b.Have = next
			f.said.take(t, b)
			if i.GetEnd() != nil {
				f.end = i.GetEnd()
			}
		}
		f.over = m.GetDone()
		f.mu.Unlock()
		if m.GetDone() {
			return nil
		}
	}
}

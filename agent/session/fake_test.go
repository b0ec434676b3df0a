package session

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const cluster = "c1"

func incarnation(n uint32) *agentplanev1.Incarnation {
	return &agentplanev1.Incarnation{Number: n, Id: []byte{byte(n)}}
}

var errUnreachable = errors.New("connection refused")

// conn is one stream between the keeper and a fake node. It is both halves.
type conn struct {
	ctx     context.Context // the client's
	up      chan *agentplanev1.SessionRequest
	down    chan *agentplanev1.SessionResponse
	closing chan struct{} // closed by CloseSend
	once    sync.Once
	over    chan struct{} // closed when the handler has returned
	err     error
}

func (c *conn) Send(m *agentplanev1.SessionRequest) error {
	select {
	case c.up <- m:
		return nil
	case <-c.over:
		return io.EOF
	case <-c.ctx.Done():
		return c.ctx.Err()
	}
}

func (c *conn) Recv() (*agentplanev1.SessionResponse, error) {
	select {
	case m := <-c.down:
		return m, nil
	default:
	}
	select {
	case m := <-c.down:
		return m, nil
	case <-c.over:
		return nil, c.err
	case <-c.ctx.Done():
		return nil, c.ctx.Err()
	}
}

func (c *conn) CloseSend() error {
	c.once.Do(func() { close(c.closing) })
	return nil
}

// The node's half.

func (c *conn) say(m *agentplanev1.SessionResponse) {
	select {
	case c.down <- m:
	case <-c.ctx.Done():
	}
}

func (c *conn) hear() *agentplanev1.SessionRequest {
	select {
	case m := <-c.up:
		return m
	default:
	}
	select {
	case m := <-c.up:
		return m
	case <-c.ctx.Done():
		return nil
	case <-c.closing:
		return nil
	}
}

func (c *conn) challenge(inc uint32, epoch uint64) {
	c.say(&agentplanev1.SessionResponse{Message: &agentplanev1.SessionResponse_Challenge{Challenge: &agentplanev1.Challenge{
		SessionEpoch: epoch, ClusterId: cluster, Incarnation: incarnation(inc),
	}}})
}

func (c *conn) refuse(r *agentplanev1.Refused) {
	c.say(&agentplanev1.SessionResponse{Message: &agentplanev1.SessionResponse_Refused{Refused: r}})
}

func (c *conn) welcome(node string, inc uint32, epoch uint64) {
	c.say(&agentplanev1.SessionResponse{Message: &agentplanev1.SessionResponse_Welcome{Welcome: &agentplanev1.Welcome{
		ClusterId: cluster, Incarnation: incarnation(inc), NodeId: node, SessionEpoch: epoch, Now: 1000,
		HeartbeatIntervalMs: 1000, HeartbeatMisses: 3, BackoffCapMs: 8000,
	}}})
}

// serve acknowledges heartbeats until the stream ends, and gives the goodbye if there was
// one.
func (c *conn) serve(seen func(*agentplanev1.SessionRequest)) *agentplanev1.Goodbye {
	for {
		m := c.hear()
		switch {
		case m == nil:
			return nil
		case m.GetGoodbye() != nil:
			return m.GetGoodbye()
		case m.GetHeartbeat() != nil:
			c.say(&agentplanev1.SessionResponse{Message: &agentplanev1.SessionResponse_HeartbeatAck{HeartbeatAck: &agentplanev1.HeartbeatAck{Seq: m.GetHeartbeat().GetSeq(), Now: 1001}}})
		}
		if seen != nil {
			seen(m)
		}
	}
}

// world is all nodes, and everything beside the keeper.
type world struct {
	t     testing.TB
	start time.Time

	mu       sync.Mutex
	nodes    map[string]func(*conn) error // by address; nil is unreachable
	opened   []string                     // addresses in the order of Open, with the second
	live     int                          // sessions between Hello and their end, as nodes see it
	previous uint64
	inc      *agentplanev1.Incarnation
	trusted  *agentplanev1.Incarnation
	begun    []Grant
	rotated  []int64
	offered  []*agentplanev1.SessionResponse
	full     bool
	open     []*agentplanev1.Report
	beginErr error
	removed  func(context.Context) error

	reports   chan *agentplanev1.Report
	changed   chan struct{}
	hash      string
	running   atomic.Int32
	rebooting bool
	group     sync.WaitGroup
}

func newWorld(t testing.TB) *world {
	return &world{t: t, start: time.Now(), nodes: map[string]func(*conn) error{}, reports: make(chan *agentplanev1.Report, 8), changed: make(chan struct{}), hash: "h1"}
}

func (w *world) node(address string, handler func(*conn) error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.nodes[address] = handler
}

func (w *world) Open(ctx context.Context, n Node) (Stream, func(), error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.opened = append(w.opened, n.Address)
	handler := w.nodes[n.Address]
	if handler == nil {
		return nil, nil, errUnreachable
	}
	c := &conn{ctx: ctx, up: make(chan *agentplanev1.SessionRequest, 64), down: make(chan *agentplanev1.SessionResponse, 64), closing: make(chan struct{}), over: make(chan struct{})}
	w.group.Go(func() {
		err := handler(c)
		if err == nil {
			err = io.EOF
		}
		c.err = err
		close(c.over)
	})
	return c, func() {}, nil
}

func (w *world) Nodes() []Node {
	w.mu.Lock()
	defer w.mu.Unlock()
	var all []Node
	for a := range w.nodes {
		all = append(all, Node{ID: "id-" + a, Address: a})
	}
	return all
}

func (w *world) Incarnation() *agentplanev1.Incarnation {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.inc
}

func (w *world) Standing() (Standing, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return Standing{Journal: &agentplanev1.JournalState{Id: []byte("j"), Seq: 5, Floor: 1}, Previous: w.previous, Open: w.open}, nil
}

func (w *world) Begin(g Grant) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.beginErr != nil {
		return w.beginErr
	}
	if g.Epoch < w.previous {
		return fmt.Errorf("epoch %d is older than %d", g.Epoch, w.previous)
	}
	w.previous, w.inc = g.Epoch, g.Incarnation
	w.begun = append(w.begun, g)
	return nil
}

func (w *world) Rotate(now int64) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.rotated = append(w.rotated, now)
	return nil
}

func (w *world) Offer(m *agentplanev1.SessionResponse) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.full {
		return false
	}
	w.offered = append(w.offered, m)
	return true
}

func (w *world) Reports() <-chan *agentplanev1.Report { return w.reports }
func (w *world) Running() int                         { return int(w.running.Load()) }

func (w *world) Facts() ([]*agentplanev1.Label, []byte, <-chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return []*agentplanev1.Label{{Name: "os", Value: "linux"}}, []byte(w.hash), w.changed
}

// trust is the world as Trust, whose Incarnation is another one than the journal's.
type trustOf struct{ *world }

func (t trustOf) Incarnation() *agentplanev1.Incarnation { return t.trusted }
func (t trustOf) Learn(*agentplanev1.Bundle) error       { return nil }

// enter and leave count sessions as the nodes see them.
func (w *world) enter() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.live++
}

func (w *world) leave() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.live--
}

func (w *world) keeper() *Keeper {
	w.t.Helper()
	k, err := New(Options{
		AgentID: "a1", ClusterID: cluster, Version: "v", BootID: "b", StartID: []byte("s"), Slots: 4,
		Opener: w, Trust: trustOf{w}, Work: w, Facts: w, Clock: &Clock{}, Removed: w.removed, Rebooting: func() bool { return w.rebooting },
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return k
}

// run runs a keeper until the function returns; then everything has ended.
func (w *world) run(body func(k *Keeper)) {
	w.t.Helper()
	k := w.keeper()
	ctx, cancel := context.WithCancel(w.t.Context())
	done := make(chan error, 1)
	go func() { done <- k.Run(ctx) }()
	body(k)
	cancel()
	if err := <-done; err != nil {
		w.t.Errorf("Run = %v, want nil", err)
	}
	w.group.Wait()
}

func (w *world) opens() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]string(nil), w.opened...)
}

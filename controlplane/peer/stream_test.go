package peer

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/identity"

	"github.com/agentplane/agentplane/controlplane/consensus"
)

// echo answers the connections of the stream with what it reads, until ctx ends.
func echo(ctx context.Context, s *Stream) {
	defer context.AfterFunc(ctx, func() { _ = s.Close() })()
	for {
		conn, err := s.Accept()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			_, _ = io.Copy(conn, conn)
		}()
	}
}

func TestStreamCarriesRaftAfterThePrefaces(t *testing.T) {
	w := newWorld(t)
	a, b := w.add("a"), w.add("b")
	w.run(func(ctx context.Context) { echo(ctx, b.stream()) })
	conn, err := a.stream().Dial(consensus.ServerAddress(b.port.Addr().String()), 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte("vote")); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 4)
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != "vote" {
		t.Errorf("read %q, %v", got, err)
	}
}

// raft waits for its calls before it closes its transport: whoever closes must be
// able to end them.
func TestStreamCutsEverythingAtOnce(t *testing.T) {
	w := newWorld(t)
	a, b := w.add("a"), w.add("b")
	w.run(func(ctx context.Context) { echo(ctx, b.stream()) })
	stream := a.stream()
	address := consensus.ServerAddress(b.port.Addr().String())
	conn, err := stream.Dial(address, 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	read := make(chan error, 1)
	go func() {
		_, err := conn.Read(make([]byte, 1)) // nothing was asked, so nothing comes
		read <- err
	}()
	stream.Cut()
	if err := <-read; err == nil {
		t.Error("the read came to an end without an error")
	}
	if again, err := stream.Dial(address, 5*time.Second); !errors.Is(err, errCut) {
		t.Errorf("Dial after Cut = %v, %v", again, err)
	}
	stream.Cut() // again is harmless
	if len(stream.conns) != 0 {
		t.Errorf("%d connections are kept", len(stream.conns))
	}
}

// An old cluster's leader must not reach raft: this is what once overwrote the log
// of a recovered cluster.
func TestStreamRefusesByPreface(t *testing.T) {
	for _, c := range []struct {
		name  string
		spoil func(*agentplanev1.Preface)
		says  string
	}{
		{"an older incarnation", func(p *agentplanev1.Preface) { p.Incarnation = &agentplanev1.Incarnation{Number: 0, Id: []byte{0}} }, "incarnation 0"},
		{"a newer incarnation", func(p *agentplanev1.Preface) { p.Incarnation = &agentplanev1.Incarnation{Number: 2, Id: []byte{0}} }, "incarnation 2"},
		{"the same number with another id", func(p *agentplanev1.Preface) { p.Incarnation = &agentplanev1.Incarnation{Number: 1, Id: []byte{1}} }, "recovered twice"},
		{"another cluster", func(p *agentplanev1.Preface) { p.ClusterId = "d" }, `cluster "d"`},
		{"another node's name", func(p *agentplanev1.Preface) { p.From = "z" }, `calls itself "z"`},
		{"a lower feature level", func(p *agentplanev1.Preface) { p.FeatureLevel = 0 }, "upgrade it"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			a, b := w.add("a"), w.add("b")
			c.spoil(a.preface)
			read := make(chan error, 1)
			w.run(func(ctx context.Context) {
				stream := b.stream()
				defer context.AfterFunc(ctx, func() { _ = stream.Close() })()
				conn, err := stream.Accept()
				if err != nil {
					read <- err
					return
				}
				_, err = conn.Read(make([]byte, 1))
				read <- err
			})
			conn, err := a.stream().Dial(consensus.ServerAddress(b.port.Addr().String()), 5*time.Second)
			if err == nil {
				_ = conn.Close()
				t.Fatal("the dialer was not told")
			}
			if !errors.Is(err, ErrPreface) {
				t.Errorf("the dialer is told %v", err)
			}
			if err := <-read; !errors.Is(err, ErrPreface) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("raft read and got %v, want a refusal that says %q", err, c.says)
			}
		})
	}
}

func TestStreamSaysWhoIsGone(t *testing.T) {
	w := newWorld(t)
	a, b := w.add("a"), w.add("b")
	address := consensus.ServerAddress(b.port.Addr().String())
	if err := b.port.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := a.stream().Dial(address, 5*time.Second); err == nil {
		t.Fatal("a closed port was dialled")
	}
	select {
	case id := <-a.gone:
		if id != "b" {
			t.Errorf("%q is said to be gone", id)
		}
	default:
		t.Error("nobody is said to be gone")
	}
	if _, err := a.stream().Dial("127.0.0.1:1", 5*time.Second); err == nil || !strings.Contains(err.Error(), "no node is registered") {
		t.Errorf("an address of nobody: %v", err)
	}
}

// terms answers ReadTerm; everything else is not there.
type terms struct {
	agentplanev1.UnimplementedPeerServiceServer
}

func (terms) ReadTerm(context.Context, *agentplanev1.ReadTermRequest) (*agentplanev1.ReadTermResponse, error) {
	return &agentplanev1.ReadTermResponse{Term: 7, Willing: true}, nil
}

func (n *node) pool() *Pool {
	return NewPool(PoolOptions{
		Identity: n.ident, Prefaces: n.prefaces, Book: n.w, Logger: hclog.NewNullLogger(),
		Gone: func(id string) {
			select {
			case n.gone <- id:
			default: // one is enough
			}
		},
		Stranger: func() { n.strange <- struct{}{} },
	})
}

func (n *node) serve() *grpc.Server {
	return n.serveWith(grpc.ChainUnaryInterceptor(n.prefaces.ServerInterceptor), grpc.ChainStreamInterceptor(n.prefaces.ServerStreamInterceptor))
}

func (n *node) serveWith(o ...grpc.ServerOption) *grpc.Server {
	s := grpc.NewServer(append(o, grpc.Creds(ServerCredentials()))...)
	agentplanev1.RegisterPeerServiceServer(s, terms{})
	go func() { _ = s.Serve(n.port.Listener(identity.ProtocolGRPC)) }()
	return s
}

func TestPoolAsksAndNoticesADeath(t *testing.T) {
	w := newWorld(t)
	a, b := w.add("a"), w.add("b")
	server := b.serve()
	defer server.Stop()
	pool := a.pool()
	w.run(func(ctx context.Context) { _ = pool.Run(ctx) })
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	r, err := pool.ReadTerm(ctx, "b", "")
	if err != nil || r.Term != 7 || !r.Willing {
		t.Fatalf("ReadTerm = %+v, %v", r, err)
	}
	if since, ok := pool.Linked()["b"]; !ok || time.Since(since) > time.Minute || len(pool.Unreached()) > 0 {
		t.Errorf("the pool is linked to %v, and does not reach %v", pool.Linked(), pool.Unreached())
	}
	if silent := pool.Silent(); len(silent) > 0 {
		t.Errorf("silent are %v, and nobody is gone", silent)
	}
	server.Stop() // resets its connections, as a kernel does for a dead process
	select {
	case id := <-a.gone:
		if id != "b" {
			t.Errorf("%q is said to be gone", id)
		}
	case <-ctx.Done():
		t.Error("the death of b went unnoticed")
	}
}

// What a node has judged in a handshake it believes as long as the connection stands: one
// whose certificate was out of its time then is not heard on it any more.
func TestPoolLeavesAConnectionOnWhichItsCertificateIsRefused(t *testing.T) {
	w := newWorld(t)
	a, b := w.add("a"), w.add("b")
	var behind atomic.Int64
	v, err := identity.NewVerifier(b.ident.Verifier.Bundle(), identity.Wall(func() time.Time { return time.Now().Add(-time.Duration(behind.Load())) }))
	if err != nil {
		t.Fatal(err)
	}
	behind.Store(int64(2 * time.Hour)) // a's certificate is not valid yet
	b.ident.Verifier = v
	b.port.Use(b.ident)
	gate := func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
		if p, _ := Caller(ctx); p.RenewOnly() {
			return nil, agentplanev1.Refusal(codes.Unauthenticated, &agentplanev1.ErrorDetail{Reason: ReasonExpired}, "it may only be renewed")
		}
		return handle(ctx, req)
	}
	server := grpc.NewServer(grpc.Creds(ServerCredentials()), grpc.ChainUnaryInterceptor(gate, b.prefaces.ServerInterceptor))
	agentplanev1.RegisterPeerServiceServer(server, terms{})
	go func() { _ = server.Serve(b.port.Listener(identity.ProtocolGRPC)) }()
	defer server.Stop()
	pool := a.pool()
	w.run(func(ctx context.Context) { _ = pool.Run(ctx) })
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if _, err := pool.ReadTerm(ctx, "b", ""); agentplanev1.DetailOf(err).GetReason() != ReasonExpired {
		t.Fatalf("void: ReadTerm = %v", err)
	}
	behind.Store(0)
	for err = errors.New("not asked"); err != nil; time.Sleep(50 * time.Millisecond) {
		if ctx.Err() != nil {
			t.Fatalf("it is refused for ever: %v", err)
		}
		_, err = pool.ReadTerm(ctx, "b", "")
	}
	select {
	case id := <-a.gone:
		t.Errorf("%q is said to be gone", id)
	default:
	}
}

func TestPoolSaysWhomItDoesNotReach(t *testing.T) {
	w := newWorld(t)
	a, b := w.add("a"), w.add("b")
	if err := b.port.Close(); err != nil { // nobody listens there
		t.Fatal(err)
	}
	pool := a.pool()
	w.run(func(ctx context.Context) { _ = pool.Run(ctx) })
	for start := time.Now(); len(pool.Unreached()) == 0; time.Sleep(50 * time.Millisecond) {
		if time.Since(start) > 20*time.Second {
			t.Fatal("nobody is said to be out of reach")
		}
	}
	if got := pool.Unreached(); got["b"] != "connection refused" || len(pool.Linked()) > 0 {
		t.Errorf("out of reach are %v, linked are %v", got, pool.Linked())
	}
}

func TestPoolRefusesByPreface(t *testing.T) {
	w := newWorld(t)
	a, b := w.add("a"), w.add("b")
	server := b.serve()
	defer server.Stop()
	a.preface.ClusterId = "d"
	pool := a.pool()
	w.run(func(ctx context.Context) { _ = pool.Run(ctx) })
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if _, err := pool.ReadTerm(ctx, "b", ""); err == nil || !strings.Contains(err.Error(), "cluster") {
		t.Errorf("a peer of another cluster was answered: %v", err)
	}
	if _, err := pool.ReadTerm(ctx, "nobody", ""); err == nil {
		t.Error("a node that is not in the book was asked")
	}
}

// Who refuses an answer does not know what has come of the call: whoever was asked has done it.
func TestARefusedAnswerLeavesTheOutcomeUnknown(t *testing.T) {
	for name, c := range map[string]struct {
		serve   func(a, b *node) *grpc.Server
		unknown bool
	}{
		"the caller is refused": {func(a, b *node) *grpc.Server { a.preface.ClusterId = "d"; return b.serve() }, false},
		"the answer is refused": {func(_, b *node) *grpc.Server { return b.serveWith() }, true}, // it has no preface
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			a, b := w.add("a"), w.add("b")
			defer c.serve(a, b).Stop()
			pool := a.pool()
			w.run(func(ctx context.Context) { _ = pool.Run(ctx) })
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			defer cancel()
			peer, err := pool.Client("b")
			if err != nil {
				t.Fatal(err)
			}
			_, err = peer.ReadTerm(ctx, &agentplanev1.ReadTermRequest{}, grpc.WaitForReady(true))
			if d := agentplanev1.DetailOf(err); err == nil || d.GetReason() != ReasonPreface || d.GetOutcomeUnknown() != c.unknown {
				t.Errorf("answered %v (%v), want a refusal by the preface, with an unknown outcome: %v", err, d, c.unknown)
			}
		})
	}
}

func FuzzReadPreface(f *testing.F) {
	var whole writer
	if err := writePreface(&whole, &agentplanev1.Preface{ClusterId: "c", From: "a", To: "b"}); err != nil {
		f.Fatal(err)
	}
	f.Add([]byte(whole))
	f.Fuzz(func(t *testing.T, b []byte) {
		client, server := net.Pipe()
		defer server.Close()
		go func() {
			_, _ = client.Write(b)
			_ = client.Close()
		}()
		if p, err := readPreface(server); err == nil && p == nil {
			t.Error("no preface and no error")
		}
	})
}

type writer []byte

func (w *writer) Write(b []byte) (int, error) {
	*w = append(*w, b...)
	return len(b), nil
}

// A node whose connection has broken is said to be silent at once, long before gossip or
// a dial that fails could say more, and until there is a connection again.
func TestPoolSaysWhoIsSilent(t *testing.T) {
	pool := NewPool(PoolOptions{})
	connect := func() net.Conn {
		near, far := net.Pipe()
		t.Cleanup(func() { _ = far.Close() })
		return pool.linked("b", near, nil)
	}
	silent := func(want bool) {
		t.Helper()
		if _, is := pool.Silent()["b"]; is != want {
			t.Errorf("silent is %v, want %v", is, want)
		}
	}
	silent(false)
	first := connect()
	silent(false)
	second := connect() // an older connection that goes means nothing
	_ = first.Close()
	silent(false)
	_ = second.Close()
	silent(true)
	pool.linked("b", nil, errors.New("connection refused"))
	silent(true)
	third := connect()
	silent(false)
	_ = third.Close()
}

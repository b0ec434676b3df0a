package gossip

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
)

// quick is a timing for tests on the real loopback.
var quick = Timing{
	ProbeInterval: 60 * time.Millisecond, ProbeTimeout: 30 * time.Millisecond, GossipInterval: 10 * time.Millisecond,
	StreamTimeout: time.Second, RejoinMin: 20 * time.Millisecond, RejoinMax: 200 * time.Millisecond, LeaveTimeout: time.Second,
}

func openReal(t *testing.T, id string, change ...func(*Options)) *node {
	t.Helper()
	n := &node{log: &syncBuffer{}}
	o := Options{
		NodeID: id, Label: "real", Keys: [][]byte{key1}, BindAddr: "127.0.0.1:0", Timing: quick, Meta: Meta{Name: id},
		Logger: hclog.New(&hclog.LoggerOptions{Output: n.log, Level: hclog.Debug}),
	}
	for _, f := range change {
		f(&o)
	}
	p, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	n.Pool = p
	ran := make(chan error, 1)
	go func() { ran <- p.Run(context.Background()) }()
	n.stop = func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(func() {
		n.stop()
		if err := <-ran; err != nil && !errors.Is(err, ErrClosed) {
			t.Errorf("Run(%s) = %v", id, err)
		}
		if t.Failed() {
			t.Logf("log of %s:\n%s", id, n.log)
		}
	})
	return n
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(8 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
	}
}

func TestRealNetwork(t *testing.T) {
	a := openReal(t, "n1")
	peers := func(o *Options) { o.Peers = func() []string { return []string{a.AdvertiseAddr()} } }
	b, c := openReal(t, "n2", peers), openReal(t, "n3", peers)
	all := []*node{a, b, c}
	eventually(t, "all see all", func() bool { return allSee(all, StateAlive, "n1", "n2", "n3") })
	if got := b.member("n1"); got.Addr != a.Addr() || got.Meta.Name != "n1" {
		t.Errorf("n1 as n2 sees it: %+v, want address %s", got, a.Addr())
	}
	if err := c.Leave(t.Context()); err != nil {
		t.Errorf("Leave() = %v", err)
	}
	c.stop()
	eventually(t, "n3 is left", func() bool { return allSee(all[:2], StateLeft, "n3") })
	b.stop()
	eventually(t, "n2 is dead", func() bool { return allSee(all[:1], StateDead, "n2") })
	b = openReal(t, "n2", peers) // at another port
	eventually(t, "n2 is back", func() bool {
		return allSee([]*node{a, b}, StateAlive, "n1", "n2") && a.member("n2").Addr == b.Addr()
	})
}

func TestStreamsAreBounded(t *testing.T) {
	a := openReal(t, "n1", func(o *Options) { o.Timing.StreamTimeout = 2 * time.Second })
	var conns []net.Conn
	defer func() {
		for _, c := range conns {
			_ = c.Close()
		}
	}()
	for range maxStreams + 10 {
		c, err := net.Dial("tcp", a.Addr())
		if err != nil {
			t.Fatal(err)
		}
		conns = append(conns, c)
	}
	eventually(t, "ten are refused", func() bool { return a.Stats().StreamsRefused >= 10 })
	for _, c := range conns {
		_ = c.Close()
	}
	b := openReal(t, "n2")
	eventually(t, "it is served again", func() bool {
		_, err := b.Join(t.Context(), []string{a.Addr()})
		return err == nil
	})
}

func TestStrangerCannotMakeUsBufferMuch(t *testing.T) {
	a := openReal(t, "n1", func(o *Options) { o.Timing.StreamTimeout = 5 * time.Second })
	c, err := net.Dial("tcp", a.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	// The label is no secret; then "encrypted, 16 MiB follow", which memberlist
	// would all read before it looks at them.
	head := append([]byte{244, byte(len("real"))}, "real"...)
	head = binary.BigEndian.AppendUint32(append(head, 10), 16<<20)
	if _, err := c.Write(head); err != nil {
		t.Fatal(err)
	}
	sent := 0
	chunk := make([]byte, 64<<10)
	for sent < 15<<20 {
		n, err := c.Write(chunk)
		sent += n
		if err != nil {
			break
		}
	}
	eventually(t, "the stream is cut at its bound", func() bool {
		return strings.Contains(a.log.String(), "gossip stream is longer than 1048576 bytes")
	})
	t.Logf("%d bytes could be sent, into buffers of the kernel mostly", sent)
}

func TestJoinEndsWithItsContext(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0") // accepts, and never answers
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	a := openReal(t, "n1", func(o *Options) { o.Timing.StreamTimeout = 30 * time.Second })
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	begin := time.Now()
	_, err = a.Join(ctx, []string{silent.Addr().String()})
	if !errors.Is(err, context.DeadlineExceeded) || time.Since(begin) > 5*time.Second {
		t.Errorf("Join = %v after %v, want the context's error at once", err, time.Since(begin))
	}
	joined := make(chan error)
	go func() {
		_, err := a.Join(t.Context(), []string{silent.Addr().String()})
		joined <- err
	}()
	c, err := silent.Accept() // the first; the second follows
	if err == nil {
		_ = c.Close()
		c, err = silent.Accept()
	}
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.ReadFull(c, make([]byte, 6)); err != nil { // it is inside the exchange
		t.Fatal(err)
	}
	a.stop()
	if err := <-joined; err == nil {
		t.Error("Join = nil after Close")
	}
}

func TestLoopbackCannotCallOut(t *testing.T) {
	a := openReal(t, "n1")
	_, err := a.Join(t.Context(), []string{"192.0.2.1:7461"})
	if err == nil || !strings.Contains(err.Error(), "advertise an address of this host") {
		t.Errorf("Join = %v, want an error about the advertised address", err)
	}
}

func TestLifecycle(t *testing.T) {
	a := openReal(t, "n1")
	eventually(t, "it runs", func() bool {
		a.runMu.Lock()
		defer a.runMu.Unlock()
		return a.running
	})
	if err := a.Run(t.Context()); err == nil || errors.Is(err, ErrClosed) {
		t.Errorf("second Run = %v, want an error that it is running", err)
	}
	if n, err := a.Join(t.Context(), nil); n != 0 || err != nil {
		t.Errorf("Join of nobody = %d, %v", n, err)
	}
	a.stop()
	a.stop()
	if err := a.Run(t.Context()); !errors.Is(err, ErrClosed) {
		t.Errorf("Run after Close = %v, want ErrClosed", err)
	}
	if err := a.Leave(t.Context()); !errors.Is(err, ErrClosed) {
		t.Errorf("Leave after Close = %v, want ErrClosed", err)
	}
	if _, err := a.Join(t.Context(), []string{"127.0.0.1:1"}); !errors.Is(err, ErrClosed) {
		t.Errorf("Join after Close = %v, want ErrClosed", err)
	}
	if err := a.SetMeta(Meta{}); !errors.Is(err, ErrClosed) {
		t.Errorf("SetMeta after Close = %v, want ErrClosed", err)
	}
	if got := a.Members(); len(got) != 1 || got[0].ID != "n1" {
		t.Errorf("Members after Close = %+v, want the last view", got)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	b, err := Open(Options{NodeID: "n2", Label: "real", Keys: [][]byte{key1}, BindAddr: "127.0.0.1:0", AdvertiseAddr: "localhost", Timing: quick})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	cause := errors.New("the node stops")
	cancel(cause)
	if err := b.Run(ctx); !errors.Is(err, cause) {
		t.Errorf("Run = %v, want the cause %v", err, cause)
	}
}

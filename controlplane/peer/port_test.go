package peer

import (
	"context"
	"crypto/tls"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/agentplane/agentplane/proto/identity"
)

func TestPortTellsProtocolsApart(t *testing.T) {
	w := newWorld(t)
	a, b := w.add("a"), w.add("b")
	for _, protocol := range []string{identity.ProtocolGRPC, identity.ProtocolRaft} {
		conn, err := b.connect(a, protocol)
		if err != nil {
			t.Fatalf("%s: %v", protocol, err)
		}
		got, err := b.port.Listener(protocol).Accept()
		if err != nil {
			t.Fatal(err)
		}
		if peer := got.(*Conn).Peer; peer.ID.Name != "a" || peer.ID.Kind != identity.KindNode {
			t.Errorf("%s: the port says %v came", protocol, peer.ID)
		}
		if err := got.Close(); err != nil {
			t.Error(err)
		}
		if err := closedByPeer(conn); err != nil {
			t.Error(err)
		}
		_ = conn.Close()
	}
	if conn, err := anonymous(b, identity.ProtocolRaft); err == nil {
		if closedByPeer(conn) != nil {
			t.Error("somebody without a certificate reached raft")
		}
		_ = conn.Close()
	}
	conn, err := tls.Dial("tcp", b.port.Addr().String(), &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2", "http/1.1"}})
	if err != nil {
		t.Fatal(err)
	}
	if got := conn.ConnectionState().NegotiatedProtocol; got != identity.ProtocolHTTP {
		t.Errorf("a client that offers both is given %q, want http/1.1", got)
	}
	_ = conn.Close()
}

func TestPortWithoutIdentitySpeaksOnlyHTTP(t *testing.T) {
	p, err := Listen(nil, "127.0.0.1:0", hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t)
	w.run(func(ctx context.Context) { _ = p.Run(ctx) })
	if conn, err := tls.Dial("tcp", p.Addr().String(), &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}}); err == nil {
		_ = conn.Close()
		t.Error("gRPC was served before the node had an identity")
	}
	conn, err := tls.Dial("tcp", p.Addr().String(), &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	got, err := p.Listener(identity.ProtocolHTTP).Accept()
	if err != nil {
		t.Fatal(err)
	}
	if err := got.Close(); err != nil {
		t.Error(err)
	}
}

func TestPortCutsWhoIsNoLongerTrusted(t *testing.T) {
	w := newWorld(t)
	a, b := w.add("a"), w.add("b")
	conn, err := b.connect(a, identity.ProtocolRaft)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := b.port.Listener(identity.ProtocolRaft).Accept(); err != nil {
		t.Fatal(err)
	}
	w.remove("a")
	if err := closedByPeer(conn); err != nil {
		t.Errorf("after node a was taken out of the bundle: %v", err)
	}
	if again, err := b.connect(a, identity.ProtocolRaft); err == nil {
		if closedByPeer(again) != nil {
			t.Error("a removed node connects again")
		}
		_ = again.Close()
	}
}

// Those who connect and say nothing are bounded by host, and do not stay. All of
// this test comes from one host, which keeps itself out only.
func TestPortBoundsSilence(t *testing.T) {
	w := newWorld(t)
	a, b := w.add("a"), w.add("b")
	silent := make([]net.Conn, 0, maxHandshakesFrom+50)
	for range cap(silent) {
		c, err := net.DialTimeout("tcp", b.port.Addr().String(), 5*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		silent = append(silent, c)
		defer c.Close()
	}
	if err := closedByPeer(silent[len(silent)-1]); err != nil {
		t.Errorf("above the bound: %v", err)
	}
	if got := b.port.Dropped(); got < 50 {
		t.Errorf("%d connections were dropped, want 50 or more", got)
	}
	if err := closedByPeer(silent[0]); err != nil {
		t.Errorf("after %v of silence: %v", handshakeTimeout, err)
	}
	conn, err := b.connect(a, identity.ProtocolGRPC)
	if err != nil {
		t.Fatalf("behind silent connections: %v", err)
	}
	_ = conn.Close()
}

func TestPortBoundsStrangers(t *testing.T) {
	w := newWorld(t)
	b := w.add("b")
	b.port.mu.Lock()
	b.port.anonymous = maxAnonymous - 1
	b.port.mu.Unlock()
	first, err := anonymous(b, identity.ProtocolGRPC)
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	if _, err := b.port.Listener(identity.ProtocolGRPC).Accept(); err != nil {
		t.Fatal(err)
	}
	second, err := anonymous(b, identity.ProtocolGRPC)
	if err == nil { // TLS 1.3 may tell the client only when it reads
		defer second.Close()
		if err := closedByPeer(second); err != nil {
			t.Errorf("above the bound: %v", err)
		}
	}
}

func TestListenSaysWhatToDoWhenThePortIsTaken(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	_, err = Listen(nil, ln.Addr().String(), hclog.NewNullLogger())
	if err == nil {
		t.Fatal("a taken port was bound")
	}
	for _, part := range []string{ln.Addr().String(), "--listen"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("the error %q does not say %q", err, part)
		}
	}
}

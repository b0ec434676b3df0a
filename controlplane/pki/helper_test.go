package pki

import (
	"crypto/tls"
	"net"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/agentplane/agentplane/proto/identity"
)

const testCluster = "0199f3a2-7c1e-7b22-9d0a-5a3f6f1c2b3d"

var testNow = time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// clock is a hand that tests move.
type clock struct{ t time.Time }

func (c *clock) now() time.Time { return c.t }

func nodeID(name string) identity.ID {
	return identity.ID{Cluster: testCluster, Kind: identity.KindNode, Name: name}
}

func mustCA(t testing.TB, dir, node string, now func() time.Time) *CA {
	t.Helper()
	ca, err := OpenCA(dir, nodeID(node), identity.Wall(now))
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

func mustKey(t testing.TB) identity.Key {
	t.Helper()
	k, err := identity.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func mustBundle(t testing.TB, index uint64, leaf *Leaf, cas ...*CA) *identity.Bundle {
	t.Helper()
	b := &identity.Bundle{
		ClusterID: testCluster, Incarnation: identity.Incarnation{Number: 1, ID: "1f0c"}, Index: index,
		Nodes: []identity.NodeKey{{NodeID: "a", Key: leaf.Key(), Addresses: []string{"10.0.0.1:7460"}}},
	}
	for _, ca := range cas {
		b.CAs = append(b.CAs, ca.Entry())
	}
	if err := b.Validate(); err != nil {
		t.Fatal(err)
	}
	return b
}

// handshake runs both sides over a loopback connection and returns what the
// server says of the client.
func handshake(t *testing.T, v *identity.Verifier, server, client *tls.Config) (identity.Peer, error) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		raw, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Error(err)
			return
		}
		defer raw.Close()
		_ = raw.SetDeadline(time.Now().Add(5 * time.Second))
		conn := tls.Client(raw, client)
		_, _ = conn.Read(make([]byte, 1)) // handshakes first; ends when the server closes
	}()
	raw, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	_ = raw.SetDeadline(time.Now().Add(5 * time.Second))
	conn := tls.Server(raw, server)
	err = conn.Handshake()
	raw.Close()
	<-done
	if err != nil {
		return identity.Peer{}, err
	}
	return v.Peer(conn.ConnectionState())
}

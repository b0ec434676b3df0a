package peer

import (
	"context"
	"net"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"

	"github.com/agentplane/agentplane/controlplane/pki"
	"github.com/agentplane/agentplane/proto/identity"
)

func TestNewcomerIsReachedByItsKey(t *testing.T) {
	w := newWorld(t)
	member := w.add("b")
	ca, err := pki.OpenCA(t.TempDir(), identity.ID{Cluster: "c", Kind: identity.KindNode, Name: "new"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := pki.OpenLeaf(pki.LeafOptions{CA: ca, KeyPath: t.TempDir() + "/key"})
	if err != nil {
		t.Fatal(err)
	}
	listen := func() *Port {
		p, err := Listen(nil, "127.0.0.1:0", hclog.NewNullLogger())
		if err != nil {
			t.Fatal(err)
		}
		w.run(func(ctx context.Context) { _ = p.Run(ctx) })
		return p
	}
	newcomer, stranger := listen(), listen()
	newcomer.Introduce(leaf.GetCertificate)
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := free.Close(); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ address, want string }{
		"it answers":                      {newcomer.Addr().String(), ""},
		"nobody listens":                  {free.Addr().String(), "connection refused"},
		"a node without a cluster":        {stranger.Addr().String(), "what answers there is not this node"},
		"a member":                        {member.port.Addr().String(), "another node answers there"},
		"a name that is not known":        {"nosuchhost.invalid:7460", "nosuchhost.invalid"},
		"something that does not do this": {"127.0.0.1:1", "connection refused"},
	} {
		t.Run(name, func(t *testing.T) {
			err := Reach(t.Context(), nil, c.address, leaf.Key())
			if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("reaching %s answers %v, want %q", c.address, err, c.want)
			}
		})
	}
	// The introduction opens nothing.
	conn, err := anonymous(&node{id: "new", port: newcomer, ident: Identity{Verifier: member.ident.Verifier}}, identity.ProtocolRaft)
	if err == nil {
		_ = conn.Close()
		t.Error("a verifier that does not know the newcomer accepts it")
	}
	select {
	case c := <-newcomer.queues[identity.ProtocolRaft].conns:
		_ = c.Close()
		t.Error("an introduced port hands a connection to raft")
	default:
	}
}

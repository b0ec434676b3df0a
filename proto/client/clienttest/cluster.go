package clienttest

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/client"
	"github.com/agentplane/agentplane/proto/identity"
)

// Cluster is a cluster of nodes that share one State.
type Cluster struct {
	ID    string
	Nodes []*Node
	State *State

	t testing.TB
}

// NewCluster starts n nodes; they end with the test. The operator "admin" is
// registered.
func NewCluster(t testing.TB, n int) *Cluster {
	t.Helper()
	c := &Cluster{ID: uuid.Must(uuid.NewV7()).String(), t: t}
	c.State = newState(c)
	for i := range n {
		c.AddNode(fmt.Sprintf("node-%c", 'a'+i))
	}
	t.Cleanup(func() {
		for _, n := range c.Nodes {
			n.Kill()
		}
	})
	return c
}

// AddNode starts a further node, which changes the bundle.
func (c *Cluster) AddNode(name string) *Node {
	c.t.Helper()
	n := newNode(c.t, c, name)
	c.Nodes = append(c.Nodes, n)
	c.State.addNode(n)
	for _, other := range c.Nodes {
		other.trust(c.State.Bundle())
	}
	n.serve()
	return n
}

// Addresses returns where the nodes listen.
func (c *Cluster) Addresses() []string {
	var all []string
	for _, n := range c.Nodes {
		all = append(all, n.Address)
	}
	return all
}

// Context returns a context of an operator with a key of its own, registered
// under the name, whose certificate is valid within the span around now.
func (c *Cluster) Context(operator string, before, after time.Duration) *client.Context {
	c.t.Helper()
	key := newKey(c.t)
	id := identity.ID{Cluster: c.ID, Kind: identity.KindOperator, Name: operator}
	ca := c.Nodes[0].ca
	c.State.register(operator, "admin", key.Public())
	return &client.Context{
		ClusterID: c.ID, Operator: operator, Role: "admin",
		Addresses: c.Addresses(), Bundle: c.State.Bundle(), Key: key,
		Certificate:   ca.issue(c.t, id, key.Public(), time.Now().Add(-before), time.Now().Add(after)),
		CACertificate: ca.cert.Raw,
	}
}

// Options returns what a client of the operator "admin" begins with. The times
// are short, so that tests are.
func (c *Cluster) Options() client.Options {
	ctx := c.Context("admin", time.Hour, 24*time.Hour)
	return client.Options{
		Addresses:   c.Addresses(),
		Bundle:      ctx.Bundle,
		Certificate: client.Static(certificate(c.t, ctx.Key, ctx.Certificate)),
	}
}

// Local returns a server of LocalService over the cluster's state, for a socket.
func (c *Cluster) Local() *grpc.Server {
	s := grpc.NewServer()
	agentplanev1.RegisterLocalServiceServer(s, &localService{cluster: c})
	agentplanev1.RegisterClusterServiceServer(s, clusterService{service: service{node: c.Nodes[0], state: c.State}})
	return s
}

func clone[M proto.Message](m M) M { return proto.CloneOf(m) }

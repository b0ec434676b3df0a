package client

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/identity"
)

const (
	firstAdmin = "admin"
	// unmadeCluster stands in the request of the first admin, when the cluster has
	// no id yet.
	unmadeCluster = "new"
)

// Admin is an admin whom a node made over its local socket.
type Admin struct {
	// Context is the admin's; it has no name yet.
	Context *Context
	NodeID  string
	// Existed says that the cluster was there already.
	Existed bool
}

// MakeAdmin registers a new key as an admin's with the node behind a local socket,
// which becomes a cluster of one if it belongs to none. clusterID is what the node
// says of itself, empty for none. Without a name the first admin is "admin" and a
// further one gets a name of its own. An error of the node is returned as it came.
func MakeAdmin(ctx context.Context, node agentplanev1.LocalServiceClient, clusterID, name string) (*Admin, error) {
	if name == "" {
		name = firstAdmin
		if clusterID != "" {
			// The first one has that name, and a key that is not ours.
			b := make([]byte, 3)
			if _, err := rand.Read(b); err != nil {
				return nil, err
			}
			name += "-" + hex.EncodeToString(b)
		}
	}
	if clusterID == "" {
		clusterID = unmadeCluster
	}
	key, err := identity.GenerateKey()
	if err != nil {
		return nil, err
	}
	csr, err := identity.CreateRequest(key, identity.ID{Cluster: clusterID, Kind: identity.KindOperator, Name: name})
	if err != nil {
		return nil, err
	}
	r, err := node.Init(ctx, &agentplanev1.InitRequest{OperatorCsr: csr, OperatorName: name})
	if err != nil {
		return nil, err
	}
	c, err := NewContext(key, r.Certificate, r.CaCertificate, r.Bundle, r.Role)
	if err != nil {
		return nil, err
	}
	return &Admin{Context: c, NodeID: r.NodeId, Existed: r.Existed}, nil
}

// NewContext makes a context, as yet without a name, of what a cluster answered to
// an operator's request with the key.
func NewContext(key identity.Key, cert, ca []byte, b *agentplanev1.Bundle, role string) (*Context, error) {
	if _, err := identity.NewCertificate(key, cert); err != nil {
		return nil, err
	}
	id, _, _, err := identity.ParseCertificate(cert)
	if err != nil {
		return nil, err
	}
	if id.Cluster != b.GetClusterId() || id.Kind != identity.KindOperator {
		return nil, fmt.Errorf("the node answered a certificate of %s, for an operator of cluster %q", id, b.GetClusterId())
	}
	c := &Context{
		ClusterID: id.Cluster, Operator: id.Name, Role: role, Key: key, Certificate: cert, CACertificate: ca,
	}
	c.Learn(b, "")
	return c, nil
}

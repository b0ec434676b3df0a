package client

import (
	"encoding/hex"
	"fmt"
	"slices"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/identity"
)

// TrustBundle turns the bundle of the API into the one that judges certificates.
// The incarnation's id becomes its hexadecimal form.
func TrustBundle(b *agentplanev1.Bundle) (*identity.Bundle, error) {
	t := &identity.Bundle{
		ClusterID: b.GetClusterId(),
		Incarnation: identity.Incarnation{
			Number: uint64(b.GetIncarnation().GetNumber()),
			ID:     hex.EncodeToString(b.GetIncarnation().GetId()),
		},
		Index: b.GetIndex(),
	}
	for _, n := range b.GetNodes() {
		node := identity.NodeKey{NodeID: n.Id, Key: n.PublicKey}
		if n.Address != "" {
			node.Addresses = []string{n.Address}
		}
		t.Nodes = append(t.Nodes, node)
		if len(n.CaCertificate) > 0 {
			t.CAs = append(t.CAs, identity.CA{NodeID: n.Id, CertDER: n.CaCertificate})
		}
	}
	if err := t.Validate(); err != nil {
		return nil, fmt.Errorf("trust bundle of cluster %.100q: %w", t.ClusterID, err)
	}
	return t, nil
}

// APIBundle is the inverse of TrustBundle, but for the names of nodes, which trust
// does not need, and all addresses and CAs of a node behind its first.
func APIBundle(t *identity.Bundle) (*agentplanev1.Bundle, error) {
	id, err := hex.DecodeString(t.Incarnation.ID)
	if err != nil {
		return nil, fmt.Errorf("trust bundle of cluster %.100q: incarnation id %.64q is not hexadecimal", t.ClusterID, t.Incarnation.ID)
	}
	b := &agentplanev1.Bundle{
		ClusterId:   t.ClusterID,
		Incarnation: &agentplanev1.Incarnation{Number: uint32(t.Incarnation.Number), Id: id},
		Index:       t.Index,
	}
	for _, n := range t.Nodes {
		node := &agentplanev1.BundleNode{Id: n.NodeID, PublicKey: n.Key}
		if len(n.Addresses) > 0 {
			node.Address = n.Addresses[0]
		}
		if i := slices.IndexFunc(t.CAs, func(ca identity.CA) bool { return ca.NodeID == n.NodeID }); i >= 0 {
			node.CaCertificate = t.CAs[i].CertDER
		}
		b.Nodes = append(b.Nodes, node)
	}
	return b, nil
}

// merge returns the addresses, then those of the bundle that are not among them.
func merge(addresses []string, b *agentplanev1.Bundle) []string {
	var all []string
	add := func(a string) {
		if a != "" && !slices.Contains(all, a) {
			all = append(all, a)
		}
	}
	for _, a := range addresses {
		add(a)
	}
	for _, n := range b.GetNodes() {
		add(n.Address)
	}
	return all
}

// newer reports whether b may take the place of old: a later index of the same
// life of the same cluster, or a later life. That a node of the old bundle sent
// it is what makes a later life believable.
func newer(b, old *agentplanev1.Bundle) bool {
	was, is := old.GetIncarnation(), b.GetIncarnation()
	switch {
	case b.GetClusterId() != old.GetClusterId():
		return false
	case is.GetNumber() != was.GetNumber():
		return is.GetNumber() > was.GetNumber()
	case string(is.GetId()) != string(was.GetId()):
		return false
	default:
		return b.GetIndex() > old.GetIndex()
	}
}

// bundled is an answer with a bundle in it.
type bundled interface{ GetBundle() *agentplanev1.Bundle }

// learn takes a newer bundle from an answer into use.
func (c *Client) learn(answer any) {
	m, ok := answer.(bundled)
	if !ok || m.GetBundle() == nil || c.verifier == nil {
		return
	}
	b := m.GetBundle()
	if !newer(b, c.Bundle()) {
		return
	}
	trusted, err := TrustBundle(b)
	if err == nil {
		err = c.verifier.Update(trusted)
	}
	if err != nil {
		c.opts.Logger.Warn("bundle not taken", "index", b.GetIndex(), "err", err)
		return
	}
	c.mu.Lock()
	taken := newer(b, c.bundle) // another call may have been quicker
	if taken {
		c.bundle = b
		c.addresses = merge(c.opts.Addresses, b)
	}
	c.mu.Unlock()
	if taken && c.opts.OnBundle != nil {
		c.opts.OnBundle(b)
	}
}

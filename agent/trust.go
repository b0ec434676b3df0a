package agent

import (
	"errors"
	"slices"
	"sync"

	"google.golang.org/protobuf/proto"

	"github.com/agentplane/agentplane/agent/session"
	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/client"
	"github.com/agentplane/agentplane/proto/identity"
)

const maxTrustBytes = identity.MaxBundleBytes

// trust is the newest bundle that the agent has seen. It is on disk before it is used, so
// that a restart knows all nodes and no older incarnation is believed again.
type trust struct {
	path    string
	servers []string // from the configuration

	mu     sync.Mutex // guards what follows, and the file
	judge  *identity.Verifier
	bundle *agentplanev1.Bundle
}

// loadTrust reads the bundle of an enrolled agent.
func loadTrust(path string, servers []string) (*trust, error) {
	b, err := identity.ReadSecretFile(path, maxTrustBytes)
	if err != nil {
		return nil, err
	}
	trusted, err := identity.ParseBundle(b)
	if err != nil {
		return nil, damaged(path, err)
	}
	t := &trust{path: path, servers: servers}
	if t.judge, err = identity.NewVerifier(trusted, nil); err != nil {
		return nil, damaged(path, err)
	}
	if t.bundle, err = client.APIBundle(trusted); err != nil {
		return nil, damaged(path, err)
	}
	return t, nil
}

// storeTrust writes the bundle that enrolment brought.
func storeTrust(path string, b *agentplanev1.Bundle) error {
	trusted, err := client.TrustBundle(b)
	if err != nil {
		return err
	}
	data, err := trusted.Marshal()
	if err != nil {
		return err
	}
	return identity.ReplaceFile(path, data)
}

// Learn takes a newer bundle, durably. An older one or the same is no error: nodes differ
// in how far they are.
func (t *trust) Learn(b *agentplanev1.Bundle) error {
	if b == nil {
		return nil
	}
	trusted, err := client.TrustBundle(b)
	if err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	old := t.judge.Bundle()
	if trusted.ClusterID == old.ClusterID && trusted.Incarnation == old.Incarnation && trusted.Index <= old.Index {
		return nil
	}
	next, err := identity.NewVerifier(old, nil)
	if err == nil {
		err = next.Update(trusted)
	}
	if err != nil {
		if errors.Is(err, identity.ErrOlderBundle) {
			return nil
		}
		return err
	}
	if err := storeTrust(t.path, b); err != nil {
		return err
	}
	t.judge, t.bundle = next, b
	return nil
}

// Incarnation is that of the bundle.
func (t *trust) Incarnation() *agentplanev1.Incarnation {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.bundle.GetIncarnation()
}

// Nodes lists those of the bundle and the configured addresses.
func (t *trust) Nodes() []session.Node {
	t.mu.Lock()
	defer t.mu.Unlock()
	var all []session.Node
	for _, n := range t.bundle.GetNodes() {
		all = append(all, session.Node{ID: n.GetId(), Address: n.GetAddress()})
	}
	for _, a := range t.servers {
		all = append(all, session.Node{Address: a})
	}
	return all
}

// addresses lists where any node may be asked, in no special order.
func (t *trust) addresses() []string {
	var all []string
	for _, n := range t.Nodes() {
		if n.Address != "" && !slices.Contains(all, n.Address) {
			all = append(all, n.Address)
		}
	}
	return all
}

// without is the bundle without addresses: a client made with it asks only where it is
// told to.
func (t *trust) without() *agentplanev1.Bundle {
	t.mu.Lock()
	b := proto.CloneOf(t.bundle)
	t.mu.Unlock()
	for _, n := range b.GetNodes() {
		n.Address = ""
	}
	return b
}

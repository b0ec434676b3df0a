package fleet

import (
	"errors"
	"sync"

	"github.com/agentplane/agentplane/agent/session"
	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/client"
	"github.com/agentplane/agentplane/proto/identity"
)

// trust is what all agents of the fleet know of the cluster. Each real agent keeps a copy
// of its own; here a thousand of them would say the same.
type trust struct {
	judge *identity.Verifier

	mu     sync.Mutex // guards bundle
	bundle *agentplanev1.Bundle
}

func newTrust(b *agentplanev1.Bundle) (*trust, error) {
	trusted, err := client.TrustBundle(b)
	if err != nil {
		return nil, err
	}
	judge, err := identity.NewVerifier(trusted, nil)
	if err != nil {
		return nil, err
	}
	return &trust{judge: judge, bundle: b}, nil
}

// Learn takes a newer bundle.
func (t *trust) Learn(b *agentplanev1.Bundle) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if b == nil || b.GetIndex() <= t.bundle.GetIndex() {
		return nil
	}
	trusted, err := client.TrustBundle(b)
	if err != nil {
		return err
	}
	if err := t.judge.Update(trusted); err != nil {
		if errors.Is(err, identity.ErrOlderBundle) {
			return nil
		}
		return err
	}
	t.bundle = b
	return nil
}

// Incarnation is that of the bundle.
func (t *trust) Incarnation() *agentplanev1.Incarnation {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.bundle.GetIncarnation()
}

// Nodes lists those of the bundle.
func (t *trust) Nodes() []session.Node {
	t.mu.Lock()
	defer t.mu.Unlock()
	var all []session.Node
	for _, n := range t.bundle.GetNodes() {
		all = append(all, session.Node{ID: n.GetId(), Address: n.GetAddress()})
	}
	return all
}

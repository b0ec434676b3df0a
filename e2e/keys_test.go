package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

// gossipKeys is what agentctl keys list prints.
type gossipKeys []struct{ ID, State string }

// TestGossipKeysAreRotated: a new key comes into the place of the old one on every node, also
// for a node that is stopped when that begins, and gossip goes on.
func TestGossipKeysAreRotated(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	nodes, err := l.Cluster(within(t, time.Minute), three)
	if err != nil {
		t.Fatal(err)
	}
	voters(t, l, len(three))
	list := func(args ...string) (keys gossipKeys) {
		t.Helper()
		out := l.Ctl(within(t, 20*time.Second), append([]string{"keys", "list", "-o", "json"}, args...)...)
		if err := errors.Join(out.Err(), json.Unmarshal([]byte(out.Stdout), &keys)); err != nil {
			t.Fatal(err)
		}
		return keys
	}
	before := list()
	if len(before) != 1 || before[0].State != "IN_USE" {
		t.Fatalf("keys %v, want one that is in use", before)
	}
	// It is away when the rotation begins, and not for as long as it is waited for.
	if err := nodes[2].Stop(20 * time.Second); err != nil {
		t.Fatal(err)
	}
	if out := l.Ctl(within(t, 20*time.Second), "keys", "rotate", "--no-wait"); out.Err() != nil || !strings.Contains(out.Stdout, "comes into use") {
		t.Fatalf("rotate: %v, %q", out.Err(), out.Stdout)
	}
	if keys := list(); len(keys) != 2 || keys[0].ID != before[0].ID || keys[1].State != "NEXT" {
		t.Errorf("while a node is away the keys are %v, want the old one in use", keys)
	}
	if err := nodes[2].Start(); err != nil {
		t.Fatal(err)
	}
	out := l.Ctl(within(t, time.Minute), "keys", "rotate")
	if out.Err() != nil || !strings.Contains(out.Stderr, "a rotation goes on already") || !strings.Contains(out.Stdout, "all nodes use gossip key ") {
		t.Fatalf("rotate: %v, %q, %q", out.Err(), out.Stdout, out.Stderr)
	}
	after := list()
	if len(after) != 1 || after[0].ID == before[0].ID {
		t.Fatalf("keys %v, want one that is not %s", after, before[0].ID)
	}
	for _, n := range nodes {
		await(t, 30*time.Second, n.Name+" has the new key and hears all others", func() error {
			address, err := n.Address(t.Context())
			if err != nil {
				return err
			}
			if keys := list("--addr", address, "--stale"); len(keys) != 1 || keys[0].ID != after[0].ID {
				return fmt.Errorf("keys %v", keys)
			}
			members, err := l.Members(within(t, 10*time.Second), "--addr", address, "--stale")
			if err != nil {
				return err
			}
			for _, m := range members {
				if m.State != "alive" {
					return fmt.Errorf("%s is %s", m.Name, m.State)
				}
			}
			return nil
		})
	}
	// A node that begins anew does so with the new key.
	if err := nodes[1].Stop(20 * time.Second); err != nil {
		t.Fatal(err)
	}
	if err := nodes[1].Start(); err != nil {
		t.Fatal(err)
	}
	voters(t, l, len(three))
	await(t, 30*time.Second, "all are alive", func() error {
		members, err := l.Members(within(t, 10*time.Second))
		for _, m := range members {
			if m.State != "alive" {
				err = fmt.Errorf("%s is %s", m.Name, m.State)
			}
		}
		return err
	})
}

package sim

import (
	"context"
	"fmt"
	"time"

	"github.com/agentplane/agentplane/fsm"
	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/client"
)

// beginsOlder says that the nodes of this life begin as an older build, of one feature level
// less, and are upgraded one by one: now and then when they start anew, and all of them in the
// healed world.
func (w *World) beginsOlder() bool { return w.seed%4 == 3 }

// upgradedLocked says whether the node that starts now is this build, and whether that is new.
func (n *node) upgradedLocked() (upgraded, anew bool) {
	was := n.older
	if n.lives > 1 && (n.w.seed/4+uint64(n.lives))%2 == 0 {
		n.older = false // whoever starts it anew has put the new program there
	}
	return !n.older, was && !n.older
}

// levelOf is the feature level for which a life of a node stands.
func levelOf(upgraded bool) uint32 {
	if upgraded {
		return fsm.FeatureLevel
	}
	return fsm.FeatureLevel - 1
}

// upgrades has every node that is older start anew as this build.
func (w *World) upgrades() error {
	for _, n := range w.nodes {
		w.mu.Lock()
		older := n.older
		n.older = false
		if older {
			w.accepted["upgrades at the end"]++
		}
		w.mu.Unlock()
		if older {
			n.kill(false)
			if err := n.start(); err != nil {
				return err
			}
		}
	}
	return nil
}

// judgeLevel wants that no node which the cluster has is below the cluster's feature level.
func judgeLevel(v *fsm.View) (wrong []string) {
	for n := range v.RegisteredNodes() {
		if n.GetFeatureLevel() < v.Cluster().GetFeatureLevel() {
			wrong = append(wrong, fmt.Sprintf("at index %d the feature level is %d, and node %s has %d", v.Index(), v.Cluster().GetFeatureLevel(), n.GetName(), n.GetFeatureLevel()))
		}
	}
	return wrong
}

// rotates says that an operator puts new gossip keys into the place of old ones in this life.
func (w *World) rotates() bool { return w.seed%4 == 2 }

// rotate does that, again and again, until ctx ends.
func (o *operators) rotate(ctx context.Context) {
	d := o.desk(0x6b6579)
	defer d.close()
	for ctx.Err() == nil {
		time.Sleep(time.Duration(500+d.rng.IntN(4000)) * time.Millisecond)
		one, cancel := context.WithTimeout(ctx, 3*time.Second)
		c := d.any()
		keys, err := c.Keys(one)
		if err == nil && len(keys) == 1 {
			var r *agentplanev1.RotateKeyResponse
			if r, err = c.RotateKey(one, keys[0].GetId()); err == nil {
				o.w.mu.Lock()
				o.w.accepted["keys rotated"]++
				o.w.replaced = append(o.w.replaced, keys[0].GetId())
				o.w.mu.Unlock()
				o.w.trace.Note("operator", "gossip key %s gives way to %s", keys[0].GetId(), r.GetId())
			}
		}
		o.heed(err)
		cancel()
	}
}

// settles waits until the feature level is that of this build, and until the last rotation of
// the gossip keys has ended, and every node hears every other one by gossip.
func (w *World) settles(ctx context.Context) error {
	for {
		why := w.unsettledLevel()
		if why == "" {
			why = w.unheard(ctx)
		}
		if why == "" {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s", why)
		case <-time.After(500 * time.Millisecond):
		}
	}
}

func (w *World) unsettledLevel() string {
	c := w.newest().Cluster()
	switch {
	case c.GetFeatureLevel() != fsm.FeatureLevel:
		return fmt.Sprintf("the feature level is %d, all nodes have %d", c.GetFeatureLevel(), fsm.FeatureLevel)
	case len(c.GetKeyring()) != 1:
		return fmt.Sprintf("there are %d gossip keys", len(c.GetKeyring()))
	}
	return ""
}

// unheard says which node does not hear another one, by gossip.
func (w *World) unheard(ctx context.Context) string {
	if !w.rotates() {
		return ""
	}
	keys := make(map[string]bool)
	for _, n := range w.nodes {
		c, err := w.operators.clientOf([]string{n.address()})
		if err != nil {
			return err.Error()
		}
		one, cancel := context.WithTimeout(ctx, 3*time.Second)
		members, err := c.Members(one, client.Stale(true))
		ring, kerr := c.Keys(one, client.Stale(true))
		cancel()
		w.operators.disconnect(c)
		if err != nil || kerr != nil {
			return fmt.Sprintf("%s does not say whom it hears: %v, %v", n.name, err, kerr)
		}
		for _, m := range members {
			if m.GetState() != "alive" {
				return fmt.Sprintf("%s takes %s for %s", n.name, m.GetName(), m.GetState())
			}
		}
		for _, k := range ring {
			keys[k.GetId()] = true
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, old := range w.replaced {
		if keys[old] { // a node may be a step behind
			return fmt.Sprintf("the rotation of key %s was acknowledged, and a node still has it", old)
		}
	}
	return ""
}

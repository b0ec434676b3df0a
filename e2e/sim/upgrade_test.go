package sim

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

// TestADeadNodeHoldsNoRotationUpForLong: gossip keys are rotated while a node is dead. It is
// waited for, but not for ever, and gossips again when it comes back with a key that nobody
// has any more.
func TestADeadNodeHoldsNoRotationUpForLong(t *testing.T) {
	dir := home(t)
	synctest.Test(t, func(t *testing.T) {
		const seed = 2 // of those in which keys are rotated
		rng, _, _ := draw(seed)
		w := newWorld(seed, dir, rng)
		defer func() {
			w.close()
			time.Sleep(lingering)
			for _, red := range w.red {
				t.Error(red)
			}
		}()
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
		defer cancel()
		if err := w.form(ctx); err != nil {
			t.Fatal(err)
		}
		dead := w.nodes[0]
		if dead == w.leader() {
			dead = w.nodes[1]
		}
		dead.kill(false)
		c, err := w.operators.connect(0)
		if err != nil {
			t.Fatal(err)
		}
		defer w.operators.disconnect(c)
		before, err := c.Keys(ctx)
		if err != nil || len(before) != 1 {
			t.Fatalf("keys %v, %v, want one", before, err)
		}
		began := time.Now()
		made, err := c.RotateKey(ctx, before[0].GetId())
		if err != nil || made.GetDone() || made.GetId() == before[0].GetId() {
			t.Fatalf("rotate: %v, %v, want another key that is not alone yet", made, err)
		}
		// The same call again has the same answer, and begins nothing.
		if again, err := c.RotateKey(ctx, before[0].GetId()); err != nil || again.GetId() != made.GetId() {
			t.Errorf("rotate again: %v, %v, want %v", again, err, made)
		}
		for w.unsettledLevel() != "" {
			if ctx.Err() != nil {
				t.Fatal(w.unsettledLevel())
			}
			time.Sleep(time.Second)
		}
		// It holds up each of two steps for a minute.
		if took := time.Since(began); took < time.Minute || took > 4*time.Minute {
			t.Errorf("the rotation took %v: a dead node is waited for at each of two steps, a minute", took)
		}
		if again, err := c.RotateKey(ctx, before[0].GetId()); err != nil || again.GetId() != made.GetId() || !again.GetDone() {
			t.Errorf("rotate what was replaced: %v, %v, want %s, done", again, err, made.GetId())
		}
		if err := dead.start(); err != nil {
			t.Fatal(err)
		}
		if err := w.settles(ctx); err != nil {
			t.Fatal(err)
		}
	})
}

package controlplane

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

func TestANodeLearnsThatItWasRemoved(t *testing.T) {
	never := func() time.Time { return time.Time{} }
	for _, c := range []struct {
		name       string
		trusted    bool
		leaderSeen func() time.Time
		says       map[string]bool // peers that answer
		removed    bool
		within     time.Duration
	}{
		{"its own state says so", false, time.Now, nil, true, 0},
		{"one of its peers says so", true, never, map[string]bool{"b": false, "c": true}, true, 10 * time.Second},
		{"nobody is asked while there is a leader", true, time.Now, map[string]bool{"b": true}, false, 0},
		{"nobody answers", true, never, nil, false, 0},
		{"all say that it belongs to them", true, never, map[string]bool{"b": false, "c": false}, false, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
				defer cancel()
				start := time.Now()
				err := removal{
					trusted: func() bool { return c.trusted }, leaderSeen: c.leaderSeen, peers: func() []string { return []string{"b", "c"} },
					ask: func(ctx context.Context, id string) (bool, error) {
						if removed, answers := c.says[id]; answers {
							return removed, nil
						}
						<-ctx.Done()
						return true, ctx.Err()
					},
				}.run(ctx)
				if errors.Is(err, ErrRemoved) != c.removed || (err != nil && time.Since(start) > c.within) {
					t.Errorf("run = %v after %v, want removed %v within %v", err, time.Since(start), c.removed, c.within)
				}
			})
		})
	}
}

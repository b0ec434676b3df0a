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
		rejoins    bool
		within     time.Duration
	}{
		{"its own state says so", false, time.Now, nil, true, false, 0},
		{"one of its peers says so", true, never, map[string]bool{"b": false, "c": true}, true, false, 10 * time.Second},
		{"nobody is asked while there is a leader", true, time.Now, map[string]bool{"b": true}, false, false, 0},
		{"nobody answers", true, never, nil, false, true, 0},
		{"all say that it belongs to them", true, never, map[string]bool{"b": false, "c": false}, false, true, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
				defer cancel()
				start, rejoins := time.Now(), 0
				err := removal{
					trusted: func() bool { return c.trusted }, leaderSeen: c.leaderSeen, peers: func() []string { return []string{"b", "c"} },
					ask: func(ctx context.Context, id string) (bool, error) {
						if removed, answers := c.says[id]; answers {
							return removed, nil
						}
						<-ctx.Done()
						return true, ctx.Err()
					},
					rejoin: func(context.Context) { rejoins++ },
				}.run(ctx)
				if rejoins > 0 != c.rejoins {
					t.Errorf("it asked to be added again %d times, want that it does: %v", rejoins, c.rejoins)
				}
				if errors.Is(err, ErrRemoved) != c.removed || (err != nil && time.Since(start) > c.within) {
					t.Errorf("run = %v after %v, want removed %v within %v", err, time.Since(start), c.removed, c.within)
				}
			})
		})
	}
}

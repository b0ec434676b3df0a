package session

import (
	"context"
	"math/rand/v2"
	"time"
)

const backoffBase = time.Second

// backoff gives waits with full jitter: up to 1, 2, 4, 8 … s, and never above the cap.
type backoff struct {
	cap   time.Duration
	round int
}

func (b *backoff) next() time.Duration {
	bound := ceiling(b.round, b.cap)
	b.round++
	return rand.N(bound + 1)
}

func (b *backoff) reset() { b.round = 0 }

// ceiling is the longest wait of a round.
func ceiling(round int, limit time.Duration) time.Duration {
	if round > 20 { // 2^20 s is above any cap
		return limit
	}
	return min(backoffBase<<round, limit)
}

// jittered is d and up to a quarter more, so that agents told the same do not come at the
// same time.
func jittered(d time.Duration) time.Duration {
	if d <= 0 {
		return 0
	}
	return d + rand.N(d/4+1)
}

// sleep reports whether it slept d through.
func sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

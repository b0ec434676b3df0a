package operator

import (
	"context"
	"sync"
	"time"

	"golang.org/x/time/rate"
	"google.golang.org/grpc/codes"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
)

// submitRate bounds how many new commands each caller submits in a second. It is the
// leader's own: the next one begins with full bursts. What is answered because it stands
// does not count.
type submitRate struct {
	perSecond, burst int // perSecond 0: no bound

	mu       sync.Mutex
	limiters map[string]*rate.Limiter
}

// maxLimiters bounds the callers that are remembered. There are no more than operators
// that were seen since this node started.
const maxLimiters = 10_000

// take counts one submission of the caller, or answers after how long it may come.
func (r *submitRate) take(caller string, now time.Time) (wait time.Duration) {
	if r.perSecond == 0 {
		return 0
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	l := r.limiters[caller]
	if l == nil {
		if r.limiters == nil || len(r.limiters) >= maxLimiters {
			r.limiters = make(map[string]*rate.Limiter)
		}
		l = rate.NewLimiter(rate.Limit(r.perSecond), r.burst)
		r.limiters[caller] = l
	}
	reservation := l.ReserveN(now, 1)
	if wait = reservation.DelayFrom(now); wait > 0 {
		reservation.CancelAt(now)
	}
	return wait
}

// mayAsk refuses a new command of a caller who has submitted too many.
func (c *Commands) mayAsk(ctx context.Context) error {
	caller := c.callerName(ctx)
	wait := c.rate.take(caller, time.Now())
	if wait == 0 {
		return nil
	}
	return c.refuseWith(codes.ResourceExhausted, &agentplanev1.ErrorDetail{
		Reason: "operator_rate", RetryAfterMs: uint32(wait.Milliseconds()) + 1,
		Hint: "wait, mean many agents by one command, or raise commands.rate_per_operator on the nodes",
	}, "%s submits more than %d commands in a second", caller, c.rate.perSecond)
}

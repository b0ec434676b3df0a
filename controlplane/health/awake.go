package health

import "time"

// maxStep is how much one look at the clock counts at most.
const maxStep = time.Second

// awake measures time on the monotonic clock, without the time during which this
// process did not run (stopped, starved, suspended) or waited for an entry: meanwhile
// agents may have asked for a session in vain. Somebody has to call advance more
// often than maxStep.
type awake struct {
	at     time.Time
	passed time.Duration
}

// advance moves on to now and returns the time passed so far.
func (a *awake) advance(now time.Time) time.Duration {
	if !a.at.IsZero() {
		a.passed += min(max(now.Sub(a.at), 0), maxStep)
	}
	a.at = now
	return a.passed
}

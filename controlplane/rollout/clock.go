package rollout

import "time"

// clock knows two times. The cluster's moves on with entries only: between them it is
// estimated by the monotonic clock. The time awake is that during which this process
// ran and did not wait long for an entry; only while it does can agents be heard.
type clock struct {
	now int64     // the cluster's time, as the state last had it
	at  time.Time // when that was seen

	looked time.Time
	awake  time.Duration
	waited time.Duration // the part of awake that went by since the last proposal
}

const (
	// tick is how often the clock is looked at, at the least.
	tick = time.Second
	// maxStep is how much time awake one look counts at most, and one entry that is
	// waited for.
	maxStep = 3 * tick
)

// look moves both times on to at, where the state has the cluster's time now. waits says
// that an entry is waited for.
func (c *clock) look(now int64, at time.Time, waits bool) {
	if now > c.now || c.at.IsZero() {
		c.now, c.at = now, at
	}
	if !c.looked.IsZero() {
		step := min(max(at.Sub(c.looked), 0), maxStep)
		if waits {
			step = min(step, maxStep-c.waited)
			c.waited += step
		} else {
			c.waited = 0
		}
		c.awake += step
	}
	c.looked = at
}

// cluster is the cluster's time, estimated as of the last look.
func (c *clock) cluster() int64 { return c.now + int64(c.looked.Sub(c.at)) }

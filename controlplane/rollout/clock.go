package rollout

import "time"

// clock knows two times. The cluster's moves on with entries only: between them it is
// estimated by the monotonic clock. The time awake is that during which this process
// ran and did not wait for an entry; only while it does can agents be heard.
type clock struct {
	now int64     // the cluster's time, as the state last had it
	at  time.Time // when that was seen

	looked time.Time
	awake  time.Duration
}

const (
	// tick is how often the clock is looked at, at the least.
	tick = time.Second
	// maxStep is how much time awake one look counts at most.
	maxStep = 3 * tick
)

// look moves both times on to at, where the state has the cluster's time now.
func (c *clock) look(now int64, at time.Time) {
	if now > c.now || c.at.IsZero() {
		c.now, c.at = now, at
	}
	if !c.looked.IsZero() {
		c.awake += min(max(at.Sub(c.looked), 0), maxStep)
	}
	c.looked = at
}

// cluster is the cluster's time, estimated as of the last look.
func (c *clock) cluster() int64 { return c.now + int64(c.looked.Sub(c.at)) }

package controlplane

import (
	"sync/atomic"
	"time"

	"github.com/agentplane/agentplane/proto/identity"
)

// clock tells the cluster's time between entries: what the state last said, and how
// long ago that was by the monotonic clock. The machine's wall clock has no part in
// it.
type clock struct {
	wall func() time.Time // nil is time.Now
	last atomic.Pointer[tick]
	// current says that the state has been up to date in this life. Before, what it says
	// may be as old as the node's last stop.
	current atomic.Bool
}

type tick struct {
	now  int64
	seen time.Time
}

// saw notes what the state says now.
func (c *clock) saw(now int64) {
	if t := c.last.Load(); t == nil || t.now < now {
		c.last.Store(&tick{now: now, seen: time.Now()})
	}
}

func (c *clock) now() time.Time {
	t := c.last.Load()
	if t == nil {
		return time.Unix(0, 0)
	}
	return time.Unix(0, t.now).Add(time.Since(t.seen))
}

// moment is what certificates are judged and issued by. A state that may be old says at
// least that it is not earlier than that.
func (c *clock) moment() identity.Moment {
	m := identity.Moment{Own: time.Now()}
	if c.wall != nil {
		m.Own = c.wall()
	}
	if t := c.last.Load(); t == nil || t.now == 0 {
		return m
	}
	if now := c.now(); c.current.Load() || now.After(m.Own) {
		m.Cluster = now
	}
	return m
}

// reckoned is the cluster's time, if it is known.
func (c *clock) reckoned() (time.Time, bool) { return c.now(), c.current.Load() }

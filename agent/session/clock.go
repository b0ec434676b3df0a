package session

import (
	"sync"
	"time"
)

// Clock is the cluster's time as the agent knows it: what a node said last, and the
// monotonic time since. It never goes back. The zero value does not know the time yet.
// All methods may be called at once.
type Clock struct {
	mu   sync.Mutex
	base int64 // cluster time
	at   time.Time
}

// Set takes what a node has said. A time behind the one known is passed over: it was
// stamped by the last entry, which may be a while ago.
func (c *Clock) Set(now int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now > c.nowLocked() {
		c.base, c.at = now, time.Now()
	}
}

// Now is the cluster's time in Unix nanoseconds, and whether it is known.
func (c *Clock) Now() (now int64, known bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.nowLocked(), c.base != 0
}

func (c *Clock) nowLocked() int64 {
	if c.base == 0 {
		return 0
	}
	return c.base + int64(time.Since(c.at))
}

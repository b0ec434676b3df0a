package dispatch

import (
	"sync"
	"time"
)

// clusterClock estimates the cluster's time between entries: the state's own stands
// still while nothing is applied. The estimate decides only when to try or to ask;
// what counts is decided in the state.
type clusterClock struct {
	mu   sync.Mutex
	base int64     // the state's time …
	at   time.Time // … and when it was first seen here
}

func (c *clusterClock) observe(now int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now != c.base || c.at.IsZero() {
		c.base, c.at = now, time.Now()
	}
}

func (c *clusterClock) now() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.at.IsZero() {
		return c.base
	}
	return c.base + int64(time.Since(c.at))
}

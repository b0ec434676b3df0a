package sim

import (
	"sync/atomic"
	"time"
)

// wallClock is that of a host, which may be set wrong. It is safe for concurrent use.
type wallClock struct {
	skew    atomic.Int64
	usual   int64         // what skew is when nothing is wrong with it
	misread atomic.Uint64 // how often it mattered when it was something else
}

func (c *wallClock) now() time.Time { return time.Now().Add(time.Duration(c.skew.Load())) }

// matters notes that something goes by the clock.
func (c *wallClock) matters() {
	if c.skew.Load() != c.usual {
		c.misread.Add(1)
	}
}

// jump sets the clock wrong. That takes effect when something goes by it before it is
// set right.
func (c *wallClock) jump(by time.Duration) ending {
	before := c.misread.Load()
	jumped := c.skew.Swap(int64(by)) != int64(by)
	return func() bool {
		c.skew.Store(c.usual) // whatever jumped meanwhile
		return jumped && c.misread.Load() > before
	}
}

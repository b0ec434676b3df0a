package dispatch

import (
	"math"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// gatherWindow is the least time between two batches of reports that are not full,
	// while a crowd reports. In it a command for a thousand agents whose programs end over
	// two seconds costs some twenty batches of a node instead of hundreds, each of which
	// is a call, an fsync on every node, and a transaction.
	gatherWindow = 100 * time.Millisecond
	// gatherCrowd is how many attempts must have been open at once, a moment ago, for
	// their reports to wait for each other, and gatherLevel how many reports must have
	// come within about gatherWindow.
	gatherCrowd = 16
	gatherLevel = 4
	// gatherMemory is how fast a crowd is forgotten: its last reports come when few are
	// left.
	gatherMemory = time.Second
)

// gathering decides whether a batch of reports waits for company. A report that nobody
// else is likely to follow never does: neither that of a lone command, nor the last ones
// of many, since then no other end is awaited.
type gathering struct {
	// awaited counts the attempts of sessions here that are claimed or running and whose
	// end was not reported.
	awaited atomic.Int64

	mu    sync.Mutex // guards what follows
	level leak       // reports of late
	crowd leak       // attempts that were awaited at once, of late
	last  time.Time  // when a batch went
}

// leak is a number that is forgotten.
type leak struct {
	value float64
	at    time.Time
}

func (l *leak) now(now time.Time, over time.Duration) float64 {
	if d := now.Sub(l.at); d > 0 {
		l.value *= math.Exp(-float64(d) / float64(over))
		l.at = now
	}
	return l.value
}

// arrived notes that a report was queued.
func (g *gathering) arrived(now time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.level.value = g.level.now(now, gatherWindow) + 1
	g.crowd.value = max(g.crowd.now(now, gatherMemory), float64(g.awaited.Load()))
}

// hold answers how long what is queued shall wait for more.
func (g *gathering) hold(now time.Time) time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.awaited.Load() <= 0 || g.level.now(now, gatherWindow) < gatherLevel || g.crowd.now(now, gatherMemory) < gatherCrowd {
		return 0
	}
	return g.last.Add(gatherWindow).Sub(now)
}

// went notes that a batch was taken.
func (g *gathering) went(now time.Time) {
	g.mu.Lock()
	g.last = now
	g.mu.Unlock()
}

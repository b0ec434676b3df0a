package consensus

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"
)

// clock is the cluster's time during one office: it goes with the monotonic clock
// and is slewed towards the median of the voters' wall clocks by at most a tenth, so
// that it neither jumps nor stands still. Its values never fall.
type clock struct {
	mu     sync.Mutex // guards all
	now    time.Duration
	behind time.Duration // how far now lies behind the median; negative when ahead
	at     time.Time     // monotonic, when now was computed
}

// newClock begins at now (Unix ns) and walks towards median (Unix ns).
func newClock(now, median int64) *clock {
	return &clock{now: time.Duration(now), behind: time.Duration(median - now), at: time.Now()}
}

// Now is the cluster's time, Unix nanoseconds.
func (c *clock) Now() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return int64(c.advanceLocked())
}

// aim corrects where the clock walks to: median is the voters' time now.
func (c *clock) aim(median int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.behind = time.Duration(median) - c.advanceLocked()
}

func (c *clock) advanceLocked() time.Duration {
	elapsed := time.Since(c.at)
	step, behind := slew(elapsed, c.behind)
	c.now += step
	c.behind = behind
	c.at = c.at.Add(elapsed)
	return c.now
}

// slew is how far a clock that is behind goes in elapsed, and how far it is behind
// afterwards. It is pure, so a table tests it.
func slew(elapsed, behind time.Duration) (step, rest time.Duration) {
	correction := min(max(behind, -elapsed/10), elapsed/10)
	return elapsed + correction, behind - correction
}

// median is the middle of d. Of an even number nobody can tell by the clocks alone which of
// the two middle ones is wrong: it is the one that is nearer to the cluster's time so far,
// and the lower one when that is not known or is as near to both. d is not empty and is
// sorted by the call.
func median(d []time.Duration, reckoned time.Duration, known bool) time.Duration {
	slices.Sort(d)
	low, high := d[(len(d)-1)/2], d[len(d)/2]
	if known && (high-reckoned).Abs() < (low-reckoned).Abs() {
		return high
	}
	return low
}

const (
	// clockGrace is how long further voters may answer after a majority has.
	clockGrace = 100 * time.Millisecond
	// maxClockRTT is the slowest answer that still says something of a clock: after
	// a pause, answers that waited in the socket are as wrong as the pause is long.
	maxClockRTT = time.Second
)

// measure returns how far the median of the voters' wall clocks is from this node's.
// It counts those that answer until 100 ms after a majority has, this node included
// when it is a voter.
func (h *Host) measure(ctx context.Context) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, maxClockRTT)
	defer cancel()
	cfg, _ := h.Configuration()
	voters, member := votersOf(cfg, h.opts.NodeID)
	answers, asked := h.askVoters(ctx, cfg)
	offsets := make([]time.Duration, 0, voters)
	if member {
		offsets = append(offsets, 0)
	}
	var grace <-chan time.Time
	for {
		if grace == nil && len(offsets) >= majority(voters) {
			grace = time.After(clockGrace)
		}
		if asked == 0 {
			break
		}
		select {
		case a := <-answers:
			asked--
			if a.err == nil && a.rtt <= maxClockRTT {
				offsets = append(offsets, a.offset())
			}
			continue
		case <-grace:
		case <-ctx.Done():
		}
		break
	}
	if len(offsets) < majority(voters) || voters == 0 {
		return 0, fmt.Errorf("measure clocks: %w: %d of %d voters", ErrNoQuorum, len(offsets), voters)
	}
	reckoned, known := h.reckoned()
	return median(offsets, reckoned, known), nil
}

// reckoned is how far the cluster's time so far is ahead of this node's wall clock.
func (h *Host) reckoned() (time.Duration, bool) {
	if h.opts.Reckoned == nil {
		return 0, false
	}
	now, known := h.opts.Reckoned()
	return now.Round(0).Sub(h.opts.WallClock().Round(0)), known
}

// offset is how far the answering node's wall clock is ahead of this one's, given
// that the answer was made half way.
func (a answer) offset() time.Duration {
	return a.reply.WallClock.Round(0).Sub(a.sent.Add(a.rtt / 2))
}

// wallAt is this node's wall clock moved by d, Unix nanoseconds.
func (h *Host) wallAt(d time.Duration) int64 { return h.opts.WallClock().Add(d).UnixNano() }

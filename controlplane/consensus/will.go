package consensus

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// will knows whether this node wants to lead. It does not while its disk is below
// the floor of free space, or its wall clock far from the voters' median; both end
// by themselves when the cause does.
type will struct {
	h      *Host
	opened time.Time

	mu     sync.Mutex // guards what follows
	space  string     // why the disk forbids leading, or empty
	clock  string     // why the clock does
	offset time.Duration
}

func newWill(h *Host) *will { return &will{h: h, opened: time.Now()} }

func (w *will) why() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case w.space != "" && w.clock != "":
		return w.space + "; " + w.clock
	default:
		return w.space + w.clock
	}
}

func (w *will) willing() bool { return w.why() == "" }

// mayCampaign is what the gate asks before a pre-vote request leaves. After long
// enough without any leader an unwilling node campaigns too: it may be the only one
// whose log has everything that was committed. Once elected it brings another one up
// to date and hands over.
func (w *will) mayCampaign() bool {
	if w.willing() {
		return true
	}
	heard := w.h.raft.LastContact()
	if heard.Before(w.opened) {
		heard = w.opened
	}
	return time.Since(heard) > 10*w.h.opts.Profile.Heartbeat
}

func (w *will) distance() time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.offset
}

// lookAtSpace compares free space with the floor. A node comes back a quarter above
// it, so that a compaction does not make leadership flap.
func (w *will) lookAtSpace() {
	if w.h.opts.FreeBytes == nil {
		return
	}
	free, err := w.h.opts.FreeBytes()
	if err != nil {
		w.h.log.Warn("cannot read the free space", "err", err)
		return
	}
	floor := w.h.opts.FreeFloorBytes
	w.mu.Lock()
	before := w.space
	switch {
	case free < floor:
		w.space = fmt.Sprintf("the disk has %d bytes free, below the floor %d", free, floor)
	case free >= floor+floor/4:
		w.space = ""
	}
	after := w.space
	w.mu.Unlock()
	w.say(before, after)
}

// judgeClock notes how far the median is from this node's clock and says whether
// that is too far to lead. It comes back at three quarters of the distance.
func (w *will) judgeClock(offset time.Duration) (tooFar bool) {
	limit := w.h.opts.MaxClockDistance
	w.mu.Lock()
	before := w.clock
	w.offset = offset
	switch d := offset.Abs(); {
	case d > limit:
		w.clock = fmt.Sprintf("the wall clock is %s from the voters' median, more than %s", d.Round(time.Millisecond), limit)
	case d <= limit/4*3:
		w.clock = ""
	}
	after := w.clock
	w.mu.Unlock()
	w.say(before, after)
	return after != ""
}

func (w *will) say(before, after string) {
	switch {
	case before == "" && after != "":
		w.h.log.Error("does not lead and does not campaign", "reason", after)
	case before != "" && after == "":
		w.h.log.Info("campaigns again", "reason", before)
	}
}

// run looks until ctx ends. A leader that is unwilling hands over, again and again
// until somebody takes over.
func (w *will) run(ctx context.Context) {
	tick := time.NewTicker(w.h.opts.CheckInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		w.lookAtSpace()
		w.mu.Lock()
		clock := w.clock
		w.mu.Unlock()
		if clock != "" && w.h.office.Load() == nil { // in office the clock is measured anyway
			if offset, err := w.h.measure(ctx); err == nil {
				w.judgeClock(offset)
			}
		}
		if !w.willing() && w.h.raft.State() == raft.Leader {
			if err := w.h.Transfer(ctx, ""); err != nil && ctx.Err() == nil {
				w.h.log.Warn("leads although it should not", "reason", w.why(), "err", err)
			}
		}
	}
}

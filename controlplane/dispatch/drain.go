package dispatch

import (
	"context"
	"time"
)

// Drain takes no more sessions, sends the agents elsewhere one after another, and ends
// the streams of those that have not gone when most of the time is over. It returns nil
// when no session of this process is left in the state, else the context's error.
func (d *Dispatcher) Drain(ctx context.Context) error {
	d.drainOnly.Lock()
	defer d.drainOnly.Unlock()
	d.mu.Lock()
	d.draining = true
	running := d.life != nil && d.life.Err() == nil
	d.mu.Unlock()
	if !running {
		return nil
	}
	total := 2 * d.o.DrainOver
	if deadline, ok := ctx.Deadline(); ok {
		total = min(total, max(0, time.Until(deadline)))
	}
	over := time.NewTimer(total * 3 / 4) // from then on streams are ended
	defer over.Stop()
	sessions := d.all()
	pace := min(d.o.DrainOver, total/2) / time.Duration(len(sessions)+1)
	for _, s := range sessions {
		s.mail.mark(markDrain)
		if !d.pause(ctx, pace) {
			return ctx.Err()
		}
	}
	d.wakeAll(markDrain) // also those that were opening when it began
	for !d.empty() {
		select {
		case <-d.left:
		case <-over.C:
			d.letGo()
		case <-d.life.Done():
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// pause waits for t, or less when every stream has gone.
func (d *Dispatcher) pause(ctx context.Context, t time.Duration) bool {
	timer := time.NewTimer(t)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-d.life.Done():
	case <-ctx.Done():
		return false
	}
	return true
}

// empty says that no stream is left and no session waits to be ended.
func (d *Dispatcher) empty() bool {
	d.mu.Lock()
	streams := d.streams
	d.mu.Unlock()
	return streams == 0 && d.sweeper.idle()
}

package output

import (
	"context"
	"strings"
	"time"

	"github.com/agentplane/agentplane/fsm"
)

const (
	// sweepEvery is how often all output is looked at: what a purge does not tell, because
	// the feed was not followed then, is found so.
	sweepEvery = time.Minute
	// settledFor is how long output is left alone after it was written last.
	settledFor = time.Minute
)

// sweep removes output whose command was purged, and output that a result holds, until
// ctx ends.
func (s *Service) sweep(ctx context.Context) error {
	news := make(chan fsm.News)
	follow, stop := context.WithCancel(ctx)
	ended := make(chan struct{})
	_, cursor := s.o.Machine.ViewAndWatch()
	go func() {
		defer close(ended)
		s.o.Machine.Follow(follow, cursor, news, fsm.TableCommands)
	}()
	defer func() {
		stop()
		<-ended
	}()
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case n := <-news:
			s.purged(ctx, n)
		case <-tick.C:
			s.sweepAll(ctx)
		}
	}
}

// purged removes the output of commands that the feed says were purged.
func (s *Service) purged(ctx context.Context, n fsm.News) {
	gone := make(map[string]bool)
	for _, c := range n.Changes {
		if c.Row == nil {
			gone[c.Key] = true
		} else {
			delete(gone, c.Key)
		}
	}
	if len(gone) == 0 {
		return
	}
	for _, k := range s.o.Store.Keys() {
		if command, _, _ := strings.Cut(k.Invocation, "."); gone[command] {
			s.remove(ctx, k)
		}
	}
}

// sweepAll looks at everything. A node whose state lags knows nothing of new commands:
// that a row is not there counts only after the state has caught up.
func (s *Service) sweepAll(ctx context.Context) {
	keys := s.o.Store.settled(settledFor)
	if len(keys) == 0 {
		return
	}
	within, cancel := context.WithTimeout(ctx, sweepEvery/2)
	defer cancel()
	v, err := s.o.Read(within, false)
	if err != nil {
		return
	}
	for _, k := range keys {
		row, found := v.Invocation(k.Invocation)
		if !found || whole(row, k.Attempt) {
			s.remove(ctx, k)
		}
	}
}

func (s *Service) remove(ctx context.Context, k Key) {
	s.copies.forget(k)
	if err := s.o.Store.Remove(ctx, k); err != nil && ctx.Err() == nil {
		s.log.Warn("output not removed", "attempt", k.String(), "err", err)
	}
}

// settled lists the attempts of which nothing was written for a while.
func (s *Store) settled(since time.Duration) []Key {
	s.mu.Lock()
	defer s.mu.Unlock()
	var keys []Key
	for k, e := range s.entries {
		if time.Since(e.touched) >= since {
			keys = append(keys, k)
		}
	}
	return keys
}

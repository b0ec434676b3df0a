package output

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/agentplane/agentplane/fsm"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

const (
	// sweepEvery is how often all output is looked at: what a purge does not tell, because
	// the feed was not followed then, is found so.
	sweepEvery = time.Minute
	// settledFor is how long output is left alone after it was written last.
	settledFor = time.Minute
	// copiesAtOnce bounds how much is copied again after one look.
	copiesAtOnce = 64
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
	again := 0
	for _, k := range keys {
		row, found := v.Invocation(k.Invocation)
		if !found || whole(row, k.Attempt) {
			s.remove(ctx, k)
		} else if again < copiesAtOnce && s.orphaned(v, recorded(row, k.Attempt)) && s.copyAgain(ctx, k) {
			again++
		}
	}
}

// orphaned says that too few of the nodes that keep the output are left in the cluster, and
// that this one is the first of them.
func (s *Service) orphaned(v *fsm.View, r *raftlogv1.OutputRecord) bool {
	var left []string
	for n := range v.RegisteredNodes() { // by id
		if slices.Contains(r.GetNodeIds(), n.GetId()) {
			left = append(left, n.GetId())
		}
	}
	return r != nil && len(left) > 0 && left[0] == s.o.NodeID && len(left) < s.copies.needed()
}

// copyAgain copies output to further nodes, which are then added to its record.
func (s *Service) copyAgain(ctx context.Context, k Key) bool {
	held, found, err := s.o.Store.Held(ctx, k)
	if err != nil || !found || held.Totals == nil || s.copies.has(k) {
		return false
	}
	s.log.Info("output is copied again: nodes that kept it have left", "attempt", k.String())
	s.copies.begin(k, held, nil)
	return true
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

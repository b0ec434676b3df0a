package operator

import (
	"context"
	"errors"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/agentplane/agentplane/fsm"
)

// chunkBytes bounds one message of a watch.
const chunkBytes = 1 << 20

// follower reads the feed for one watch. It belongs to the goroutine of its stream.
type follower struct {
	s      *service
	cursor fsm.Cursor
	// read is when the last changes were read; leaderless since when no leader is
	// known, zero while one is.
	read       time.Time
	leaderless time.Time
}

// next answers the changes since the last call, at least one unless it returns
// early. It pauses before it reads, so that what happens meanwhile comes together,
// and returns with none after every wake, so that the watch can look at what moves
// by time alone. again says that the feed is compacted: take a copy and begin anew.
func (f *follower) next(ctx context.Context, wake time.Duration) (changes []fsm.Change, again bool, err error) {
	if err := f.pause(ctx); err != nil {
		return nil, false, err
	}
	wait, cancel := context.WithTimeout(ctx, wake)
	defer cancel()
	changes, err = f.s.o.Machine.Changes(wait, f.cursor)
	f.read = time.Now()
	var compacted *fsm.CompactedError
	switch {
	case errors.As(err, &compacted):
		return nil, true, nil
	case err != nil && ctx.Err() != nil:
		return nil, false, f.s.ended(ctx)
	case err == nil:
		f.cursor = changes[len(changes)-1].Cursor
	}
	return changes, false, f.lead()
}

func (f *follower) pause(ctx context.Context) error {
	t := time.NewTimer(f.s.o.WatchInterval - time.Since(f.read))
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return f.s.ended(ctx)
	}
}

// lead ends a watch on a node that has been without a leader for long: nothing will
// come here, and another node may know more.
func (f *follower) lead() error {
	if f.s.o.Raft.Configuration().Leader != "" {
		f.leaderless = time.Time{}
		return nil
	}
	if f.leaderless.IsZero() {
		f.leaderless = time.Now()
	}
	if d := time.Since(f.leaderless); d >= f.s.o.LeaderPatience {
		return f.s.refuseHint(codes.Unavailable, "no_leader", f.s.quorumHint(), "this node has known no leader for %v", d.Round(time.Second))
	}
	return nil
}

// ended is the error of a stream whose caller is gone.
func (s *service) ended(ctx context.Context) error {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return s.refuse(codes.DeadlineExceeded, "timed_out", "the watch was open until its deadline")
	}
	return s.refuse(codes.Canceled, "canceled", "the watch was ended by its caller")
}

package consensus

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// maxRounds is how many read rounds are on their way at once: a read that arrives
// while one is need not wait for its end.
const maxRounds = 2

// Rounds lets reads share rounds: a read joins only a round that starts after it
// arrived, so that whatever a round answers held no earlier than the read began. At
// most two are on their way. All methods may be called at once.
type Rounds struct {
	timeout time.Duration
	spawn   func(func()) bool
	ask     func(context.Context) (uint64, error)

	mu      sync.Mutex // guards all that follows; never held while a round runs
	running int
	next    *round // waits to start; nil when nobody waits
}

// NewRounds returns Rounds that answer what ask answers, within the timeout. Each
// round runs on a goroutine that spawn begins; where it answers false, reads fail
// with ErrShutdown.
func NewRounds(timeout time.Duration, spawn func(func()) bool, ask func(context.Context) (uint64, error)) *Rounds {
	return &Rounds{timeout: timeout, spawn: spawn, ask: ask}
}

type round struct {
	done  chan struct{} // closed after index and err are set
	index uint64
	err   error

	readers int                // guarded by the mutex of Rounds
	cancel  context.CancelFunc // set when it starts, under that mutex
}

// Read answers the index of a round that starts after the call. It belongs to all its
// readers: it ends when it is answered, or when none of them waits any more.
func (r *Rounds) Read(ctx context.Context) (uint64, error) {
	r.mu.Lock()
	if r.next == nil {
		r.next = &round{done: make(chan struct{})}
	}
	mine := r.next
	mine.readers++
	r.startLocked() //nolint:contextcheck // a round outlives any one of its readers
	r.mu.Unlock()
	select {
	case <-mine.done:
		return mine.index, mine.err
	case <-ctx.Done():
		r.leave(mine)
		return 0, ctx.Err()
	}
}

// leave is called by a reader that waits no longer.
func (r *Rounds) leave(left *round) {
	r.mu.Lock()
	defer r.mu.Unlock()
	left.readers--
	switch {
	case left.readers > 0:
	case left == r.next:
		r.next = nil
	default:
		left.cancel()
	}
}

// startLocked starts the waiting round when there is room.
func (r *Rounds) startLocked() {
	starts := r.next
	if starts == nil || r.running >= maxRounds {
		return
	}
	r.next = nil
	r.running++
	ctx, cancel := context.WithTimeout(context.Background(), r.timeout)
	starts.cancel = cancel
	if r.spawn(func() {
		defer cancel()
		starts.index, starts.err = r.ask(ctx)
		close(starts.done)
		r.mu.Lock()
		defer r.mu.Unlock()
		r.running--
		r.startLocked() //nolint:contextcheck // the next round is not this one's
	}) {
		return
	}
	cancel()
	r.running--
	starts.err = ErrShutdown
	close(starts.done)
}

// ReadIndex answers an index that includes every proposal acknowledged before the
// call. A state that has published it answers linearizable reads. Leaders only:
// other nodes ask the leader. An error means that nothing is known; the read may be
// tried again, elsewhere too.
func (h *Host) ReadIndex(ctx context.Context) (uint64, error) {
	index, err := h.rounds.Read(ctx)
	if err != nil {
		return 0, fmt.Errorf("read index: %w", err)
	}
	return index, nil
}

// round is the read round of DESIGN section 6.
//
// Why it holds: whoever acknowledged a proposal before the round began led in a term
// of at most T, or a majority would have a later term, and one of it would say so in
// an answer that was made after the round began. What earlier terms committed lies
// before my take-office entry, which my state has applied; what I acknowledged in T
// lies at or before the commit index that I read after the call arrived.
func (h *Host) round(ctx context.Context) (uint64, error) {
	t := h.raft.CurrentTerm()
	_, office := h.opts.Machine.Published()
	if office.GetNodeId() != string(h.opts.NodeID) || office.GetTerm() != t || h.raft.State() != raft.Leader {
		return 0, h.notLeader()
	}
	c := h.raft.CommitIndex()
	if !asksVoters {
		return c, nil
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	cfg, _ := h.Configuration()
	voters, member := votersOf(cfg, h.opts.NodeID)
	yes := 0
	if member {
		yes++
	}
	var answers <-chan answer
	asked := 0
	if yes < majority(voters) {
		answers, asked = h.askVoters(ctx, cfg)
	}
	var errs []error
	for yes < majority(voters) {
		if yes+asked < majority(voters) {
			return 0, errors.Join(append([]error{ErrNoQuorum}, errs...)...)
		}
		select {
		case a := <-answers:
			asked--
			switch {
			case a.err != nil:
				errs = append(errs, fmt.Errorf("%s: %w", a.server.ID, a.err))
			case a.reply.Term == t:
				yes++
			case a.reply.Term > t:
				return 0, h.deposed()
			}
		case <-ctx.Done():
			return 0, errors.Join(append([]error{ErrNoQuorum, ctx.Err()}, errs...)...)
		}
	}
	if h.raft.CurrentTerm() != t {
		return 0, h.deposed()
	}
	return c, nil
}

// deposed is the error of a leader that has learned of a later term before its raft
// has: it must not name itself.
func (h *Host) deposed() error {
	addr, id := h.raft.LeaderWithID()
	if id == h.opts.NodeID {
		return &NotLeaderError{}
	}
	return &NotLeaderError{LeaderID: id, LeaderAddress: addr}
}

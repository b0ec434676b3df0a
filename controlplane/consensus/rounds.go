package consensus

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/hashicorp/raft"
)

// maxRounds is how many read rounds are on their way at once: a read that arrives
// while one is need not wait for its end.
const maxRounds = 2

// rounds lets reads share rounds. A read joins only a round that has not started.
type rounds struct {
	mu      sync.Mutex // guards all; never held while a round runs
	running int
	next    *round // waits to start; nil when nobody waits
}

type round struct {
	done  chan struct{} // closed after index and err are set
	index uint64
	err   error
}

// ReadIndex answers an index that includes every proposal acknowledged before the
// call. A state that has published it answers linearizable reads. Leaders only:
// other nodes ask the leader. An error means that nothing is known; the read may be
// tried again, elsewhere too.
func (h *Host) ReadIndex(ctx context.Context) (uint64, error) {
	h.rounds.mu.Lock()
	r := h.rounds.next
	if r == nil {
		r = &round{done: make(chan struct{})}
		h.rounds.next = r
	}
	h.startRoundLocked() //nolint:contextcheck // a round belongs to all its readers and outlives any one of them
	h.rounds.mu.Unlock()
	select {
	case <-r.done:
		if r.err != nil {
			return 0, fmt.Errorf("read index: %w", r.err)
		}
		return r.index, nil
	case <-ctx.Done():
		return 0, fmt.Errorf("read index: %w", ctx.Err())
	}
}

// startRoundLocked starts the waiting round when there is room.
func (h *Host) startRoundLocked() {
	r := h.rounds.next
	if r == nil || h.rounds.running >= maxRounds {
		return
	}
	h.rounds.next = nil
	h.rounds.running++
	if h.tasks.Go(func() {
		// As long as a leader may be without its majority, and a little more.
		ctx, cancel := context.WithTimeout(context.Background(), 2*h.opts.Profile.Heartbeat)
		defer cancel()
		r.index, r.err = h.confirm(ctx)
		close(r.done)
		h.rounds.mu.Lock()
		defer h.rounds.mu.Unlock()
		h.rounds.running--
		h.startRoundLocked()
	}) {
		return
	}
	h.rounds.running--
	r.err = ErrShutdown
	close(r.done)
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

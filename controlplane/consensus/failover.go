package consensus

import (
	"context"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// lostLeaders remembers whose connections broke, and which terms were tried.
type lostLeaders struct {
	kick chan struct{} // has a value when failover should look; made by Open

	mu    sync.Mutex // guards what follows
	gone  map[raft.ServerID]time.Time
	tried uint64 // last term in which this node handed itself a TimeoutNow
	// promised is whom this node last answered yes, for which term and until when.
	promised     raft.ServerID
	promisedTerm uint64
	promisedTill time.Time
}

// promise binds this node to the asker for a while, or answers false when it is bound
// to another one, or to itself.
func (l *lostLeaders) promise(q LostQuery, d time.Duration) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.tried >= q.Term || l.boundLocked(q.Term) && l.promised != q.From {
		return false
	}
	l.promised, l.promisedTerm, l.promisedTill = q.From, q.Term, time.Now().Add(d)
	return true
}

func (l *lostLeaders) boundLocked(term uint64) bool {
	return l.promisedTerm == term && time.Now().Before(l.promisedTill)
}

// try notes that this node starts an election in term, or answers false when it did
// already or is bound to another node.
func (l *lostLeaders) try(term uint64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.tried >= term || l.boundLocked(term) {
		return false
	}
	l.tried = term
	return true
}

// PeerGone says that connections to the peer were reset or refused just now: its
// process is dead, or cannot be reached. Call it as often as that is seen; it never
// waits. Followers of that peer then start the protocol of failover.
func (h *Host) PeerGone(id raft.ServerID) {
	h.lost.mu.Lock()
	if h.lost.gone == nil {
		h.lost.gone = make(map[raft.ServerID]time.Time)
	}
	h.lost.gone[id] = time.Now()
	h.lost.mu.Unlock()
	h.kickFailover()
}

func (h *Host) kickFailover() {
	select {
	case h.lost.kick <- struct{}{}:
	default:
	}
}

// lostLeader is what this node lost: a leader whose connections broke after it was
// last heard.
type lostLeader struct {
	leader raft.ServerID
	term   uint64
	voters []raft.Server
}

// lostNow says whether this node is a voter that follows a leader which is gone.
//
// The term is read before and after the leader, because raft changes them one after
// the other; it clears the leader before it raises the term.
func (h *Host) lostNow() (lostLeader, bool) {
	term := h.raft.CurrentTerm()
	_, leader := h.raft.LeaderWithID()
	if leader == "" || leader == h.opts.NodeID || h.raft.State() != raft.Follower || h.raft.CurrentTerm() != term {
		return lostLeader{}, false
	}
	h.lost.mu.Lock()
	gone, ok := h.lost.gone[leader]
	h.lost.mu.Unlock()
	if !ok || h.raft.LastContact().After(gone) {
		return lostLeader{}, false // it speaks
	}
	cfg, _ := h.Configuration()
	l := lostLeader{leader: leader, term: term}
	for _, s := range cfg.Servers {
		if s.Suffrage == raft.Voter {
			l.voters = append(l.voters, s)
		}
	}
	_, member := votersOf(cfg, h.opts.NodeID)
	return l, member
}

// LostLeader answers a peer's query. Yes means: I follow the same leader of the same
// term, I have lost it too, my log is no newer than the asker's, and I shall not ask
// for myself meanwhile. Where the logs are equal and this node may lead, the smaller
// id goes first: this node then answers no and asks itself. So survivors do not split
// the vote.
func (h *Host) LostLeader(q LostQuery) LostReply {
	l, ok := h.lostNow()
	switch {
	case !slices.ContainsFunc(l.voters, func(s raft.Server) bool { return s.ID == q.From }) && ok:
		return LostReply{Reason: "the asker is no voter"}
	case !ok:
		return LostReply{Reason: "has not lost a leader"}
	case l.leader != q.Leader || l.term != q.Term:
		return LostReply{Reason: "has lost another leader"}
	}
	index, term := h.lastEntry()
	switch {
	case term > q.LastTerm, term == q.LastTerm && index > q.LastIndex:
		h.kickFailover()
		return LostReply{Reason: "has a newer log"}
	case term == q.LastTerm && index == q.LastIndex && h.opts.NodeID < q.From && h.will.willing():
		h.kickFailover()
		return LostReply{Reason: "goes first"}
	case !h.lost.promise(q, h.opts.Profile.Heartbeat/5): // several round trips
		return LostReply{Reason: "follows another one, or itself"}
	}
	return LostReply{Lost: true}
}

// failover waits for dead leaders until ctx ends.
//
// A silent leader is found by raft's timers. A dead process is known at once, and a
// majority that knows it need not wait: one of them hands itself the TimeoutNow with
// which a leader hands over. That skips pre-vote and "we have a leader", so it is done
// only by a voter and follower, when a majority of voters has lost the same leader of
// the same term, once per term; a non-voter that did it deposed a healthy leader five
// times of five (tried).
func (h *Host) failover(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-h.lost.kick:
		}
		// Others may notice a moment later, and a lower id may go first but fail.
		for wait := time.Millisecond; wait < h.opts.Profile.Heartbeat; wait *= 2 {
			if !h.tryFailover(ctx) {
				break
			}
			select {
			case <-ctx.Done():
				return
			case <-time.After(wait):
			}
		}
	}
}

func (h *Host) triedIn(term uint64) bool {
	h.lost.mu.Lock()
	defer h.lost.mu.Unlock()
	return h.lost.tried >= term
}

// tryFailover asks the other voters once. It says whether asking again may help.
func (h *Host) tryFailover(ctx context.Context) (again bool) {
	l, ok := h.lostNow()
	if !ok || !h.will.willing() || h.triedIn(l.term) {
		return false
	}
	if !h.majorityLost(ctx, l) {
		return true
	}
	now, ok := h.lostNow()
	if !ok || now.leader != l.leader || now.term != l.term || !h.lost.try(l.term) {
		return false
	}
	h.log.Info("the leader's process is gone: starts an election at once", "leader", string(l.leader), "term", l.term)
	if !h.gate.timeoutNow(h.opts.NodeID) {
		h.log.Warn("raft took no TimeoutNow: waits for its timers")
	}
	return false
}

// majorityLost asks the other voters, but not the lost one.
func (h *Host) majorityLost(ctx context.Context, l lostLeader) bool {
	ctx, cancel := context.WithTimeout(ctx, h.opts.Profile.Heartbeat/2)
	defer cancel()
	index, term := h.lastEntry()
	q := LostQuery{From: h.opts.NodeID, Leader: l.leader, Term: l.term, LastIndex: index, LastTerm: term}
	replies := make(chan bool, len(l.voters))
	asked, yes := 0, 1
	for _, s := range l.voters {
		if s.ID == h.opts.NodeID || s.ID == l.leader {
			continue
		}
		if h.tasks.Go(func() {
			r, err := h.opts.Peers.LostLeader(ctx, s.ID, s.Address, q)
			replies <- err == nil && r.Lost
		}) {
			asked++
		}
	}
	for ; asked > 0 && yes < majority(len(l.voters)); asked-- {
		select {
		case lost := <-replies:
			if lost {
				yes++
			}
		case <-ctx.Done():
			return false
		}
	}
	return yes >= majority(len(l.voters))
}

// lastEntry is where this node's log ends, be it in a snapshot.
func (h *Host) lastEntry() (index, term uint64) {
	s := h.raft.Stats()
	index, term = number(s["last_log_index"]), number(s["last_log_term"])
	if snapshot := number(s["last_snapshot_index"]); snapshot > index {
		return snapshot, number(s["last_snapshot_term"])
	}
	return index, term
}

// number reads one of raft's statistics, which are decimal.
func number(s string) uint64 {
	n, _ := strconv.ParseUint(s, 10, 64)
	return n
}

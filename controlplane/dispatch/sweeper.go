package dispatch

import (
	"context"
	"sync"
	"time"

	"github.com/agentplane/agentplane/fsm"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

const sweepRetry = time.Second

// ending is what the end of a stream means for its session.
type ending struct {
	epoch  uint64
	left   bool
	away   bool // the node had sent the agent elsewhere
	grace  time.Duration
	reason string
}

// sweeper ends in the log the sessions of this process that no stream holds. It is
// led by the state, so it also finds those whose opening committed too late.
type sweeper struct {
	d    *Dispatcher
	wake chan struct{}

	mu       sync.Mutex          // guards what follows
	suspects map[string]struct{} // agents to look at
	endings  map[string]ending   // how their last streams ended
	flight   map[string]uint64   // proposed; the index of the outcome once it is known
	again    map[string]struct{} // to look at after a pause
}

func newSweeper(d *Dispatcher) *sweeper {
	return &sweeper{
		d: d, wake: make(chan struct{}, 1), suspects: make(map[string]struct{}),
		endings: make(map[string]ending), flight: make(map[string]uint64), again: make(map[string]struct{}),
	}
}

func (w *sweeper) poke() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// suspect makes the sweeper look at the agent's session.
func (w *sweeper) suspect(agentID string) {
	w.mu.Lock()
	w.suspects[agentID] = struct{}{}
	w.mu.Unlock()
	w.poke()
}

// ended notes how a stream ended.
func (w *sweeper) ended(agentID string, e ending) {
	w.mu.Lock()
	w.suspects[agentID] = struct{}{}
	if e.epoch >= w.endings[agentID].epoch && e.epoch != 0 {
		w.endings[agentID] = e
	}
	w.mu.Unlock()
	w.poke()
}

// all makes the sweeper look at every live session of this node.
func (w *sweeper) all(v *fsm.View) {
	w.mu.Lock()
	for s := range v.LiveSessions(w.d.o.NodeID) {
		w.suspects[s.GetAgentId()] = struct{}{}
	}
	for id := range w.endings { // also those that others have ended
		w.suspects[id] = struct{}{}
	}
	w.mu.Unlock()
	w.poke()
}

// idle says that nothing waits to be ended.
func (w *sweeper) idle() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.suspects)+len(w.endings)+len(w.flight)+len(w.again) == 0
}

func (w *sweeper) run(ctx context.Context) error {
	pause := time.NewTimer(sweepRetry)
	defer pause.Stop()
	for {
		w.sweep()
		select {
		case <-w.wake:
		case <-pause.C:
			w.mu.Lock()
			for id := range w.again {
				w.suspects[id] = struct{}{}
			}
			clear(w.again)
			w.mu.Unlock()
			pause.Reset(sweepRetry)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (w *sweeper) sweep() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for id := range w.suspects {
		delete(w.suspects, id)
		w.lookLocked(id)
	}
	if len(w.endings)+len(w.flight)+len(w.again) == 0 {
		w.d.poke()
	}
}

// lookLocked proposes the end of the agent's session when it is this process's, alive
// in the state, and held by no stream.
func (w *sweeper) lookLocked(id string) {
	v := w.d.o.Machine.View()
	s, found := v.Session(id)
	e := w.endings[id]
	mine := found && s.GetNodeId() == w.d.o.NodeID && s.GetNodeStartCounter() == w.d.o.StartCounter
	switch index, proposed := w.flight[id]; {
	case proposed && (index == 0 || v.Index() < index):
		return // the outcome, or the state, wakes again
	default:
		delete(w.flight, id)
	}
	switch {
	case !mine || !live(s), w.d.holds(id, s.GetStreamId()):
		if !found || s.GetEpoch() >= e.epoch {
			delete(w.endings, id)
		}
		delete(w.again, id)
		return
	case e.epoch != s.GetEpoch():
		e = ending{grace: w.d.o.NodeDeathGrace, reason: "stream_broken"}
	}
	err := w.d.control.offer(task{
		mutation: &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_EndSession{EndSession: &raftlogv1.EndSession{
			AgentId: id, SessionEpoch: s.GetEpoch(), Left: e.left, Grace: int64(e.grace), Reason: e.reason, NodeId: w.d.o.NodeID, SentAway: e.away,
		}}},
		done: func(o *raftlogv1.Outcome, err error) { w.proposed(id, o, err) },
	})
	if err != nil {
		w.again[id] = struct{}{}
		return
	}
	w.flight[id] = 0
}

// proposed takes the outcome. It is the state that ends the matter: the feed wakes the
// sweeper when the session's row has changed, and the pause does when it has not.
func (w *sweeper) proposed(id string, o *raftlogv1.Outcome, err error) {
	w.mu.Lock()
	if err != nil {
		delete(w.flight, id)
	} else {
		w.flight[id] = o.GetIndex()
	}
	w.again[id] = struct{}{}
	if err == nil && w.d.o.Machine.View().Index() >= o.GetIndex() {
		delete(w.again, id)
		w.suspects[id] = struct{}{}
	}
	w.mu.Unlock()
	w.poke()
}

func live(s *raftlogv1.Session) bool {
	return s.GetState() == raftlogv1.SessionState_SESSION_STATE_OPEN || s.GetState() == raftlogv1.SessionState_SESSION_STATE_READY
}

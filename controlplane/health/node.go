package health

import (
	"iter"
	"time"

	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

// Evidence is what a leader knows of a node.
type Evidence struct {
	// Node is its row.
	Node *raftlogv1.Node
	Life State
	// Refuted says that it has answered since gossip called it dead or gone.
	Refuted bool
	// Answered is the start counter with which it last answered this leader; 0 = it
	// has not.
	Answered uint64
	// Silent is for how long it has not answered; 0 when it answered last, or was
	// not asked.
	Silent time.Duration
}

// Lost answers up to which start of the node its sessions are gone, and why as a
// stable word; 0 means that none is known to be. patience is how long a node may be
// silent of which gossip knows nothing, or errs.
func Lost(e Evidence, patience time.Duration) (upTo uint64, reason string) {
	switch {
	case e.Node.GetState() >= raftlogv1.NodeState_NODE_STATE_REMOVED:
		return e.Node.GetStartCounter(), "node_removed"
	case e.Life == StateLeft && !e.Refuted && e.Silent > 0:
		return e.Node.GetStartCounter(), "node_left"
	case e.Life == StateDead && !e.Refuted && e.Silent > 0:
		return e.Node.GetStartCounter(), "node_dead"
	case !called(e.Life) && e.Silent >= patience:
		return e.Node.GetStartCounter(), "node_silent"
	}
	if now := max(e.Node.GetStartCounter(), e.Answered); now > 1 {
		return now - 1, "node_restarted"
	}
	return 0, ""
}

// called says that gossip counts the node among the living.
func called(s State) bool { return s == StateAlive || s == StateSuspect }

// gone says that gossip calls the node dead or gone, which is more than to know
// nothing of it.
func gone(s State) bool { return s == StateDead || s == StateLeft }

// Missing returns the sessions that stood on a node before it was asked, and that it
// does not hold in the process that answered. Sessions of earlier processes are left
// to [Lost]; a newer epoch of the same agent in the node's hands counts as held.
func Missing(shown iter.Seq[*raftlogv1.Session], start uint64, held []HeldSession) []HeldSession {
	has := make(map[string]uint64, len(held))
	for _, h := range held {
		has[h.AgentID] = max(has[h.AgentID], h.Epoch)
	}
	var missing []HeldSession
	for s := range shown {
		if s.GetNodeStartCounter() == start && has[s.GetAgentId()] < s.GetEpoch() {
			missing = append(missing, HeldSession{AgentID: s.GetAgentId(), Epoch: s.GetEpoch()})
		}
	}
	return missing
}

const (
	// settle is how far two answers without a session must lie apart, so that a node
	// whose state lags behind the leader's is not taken at its first word.
	settle = 3 * time.Second
	// askAgain is how soon a node is asked again that did not answer or that gossip
	// does not call alive.
	askAgain = 2 * time.Second
	// askEvery is how often a node that holds sessions is asked.
	askEvery = 30 * time.Second
)

// watched is what the loop remembers of a node. Times are on the awake clock.
type watched struct {
	life    NodeLife      // gossip's last word
	heard   time.Duration // when that was
	refuted bool          // by an answer to what was asked afterwards
	cleared uint64        // no session of a start up to it can be live any more

	asking   bool
	nextAsk  time.Duration
	answered uint64
	silent   bool
	silence  time.Duration // since when, while silent

	missing map[HeldSession]time.Duration // when an asking began that did not show it
}

// hear takes gossip's word. A new word that the node is dead or gone has it asked at
// once.
func (w *watched) hear(life NodeLife, now time.Duration) {
	if w.life.State == life.State && w.life.Since.Equal(life.Since) {
		return
	}
	w.life, w.heard, w.refuted = life, now, false
	if gone(life.State) {
		w.nextAsk = min(w.nextAsk, now)
	}
}

func (w *watched) evidence(n *raftlogv1.Node, now time.Duration) Evidence {
	e := Evidence{Node: n, Life: w.life.State, Answered: w.answered, Refuted: w.refuted}
	if w.silent {
		e.Silent = max(1, now-w.silence)
	}
	return e
}

// confirm takes the sessions missing in an answer whose asking began at asked, and
// returns those that were missing before, long enough ago.
func (w *watched) confirm(missing []HeldSession, asked time.Duration) (gone []HeldSession) {
	still := make(map[HeldSession]time.Duration, len(missing))
	for _, s := range missing {
		first, before := w.missing[s]
		if !before {
			first = asked
		}
		still[s] = first
		if asked-first >= settle {
			gone = append(gone, s)
		}
	}
	w.missing = still
	return gone
}

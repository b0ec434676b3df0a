package fsm

import (
	"bytes"
	"cmp"
	"slices"
	"time"

	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

// At most one session is granted per agent and grantEvery, with a burst of
// grantBurst, so that two copies of an agent cannot flood the log.
const (
	grantEvery = 5 * time.Second
	grantBurst = 3
)

// openSession grants the next session epoch of an agent (DESIGN section 8). Every
// check comes before the first write.
func (tx *tx) openSession(m *raftlogv1.OpenSession) *raftlogv1.Outcome {
	a, found := tx.agents.get(m.GetAgentId())
	if !found {
		return refuse(raftlogv1.Code_CODE_NOT_FOUND, "removed", "agent %q is not enrolled: enrol it again with a token", m.GetAgentId())
	}
	node, refusal := tx.registered(m.GetNodeId())
	if refusal != nil {
		return refusal
	}
	s, _ := tx.sessions.get(m.GetAgentId())
	switch {
	case s != nil && bytes.Equal(s.GetStreamId(), m.GetStreamId()):
		return stands(s.GetEpoch()) // the same stream asks again
	case s.GetEpoch() != m.GetSeenEpoch():
		o := refuse(raftlogv1.Code_CODE_STALE, "superseded", "agent %q has session epoch %d, this one was asked on %d", a.GetId(), s.GetEpoch(), m.GetSeenEpoch())
		o.Number = s.GetEpoch()
		return o
	case node.GetStartCounter() != m.GetNodeStartCounter():
		return refuse(raftlogv1.Code_CODE_STALE, "node_restarted", "node %q is at start %d, this was asked in start %d", node.GetName(), node.GetStartCounter(), m.GetNodeStartCounter())
	case max(len(m.GetStreamId()), len(m.GetStartId()), len(m.GetBootId()), len(m.GetJournal().GetId())) > MaxValueBytes:
		return refuse(raftlogv1.Code_CODE_INVALID, "too_long", "the ids of stream, start, boot and journal may have %d bytes", MaxValueBytes)
	case len(m.GetStreamId()) == 0 || len(m.GetStartId()) == 0 || len(m.GetJournal().GetId()) == 0:
		return refuse(raftlogv1.Code_CODE_INVALID, "no_id", "a session needs a stream id, a start id and a journal id")
	case a.GetQuarantine() != raftlogv1.Quarantine_QUARANTINE_UNSPECIFIED:
		return refuse(raftlogv1.Code_CODE_REFUSED, quarantineWord(a.GetQuarantine()), "agent %q is quarantined: %s", a.GetId(), a.GetQuarantineDetail())
	}
	sameJournal := s != nil && bytes.Equal(s.GetJournal().GetId(), m.GetJournal().GetId())
	if a.GetReadmitted() && sameJournal {
		return refuse(raftlogv1.Code_CODE_REFUSED, "new_journal", "agent %q was readmitted and must begin a new journal", a.GetId())
	}
	if wait := tx.grantWait(s); wait > 0 {
		o := refuse(raftlogv1.Code_CODE_EXHAUSTED, "rate", "agent %q opened %d sessions within %v", a.GetId(), grantBurst, grantBurst*grantEvery)
		o.RetryAfterMs = uint32(wait.Milliseconds()) + 1
		return o
	}
	if s != nil && !a.GetReadmitted() && bytes.Equal(s.GetPreviousStartId(), m.GetStartId()) && !bytes.Equal(s.GetStartId(), m.GetStartId()) {
		tx.quarantine(a, raftlogv1.Quarantine_QUARANTINE_CLONE,
			"two processes present the same key in turn: starts %x and %x; readmit it, then enrol one of them again with a new token", s.GetStartId(), m.GetStartId())
		return refuse(raftlogv1.Code_CODE_REFUSED, "clone", "agent %q is quarantined: another process presents the same key", a.GetId())
	}
	if comparesJournals && sameJournal && (m.GetPreviousEpoch() < s.GetLastClaimEpoch() || m.GetJournal().GetSeq() < s.GetJournal().GetSeq()) {
		tx.loseClaims(a, "journal_behind", m.GetOpenAttempts())
		tx.quarantine(a, raftlogv1.Quarantine_QUARANTINE_JOURNAL_BEHIND,
			"its journal ends at record %d of epoch %d, but the cluster has seen record %d and granted claims in epoch %d: a disk image was put back",
			m.GetJournal().GetSeq(), m.GetPreviousEpoch(), s.GetJournal().GetSeq(), s.GetLastClaimEpoch())
		return refuse(raftlogv1.Code_CODE_REFUSED, "journal_behind", "agent %q is quarantined: its journal is older than what the cluster has seen of it", a.GetId())
	}
	if losesWithJournal && s != nil && !sameJournal {
		tx.loseClaims(a, "journal_lost", m.GetOpenAttempts()) // the disk was wiped: nobody knows
	}
	if a.GetReadmitted() {
		row := clone(a)
		row.Readmitted = false
		put(tx, TableAgents, tx.agents, row)
	}
	row := &raftlogv1.Session{
		AgentId: a.GetId(), Epoch: tx.number(), NodeId: m.GetNodeId(), NodeStartCounter: m.GetNodeStartCounter(),
		StreamId: m.GetStreamId(), StartId: m.GetStartId(), BootId: m.GetBootId(), Slots: m.GetSlots(), Journal: m.GetJournal(),
		State: raftlogv1.SessionState_SESSION_STATE_OPEN, OpenedAt: tx.now(), ChangedAt: tx.now(), ChangedIndex: tx.index,
		GrantedAt: append(slices.Clone(s.GetGrantedAt()), tx.now()),
	}
	row.FlapsAt = slices.Clone(s.GetFlapsAt())
	if ownDoing(s, m) {
		row.FlapsAt = append(row.FlapsAt, tx.now())
	}
	row.GrantedAt, row.FlapsAt = newest(row.GrantedAt, grantBurst), newest(row.FlapsAt, grantBurst)
	if sameJournal {
		row.LastClaimEpoch = s.GetLastClaimEpoch()
	}
	row.PreviousStartId = s.GetPreviousStartId()
	if s != nil && !bytes.Equal(s.GetStartId(), m.GetStartId()) {
		row.PreviousStartId = s.GetStartId()
	}
	put(tx, TableSessions, tx.sessions, row)
	return granted(row.Epoch)
}

// ownDoing says that the agent or its link, and not its node, is why it opens another
// session than s: its process began anew, it comes back to the very process that it
// left, or the node that held it saw it break off. An agent that moves faster than
// anybody ends its session on another node is given the benefit of the doubt: that is
// what the death of a node looks like.
func ownDoing(s *raftlogv1.Session, m *raftlogv1.OpenSession) bool {
	samePlace := s.GetNodeId() == m.GetNodeId() && s.GetNodeStartCounter() == m.GetNodeStartCounter()
	return s == nil || s.GetBroken() || samePlace || !bytes.Equal(s.GetStartId(), m.GetStartId())
}

func newest(times []int64, n int) []int64 { return times[max(0, len(times)-n):] }

// grantWait is how long the agent has to wait for its next grant; 0 = not at all.
func (tx *tx) grantWait(s *raftlogv1.Session) time.Duration {
	g := s.GetGrantedAt()
	if len(g) < grantBurst {
		return 0
	}
	return max(0, time.Duration(g[len(g)-grantBurst])+grantBurst*grantEvery-time.Duration(tx.now()))
}

func quarantineWord(q raftlogv1.Quarantine) string {
	switch q {
	case raftlogv1.Quarantine_QUARANTINE_CLONE:
		return "clone"
	case raftlogv1.Quarantine_QUARANTINE_JOURNAL_BEHIND:
		return "journal_behind"
	default:
		return "blocked"
	}
}

func (tx *tx) quarantine(a *raftlogv1.Agent, why raftlogv1.Quarantine, format string, args ...any) {
	row := clone(a)
	row.Quarantine = why
	row.QuarantineDetail = refuse(0, "", format, args...).Detail
	put(tx, TableAgents, tx.agents, row)
	tx.skipReleased(a)
}

// loseClaims makes LOST what the agent had claimed, but for the attempts that its
// journal still knows: those it can report by itself.
func (tx *tx) loseClaims(a *raftlogv1.Agent, reason string, known []*raftlogv1.AttemptKey) {
	for _, i := range collect(tx.work.in(a.GetOrdinal(), openStates[:]...)) {
		journalled := slices.ContainsFunc(known, func(k *raftlogv1.AttemptKey) bool {
			return k.GetInvocationId() == i.GetId() && k.GetAttempt() == i.GetAttempt()
		})
		if i.GetState() >= raftlogv1.AttemptState_ATTEMPT_STATE_CLAIMED && !journalled {
			tx.move(i, raftlogv1.AttemptState_ATTEMPT_STATE_LOST, reason, nil)
		}
	}
}

// currentSession refuses an epoch that is not the agent's newest.
func (tx *tx) currentSession(agentID string, epoch uint64) *raftlogv1.Outcome {
	s, found := tx.sessions.get(agentID)
	switch {
	case !found:
		return refuse(raftlogv1.Code_CODE_NOT_FOUND, "no_session", "agent %q has no session", agentID)
	case comparesEpochs && s.GetEpoch() != epoch:
		o := refuse(raftlogv1.Code_CODE_STALE, "epoch_older", "epoch %d is not the current %d of agent %q", epoch, s.GetEpoch(), agentID)
		o.Number = s.GetEpoch()
		return o
	}
	return nil
}

// holderSession refuses what a node says of a session that another one holds: its
// epoch alone proves nothing, since every node's state shows it.
func (tx *tx) holderSession(agentID string, epoch uint64, nodeID string) *raftlogv1.Outcome {
	if refusal := tx.currentSession(agentID, epoch); refusal != nil {
		return refusal
	}
	if s, _ := tx.sessions.get(agentID); s.GetNodeId() != nodeID {
		return refuse(raftlogv1.Code_CODE_REFUSED, "other_node", "the session of agent %q is on node %q, not on %q", agentID, s.GetNodeId(), nodeID)
	}
	return nil
}

// readySession says that the agent has fsynced its epoch: from here on work may be
// claimed.
func (tx *tx) readySession(m *raftlogv1.ReadySession) *raftlogv1.Outcome {
	if refusal := tx.holderSession(m.GetAgentId(), m.GetSessionEpoch(), m.GetNodeId()); refusal != nil {
		return refusal
	}
	s, _ := tx.sessions.get(m.GetAgentId())
	switch {
	case s.GetState() == raftlogv1.SessionState_SESSION_STATE_READY:
		return stands(s.GetEpoch())
	case !live(s):
		return refuse(raftlogv1.Code_CODE_STALE, "session_ended", "session %d of agent %q has ended", s.GetEpoch(), m.GetAgentId())
	}
	tx.setSession(s, raftlogv1.SessionState_SESSION_STATE_READY, "", 0)
	return granted(s.GetEpoch())
}

// endSession says that the stream is gone. Grace begins, unless the agent left. No
// node: the leader says it.
func (tx *tx) endSession(m *raftlogv1.EndSession) *raftlogv1.Outcome {
	if refusal := tx.currentSession(m.GetAgentId(), m.GetSessionEpoch()); refusal != nil {
		return refusal
	}
	s, _ := tx.sessions.get(m.GetAgentId())
	if refusal := tx.holderSession(m.GetAgentId(), m.GetSessionEpoch(), cmp.Or(m.GetNodeId(), s.GetNodeId())); refusal != nil {
		return refusal
	}
	if !live(s) {
		return stands(s.GetEpoch())
	}
	if m.GetNodeId() != "" && !m.GetSentAway() {
		s = clone(s)
		s.Broken = true
	}
	if m.GetLeft() {
		tx.setSession(s, raftlogv1.SessionState_SESSION_STATE_LEFT, m.GetReason(), 0)
		tx.skipReleasedOn(m.GetAgentId())
	} else {
		tx.setSession(s, raftlogv1.SessionState_SESSION_STATE_RECONNECTING, m.GetReason(), m.GetGrace())
	}
	return granted(s.GetEpoch())
}

// loseNodeSessions begins the grace of every session that processes of a node held
// up to the given start.
func (tx *tx) loseNodeSessions(m *raftlogv1.LoseNodeSessions) *raftlogv1.Outcome {
	o := ok()
	for _, s := range collect(tx.sessions.by(sessionsByNode, sized(m.GetNodeId()))) {
		if s.GetNodeStartCounter() > m.GetUpToStartCounter() {
			continue
		}
		if m.GetMax() > 0 && o.Count >= m.GetMax() {
			o.Reason = "more" // the leader proposes again
			break
		}
		tx.setSession(s, raftlogv1.SessionState_SESSION_STATE_RECONNECTING, m.GetReason(), m.GetGrace())
		o.Count++
	}
	return o
}

// markDown ends a grace. It is refused before its time and when the agent has come
// back.
func (tx *tx) markDown(m *raftlogv1.MarkDown) *raftlogv1.Outcome {
	if refusal := tx.currentSession(m.GetAgentId(), m.GetSessionEpoch()); refusal != nil {
		return refusal
	}
	s, _ := tx.sessions.get(m.GetAgentId())
	switch {
	case s.GetState() == raftlogv1.SessionState_SESSION_STATE_DOWN:
		return stands(s.GetEpoch())
	case s.GetState() != raftlogv1.SessionState_SESSION_STATE_RECONNECTING:
		return refuse(raftlogv1.Code_CODE_STALE, "not_reconnecting", "agent %q is not reconnecting", m.GetAgentId())
	case tx.now() < s.GetGraceUntil():
		return refuse(raftlogv1.Code_CODE_REFUSED, "grace", "the grace of agent %q lasts until %s", m.GetAgentId(), stamp(s.GetGraceUntil()))
	}
	tx.setSession(s, raftlogv1.SessionState_SESSION_STATE_DOWN, s.GetReason(), 0)
	tx.skipReleasedOn(m.GetAgentId())
	return granted(s.GetEpoch())
}

func (tx *tx) setSession(s *raftlogv1.Session, state raftlogv1.SessionState, reason string, grace int64) {
	row := clone(s)
	row.State, row.Reason, row.ChangedAt, row.ChangedIndex = state, clip(reason, MaxReasonBytes), tx.now(), tx.index
	row.GraceUntil = 0
	if state == raftlogv1.SessionState_SESSION_STATE_RECONNECTING {
		row.GraceUntil = later(tx.now(), max(grace, 0))
	}
	put(tx, TableSessions, tx.sessions, row)
}

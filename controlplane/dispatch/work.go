package dispatch

import (
	"slices"
	"time"

	"github.com/agentplane/agentplane/fsm"
	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

const (
	repeatFirst = time.Second
	repeatMost  = 30 * time.Second
)

// talk is what was said on this stream about an attempt that is claimed or running.
type talk struct {
	fence     uint64
	since     time.Time // when it came up here
	delivered bool
	answered  bool // the agent has reported it with this fence
	ended     bool // and its end
	waits     bool // it has told that it waits for a confirmation
	cancel    repeat
	keep      repeat
	asked     bool
	askAt     time.Time
	losing    bool // LoseAttempt is on its way
}

// repeat is something that is told, and told again with back-off until the state has moved.
type repeat struct {
	pause time.Duration // until it is told again; 0 = it was not told yet
	at    time.Time
}

// due says that it is to be told now, and when the next time is.
func (r *repeat) due(now time.Time) bool {
	if r.pause != 0 && now.Before(r.at) {
		return false
	}
	r.pause = min(max(2*r.pause, repeatFirst), repeatMost)
	r.at = now.Add(r.pause)
	return true
}

// claim is a ClaimAttempt of this session. It stands for a slot from its proposal until
// the state has its outcome.
type claim struct {
	attempt uint32
	flying  bool
	index   uint64 // of the outcome
	granted bool
	retryAt time.Time // after a refusal or a failure
	tries   int
	places  []placeKey // reserved, until the state has the outcome
}

// act brings what the agent was told into line with the state. It is the only source
// of deliveries, cancels, questions and claims.
func (s *session) act(v *fsm.View) error {
	agent, err := s.current(v)
	if err != nil || !s.ready {
		return err
	}
	now := time.Now()
	quiet := agent.GetQuarantine() != raftlogv1.Quarantine_QUARANTINE_UNSPECIFIED
	used := uint32(0)
	open := make(map[attemptKey]bool)
	var turn fsm.Turn
	for _, state := range []raftlogv1.AttemptState{raftlogv1.AttemptState_ATTEMPT_STATE_CLAIMED, raftlogv1.AttemptState_ATTEMPT_STATE_RUNNING} {
		for i := range v.Work(s.ordinal, state) {
			used++
			key := attemptKey{i.GetId(), i.GetAttempt()}
			open[key] = true
			command, _ := v.Command(i.GetCommandId())
			turn.Take(i, command)
			s.talkAbout(v, i, command, s.talk(key, i.GetFence(), now), quiet, now)
		}
	}
	for key, t := range s.talks {
		if !open[key] && !s.goesOn(v, key, t, now) {
			s.hush(key)
		}
	}
	if !quiet && !s.away {
		s.d.places.wait(s, s.claim(v, agent, used, open, &turn, now))
		return nil
	}
	s.d.places.wait(s, nil)
	return nil
}

func (s *session) talk(key attemptKey, fence uint64, now time.Time) *talk {
	t := s.talks[key]
	if t == nil || t.fence != fence {
		s.hush(key)
		t = &talk{fence: fence, since: now}
		s.talks[key] = t
		s.d.gather.awaited.Add(1)
	}
	return t
}

// end notes that the end of an attempt was reported.
func (s *session) end(t *talk) {
	if !t.ended {
		t.ended = true
		s.d.gather.awaited.Add(-1)
	}
}

// hush ends the talk about an attempt, if there is one.
func (s *session) hush(key attemptKey) {
	if t := s.talks[key]; t != nil {
		s.end(t)
		delete(s.talks, key)
	}
}

// goesOn says that an attempt that is over is talked about all the same: it is LOST, and its
// agent tells that it waits for a confirmation.
func (s *session) goesOn(v *fsm.View, key attemptKey, t *talk, now time.Time) bool {
	i, found := v.Invocation(key.invocation)
	if !t.waits || !found || i.GetState() != raftlogv1.AttemptState_ATTEMPT_STATE_LOST || i.GetAttempt() != key.attempt || i.GetFence() != t.fence {
		return false
	}
	s.end(t)
	s.decided(i, t, now)
	return true
}

// decided tells the agent what operators have decided about its attempt.
func (s *session) decided(i *raftlogv1.Invocation, t *talk, now time.Time) {
	if i.GetUndo().GetConfirmIndex() != 0 && i.GetUndo().GetPhase() == raftlogv1.UndoPhase_UNDO_PHASE_ARMED {
		s.keep(i, t, now) // before a cancel, which came later: for an agent that was away they come together
	}
	if i.GetCancelIndex() != 0 {
		s.cancel(i, t, now)
	}
}

// talkAbout says about one attempt what is to be said now.
func (s *session) talkAbout(v *fsm.View, i *raftlogv1.Invocation, command *raftlogv1.Command, t *talk, quiet bool, now time.Time) {
	// Before the delivery: an agent that has never heard of it may then refuse what is canceled.
	s.decided(i, t, now)
	if i.GetState() == raftlogv1.AttemptState_ATTEMPT_STATE_CLAIMED && !t.delivered && !t.answered && !quiet &&
		(i.GetSessionEpoch() == s.epoch || deliversOldClaims && i.GetSessionEpoch() < s.epoch) {
		if envelope, found := v.Envelope(i.GetCommandId()); found {
			t.delivered, t.since = true, now
			s.d.count.deliveries.Add(1)
			point("node-before-deliver")
			s.tell(&agentplanev1.SessionResponse{Message: &agentplanev1.SessionResponse_Deliver{Deliver: &agentplanev1.Deliver{
				InvocationId: i.GetId(), Attempt: i.GetAttempt(), CommandId: i.GetCommandId(), Fence: i.GetFence(),
				Incarnation: v.Cluster().GetIncarnation().GetNumber(), SessionEpoch: s.epoch,
				Envelope: envelope, SubmittedAt: command.GetSubmittedAt(),
				Part: agentplanev1.Part(command.GetPart()), Wave: command.GetParentWave(),
			}}})
		}
	}
	s.ask(i, command, t, now)
}

// cancel tells the agent, and tells it again with back-off until the state is final.
func (s *session) cancel(i *raftlogv1.Invocation, t *talk, now time.Time) {
	if t.cancel.due(now) {
		s.d.count.cancels.Add(1)
		s.tell(&agentplanev1.SessionResponse{Message: &agentplanev1.SessionResponse_Cancel{Cancel: &agentplanev1.CancelAttempt{
			InvocationId: i.GetId(), Attempt: i.GetAttempt(), SessionEpoch: s.epoch,
		}}})
	}
	s.lookAt(t.cancel.at)
}

// keep tells the agent that its attempt is confirmed, and tells it again with back-off
// until it has said what became of that.
func (s *session) keep(i *raftlogv1.Invocation, t *talk, now time.Time) {
	if t.keep.due(now) {
		s.d.count.keeps.Add(1)
		s.tell(&agentplanev1.SessionResponse{Message: &agentplanev1.SessionResponse_Keep{Keep: &agentplanev1.KeepAttempt{
			InvocationId: i.GetId(), Attempt: i.GetAttempt(), SessionEpoch: s.epoch, By: i.GetUndo().GetConfirmedBy(),
		}}})
	}
	s.lookAt(t.keep.at)
}

// ask wants to know of an attempt that should have ended long ago. What was delivered
// on this stream is given as long again, so that the question does not overtake the
// agent's disk.
func (s *session) ask(i *raftlogv1.Invocation, c *raftlogv1.Command, t *talk, now time.Time) {
	margin := s.d.o.AskMargin
	since := fsm.Since(i)
	if key := (attemptKey{i.GetId(), i.GetAttempt()}); since == 0 || s.reports[key] != nil || t.losing {
		return // its report is on its way
	}
	over := time.Duration(s.d.clock.now()-since) - time.Duration(c.GetRunTimeout()) - time.Duration(c.GetKillGrace()) - margin
	at := now.Add(-over)
	if first := t.since.Add(margin); at.Before(first) {
		at = first
	}
	if t.asked && at.Before(t.askAt) {
		at = t.askAt
	}
	if now.Before(at) {
		s.lookAt(at)
		return
	}
	t.asked, t.askAt = true, now.Add(margin)
	s.lookAt(t.askAt)
	s.d.count.asks.Add(1)
	s.tell(&agentplanev1.SessionResponse{Message: &agentplanev1.SessionResponse_Ask{Ask: &agentplanev1.Ask{
		InvocationId: i.GetId(), Attempt: i.GetAttempt(), Fence: i.GetFence(),
	}}})
}

// claim proposes claims for the free slots, in the order of the agent's work. turn holds
// what is claimed or runs; what waits for a lock of the host is passed over, and looked at
// again when a row of the agent has changed. It answers the places of locks of the fleet
// that something lacks which could be claimed otherwise.
func (s *session) claim(v *fsm.View, agent *raftlogv1.Agent, used uint32, open map[attemptKey]bool, turn *fsm.Turn, now time.Time) (lacking []placeKey) {
	for id, c := range s.claims {
		if !c.flying && v.Index() >= c.index {
			s.d.places.release(c.places)
			c.places = nil
		}
		// A granted claim that the state shows, and one that it has moved past, are done.
		if !c.flying && v.Index() >= c.index && (c.granted || !now.Before(c.retryAt)) {
			if i, found := v.Invocation(id); c.granted || !found || i.GetState() != raftlogv1.AttemptState_ATTEMPT_STATE_RELEASED || i.GetAttempt() != c.attempt {
				delete(s.claims, id)
				continue
			}
		}
		if (c.flying || (c.granted && v.Index() < c.index)) && !open[attemptKey{id, c.attempt}] {
			used++
			if i, found := v.Invocation(id); found {
				command, _ := v.Command(i.GetCommandId())
				turn.Take(i, command)
			}
		}
	}
	if used >= s.slots {
		return nil
	}
	clusterNow := s.d.clock.now()
	for i := range s.claimable(v) {
		command, _ := v.Command(i.GetCommandId())
		c := s.claims[i.GetId()]
		switch {
		case i.GetHeld(), command.GetState() != raftlogv1.CommandState_COMMAND_STATE_ACTIVE, clusterNow >= command.GetNotAfter():
			continue
		case heedsPauses && v.Stopped(command):
			continue // whoever resumes it puts the row again
		case clusterNow < command.GetNotBefore():
			s.lookAt(now.Add(time.Duration(command.GetNotBefore()-clusterNow) + time.Millisecond))
			continue
		case command.GetSplay() > 0 && clusterNow < fsm.StartsAt(command, i):
			s.lookAt(now.Add(time.Duration(fsm.StartsAt(command, i)-clusterNow) + time.Millisecond))
			continue
		case c != nil && c.attempt == i.GetAttempt() && c.flying:
			continue
		case turn.Ask(i, command).Reason != "":
			continue
		case c != nil && c.attempt == i.GetAttempt() && v.Index() < c.index:
			s.lookAt(now.Add(time.Second)) // a refusal changes nothing that would wake
			continue
		case c != nil && c.attempt == i.GetAttempt() && now.Before(c.retryAt):
			s.lookAt(c.retryAt)
			continue
		}
		reserved, lacks := s.d.places.reserve(v.Needs(agent, command))
		if len(lacks) > 0 {
			lacking = appendNew(lacking, lacks)
			continue
		}
		if c == nil || c.attempt != i.GetAttempt() {
			if c != nil {
				s.d.places.release(c.places)
			}
			c = &claim{attempt: i.GetAttempt()}
			s.claims[i.GetId()] = c
		}
		c.places = reserved
		s.proposeClaim(i, c)
		turn.Take(i, command)
		if used++; used >= s.slots {
			return nil
		}
	}
	return lacking
}

// appendNew adds those that are not there.
func appendNew(all, more []placeKey) []placeKey {
	for _, key := range more {
		if !slices.Contains(all, key) {
			all = append(all, key)
		}
	}
	return all
}

// letGo gives up what the session has reserved and waits for.
func (s *session) letGo() {
	for _, c := range s.claims {
		s.d.places.release(c.places)
		c.places = nil
	}
	s.d.places.wait(s, nil)
}

func (s *session) proposeClaim(i *raftlogv1.Invocation, c *claim) {
	c.flying = true
	s.d.count.claims.Add(1)
	s.propose(s.d.claims, &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_ClaimAttempt{ClaimAttempt: &raftlogv1.ClaimAttempt{
		InvocationId: i.GetId(), Attempt: i.GetAttempt(), AgentId: s.agentID, SessionEpoch: s.epoch, NodeId: s.d.o.NodeID,
	}}}, func(o *raftlogv1.Outcome, err error) {
		c.flying, c.index, c.granted = false, o.GetIndex(), err == nil && o.GetCode() == raftlogv1.Code_CODE_OK
		switch {
		case c.granted:
		case err == nil && waits(o):
			c.retryAt, c.tries = time.Time{}, 0 // the state shows it, and its end
		default:
			c.retryAt = time.Now().Add(backoff(c.tries))
			c.tries++
		}
	})
}

// waits says that the claim was refused because of what others hold.
func waits(o *raftlogv1.Outcome) bool {
	switch o.GetReason() {
	case fsm.ReasonLocked, fsm.ReasonExclusive, fsm.ReasonBudget, fsm.ReasonNoLock:
		return true
	}
	return false
}

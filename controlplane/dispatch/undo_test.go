package dispatch

import (
	"slices"
	"testing"
	"time"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

// tellUndo journals and reports how the undo of what was delivered stands.
func (s *fakeSession) tellUndo(d *agentplanev1.Deliver, state agentplanev1.AttemptState, u *agentplanev1.Undo) {
	s.mu.Lock()
	s.journal.Seq++
	r := &agentplanev1.Report{
		InvocationId: d.GetInvocationId(), Attempt: d.GetAttempt(), Fence: d.GetFence(), State: state, JournalSeq: s.journal.GetSeq(), Undo: u,
	}
	s.open[d.GetInvocationId()] = r
	s.mu.Unlock()
	s.report(r)
}

func withUndo(m *raftlogv1.SubmitCommand) {
	m.Undo = &raftlogv1.UndoPlan{Within: int64(10 * time.Minute), By: raftlogv1.ConfirmBy_CONFIRM_BY_OPERATOR}
}

func (l *testLog) confirm(id string) {
	l.must(&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_ConfirmCommand{ConfirmCommand: &raftlogv1.ConfirmCommand{
		CommandId: id, UpToIndex: l.view().Index(), ConfirmedBy: "ann",
	}}})
}

func keeps(s *fakeSession) []*agentplanev1.KeepAttempt {
	return all(s, (*agentplanev1.SessionResponse).GetKeep)
}

func TestConfirmationIsToldUntilTheAgentHasSaidWhatBecameOfIt(t *testing.T) {
	const running = agentplanev1.AttemptState_ATTEMPT_STATE_RUNNING
	bubble(t, func(t *testing.T, l *testLog) {
		first, second := l.node(0, nil), l.node(1, nil)
		a := newAgent(t, 0)
		s := a.live(first.Dispatcher)
		id := l.submit(withUndo, 0)
		settle(time.Second)
		d := s.deliveries()[0]
		s.tellEnd(d, running)
		settle(time.Second)
		s.tellUndo(d, running, &agentplanev1.Undo{Phase: agentplanev1.UndoPhase_UNDO_PHASE_ARMED, Until: time.Now().Add(10 * time.Minute).UnixNano()})
		settle(time.Second)
		if i := l.invocation(id, 0); i.GetReason() != "armed" || i.GetUndo().GetArmedIndex() == 0 {
			t.Fatalf("the invocation is %v", i)
		}
		// What stands is not put into the log again.
		index, _ := l.size()
		s.tellUndo(d, running, l.invocationUndo(id))
		settle(time.Second)
		if again, _ := l.size(); again > index+1 { // the journal's number alone
			t.Errorf("telling it again made %d entries", again-index)
		}
		if n := len(keeps(s)); n != 0 {
			t.Fatalf("%d confirmations before there was one", n)
		}
		l.confirm(id)
		settle(20 * time.Second)
		told := keeps(s)
		if len(told) < 4 || len(told) > 6 {
			t.Fatalf("told %d times within 20 s, want about 5 with back-off", len(told))
		}
		if told[0].GetInvocationId() != d.GetInvocationId() || told[0].GetSessionEpoch() != s.epoch || told[0].GetBy() != "ann" {
			t.Errorf("KeepAttempt = %v", told[0])
		}
		// It is told through whatever node the agent comes to.
		s.hangUp()
		s = a.live(second.Dispatcher)
		settle(100 * time.Millisecond)
		if told := keeps(s); len(told) != 1 || told[0].GetSessionEpoch() != s.epoch {
			t.Fatalf("on another node: told %v", told)
		}
		s.tellUndo(d, agentplanev1.AttemptState_ATTEMPT_STATE_SUCCEEDED, &agentplanev1.Undo{Phase: agentplanev1.UndoPhase_UNDO_PHASE_CONFIRMED})
		settle(time.Second)
		n := len(keeps(s))
		settle(2 * time.Minute)
		if more := len(keeps(s)) - n; more != 0 {
			t.Errorf("told %d times more after the end", more)
		}
		if i := l.invocation(id, 0); i.GetState() != succeeded || i.GetUndo().GetPhase() != raftlogv1.UndoPhase_UNDO_PHASE_CONFIRMED {
			t.Errorf("the invocation is %v", i)
		}
	})
}

func TestConfirmationThatComesTooLateIsToldNoMore(t *testing.T) {
	const running = agentplanev1.AttemptState_ATTEMPT_STATE_RUNNING
	bubble(t, func(t *testing.T, l *testLog) {
		n := l.node(0, nil)
		s := newAgent(t, 0).live(n.Dispatcher)
		id := l.submit(withUndo, 0)
		settle(time.Second)
		d := s.deliveries()[0]
		s.tellUndo(d, running, &agentplanev1.Undo{Phase: agentplanev1.UndoPhase_UNDO_PHASE_ARMED, Until: 1})
		settle(time.Second)
		l.confirm(id)
		settle(100 * time.Millisecond)
		s.tellUndo(d, running, &agentplanev1.Undo{Phase: agentplanev1.UndoPhase_UNDO_PHASE_RUNNING, Cause: "not_confirmed"})
		settle(time.Second)
		before := len(keeps(s))
		settle(time.Minute)
		if more := len(keeps(s)) - before; more != 0 {
			t.Errorf("told %d times more after the undo began", more)
		}
		// What an agent tells is bounded, and what only nodes know it cannot tell.
		s.tellUndo(d, agentplanev1.AttemptState_ATTEMPT_STATE_FAILED, &agentplanev1.Undo{
			Phase: agentplanev1.UndoPhase_UNDO_PHASE_DONE, Cause: string(make([]byte, 5000)), Detail: string(make([]byte, 5000)) + "\xff", State: 99, ConfirmedBy: "mallory", ArmedIndex: 1,
		})
		settle(time.Second)
		i := l.invocation(id, 0)
		if u := i.GetUndo(); u.GetConfirmedBy() != "ann" || len(u.GetCause()) > 256 || len(u.GetDetail()) > 1024 || u.GetState() != 0 {
			t.Errorf("the undo is %v", u)
		}
	})
}

// An attempt with an undo is asked about when all its time is over, and not when its program
// would be.
func TestAnArmedAttemptIsNotAskedAboutTooEarly(t *testing.T) {
	bubble(t, func(t *testing.T, l *testLog) {
		n := l.node(0, nil)
		s := newAgent(t, 0).live(n.Dispatcher)
		l.submit(func(m *raftlogv1.SubmitCommand) {
			withUndo(m)
			m.RunTimeout = int64(30 * time.Minute) // as Submit makes it
		}, 0)
		settle(time.Second)
		d := s.deliveries()[0]
		s.tellUndo(d, agentplanev1.AttemptState_ATTEMPT_STATE_RUNNING, &agentplanev1.Undo{Phase: agentplanev1.UndoPhase_UNDO_PHASE_ARMED, Until: 1})
		settle(25 * time.Minute)
		if asked := all(s, (*agentplanev1.SessionResponse).GetAsk); len(asked) != 0 {
			t.Errorf("asked %d times while it waited for a confirmation", len(asked))
		}
		// Its undo is a part of that time.
		s.tellUndo(d, agentplanev1.AttemptState_ATTEMPT_STATE_RUNNING, &agentplanev1.Undo{Phase: agentplanev1.UndoPhase_UNDO_PHASE_RUNNING, Cause: "not_confirmed"})
		settle(15 * time.Minute)
		if asked := all(s, (*agentplanev1.SessionResponse).GetAsk); len(asked) == 0 {
			t.Error("never asked")
		}
	})
}

// invocationUndo is what the agent would tell again.
func (l *testLog) invocationUndo(id string) *agentplanev1.Undo {
	u := l.invocation(id, 0).GetUndo()
	return &agentplanev1.Undo{Phase: agentplanev1.UndoPhase(u.GetPhase()), Until: u.GetUntil()}
}

// Of a confirmation and a cancel that an agent was away for it hears in their order; after a
// cancel there is no confirmation.
func TestConfirmationAndCancelAreToldInTheirOrder(t *testing.T) {
	bubble(t, func(t *testing.T, l *testLog) {
		n := l.node(0, nil)
		a := newAgent(t, 0)
		s := a.live(n.Dispatcher)
		id := l.submit(withUndo, 0)
		settle(time.Second)
		d := s.deliveries()[0]
		s.tellUndo(d, agentplanev1.AttemptState_ATTEMPT_STATE_RUNNING, &agentplanev1.Undo{Phase: agentplanev1.UndoPhase_UNDO_PHASE_ARMED, Until: 1})
		settle(time.Second)
		s.hangUp()
		l.confirm(id)
		l.cancel(id)
		s = a.live(n.Dispatcher)
		settle(100 * time.Millisecond)
		var order []string
		for _, m := range s.got {
			switch {
			case m.GetKeep() != nil:
				order = append(order, "keep")
			case m.GetCancel() != nil:
				order = append(order, "cancel")
			}
		}
		if !slices.Equal(order, []string{"keep", "cancel"}) {
			t.Errorf("it was told %q", order)
		}
	})
}

// An agent that was away until its attempt was LOST, and comes back while it waits, hears what
// was decided, and what is decided then.
func TestWhatIsLostWhileItWaitsIsConfirmedWhenItsAgentComesBack(t *testing.T) {
	for name, decide := range map[string]struct{ before, lost, back func(*testLog, string) }{
		"confirmed before it was LOST": {before: (*testLog).confirm},
		"confirmed while it was away":  {lost: (*testLog).confirm},
		"confirmed when it is back":    {back: (*testLog).confirm},
		"canceled before it was LOST":  {before: (*testLog).cancel},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, l *testLog) {
				n := l.node(0, nil)
				a := newAgent(t, 0)
				s := a.live(n.Dispatcher)
				id := l.submit(withUndo, 0)
				settle(time.Second)
				d := s.deliveries()[0]
				s.tellUndo(d, agentplanev1.AttemptState_ATTEMPT_STATE_RUNNING, &agentplanev1.Undo{Phase: agentplanev1.UndoPhase_UNDO_PHASE_ARMED, Until: 1})
				settle(time.Second)
				s.hangUp()
				do := func(what func(*testLog, string)) {
					if what != nil {
						what(l, id)
					}
				}
				do(decide.before)
				l.lose(id, 0)
				do(decide.lost)
				s = a.live(n.Dispatcher)
				settle(100 * time.Millisecond)
				// It was away for a reboot, with which it waits anew.
				s.tellUndo(d, agentplanev1.AttemptState_ATTEMPT_STATE_RUNNING, &agentplanev1.Undo{Phase: agentplanev1.UndoPhase_UNDO_PHASE_ARMED, Until: 2})
				settle(time.Second)
				if u := l.invocation(id, 0).GetUndo(); u.GetUntil() != 2 || !u.GetAgain() {
					t.Errorf("it waits as %v", u)
				}
				do(decide.back)
				settle(100 * time.Millisecond)
				if told := len(keeps(s)) + len(all(s, (*agentplanev1.SessionResponse).GetCancel)); told == 0 {
					t.Fatal("it was told nothing")
				}
				s.tellUndo(d, agentplanev1.AttemptState_ATTEMPT_STATE_SUCCEEDED, &agentplanev1.Undo{Phase: agentplanev1.UndoPhase_UNDO_PHASE_CONFIRMED})
				settle(time.Second)
				if i := l.invocation(id, 0); i.GetState() != succeeded || !i.GetLate() || i.GetUndo().GetPhase() != raftlogv1.UndoPhase_UNDO_PHASE_CONFIRMED {
					t.Errorf("the invocation is %v", i)
				}
				before := len(keeps(s)) + len(all(s, (*agentplanev1.SessionResponse).GetCancel))
				settle(time.Minute)
				if more := len(keeps(s)) + len(all(s, (*agentplanev1.SessionResponse).GetCancel)) - before; more != 0 {
					t.Errorf("told %d times more after the end", more)
				}
			})
		})
	}
}

// lose gives up the attempt of an agent that is away.
func (l *testLog) lose(command string, agent int) {
	i := l.invocation(command, agent)
	s, _ := l.view().Session(i.GetAgentId())
	l.must(&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_LoseAttempt{LoseAttempt: &raftlogv1.LoseAttempt{
		Key:           &raftlogv1.AttemptKey{InvocationId: i.GetId(), Attempt: i.GetAttempt()},
		ExpectedState: i.GetState(), ExpectedFence: i.GetFence(), ExpectedSessionEpoch: s.GetEpoch(), Reason: "no_contact",
	}}})
}

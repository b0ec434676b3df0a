package dispatch

import (
	"slices"
	"strings"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/agentplane/agentplane/fsm"
	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

// report is what the agent's journal says of an attempt, on its way into the log.
type report struct {
	mutation *raftlogv1.ReportAttempt
	next     *raftlogv1.ReportAttempt // came while the first was on its way
	tries    int
	phase    *atomic.Int32 // of the first's task
}

// Phases of a report's task. It is overtaken when the journal's newer word came before a
// worker took it: that one goes in its place, and says all that the first would have.
const (
	phaseQueued int32 = iota
	phaseTaken
	phaseOvertaken
)

func size(m *raftlogv1.ReportAttempt) int {
	if m == nil {
		return 0
	}
	return proto.Size(m)
}

// report takes one report. What the state already holds is confirmed at once; what it
// can never hold as well. An error ends the stream.
func (s *session) report(r *agentplanev1.Report) error {
	s.d.count.reports.Add(1)
	m, cut := s.clean(r)
	if m == nil {
		s.drop(r, "the report is malformed")
		return nil
	}
	if cut {
		s.d.count.reportsCut.Add(1)
	}
	key := attemptKey{m.GetInvocationId(), m.GetAttempt()}
	v := s.d.o.Machine.View()
	i, found := v.Invocation(key.invocation)
	if !found || i.GetAgentId() != s.agentID {
		// This node's state holds every claim that an earlier session can have got, and
		// delivers no others: the command was purged, or never was.
		s.confirm(m)
		return nil
	}
	if t := s.talks[key]; t != nil && t.asked && m.GetState() == raftlogv1.AttemptState_ATTEMPT_STATE_LOST && m.GetReason() == "unknown" {
		if !t.losing {
			s.lose(key, t, 0)
		}
		return nil
	}
	if i.GetAttempt() == key.attempt && i.GetFence() == m.GetFence() && m.GetFence() != 0 {
		t := s.talk(key, m.GetFence(), time.Now())
		t.answered = true
		if waits := m.GetState() == raftlogv1.AttemptState_ATTEMPT_STATE_RUNNING && m.GetUndo().GetPhase() == raftlogv1.UndoPhase_UNDO_PHASE_ARMED; waits != t.waits {
			t.waits, s.dirty = waits, true
		}
		if m.GetState() > raftlogv1.AttemptState_ATTEMPT_STATE_RUNNING {
			s.end(t)
		}
	}
	if m.GetState() > raftlogv1.AttemptState_ATTEMPT_STATE_RUNNING {
		point("node-before-report")
	}
	if settled(v, i, m) {
		s.confirm(m)
		return nil
	}
	return s.queue(key, m)
}

// settled says that the log would change nothing: the state holds the end that is
// reported or another one, and has seen the agent's journal up to there.
func settled(v *fsm.View, i *raftlogv1.Invocation, m *raftlogv1.ReportAttempt) bool {
	session, _ := v.Session(i.GetAgentId())
	if m.GetResult().GetJournalSeq() > session.GetJournal().GetSeq() {
		return false
	}
	if m.GetAttempt() < i.GetAttempt() {
		return true
	}
	if c, found := v.Command(i.GetCommandId()); found && fsm.UndoAlone(i, m.GetState()) && fsm.UndoMoves(c, i, m.GetUndo()) {
		return false
	}
	return m.GetAttempt() == i.GetAttempt() && m.GetFence() == i.GetFence() && i.GetFence() != 0 && !fsm.Further(i, m) &&
		(i.GetState() > raftlogv1.AttemptState_ATTEMPT_STATE_LOST || i.GetState() >= m.GetState())
}

func (s *session) queue(key attemptKey, m *raftlogv1.ReportAttempt) error {
	have := s.reports[key]
	replaced := 0
	if have != nil {
		replaced = size(have.next)
	}
	if (have == nil && len(s.reports) >= maxOpenReports) || s.bytes-replaced+size(m) > maxReportBytes {
		s.d.count.reportsDropped.Add(1)
		return &endError{code: codes.ResourceExhausted, reason: "backlog", text: "too many reports wait for the log", retry: 10 * time.Second}
	}
	s.bytes += size(m) - replaced
	if have != nil && !overtakes(have, m) {
		have.next = m // the newest word of the journal
		return nil
	}
	if have != nil {
		s.bytes -= size(have.mutation)
		s.d.count.reportsOvertaken.Add(1)
	}
	have = &report{mutation: m}
	s.reports[key] = have
	s.proposeReport(key, have)
	return nil
}

// overtakes says that m goes in the place of RUNNING, which no worker has taken and none
// will take then.
func overtakes(have *report, m *raftlogv1.ReportAttempt) bool {
	return have.mutation.GetState() == raftlogv1.AttemptState_ATTEMPT_STATE_RUNNING && have.mutation.GetFence() == m.GetFence() &&
		m.GetState() >= raftlogv1.AttemptState_ATTEMPT_STATE_RUNNING && have.phase.CompareAndSwap(phaseQueued, phaseOvertaken)
}

func (s *session) proposeReport(key attemptKey, r *report) {
	m, phase := r.mutation, &atomic.Int32{}
	r.phase = phase
	gone := func() bool { return !phase.CompareAndSwap(phaseQueued, phaseTaken) && phase.Load() == phaseOvertaken }
	s.proposeUnless(gone, s.d.reports, &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_ReportAttempt{ReportAttempt: m}}, func(o *raftlogv1.Outcome, err error) {
		if phase.Load() == phaseOvertaken {
			return
		}
		if err != nil {
			pause := backoff(r.tries)
			r.tries++
			phase.Store(phaseTaken) // also when the lane had no room: it comes again, with what follows behind it
			s.after(pause, func() { s.proposeReport(key, r) })
			return
		}
		s.reported(key, m, o)
		s.bytes -= size(m)
		r.tries = 0
		if r.mutation, r.next = r.next, nil; r.mutation == nil {
			delete(s.reports, key)
			return
		}
		s.proposeReport(key, r)
	})
}

// reported acts on the outcome of a report. Without a confirmation the agent keeps its
// record and tells it again in its next session.
func (s *session) reported(key attemptKey, m *raftlogv1.ReportAttempt, o *raftlogv1.Outcome) {
	switch {
	case o.GetCode() == raftlogv1.Code_CODE_OK,
		o.GetCode() == raftlogv1.Code_CODE_NOT_FOUND && o.GetReason() == "no_invocation":
		s.confirm(m)
		return
	case o.GetReason() == "epoch_older", o.GetReason() == "no_session":
		return // the state will end this stream
	}
	i, found := s.d.o.Machine.View().Invocation(key.invocation)
	over := !found || i.GetAttempt() > key.attempt || (i.GetAttempt() == key.attempt && i.GetState() >= raftlogv1.AttemptState_ATTEMPT_STATE_LOST)
	s.d.count.reportsDropped.Add(1)
	s.d.o.Logger.Warn("a report was refused", "agent_id", s.agentID, "invocation_id", key.invocation, "attempt", key.attempt,
		"fence", m.GetFence(), "state", m.GetState(), "reason", o.GetReason(), "detail", o.GetDetail(), "confirmed", over)
	if over && o.GetCode() == raftlogv1.Code_CODE_STALE {
		s.confirm(m)
	}
}

// confirm lets the agent forget a report of an end. RUNNING is never confirmed: its
// record still waits for the end.
func (s *session) confirm(m *raftlogv1.ReportAttempt) {
	if m.GetState() < raftlogv1.AttemptState_ATTEMPT_STATE_LOST {
		return
	}
	point("node-before-confirm")
	s.d.count.confirms.Add(1)
	s.tell(&agentplanev1.SessionResponse{Message: &agentplanev1.SessionResponse_Confirm{Confirm: &agentplanev1.Confirm{
		InvocationId: m.GetInvocationId(), Attempt: m.GetAttempt(), JournalSeq: m.GetResult().GetJournalSeq(),
	}}})
}

// lose says in the log that nobody knows what became of an attempt: its agent was asked
// on this stream and has never heard of it.
func (s *session) lose(key attemptKey, t *talk, try int) {
	i, found := s.d.o.Machine.View().Invocation(key.invocation)
	if !found || i.GetAttempt() != key.attempt || i.GetFence() != t.fence || i.GetState() >= raftlogv1.AttemptState_ATTEMPT_STATE_LOST {
		t.losing = false
		return
	}
	t.losing = true
	s.propose(s.d.reports, &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_LoseAttempt{LoseAttempt: &raftlogv1.LoseAttempt{
		Key:           &raftlogv1.AttemptKey{InvocationId: key.invocation, Attempt: key.attempt},
		ExpectedState: i.GetState(), ExpectedFence: t.fence, ExpectedSessionEpoch: s.epoch, NodeId: s.d.o.NodeID,
		Reason: "unknown", Detail: "the agent was asked and its journal does not know the attempt",
	}}}, func(_ *raftlogv1.Outcome, err error) {
		if err != nil {
			s.after(backoff(try), func() { s.lose(key, t, try+1) })
			return
		}
		t.losing = false // when the state has moved, the next answer decides anew
	})
}

func (s *session) drop(r *agentplanev1.Report, why string) {
	s.d.count.reportsDropped.Add(1)
	s.d.o.Logger.Warn("a report was dropped", "agent_id", s.agentID, "invocation_id", clip(r.GetInvocationId(), maxIDBytes),
		"attempt", r.GetAttempt(), "state", int32(r.GetState()), "why", why)
}

// clean turns a report into a mutation in which everything is bounded. nil says that
// nothing can be made of it.
func (s *session) clean(r *agentplanev1.Report) (m *raftlogv1.ReportAttempt, cut bool) {
	state := raftlogv1.AttemptState(r.GetState())
	reason := text(r.GetReason(), fsm.MaxReasonBytes)
	switch r.GetState() {
	case agentplanev1.AttemptState_ATTEMPT_STATE_RUNNING, agentplanev1.AttemptState_ATTEMPT_STATE_LOST,
		agentplanev1.AttemptState_ATTEMPT_STATE_SUCCEEDED, agentplanev1.AttemptState_ATTEMPT_STATE_FAILED,
		agentplanev1.AttemptState_ATTEMPT_STATE_TIMED_OUT, agentplanev1.AttemptState_ATTEMPT_STATE_CANCELED,
		agentplanev1.AttemptState_ATTEMPT_STATE_REJECTED:
	case agentplanev1.AttemptState_ATTEMPT_STATE_EXPIRED:
		// EXPIRED is for what was never claimed; an agent that comes too late refuses.
		state = raftlogv1.AttemptState_ATTEMPT_STATE_REJECTED
		if reason == "" {
			reason = "expired"
		}
	default:
		return nil, false
	}
	id := r.GetInvocationId()
	if id == "" || len(id) > maxIDBytes || !utf8.ValidString(id) || r.GetAttempt() == 0 {
		return nil, false
	}
	m = &raftlogv1.ReportAttempt{
		InvocationId: id, Attempt: r.GetAttempt(), Fence: r.GetFence(), AgentId: s.agentID, SessionEpoch: s.epoch,
		State: state, Reason: reason, Detail: text(r.GetDetail(), fsm.MaxDetailBytes), NodeId: s.d.o.NodeID,
		CancelTooLate: r.GetCancelTooLate(), Undo: undo(r.GetUndo()),
		Result: &raftlogv1.Result{
			ExitCode: r.GetExitCode(), Signal: r.GetSignal(), StartedAt: r.GetStartedAt(), EndedAt: r.GetEndedAt(), JournalSeq: r.GetJournalSeq(),
		},
	}
	var cutOut, cutErr, cutSteps bool
	m.Result.Steps, cutSteps = steps(r.GetSteps())
	m.Result.Stdout, cutOut = output(r.GetStdout())
	m.Result.Stderr, cutErr = output(r.GetStderr())
	return m, cutOut || cutErr || cutSteps || len(r.GetReason()) > fsm.MaxReasonBytes || len(r.GetDetail()) > fsm.MaxDetailBytes
}

// steps bounds what is told of an attempt's steps.
func steps(all []*agentplanev1.StepResult) (rows []*raftlogv1.StepResult, cut bool) {
	if len(all) > fsm.MaxSteps {
		all, cut = all[:fsm.MaxSteps], true
	}
	for _, s := range all {
		state := raftlogv1.AttemptState(s.GetState())
		if raftlogv1.AttemptState_name[int32(state)] == "" {
			state, cut = raftlogv1.AttemptState_ATTEMPT_STATE_UNSPECIFIED, true
		}
		cut = cut || len(s.GetName()) > fsm.MaxStepBytes || len(s.GetReason()) > fsm.MaxStepBytes
		rows = append(rows, &raftlogv1.StepResult{
			Number: s.GetNumber(), Name: text(s.GetName(), fsm.MaxStepBytes), State: state, ExitCode: s.GetExitCode(),
			Signal: s.GetSignal(), Reason: text(s.GetReason(), fsm.MaxStepBytes), StartedAt: s.GetStartedAt(), EndedAt: s.GetEndedAt(),
		})
	}
	return rows, cut
}

// undo bounds what an agent tells of an undo; what only nodes know of it is left away.
func undo(u *agentplanev1.Undo) *raftlogv1.Undo {
	if u == nil {
		return nil
	}
	return &raftlogv1.Undo{
		Phase: raftlogv1.UndoPhase(u.GetPhase()), Until: u.GetUntil(), Cause: text(u.GetCause(), fsm.MaxReasonBytes),
		State: raftlogv1.AttemptState(u.GetState()), ExitCode: u.GetExitCode(), Signal: u.GetSignal(),
		Reason: text(u.GetReason(), fsm.MaxReasonBytes), Detail: text(u.GetDetail(), fsm.MaxDetailBytes),
		StartedAt: u.GetStartedAt(), EndedAt: u.GetEndedAt(),
	}
}

// output bounds one stream's head and tail to a quarter of what a result may hold each:
// cutting is better than refusing, since a result that is refused would never be told.
func output(o *agentplanev1.Output) (_ *raftlogv1.Output, cut bool) {
	if o == nil {
		return nil, false
	}
	const most = fsm.MaxOutputBytes / 4
	head, tail := o.GetHead(), o.GetTail()
	if len(head) > most {
		head, cut = head[:most], true
	}
	if len(tail) > most {
		tail, cut = tail[len(tail)-most:], true
	}
	if cut { // let go of the message's buffer
		head, tail = slices.Clone(head), slices.Clone(tail)
	}
	return &raftlogv1.Output{Head: head, Tail: tail, TotalBytes: o.GetTotalBytes()}, cut
}

// text makes what an agent wrote short and valid.
func text(t string, most int) string { return strings.ToValidUTF8(clip(t, most), "") }

// clip cuts t to at most n bytes, between two characters where it can.
func clip(t string, n int) string {
	if len(t) <= n {
		return t
	}
	for n > 0 && !utf8.RuneStart(t[n]) {
		n--
	}
	return t[:n]
}

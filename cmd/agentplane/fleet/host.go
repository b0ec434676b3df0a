package fleet

import (
	"crypto/rand"
	mathrand "math/rand/v2"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/agentplane/agentplane/agent/session"
	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
)

const (
	// tellRunningAfter is how long a program must run to be reported as RUNNING, as with
	// agentd.
	tellRunningAfter = 200 * time.Millisecond
	// maxRecords bounds a journal. What is forgotten raises its floor.
	maxRecords = 256
	// maxReports bounds what waits to be told; what finds no room is told again when the
	// cluster asks, or with the next Hello.
	maxReports = 64
)

// host is the machine of one agent: its journal, and what it runs.
type host struct {
	witness *Witness
	reports chan *agentplanev1.Report // by whoever holds mu, which never waits
	clock   session.Clock

	mu      sync.Mutex // guards what follows
	program Program
	random  *mathrand.Rand
	grant   session.Grant
	journal []byte // its id
	floor   int64
	seq     uint64
	records map[key]*record
	order   []key // of records, the oldest first
	running int
	over    bool // nothing starts or is told any more
}

type key struct {
	invocation string
	attempt    uint32
}

// record is what the journal says of an attempt.
type record struct {
	fence     uint64
	submitted int64
	startedAt int64 // 0 = it never started
	command   string
	seq       uint64
	end       *agentplanev1.Report // nil while it runs, and once it is confirmed
	ended     bool
	timers    [2]*time.Timer // of RUNNING and of the end
}

func newHost(w *Witness, seed uint64, p Program, floor int64) *host {
	h := &host{
		witness: w, reports: make(chan *agentplanev1.Report, maxReports), program: p,
		random: mathrand.New(mathrand.NewPCG(seed, seed)), floor: floor, records: make(map[key]*record),
	}
	h.journal = newJournalID()
	return h
}

func newJournalID() []byte {
	id := make([]byte, 16)
	_, _ = rand.Read(id) // never fails
	return id
}

// Standing is what Hello tells of the journal.
func (h *host) Standing() (session.Standing, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := session.Standing{
		Journal:  &agentplanev1.JournalState{Id: h.journal, Floor: h.floor, Seq: h.seq},
		Previous: h.grant.Epoch,
	}
	for _, k := range h.order {
		if r := h.records[k]; !r.ended || r.end != nil {
			s.Open = append(s.Open, h.reportLocked(k, r))
		}
	}
	return s, nil
}

// Incarnation is that of the last session epoch.
func (h *host) Incarnation() *agentplanev1.Incarnation {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.grant.Incarnation
}

// Begin takes the grant.
func (h *host) Begin(g session.Grant) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.grant = g
	return nil
}

// Rotate begins a new journal; what ran has nowhere to report to.
func (h *host) Rotate(now int64) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, r := range h.records {
		r.stop()
	}
	h.journal, h.floor, h.seq, h.running, h.grant = newJournalID(), now, 0, 0, session.Grant{}
	clear(h.records)
	h.order = nil
	return nil
}

// Reports gives what is to be said beyond Hello.
func (h *host) Reports() <-chan *agentplanev1.Report { return h.reports }

// Running counts the attempts that run.
func (h *host) Running() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.running
}

// Offer takes a message. There is always room: nothing here waits.
func (h *host) Offer(m *agentplanev1.SessionResponse) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.over {
		return true
	}
	switch b := m.GetMessage().(type) {
	case *agentplanev1.SessionResponse_Deliver:
		h.deliverLocked(b.Deliver)
	case *agentplanev1.SessionResponse_Cancel:
		h.cancelLocked(b.Cancel)
	case *agentplanev1.SessionResponse_Confirm:
		c := b.Confirm
		if r := h.records[key{c.GetInvocationId(), c.GetAttempt()}]; r != nil && r.ended && c.GetJournalSeq() >= r.seq {
			r.end = nil
		}
	case *agentplanev1.SessionResponse_Ask:
		h.askLocked(b.Ask)
	}
	return true
}

func (h *host) deliverLocked(d *agentplanev1.Deliver) {
	if d.GetSessionEpoch() != h.grant.Epoch || d.GetIncarnation() != h.grant.Incarnation.GetNumber() {
		return // of a session that has ended meanwhile; it comes again
	}
	k := key{d.GetInvocationId(), d.GetAttempt()}
	if h.knownLocked(k, d.GetFence()) {
		return
	}
	r := h.addLocked(k, d.GetFence(), d.GetSubmittedAt())
	timeout, no := h.judge(d)
	if no != "" {
		h.neverLocked(k, r, agentplanev1.AttemptState_ATTEMPT_STATE_REJECTED, no)
		return
	}
	h.witness.start(Attempt{Command: d.GetCommandId(), Invocation: k.invocation, Number: k.attempt})
	r.startedAt, r.command = time.Now().UnixNano(), d.GetCommandId()
	h.running++
	c := h.program.draw(h.random, timeout)
	end := func() { h.endLocked(k, r, &agentplanev1.Report{State: c.state, ExitCode: c.code}) }
	switch {
	case c.mute:
	case c.takes == 0:
		end()
	default:
		if c.takes > tellRunningAfter {
			r.timers[0] = h.afterLocked(tellRunningAfter, r, func() { h.tellLocked(h.reportLocked(k, r)) })
		}
		r.timers[1] = h.afterLocked(c.takes, r, end)
	}
}

// afterLocked calls f later, unless the attempt has ended by then.
func (h *host) afterLocked(d time.Duration, r *record, f func()) *time.Timer {
	return time.AfterFunc(d, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		if !h.over && !r.ended {
			f()
		}
	})
}

// judge answers the run timeout, or why the attempt must not start.
func (h *host) judge(d *agentplanev1.Deliver) (time.Duration, string) {
	env, spec := &agentplanev1.Envelope{}, &agentplanev1.CommandSpec{}
	if proto.Unmarshal(d.GetEnvelope(), env) != nil || proto.Unmarshal(env.GetSpec(), spec) != nil || spec.GetCommandId() != d.GetCommandId() {
		return 0, "invalid"
	}
	now, known := h.clock.Now()
	switch {
	case d.GetSubmittedAt() < h.floor:
		return 0, "forgotten"
	case known && spec.GetNotAfter() <= now:
		return 0, "expired"
	}
	return time.Duration(spec.GetRunTimeout()), ""
}

// knownLocked answers for an attempt that is in the journal.
func (h *host) knownLocked(k key, fence uint64) bool {
	r := h.records[k]
	if r == nil {
		return false
	}
	if r.fence == 0 { // canceled before it was delivered
		r.fence = fence
	}
	h.tellLocked(h.reportLocked(k, r))
	return true
}

func (h *host) addLocked(k key, fence uint64, submitted int64) *record {
	for len(h.order) >= maxRecords {
		old := h.records[h.order[0]]
		if !old.ended || old.end != nil {
			break // slots bound how many of those there are
		}
		h.floor = max(h.floor, old.submitted+1)
		delete(h.records, h.order[0])
		h.order = h.order[1:]
	}
	h.seq++
	r := &record{fence: fence, submitted: submitted}
	h.records[k] = r
	h.order = append(h.order, k)
	return r
}

func (h *host) neverLocked(k key, r *record, state agentplanev1.AttemptState, reason string) {
	h.endLocked(k, r, &agentplanev1.Report{State: state, Reason: reason, ExitCode: -1})
}

// endLocked journals the end and tells it.
func (h *host) endLocked(k key, r *record, end *agentplanev1.Report) {
	if r.startedAt != 0 {
		h.running--
		h.witness.end(r.command, end.GetState() == agentplanev1.AttemptState_ATTEMPT_STATE_FAILED || end.GetState() == agentplanev1.AttemptState_ATTEMPT_STATE_TIMED_OUT)
	}
	h.seq++
	r.seq, r.ended = h.seq, true
	end.InvocationId, end.Attempt, end.JournalSeq = k.invocation, k.attempt, h.seq
	end.StartedAt, end.EndedAt = r.startedAt, time.Now().UnixNano()
	r.end = end
	r.stop()
	h.tellLocked(h.reportLocked(k, r))
}

func (h *host) cancelLocked(c *agentplanev1.CancelAttempt) {
	if c.GetSessionEpoch() != h.grant.Epoch {
		return
	}
	k := key{c.GetInvocationId(), c.GetAttempt()}
	switch r := h.records[k]; {
	case r == nil:
		now, _ := h.clock.Now()
		h.neverLocked(k, h.addLocked(k, 0, now), agentplanev1.AttemptState_ATTEMPT_STATE_CANCELED, "canceled")
	case r.ended:
		if r.end != nil && r.startedAt != 0 {
			r.end.CancelTooLate = true
		}
		h.tellLocked(h.reportLocked(k, r))
	default:
		h.endLocked(k, r, &agentplanev1.Report{State: agentplanev1.AttemptState_ATTEMPT_STATE_CANCELED, Reason: "canceled", ExitCode: -1, Signal: 15})
	}
}

func (h *host) askLocked(q *agentplanev1.Ask) {
	k := key{q.GetInvocationId(), q.GetAttempt()}
	if h.knownLocked(k, q.GetFence()) {
		return
	}
	now, _ := h.clock.Now()
	h.neverLocked(k, h.addLocked(k, q.GetFence(), now), agentplanev1.AttemptState_ATTEMPT_STATE_LOST, "unknown")
}

// reportLocked is what the journal says; nil when the cluster has confirmed that it knows.
func (h *host) reportLocked(k key, r *record) *agentplanev1.Report {
	switch {
	case r.end != nil:
		p := proto.CloneOf(r.end)
		p.Fence = r.fence
		return p
	case r.ended:
		return nil
	}
	return &agentplanev1.Report{
		InvocationId: k.invocation, Attempt: k.attempt, Fence: r.fence, StartedAt: r.startedAt, JournalSeq: h.seq,
		State: agentplanev1.AttemptState_ATTEMPT_STATE_RUNNING,
	}
}

func (h *host) tellLocked(p *agentplanev1.Report) {
	if p.GetFence() == 0 || h.over {
		return // confirmed already, or canceled before it was delivered: the delivery tells the fence
	}
	select {
	case h.reports <- p:
	default:
	}
}

// close ends what runs.
func (h *host) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.over = true
	for _, r := range h.records {
		r.stop()
	}
}

func (r *record) stop() {
	for i, t := range r.timers {
		if t != nil {
			t.Stop()
			r.timers[i] = nil
		}
	}
}

// change makes what starts from now on another program.
func (h *host) change(p Program) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.program = p
}

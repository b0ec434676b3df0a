package dispatch

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
	"google.golang.org/grpc/codes"

	"github.com/agentplane/agentplane/fsm"
	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

// session is one stream of one agent. Fields belong to the handler's goroutine but for
// those that say otherwise.
type session struct {
	d       *Dispatcher
	agentID string
	key     []byte // that the connection has proved
	out     *sendQueue
	mail    mailbox
	in      chan *agentplanev1.SessionRequest // from the receiver
	broken  chan error                        // from the receiver, once
	rate    *rate.Limiter

	streamID []byte      // written under d.mu while opening, constant afterwards
	granted  uint64      // guarded by d.mu: the epoch, once this node's state has it
	over     atomic.Bool // the stream has ended

	epoch    uint64
	ordinal  uint32
	slots    uint32
	version  string
	opened   time.Time
	heard    time.Time // when the agent last said anything
	said     bool      // Ready has come
	ready    bool      // the state says READY
	away     bool      // it is to leave: nothing new is claimed
	sentAway bool      // it was told to go elsewhere
	trust    uint64    // index of the bundle it was told
	full     bool      // a message found no room in the queue
	goodbye  *ending

	dirty bool      // the state is to be looked at
	due   time.Time // when to look again at the latest
	plans []plan

	talks   map[attemptKey]*talk
	claims  map[string]*claim
	lacking []placeKey // for what it stands in line
	reports map[attemptKey]*report
	bytes   int // of reports
	facts   factsState
}

// plan is something to do at a time.
type plan struct {
	at time.Time
	do func()
}

// attemptKey names one attempt.
type attemptKey struct {
	invocation string
	attempt    uint32
}

func newSession(d *Dispatcher, agentID string, key []byte) *session {
	return &session{
		d: d, agentID: agentID, key: key, out: newSendQueue(), mail: mailbox{wake: make(chan struct{}, 1)},
		in: make(chan *agentplanev1.SessionRequest), broken: make(chan error, 1),
		rate:  rate.NewLimiter(messagesPerSecond, messagesBurst),
		talks: make(map[attemptKey]*talk), claims: make(map[string]*claim), reports: make(map[attemptKey]*report),
	}
}

// receiver is the part of a stream that the receiver uses.
type receiver interface {
	Recv() (*agentplanev1.SessionRequest, error)
}

// receive hands over one message after the other until the stream breaks or ctx ends.
func (s *session) receive(ctx context.Context, stream receiver) {
	for {
		m, err := stream.Recv()
		if err != nil {
			s.broken <- err
			return
		}
		select {
		case s.in <- m:
		case <-ctx.Done():
			return
		}
	}
}

// run is the life of the stream.
func (s *session) run(ctx context.Context) error {
	log := s.d.o.Logger.With("agent_id", s.agentID)
	defer s.over.Store(true)
	defer func() {
		for key := range s.talks {
			s.hush(key)
		}
	}()
	err := s.handshake(ctx)
	if s.streamID != nil {
		defer func() { s.d.unregister(s, s.ending(err)) }()
	}
	if err == nil {
		s.d.count.opened.Add(1)
		log.Debug("session opened", "session_epoch", s.epoch)
		err = s.serve(ctx)
		s.letGo()
	}
	if r := (*refusal)(nil); errors.As(err, &r) {
		s.d.count.refused.Add(1)
		s.out.offer(r.message(s.d.clock.now()))
		err = r.end()
	}
	if end := (*endError)(nil); errors.As(err, &end) {
		switch end.reason {
		case "superseded":
			s.d.count.superseded.Add(1)
		case "silent":
			s.d.count.silent.Add(1)
		case "slow":
			s.d.count.slow.Add(1)
		case "flood", "backlog":
			s.d.count.flooded.Add(1)
		}
	}
	s.flush(ctx)
	if s.epoch != 0 {
		log.Info("session closed", "session_epoch", s.epoch, "lasted", time.Since(s.opened).Round(time.Millisecond), "err", err)
	} else {
		log.Info("no session", "err", err)
	}
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// flush gives the writer a moment to send what is queued. Nobody else waits for it.
func (s *session) flush(ctx context.Context) {
	s.out.finish()
	t := time.NewTimer(time.Second)
	defer t.Stop()
	select {
	case <-s.out.written:
	case <-t.C:
	case <-ctx.Done():
	}
}

// ending is what the end of the stream means for the session in the state.
func (s *session) ending(err error) ending {
	if s.goodbye != nil {
		return *s.goodbye
	}
	return ending{epoch: s.epoch, grace: s.d.o.NodeDeathGrace, reason: reasonOf(err), away: s.sentAway}
}

// serve keeps the session until something ends it.
func (s *session) serve(ctx context.Context) error {
	o := s.d.o
	s.opened, s.heard, s.dirty = time.Now(), time.Now(), true
	planned := s.heard
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		var err error
		select {
		case m := <-s.in:
			err = s.take(m)
		case err = <-s.broken:
		case <-s.mail.wake:
			s.readMail()
		case <-timer.C:
			select { // what waits at this very moment was said in time
			case m := <-s.in:
				err = s.take(m)
			default:
			}
			s.dirty = true
			s.runPlans()
		case <-s.d.leaving.Done():
			err = &endError{code: codes.Unavailable, reason: "draining", text: "the node is draining"}
		case <-ctx.Done():
			err = &endError{code: codes.Unavailable, reason: "stream_broken", text: "the stream was canceled"}
		}
		if time.Since(planned) > o.HeartbeatInterval {
			s.heard, s.dirty = time.Now(), true // this process was stopped, not the agent
		}
		if err == nil {
			err = s.judge(time.Now())
		}
		if err == nil && s.dirty {
			s.dirty = false
			s.due = time.Time{}
			err = s.act(o.Machine.View())
			planned = s.nextLook()
			timer.Reset(time.Until(planned))
		}
		if err != nil {
			return err
		}
	}
}

// silence is how long an agent may say nothing.
func (s *session) silence() time.Duration {
	return s.d.o.HeartbeatInterval * time.Duration(s.d.o.HeartbeatMisses)
}

// judge ends a stream whose agent is silent, does not read, or never gets ready.
func (s *session) judge(now time.Time) error {
	switch {
	case now.Sub(s.heard) >= s.silence():
		return &endError{code: codes.DeadlineExceeded, reason: "silent", text: "no heartbeat came for " + now.Sub(s.heard).Round(time.Millisecond).String()}
	case s.full || s.out.stuck(now) >= s.silence():
		return &endError{code: codes.ResourceExhausted, reason: "slow", text: "the agent does not read what it is sent"}
	case !s.said && now.Sub(s.opened) >= s.d.o.HandshakeTimeout:
		return &endError{code: codes.DeadlineExceeded, reason: "not_ready", text: "Ready did not come within " + s.d.o.HandshakeTimeout.String()}
	}
	return nil
}

// nextLook is when judge or act have to look again.
func (s *session) nextLook() time.Time {
	s.lookAt(s.heard.Add(s.silence()))
	if !s.said {
		s.lookAt(s.opened.Add(s.d.o.HandshakeTimeout))
	}
	for _, p := range s.plans {
		s.lookAt(p.at)
	}
	return s.due
}

// lookAt makes act run at t at the latest.
func (s *session) lookAt(t time.Time) {
	if s.due.IsZero() || t.Before(s.due) {
		s.due = t
	}
}

func (s *session) after(d time.Duration, do func()) {
	s.plans = append(s.plans, plan{at: time.Now().Add(d), do: do})
	s.dirty = true // so that the timer is set anew
}

func (s *session) runPlans() {
	now := time.Now()
	var due []plan
	kept := s.plans[:0]
	for _, p := range s.plans {
		if p.at.After(now) {
			kept = append(kept, p)
		} else {
			due = append(due, p)
		}
	}
	clear(s.plans[len(kept):])
	s.plans = kept
	for _, p := range due {
		p.do()
	}
}

// backoff is the pause before the n-th repetition, with jitter so that sessions do not
// march in step.
func backoff(n int) time.Duration {
	d := min(500*time.Millisecond<<min(n, 6), 10*time.Second)
	return d/2 + rand.N(d/2)
}

// propose puts a mutation into the lane; then runs in this goroutine.
func (s *session) propose(l *lane, m *raftlogv1.Mutation, then func(*raftlogv1.Outcome, error)) {
	// What the journal says is worth having also when the stream has ended; claims
	// that nobody waits for are not.
	s.proposeUnless(func() bool { return m.GetClaimAttempt() != nil && s.over.Load() }, l, m, then)
}

// proposeUnless is propose, unless gone says so when a worker gets to it: once, for what is
// to be taken.
func (s *session) proposeUnless(gone func() bool, l *lane, m *raftlogv1.Mutation, then func(*raftlogv1.Outcome, error)) {
	err := l.offer(task{
		mutation: m,
		gone:     gone,
		done:     func(o *raftlogv1.Outcome, err error) { s.mail.post(func() { then(o, err) }) },
	})
	if err != nil {
		s.mail.post(func() { then(nil, err) })
	}
}

func (s *session) readMail() {
	marks, posts := s.mail.take()
	for _, f := range posts {
		f()
	}
	s.dirty = true
	if marks&markTrust != 0 {
		s.tellTrust()
	}
	if marks&markNoLeader != 0 {
		s.tellMoveAway("no_leader")
	}
	if marks&markDrain != 0 && !s.away {
		s.away = true
		s.tellMoveAway("draining")
	}
}

func (s *session) tellTrust() {
	if b := s.d.o.Bundle(); b.GetIndex() > s.trust {
		s.trust = b.GetIndex()
		s.tell(&agentplanev1.SessionResponse{Message: &agentplanev1.SessionResponse_Trust{Trust: &agentplanev1.TrustUpdate{Bundle: b}}})
	}
}

func (s *session) tellMoveAway(reason string) {
	s.sentAway = true
	within := backoffCap(s.d.o.Machine.View().AgentCount(), s.d.o.SessionsPerSecond)
	s.tell(&agentplanev1.SessionResponse{Message: &agentplanev1.SessionResponse_MoveAway{MoveAway: &agentplanev1.MoveAway{
		Reason: reason, WithinMs: milliseconds(within),
	}}})
}

// tell queues a message. A full queue ends the stream at the next look.
func (s *session) tell(m *agentplanev1.SessionResponse) {
	if !s.out.offer(m) {
		s.full = true
	}
}

// take handles a message of an agent whose session is open.
func (s *session) take(m *agentplanev1.SessionRequest) error {
	if !s.rate.Allow() {
		return &endError{code: codes.ResourceExhausted, reason: "flood", text: "the agent sends too many messages", retry: 10 * time.Second}
	}
	s.heard = time.Now()
	switch k := m.GetMessage().(type) {
	case *agentplanev1.SessionRequest_Heartbeat:
		s.out.acknowledge(k.Heartbeat.GetSeq(), s.d.clock.now())
	case *agentplanev1.SessionRequest_Ready:
		if k.Ready.GetSessionEpoch() != s.epoch {
			return &endError{code: codes.InvalidArgument, reason: "epoch", text: "Ready names another session epoch than Welcome"}
		}
		if !s.said {
			s.said = true
			s.proposeReady(0)
		}
	case *agentplanev1.SessionRequest_Report:
		return s.report(k.Report)
	case *agentplanev1.SessionRequest_Facts:
		s.takeFacts(k.Facts)
	case *agentplanev1.SessionRequest_Goodbye:
		s.goodbye = &ending{epoch: s.epoch, left: true, reason: "goodbye"}
		if k.Goodbye.GetReboot() {
			s.goodbye = &ending{epoch: s.epoch, grace: s.d.o.RebootGrace, reason: "reboot"}
		}
		return io.EOF
	default:
		return &endError{code: codes.InvalidArgument, reason: "unexpected", text: "an open session takes neither Hello nor an empty message"}
	}
	return nil
}

// proposeReady tells the log that the agent has fsynced its epoch. The state answers.
func (s *session) proposeReady(try int) {
	s.propose(s.d.control, &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_ReadySession{
		ReadySession: &raftlogv1.ReadySession{AgentId: s.agentID, SessionEpoch: s.epoch, NodeId: s.d.o.NodeID},
	}}, func(_ *raftlogv1.Outcome, err error) {
		if err != nil && !s.ready {
			s.after(backoff(try), func() { s.proposeReady(try + 1) })
		}
	})
}

// current says whether the state still grants this stream the session.
func (s *session) current(v *fsm.View) (*raftlogv1.Agent, error) {
	row, found := v.Session(s.agentID)
	agent, enrolled := v.Agent(s.agentID)
	switch {
	case !found || !enrolled || !bytes.Equal(agent.GetPublicKey(), s.key):
		return nil, &endError{code: codes.PermissionDenied, reason: "removed", text: "the agent was removed, or its key is no longer registered"}
	case row.GetEpoch() != s.epoch, row.GetNodeId() != s.d.o.NodeID, row.GetNodeStartCounter() != s.d.o.StartCounter:
		return nil, &endError{code: codes.Aborted, reason: "superseded", text: "the agent has a newer session"}
	case !live(row):
		return nil, &endError{code: codes.Aborted, reason: "session_ended", text: "the session has ended in the cluster: open another one", retry: time.Second}
	}
	s.ready = row.GetState() == raftlogv1.SessionState_SESSION_STATE_READY
	return agent, nil
}

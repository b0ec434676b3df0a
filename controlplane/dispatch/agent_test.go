package dispatch

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
)

// fakeStream is the server's end of a stream in memory, with gRPC's rules: Send waits
// while the agent does not read, and both directions end when the handler returns.
type fakeStream struct {
	grpc.ServerStream
	ctx    context.Context
	up     chan *agentplanev1.SessionRequest
	closed chan struct{} // the agent has closed its direction
	down   chan *agentplanev1.SessionResponse
}

func (f *fakeStream) Context() context.Context { return f.ctx }

func (f *fakeStream) Recv() (*agentplanev1.SessionRequest, error) {
	select {
	case m := <-f.up:
		return m, nil
	default:
	}
	select {
	case m := <-f.up:
		return m, nil
	case <-f.closed:
		return nil, io.EOF
	case <-f.ctx.Done():
		return nil, f.ctx.Err()
	}
}

func (f *fakeStream) Send(m *agentplanev1.SessionResponse) error {
	select {
	case f.down <- m:
		return nil
	case <-f.ctx.Done():
		return f.ctx.Err()
	}
}

// fakeAgent is one agent with a journal that lives as long as the test.
type fakeAgent struct {
	t       *testing.T
	n       int
	key     []byte
	start   []byte
	journal *agentplanev1.JournalState
	prev    uint64
	slots   uint32

	mu        sync.Mutex                      // guards journal, prev and what follows
	open      map[string]*agentplanev1.Report // by invocation: what is not confirmed
	known     map[string]bool                 // whether it was ever started
	starts    map[string]int
	run       bool // answer deliveries with RUNNING and SUCCEEDED
	confirmed map[string]int
}

func newAgent(t *testing.T, n int) *fakeAgent {
	return &fakeAgent{
		t: t, n: n, key: agentKey(n), start: random(), slots: 2,
		journal: &agentplanev1.JournalState{Id: random(), Seq: 1},
		open:    make(map[string]*agentplanev1.Report), known: make(map[string]bool), starts: make(map[string]int), confirmed: make(map[string]int),
	}
}

func random() []byte {
	b := make([]byte, 16)
	_, _ = rand.Read(b)
	return b
}

// fakeSession is an agent's end of one stream.
type fakeSession struct {
	*fakeAgent
	stream *fakeStream
	cancel context.CancelFunc
	done   chan struct{}
	err    error // once done is closed
	id     []byte
	epoch  uint64

	gotMu sync.Mutex                      // guards got and stop
	got   []*agentplanev1.SessionResponse // everything after Welcome
	stop  chan struct{}
	wg    sync.WaitGroup
}

// dial begins a stream. Nothing is read from it.
func (a *fakeAgent) dial(d *Dispatcher) *fakeSession {
	ctx, cancel := context.WithCancel(context.WithValue(context.Background(), callerKey{}, caller{agentName(a.n), a.key}))
	s := &fakeSession{
		fakeAgent: a, cancel: cancel, done: make(chan struct{}), id: random(), stop: make(chan struct{}),
		stream: &fakeStream{ctx: ctx, up: make(chan *agentplanev1.SessionRequest, 16), closed: make(chan struct{}), down: make(chan *agentplanev1.SessionResponse)},
	}
	go func() {
		s.err = d.Session(s.stream)
		cancel()
		close(s.done)
	}()
	a.t.Cleanup(s.hangUp)
	return s
}

// hangUp breaks the stream and waits until the node has noticed.
func (s *fakeSession) hangUp() {
	s.cancel()
	<-s.done
	s.silence()
	s.wg.Wait()
}

func (s *fakeSession) recv() *agentplanev1.SessionResponse {
	s.t.Helper()
	t := time.NewTimer(time.Minute)
	defer t.Stop()
	select {
	case m := <-s.stream.down:
		return m
	case <-s.done:
		return nil
	case <-t.C:
		s.t.Fatal("nothing was sent for a minute")
		return nil
	}
}

func (s *fakeSession) send(m *agentplanev1.SessionRequest) {
	select {
	case s.stream.up <- m:
	case <-s.done:
	}
}

func (s *fakeSession) hello(epoch uint64) *agentplanev1.Hello {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := &agentplanev1.Hello{
		ClusterId: "c1", Incarnation: 1, SeenEpoch: epoch, StreamId: s.id, AgentId: agentName(s.n), BootId: "boot", StartId: s.start,
		Journal:       &agentplanev1.JournalState{Id: s.journal.GetId(), Seq: s.journal.GetSeq()},
		PreviousEpoch: s.prev, Slots: s.slots, Version: "v1",
	}
	for _, r := range s.open {
		h.Open = append(h.Open, r)
	}
	return h
}

func (s *fakeSession) say(h *agentplanev1.Hello) {
	s.send(&agentplanev1.SessionRequest{Message: &agentplanev1.SessionRequest_Hello{Hello: h}})
}

// shake does the handshake up to Welcome; edit may change each Hello.
func (s *fakeSession) shake(edit func(*agentplanev1.Hello)) (*agentplanev1.Welcome, *agentplanev1.Refused) {
	s.t.Helper()
	first := s.recv()
	c := first.GetChallenge()
	if c == nil {
		return nil, first.GetRefused()
	}
	epoch := c.GetSessionEpoch()
	for {
		h := s.hello(epoch)
		if edit != nil {
			edit(h)
		}
		s.say(h)
		m := s.recv()
		switch {
		case m.GetWelcome() != nil:
			s.epoch = m.GetWelcome().GetSessionEpoch()
			return m.GetWelcome(), nil
		case m.GetRefused().GetAgain():
			epoch = m.GetRefused().GetSessionEpoch()
		default:
			return nil, m.GetRefused()
		}
	}
}

// live does the handshake, gets ready, and beats and reads until the stream ends or
// silence is called.
func (a *fakeAgent) live(d *Dispatcher) *fakeSession {
	a.t.Helper()
	s := a.dial(d)
	w, r := s.shake(nil)
	if w == nil {
		<-s.done
		a.t.Fatalf("agent %d was refused: %v, %v", a.n, r, s.err)
	}
	s.ready()
	s.begin()
	synctest.Wait()
	return s
}

func (s *fakeSession) ready() {
	s.mu.Lock()
	s.prev = s.epoch // fsynced
	s.journal.Seq++
	s.mu.Unlock()
	s.send(&agentplanev1.SessionRequest{Message: &agentplanev1.SessionRequest_Ready{Ready: &agentplanev1.Ready{SessionEpoch: s.epoch}}})
}

// begin reads and beats in the background.
func (s *fakeSession) begin() {
	s.wg.Go(func() {
		beat := time.NewTicker(3 * time.Second)
		defer beat.Stop()
		seq := uint64(0)
		for {
			select {
			case m := <-s.stream.down:
				s.handle(m)
			case <-beat.C:
				seq++
				s.send(&agentplanev1.SessionRequest{Message: &agentplanev1.SessionRequest_Heartbeat{Heartbeat: &agentplanev1.Heartbeat{SessionEpoch: s.epoch, Seq: seq}}})
			case <-s.done:
				return
			case <-s.stop:
				return
			}
		}
	})
}

// silence ends reading and beating.
func (s *fakeSession) silence() {
	s.gotMu.Lock()
	defer s.gotMu.Unlock()
	select {
	case <-s.stop:
	default:
		close(s.stop)
	}
}

func (s *fakeSession) handle(m *agentplanev1.SessionResponse) {
	s.gotMu.Lock()
	s.got = append(s.got, m)
	s.gotMu.Unlock()
	switch {
	case m.GetDeliver() != nil && s.run:
		s.deliver(m.GetDeliver())
	case m.GetConfirm() != nil:
		s.mu.Lock()
		defer s.mu.Unlock()
		if r := s.open[m.GetConfirm().GetInvocationId()]; r.GetJournalSeq() == m.GetConfirm().GetJournalSeq() {
			delete(s.open, m.GetConfirm().GetInvocationId())
		}
		s.confirmed[m.GetConfirm().GetInvocationId()]++
	}
}

// deliver does what an agent does with a delivery: one start, ever.
func (s *fakeSession) deliver(d *agentplanev1.Deliver) {
	if d.GetSessionEpoch() != s.epoch {
		s.t.Errorf("agent %d in session %d was sent a delivery of session %d", s.n, s.epoch, d.GetSessionEpoch())
		return
	}
	s.mu.Lock()
	known, r := s.known[d.GetInvocationId()], s.open[d.GetInvocationId()]
	if !known {
		s.known[d.GetInvocationId()] = true
		s.starts[d.GetInvocationId()]++
	}
	s.mu.Unlock()
	if r != nil {
		s.report(r)
	}
	if known {
		return
	}
	s.tellEnd(d, agentplanev1.AttemptState_ATTEMPT_STATE_RUNNING)
	s.tellEnd(d, agentplanev1.AttemptState_ATTEMPT_STATE_SUCCEEDED)
}

// tellEnd journals and reports a state of what was delivered.
func (s *fakeSession) tellEnd(d *agentplanev1.Deliver, state agentplanev1.AttemptState) {
	s.mu.Lock()
	s.journal.Seq++
	r := &agentplanev1.Report{
		InvocationId: d.GetInvocationId(), Attempt: d.GetAttempt(), Fence: d.GetFence(), State: state, JournalSeq: s.journal.GetSeq(),
	}
	s.open[d.GetInvocationId()] = r
	s.mu.Unlock()
	s.report(r)
}

func (s *fakeSession) report(r *agentplanev1.Report) {
	s.send(&agentplanev1.SessionRequest{Message: &agentplanev1.SessionRequest_Report{Report: r}})
}

// all returns what was received since Welcome.
func all[M any](s *fakeSession, pick func(*agentplanev1.SessionResponse) *M) []*M {
	s.gotMu.Lock()
	defer s.gotMu.Unlock()
	var list []*M
	for _, m := range s.got {
		if p := pick(m); p != nil {
			list = append(list, p)
		}
	}
	return list
}

func (s *fakeSession) deliveries() []*agentplanev1.Deliver {
	return all(s, (*agentplanev1.SessionResponse).GetDeliver)
}

// ended returns why the stream ended, and fails when it has not.
func (s *fakeSession) ended() string {
	s.t.Helper()
	synctest.Wait()
	select {
	case <-s.done:
	default:
		s.t.Fatal("the stream has not ended")
	}
	var e *endError
	if errors.As(s.err, &e) {
		return e.reason
	}
	if s.err != nil {
		return s.err.Error()
	}
	return ""
}

func (s *fakeSession) alive() bool {
	synctest.Wait()
	select {
	case <-s.done:
		return false
	default:
		return true
	}
}

// settle lets d of virtual time pass.
func settle(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

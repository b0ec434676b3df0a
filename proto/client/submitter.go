package client

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"google.golang.org/grpc/codes"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
)

const (
	// submitInFlight is how many calls of one Submitter are on their way at once: while
	// one waits for its entry, the next collects what comes.
	submitInFlight = 2
	// submitBatch and submitBytes bound one call; nodes take 256 envelopes and messages
	// of 1 MiB.
	submitBatch = 256
	submitBytes = 768 << 10
)

// Submitter submits for many goroutines at once: what they submit while earlier calls
// are on their way shares the next call. No timer waits for company, so that whoever
// is alone waits for nobody. For those who submit thousands a second it spares most of
// what a call costs on both sides. It is safe for concurrent use; its goroutines end
// with its calls, which end with the Client.
type Submitter struct {
	c *Client

	mu       sync.Mutex // guards what follows
	queue    []*submission
	inFlight int
}

// submission is one Submit. done is closed after answer and err are set.
type submission struct {
	envelope []byte
	taken    bool // by a call; guarded by the Submitter's mu
	done     chan struct{}
	answer   *agentplanev1.SubmitAnswer
	err      *Error
}

// NewSubmitter returns a Submitter over the client.
func NewSubmitter(c *Client) *Submitter { return &Submitter{c: c} }

// Submit submits the marshalled agentplane.v1.Envelope and returns what the cluster
// answered when a majority holds it on disk. The error is an *Error; submitting the
// same bytes again is safe after any.
func (s *Submitter) Submit(ctx context.Context, envelope []byte) (*agentplanev1.SubmitAnswer, error) {
	if ctx.Err() != nil {
		return nil, left(ctx.Err(), false)
	}
	p := &submission{envelope: envelope, done: make(chan struct{})}
	s.mu.Lock()
	s.queue = append(s.queue, p)
	s.startLocked()
	s.mu.Unlock()
	select {
	case <-p.done:
	case <-ctx.Done():
		if s.withdraw(p) {
			return nil, left(ctx.Err(), false)
		}
		select {
		case <-p.done: // it ended at the same moment
		default:
			return nil, left(ctx.Err(), true)
		}
	}
	if p.err != nil {
		return nil, p.err
	}
	return p.answer, nil
}

// left is the error of who did not wait for the answer, because its context ended.
func left(why error, sent bool) *Error {
	e := &Error{Code: codes.DeadlineExceeded, Message: "not done in time: nothing was sent", OutcomeUnknown: sent, cause: why}
	if sent {
		e.Message = "no outcome in time: it was not answered yet"
	}
	if errors.Is(why, context.Canceled) {
		e.Code, e.Message = codes.Canceled, "interrupted"
	}
	return e
}

// withdraw takes p out of the queue; false when a call has it.
func (s *Submitter) withdraw(p *submission) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p.taken {
		return false
	}
	s.queue = slices.DeleteFunc(s.queue, func(q *submission) bool { return q == p })
	return true
}

// startLocked begins a call for what waits, unless enough are on their way.
func (s *Submitter) startLocked() {
	if s.inFlight >= submitInFlight || len(s.queue) == 0 {
		return
	}
	batch := s.takeLocked()
	s.inFlight++
	if s.c.spawn(func() { s.run(batch) }) {
		return
	}
	s.inFlight--
	deliver(batch, nil, &Error{Code: codes.Unavailable, Message: errClosed.Error(), cause: errClosed})
}

// takeLocked takes as many as one call may hold, in their order.
func (s *Submitter) takeLocked() []*submission {
	n, bytes := 0, 0
	for n < min(len(s.queue), submitBatch) {
		if bytes += len(s.queue[n].envelope); n > 0 && bytes > submitBytes {
			break
		}
		s.queue[n].taken = true
		n++
	}
	batch := slices.Clone(s.queue[:n])
	s.queue = slices.Delete(s.queue, 0, n)
	return batch
}

// run makes calls until nothing waits.
func (s *Submitter) run(batch []*submission) {
	for len(batch) > 0 {
		answers, err := s.call(batch)
		deliver(batch, answers, err)
		s.mu.Lock()
		if batch = s.takeLocked(); len(batch) == 0 {
			s.inFlight--
		}
		s.mu.Unlock()
	}
}

func (s *Submitter) call(batch []*submission) ([]*agentplanev1.SubmitAnswer, *Error) {
	req := &agentplanev1.SubmitBatchRequest{Envelopes: make([][]byte, len(batch))}
	for i, p := range batch {
		req.Envelopes[i] = p.envelope
	}
	r, err := agentplanev1.NewCommandServiceClient(s.c).SubmitBatch(s.c.ctx, req)
	switch {
	case err != nil && s.c.ctx.Err() != nil: // of the client, and no caller's
		return nil, &Error{Code: codes.Unavailable, Message: errClosed.Error(), OutcomeUnknown: AsError(err).OutcomeUnknown, cause: errClosed}
	case err != nil:
		return nil, AsError(err)
	case len(r.GetAnswers()) != len(batch):
		return nil, &Error{
			Code: codes.Internal, OutcomeUnknown: true,
			Message: fmt.Sprintf("%d answers came to %d submissions", len(r.GetAnswers()), len(batch)),
		}
	}
	return r.GetAnswers(), nil
}

func deliver(batch []*submission, answers []*agentplanev1.SubmitAnswer, err *Error) {
	for i, p := range batch {
		switch {
		case err != nil:
			own := *err
			p.err = &own
		case answers[i].GetRefusal() != nil:
			r := answers[i].GetRefusal()
			p.err = tryError(agentplanev1.Refusal(codes.Code(r.GetCode()), r.GetDetail(), "%s", r.GetMessage()), "", true, true)
		default:
			p.answer = answers[i]
		}
		close(p.done)
	}
}

package dispatch

import (
	"context"
	"sync"
	"time"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
)

// sender is the part of a stream that the writer uses.
type sender interface {
	Send(*agentplanev1.SessionResponse) error
}

// sendQueue holds what one agent is still to be told. Many may offer, one writes.
type sendQueue struct {
	wake    chan struct{} // has a value when there may be something to do
	written chan struct{} // closed when the writer has ended

	mu       sync.Mutex // guards what follows; never held across Send
	messages []*agentplanev1.SessionResponse
	spare    []*agentplanev1.SessionResponse
	unsent   int // of the batch that the writer holds
	ack      *agentplanev1.HeartbeatAck
	finished bool
	sending  time.Time // when the Send at hand began; zero when none is
}

func newSendQueue() *sendQueue {
	return &sendQueue{wake: make(chan struct{}, 1), written: make(chan struct{})}
}

// offer queues m. It never waits; false says that the queue is full: the agent does
// not read, and its stream is to be ended.
func (q *sendQueue) offer(m *agentplanev1.SessionResponse) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.messages)+q.unsent >= maxQueued {
		return false
	}
	q.messages = append(q.messages, m)
	q.poke()
	return true
}

// acknowledge queues the answer to a heartbeat; of several only the newest is sent.
func (q *sendQueue) acknowledge(seq uint64, now int64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.ack = &agentplanev1.HeartbeatAck{Seq: seq, Now: now}
	q.poke()
}

// finish makes the writer end when it has sent what is queued.
func (q *sendQueue) finish() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.finished = true
	q.poke()
}

func (q *sendQueue) poke() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// stuck answers for how long the Send at hand has been hanging.
func (q *sendQueue) stuck(now time.Time) time.Duration {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.sending.IsZero() {
		return 0
	}
	return now.Sub(q.sending)
}

// write sends what is offered until ctx ends, finish has been called and all is sent,
// or the stream breaks.
func (q *sendQueue) write(ctx context.Context, stream sender) {
	defer close(q.written)
	for {
		batch, ack, finished := q.take()
		for _, m := range batch {
			if ctx.Err() != nil || !q.send(stream, m) {
				return
			}
		}
		if ack != nil && !q.send(stream, &agentplanev1.SessionResponse{Message: &agentplanev1.SessionResponse_HeartbeatAck{HeartbeatAck: ack}}) {
			return
		}
		if len(batch) > 0 || ack != nil {
			continue
		}
		if finished {
			return
		}
		select {
		case <-q.wake:
		case <-ctx.Done():
			return
		}
	}
}

func (q *sendQueue) take() (batch []*agentplanev1.SessionResponse, ack *agentplanev1.HeartbeatAck, finished bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	clear(q.spare)
	batch, q.messages = q.messages, q.spare[:0]
	q.spare = batch
	q.unsent = len(batch)
	ack, q.ack = q.ack, nil
	return batch, ack, q.finished
}

func (q *sendQueue) send(stream sender, m *agentplanev1.SessionResponse) bool {
	now := time.Now()
	q.mu.Lock()
	q.sending = now
	q.mu.Unlock()
	err := stream.Send(m)
	if m.GetDeliver() != nil {
		point("node-after-deliver")
	}
	q.mu.Lock()
	q.sending = time.Time{}
	q.unsent = max(0, q.unsent-1)
	q.mu.Unlock()
	return err == nil
}

package output

import (
	"context"
	"errors"
	"sync"
	"time"

	"google.golang.org/grpc"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
)

// sentAtOnce bounds the messages to a peer that are not answered.
const sentAtOnce = 64

// pusher copies output to one peer, over one stream at a time.
type pusher struct {
	c   *copies
	id  string
	sub *subscription
	end func() // of run

	mu   sync.Mutex // guards eras
	eras map[Key]int
}

// sent is a message that the peer has not answered.
type sent struct {
	key  Key
	have Ends // that it should answer at least
	era  int
}

func newPusher(c *copies, id string) *pusher {
	return &pusher{c: c, id: id, sub: c.s.o.Store.subscribe(), eras: make(map[Key]int)}
}

// place sends an attempt's output from a place on.
func (p *pusher) place(k Key, from Ends) {
	p.mu.Lock()
	p.eras[k]++
	p.mu.Unlock()
	p.sub.add(k, from)
}

func (p *pusher) era(k Key) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.eras[k]
}

func (p *pusher) run(ctx context.Context) {
	defer p.sub.close()
	for wait := 50 * time.Millisecond; ctx.Err() == nil; wait = min(2*wait, time.Second) {
		began := time.Now()
		err := p.push(ctx)
		if ctx.Err() != nil {
			return
		}
		p.c.s.log.Debug("stream of copies ended", "peer", p.id, "err", err)
		if time.Since(began) > 5*time.Second {
			wait = 50 * time.Millisecond
		}
		if !pause(ctx, wait) {
			return
		}
		p.replace()
	}
}

// replace begins again, with what the peer is known to have.
func (p *pusher) replace() {
	p.sub.mu.Lock()
	var keys []Key
	for k := range p.sub.cursors {
		keys = append(keys, k)
	}
	p.sub.mu.Unlock()
	p.mu.Lock()
	clear(p.eras) // of a stream that is over
	p.mu.Unlock()
	for _, k := range keys {
		if from, wanted := p.c.placeOf(p.id, k); wanted {
			p.place(k, from)
		} else {
			p.sub.drop(k)
		}
	}
}

func (p *pusher) push(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	peer, err := p.c.s.o.Peers.Client(p.id)
	if err != nil {
		return err
	}
	stream, err := peer.StoreOutput(ctx, grpc.WaitForReady(true))
	if err != nil {
		return err
	}
	flight := make(chan sent, sentAtOnce) // the sender sends and closes, the receiver receives
	var group sync.WaitGroup
	defer group.Wait()
	group.Go(func() { cancel(p.receive(stream, flight)) })
	defer close(flight)
	for {
		b, err := p.sub.next(ctx)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil {
			p.c.s.log.Error("output cannot be read, and is not copied", "attempt", b.Key.String(), "err", err)
			continue
		}
		if len(b.Chunks) == 0 && b.Totals == nil {
			continue
		}
		select {
		case flight <- sent{key: b.Key, have: b.Have, era: p.era(b.Key)}:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		m := &agentplanev1.StoreOutputRequest{InvocationId: b.Key.Invocation, Attempt: b.Key.Attempt, Chunks: b.Chunks}
		if b.Totals != nil {
			m.Last, m.Ends = true, endsIn(b.Totals).proto()
		}
		if err := stream.Send(m); err != nil {
			return err
		}
	}
}

// receive takes the peer's answers, which come in the order of what was sent.
func (p *pusher) receive(stream grpc.BidiStreamingClient[agentplanev1.StoreOutputRequest, agentplanev1.StoreOutputResponse], flight <-chan sent) error {
	for {
		m, err := stream.Recv()
		if err != nil {
			return err
		}
		var s sent
		select {
		case s = <-flight:
		default:
			return errors.New("the peer answers what it was not sent")
		}
		k := Key{Invocation: m.GetInvocationId(), Attempt: m.GetAttempt()}
		if k != s.key {
			return errors.New("the peer answers in another order")
		}
		p.c.confirmed(p.id, k, m)
		held := endsOf(m.GetHeld())
		switch {
		case m.GetRefused() != "":
			p.sub.drop(k)
		case !held.covers(s.have) && m.GetTotals() == nil && p.era(k) == s.era:
			p.place(k, held) // it has less than was thought
		}
	}
}

package output

import (
	"context"
	"sync"
	"time"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
)

const (
	// pollEvery is how often files are looked at while programs run.
	pollEvery = 100 * time.Millisecond
	// sendBytes is about how much goes into one message, and aheadBytes how much of an
	// attempt may be on its way, not acknowledged.
	sendBytes  = 64 << 10
	aheadBytes = 1 << 20
	// endedAtOnce bounds the attempts that have ended and are sent beside those that run. One
	// that is all sent and not done after waitFor does not count: the nodes have it, but not
	// enough of them.
	endedAtOnce = 16
	waitFor     = time.Minute
)

// sending is one stream to one node. It belongs to serve.
type sending struct {
	s      *Sender
	stream Stream
	parts  map[Key]*part
}

// part is what of an item goes over the stream.
type part struct {
	item    item // as it was looked at last
	from    func(Key) (Reader, error)
	reader  Reader
	at      ends // up to which it was read
	sent    ends
	offered bool
	wanted  bool      // the node has said from where
	skipped bool      // it wants no more data, but for the tail
	reason  string    // why
	tail    uint64    // how many of the last bytes it wants all the same
	begin   uint64    // where the tail begins in both streams together; 0 before it is sent
	failed  error     // why no more can be read
	since   time.Time // when the finish was sent; zero before
}

// serve runs one stream, and gives why it ended.
func (s *Sender) serve(ctx context.Context, epoch uint64, open Opener) error {
	ctx, cancel := context.WithCancelCause(ctx)
	if !s.some(ctx) {
		cancel(nil)
		return nil
	}
	stream, release, err := open(ctx)
	if err != nil {
		cancel(nil)
		return err
	}
	x := &sending{s: s, stream: stream, parts: make(map[Key]*part)}
	heard := make(chan *agentplanev1.OutputResponse, 64) // from the receiver
	var group sync.WaitGroup
	group.Go(func() {
		for {
			m, err := stream.Recv()
			if err != nil {
				cancel(err)
				return
			}
			select {
			case heard <- m:
			case <-ctx.Done():
				return
			}
		}
	})
	err = x.pump(ctx, epoch, heard)
	cancel(err)
	group.Wait()
	release()
	for _, p := range x.parts {
		p.close()
	}
	return err
}

// some waits for output to send: without it no connection is needed. False when ctx has
// ended.
func (s *Sender) some(ctx context.Context) bool {
	for {
		s.mu.Lock()
		n := len(s.items)
		s.mu.Unlock()
		if n > 0 {
			return true
		}
		select {
		case <-s.wake:
		case <-ctx.Done():
			return false
		}
	}
}

func (p *part) close() {
	if p.reader != nil {
		p.reader.Close()
		p.reader = nil
	}
}

// pump sends what there is, looks again, and so on.
func (x *sending) pump(ctx context.Context, epoch uint64, heard <-chan *agentplanev1.OutputResponse) error {
	if err := x.stream.Send(&agentplanev1.OutputRequest{Message: &agentplanev1.OutputRequest_Hello{Hello: &agentplanev1.OutputHello{SessionEpoch: epoch}}}); err != nil {
		return x.why(ctx, err)
	}
	poll := time.NewTicker(pollEvery)
	defer poll.Stop()
	for {
		more, err := x.round(ctx)
		if err != nil {
			return x.why(ctx, err)
		}
		again := poll.C
		if len(x.parts) == 0 {
			again = nil // nothing runs, nothing is to be sent
		}
		if more {
			select {
			case m := <-heard:
				x.hear(m)
			case <-ctx.Done():
				return context.Cause(ctx)
			default:
			}
			continue
		}
		select {
		case m := <-heard:
			x.hear(m)
		case <-again:
		case <-x.s.wake:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// why prefers what the receiver heard to what Send says of a stream that has ended.
func (x *sending) why(ctx context.Context, err error) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(time.Second):
		return err
	}
}

// round sends a little of every attempt, and says whether there is more to send now.
func (x *sending) round(ctx context.Context) (more bool, err error) {
	x.choose()
	for _, p := range x.parts {
		again, err := x.advance(p)
		if err != nil {
			return false, err
		}
		more = more || again
		if ctx.Err() != nil {
			return false, context.Cause(ctx)
		}
	}
	return more, nil
}

// choose takes up what runs, and what has ended as far as there is room.
func (x *sending) choose() {
	x.s.mu.Lock()
	defer x.s.mu.Unlock()
	room := endedAtOnce
	for _, p := range x.parts {
		if i := x.s.items[p.item.key]; i != nil {
			p.item = *i
			if i.end != nil && (p.since.IsZero() || time.Since(p.since) < waitFor) {
				room--
			}
			continue
		}
		p.close() // done with
		delete(x.parts, p.item.key)
	}
	for _, k := range x.s.order {
		i := x.s.items[k]
		if x.parts[k] != nil || i.end != nil && room <= 0 {
			continue
		}
		if i.end != nil {
			room--
		}
		x.parts[k] = &part{item: *i, from: x.s.o.Read}
	}
}

// advance reads and sends a little of one attempt.
func (x *sending) advance(p *part) (more bool, err error) {
	switch {
	case !p.offered:
		if p.item.end == nil && !p.printed() {
			return false, nil
		}
		p.offered = true
		x.s.tried(p.item.key)
		return false, x.stream.Send(&agentplanev1.OutputRequest{Message: &agentplanev1.OutputRequest_Offer{Offer: &agentplanev1.OutputOffer{
			InvocationId: p.item.key.Invocation, Attempt: p.item.key.Attempt, Acknowledged: p.item.acked.proto(), Forgot: p.item.forgot,
		}}})
	case !p.wanted || !p.since.IsZero():
		return false, nil // the node is to answer
	}
	// The end was looked at before the file: what is read now is all there is.
	if p.skipped && p.item.end != nil && p.tail > 0 && p.begin == 0 {
		p.beginTail()
	}
	drained := p.skipped && p.begin == 0
	if !drained && p.sent.total() < p.item.acked.total()+aheadBytes {
		chunks := p.read()
		if len(chunks) > 0 {
			p.sent = p.at
			return true, x.stream.Send(&agentplanev1.OutputRequest{Message: &agentplanev1.OutputRequest_Data{Data: &agentplanev1.OutputData{
				InvocationId: p.item.key.Invocation, Attempt: p.item.key.Attempt, Chunks: chunks, Tail: p.skipped,
			}}})
		}
		drained = true
	}
	if p.item.end == nil || !drained {
		return false, nil
	}
	p.since = time.Now()
	return false, x.stream.Send(&agentplanev1.OutputRequest{Message: &agentplanev1.OutputRequest_Finish{Finish: p.finish()}})
}

// open makes the reader, at the begin of the output.
func (p *part) open(read func(Key) (Reader, error)) {
	if p.reader == nil && p.failed == nil {
		p.reader, p.failed = read(p.item.key)
	}
}

// next reads chunks. Output that cannot be read ends where that begins.
func (p *part) next(most int) []Chunk {
	p.open(p.from)
	if p.failed != nil {
		return nil
	}
	chunks, err := p.reader.Next(most)
	p.failed = err
	return chunks
}

// printed says whether there is any output.
func (p *part) printed() bool { return len(p.next(1)) > 0 }

// read gives the next chunks that the node does not have, gaps included.
func (p *part) read() []*agentplanev1.OutputChunk {
	var all []*agentplanev1.OutputChunk
	for len(all) == 0 {
		chunks := p.next(sendBytes)
		if len(chunks) == 0 {
			return nil
		}
		for _, c := range chunks {
			all = p.take(all, c)
		}
	}
	return all
}

// take adds what is new of a chunk, and a gap before it when bytes were passed over.
func (p *part) take(all []*agentplanev1.OutputChunk, c Chunk) []*agentplanev1.OutputChunk {
	i := int(c.Stream) - 1
	if i < 0 || i >= len(p.at) {
		return all
	}
	end := c.Offset + uint64(len(c.Data))
	if end <= p.at[i] || c.Total+uint64(len(c.Data)) <= p.begin {
		return all
	}
	if c.Offset > p.at[i] {
		why := ReasonLimit
		if p.skipped {
			why = p.reason
		}
		all = append(all, &agentplanev1.OutputChunk{Stream: c.Stream, Offset: p.at[i], GapBytes: c.Offset - p.at[i], GapReason: why})
		p.at[i] = c.Offset
	}
	all = append(all, &agentplanev1.OutputChunk{Stream: c.Stream, Offset: p.at[i], Data: c.Data[p.at[i]-c.Offset:]})
	p.at[i] = end
	return all
}

// beginTail reads the last bytes of output of which the node did not want the middle.
func (p *part) beginTail() {
	p.close()
	p.begin = 1
	if total := p.item.end.Stdout + p.item.end.Stderr; total > p.tail {
		p.begin = total - p.tail
	}
}

func (p *part) finish() *agentplanev1.OutputFinish {
	e := p.item.end
	m := &agentplanev1.OutputFinish{
		InvocationId: p.item.key.Invocation, Attempt: p.item.key.Attempt, Whole: e.Whole, GapReason: e.GapReason,
		// What was read was printed, whatever the result says.
		Totals: ends{max(e.Stdout, p.at[0]), max(e.Stderr, p.at[1])}.proto(),
	}
	if p.failed != nil {
		m.GapReason = ReasonLost
	}
	return m
}

// hear takes what the node says.
func (x *sending) hear(m *agentplanev1.OutputResponse) {
	switch m := m.GetMessage().(type) {
	case *agentplanev1.OutputResponse_Wanted:
		if p := x.parts[Key{m.Wanted.GetInvocationId(), m.Wanted.GetAttempt()}]; p != nil && p.offered {
			p.close()
			p.at = endsOf(m.Wanted.GetFrom())
			p.sent, p.wanted, p.skipped, p.failed, p.since, p.begin = p.at, true, false, nil, time.Time{}, 0
		}
	case *agentplanev1.OutputResponse_Ack:
		x.s.acked(Key{m.Ack.GetInvocationId(), m.Ack.GetAttempt()}, endsOf(m.Ack.GetHeld()))
	case *agentplanev1.OutputResponse_Skip:
		if p := x.parts[Key{m.Skip.GetInvocationId(), m.Skip.GetAttempt()}]; p != nil {
			p.skipped, p.reason, p.tail = true, m.Skip.GetReason(), m.Skip.GetTailBytes()
			p.at = endsOf(m.Skip.GetHeld()) // what was on its way is not taken
			p.sent = p.at
			p.close()
			x.s.o.Logger.Info("the nodes keep no more of an attempt's output", "invocation_id", p.item.key.Invocation, "attempt", p.item.key.Attempt, "reason", m.Skip.GetReason())
		}
	case *agentplanev1.OutputResponse_Done:
		x.s.done(Key{m.Done.GetInvocationId(), m.Done.GetAttempt()}, m.Done.GetReason())
	}
}

// tried notes that an attempt was offered: nodes may have some of it.
func (s *Sender) tried(k Key) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if i := s.items[k]; i != nil {
		i.tried = true
	}
}

func (s *Sender) acked(k Key, e ends) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if i := s.items[k]; i != nil {
		i.acked = e
	}
}

// done forgets an attempt of which nothing is wanted any more. The note comes first: an
// attempt without it would be offered again after a restart, for nothing.
func (s *Sender) done(k Key, reason string) {
	s.mu.Lock()
	i := s.items[k]
	running := i != nil && i.end == nil
	s.mu.Unlock()
	if i == nil {
		return
	}
	if !running {
		if err := s.o.Done(k); err != nil {
			s.o.Logger.Warn("it cannot be noted that output was sent", "invocation_id", k.Invocation, "attempt", k.Attempt, "err", err)
		}
	}
	s.o.Logger.Debug("output is done with", "invocation_id", k.Invocation, "attempt", k.Attempt, "reason", reason)
	s.Forget(k)
}

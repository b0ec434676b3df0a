package output

import (
	"context"
	"errors"
	"io"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

const (
	// maxOffers bounds the attempts that one agent sends output of at once: as many as it
	// may have slots.
	maxOffers = 1024
	// fetchFor bounds how long other nodes are asked for what this one lacks.
	fetchFor = 3 * time.Second
	// sessionEvery is how often it is looked whether the agent's session is still here.
	sessionEvery = time.Second
)

// Reasons of OutputDone.
const (
	DoneKept  = "kept"  // enough nodes keep it
	DoneWhole = "whole" // the result holds it
	DoneGone  = "gone"  // nobody asks for it any more
)

func doneResponse(k Key, reason string) *agentplanev1.OutputResponse {
	return &agentplanev1.OutputResponse{Message: &agentplanev1.OutputResponse_Done{Done: &agentplanev1.OutputDone{
		InvocationId: k.Invocation, Attempt: k.Attempt, Reason: reason,
	}}}
}

// intake takes the output of one agent over one stream. The handler sends; the receiver
// does everything else.
type intake struct {
	s      *Service
	agent  string
	stream grpc.BidiStreamingServer[agentplanev1.OutputRequest, agentplanev1.OutputResponse]
	offers map[Key]*offer // the receiver's

	wake chan struct{} // there is something to send; holds one
	mu   sync.Mutex    // guards what follows
	out  []*agentplanev1.OutputResponse
	acks map[Key]*agentplanev1.OutputResponse // the newest of each
}

// offer is an attempt that is sent.
type offer struct {
	skipped bool // the agent was told to send no more
	reason  string
}

// Output takes output from an agent whose session is on this node.
func (s *Service) Output(stream grpc.BidiStreamingServer[agentplanev1.OutputRequest, agentplanev1.OutputResponse]) error {
	in := &intake{
		s: s, agent: s.o.Agent(stream.Context()), stream: stream, offers: make(map[Key]*offer),
		wake: make(chan struct{}, 1), acks: make(map[Key]*agentplanev1.OutputResponse),
	}
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	if first.GetHello() == nil {
		return refusal(codes.InvalidArgument, "no_hello", "a stream of output begins with hello")
	}
	return in.run(first.GetHello().GetSessionEpoch())
}

// here says whether the agent's session is on this node.
func (in *intake) here(epoch uint64) error {
	row, _ := in.s.o.Machine.View().Session(in.agent)
	if row.GetEpoch() != epoch || row.GetNodeId() != in.s.o.NodeID || row.GetState() > raftlogv1.SessionState_SESSION_STATE_READY {
		return refusal(codes.Unavailable, "not_here", "session %d of agent %q is not on this node", epoch, in.agent)
	}
	return nil
}

func (in *intake) run(epoch uint64) error {
	if err := in.here(epoch); err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(in.stream.Context())
	defer cancel(nil)
	go func() { // ends with the handler, which ends Recv
		err := in.receive(ctx)
		in.s.copies.leave(in)
		cancel(err)
	}()
	tick := time.NewTicker(sessionEvery)
	defer tick.Stop()
	for {
		select {
		case <-in.wake:
			for _, m := range in.take() {
				if err := in.stream.Send(m); err != nil {
					return err
				}
			}
		case <-tick.C:
			if err := in.here(epoch); err != nil {
				return err
			}
		case <-ctx.Done():
			return ended(ctx)
		}
	}
}

// post queues a message to the agent. It never waits: there are at most a few for each
// offer.
func (in *intake) post(m *agentplanev1.OutputResponse) {
	in.mu.Lock()
	if a := m.GetAck(); a != nil {
		in.acks[Key{a.GetInvocationId(), a.GetAttempt()}] = m
	} else {
		in.out = append(in.out, m)
	}
	in.mu.Unlock()
	select {
	case in.wake <- struct{}{}:
	default:
	}
}

// take gives what is to be sent: acknowledgements first, for a Done ends the attempt.
func (in *intake) take() []*agentplanev1.OutputResponse {
	in.mu.Lock()
	defer in.mu.Unlock()
	var all []*agentplanev1.OutputResponse
	for _, m := range in.acks {
		all = append(all, m)
	}
	all = append(all, in.out...)
	clear(in.acks)
	in.out = nil
	return all
}

func (in *intake) receive(ctx context.Context) error {
	for {
		m, err := in.stream.Recv()
		if errors.Is(err, io.EOF) {
			return refusal(codes.Canceled, "closed", "the agent has closed the stream")
		}
		if err != nil {
			return err
		}
		switch m := m.GetMessage().(type) {
		case *agentplanev1.OutputRequest_Offer:
			err = in.offered(ctx, m.Offer)
		case *agentplanev1.OutputRequest_Data:
			err = in.data(ctx, m.Data)
		case *agentplanev1.OutputRequest_Finish:
			err = in.finish(ctx, m.Finish)
		default:
			err = refusal(codes.InvalidArgument, "message", "%T does not belong here", m)
		}
		if err != nil {
			return err
		}
	}
}

// offered answers from where the attempt's output is wanted, or that it is not.
func (in *intake) offered(ctx context.Context, m *agentplanev1.OutputOffer) error {
	k := Key{m.GetInvocationId(), m.GetAttempt()}
	row, found := in.s.o.Machine.View().Invocation(k.Invocation)
	switch {
	case k.valid() != nil || !found || row.GetAgentId() != in.agent || k.Attempt > row.GetAttempt():
		// An agent has no attempts but those that this node's state knows: its session
		// came later in the log than they.
		in.post(doneResponse(k, DoneGone))
		return nil
	case recorded(row, k.Attempt) != nil:
		in.post(doneResponse(k, DoneKept))
		return nil
	case whole(row, k.Attempt):
		in.post(doneResponse(k, DoneWhole))
		return nil
	case in.offers[k] == nil && !in.prune():
		return refusal(codes.ResourceExhausted, "too_many", "agent %q offers the output of more than %d attempts at once", in.agent, maxOffers)
	}
	held, _, err := in.s.o.Store.Held(ctx, k)
	if err != nil {
		return err
	}
	if acked := endsOf(m.GetAcknowledged()); held.Totals == nil && (!held.Ends.covers(acked) || m.GetForgot() && held.Ends == Ends{}) {
		if held, err = in.s.fetch(ctx, k, held, acked); err != nil {
			return err
		}
	}
	in.offers[k] = &offer{}
	in.s.copies.begin(k, held, in)
	if held.Totals == nil {
		in.want(k, held)
	}
	return nil
}

// prune forgets offers that are done, and says whether there is room for another one.
func (in *intake) prune() bool {
	if len(in.offers) < maxOffers {
		return true
	}
	for k := range in.offers {
		if !in.s.copies.has(k) {
			delete(in.offers, k)
		}
	}
	return len(in.offers) < maxOffers
}

func (in *intake) want(k Key, h Held) {
	in.post(&agentplanev1.OutputResponse{Message: &agentplanev1.OutputResponse_Wanted{Wanted: &agentplanev1.OutputWanted{
		InvocationId: k.Invocation, Attempt: k.Attempt, From: h.Ends.proto(),
	}}})
}

func (in *intake) data(ctx context.Context, m *agentplanev1.OutputData) error {
	k := Key{m.GetInvocationId(), m.GetAttempt()}
	o := in.offers[k]
	if o == nil {
		return refusal(codes.InvalidArgument, "not_offered", "output of %s was not offered", k)
	}
	if o.skipped && (!m.GetTail() || o.reason != ReasonQuota) {
		return nil // it was on its way
	}
	store := in.s.o.Store
	var held Held
	var err error
	if o.skipped {
		held, err = store.AppendTail(ctx, k, m.GetChunks())
	} else {
		held, err = store.Append(ctx, k, m.GetChunks(), false)
	}
	var hole *HoleError
	switch {
	case errors.As(err, &hole):
		in.want(k, held)
		return nil
	case err != nil:
		return refusal(codes.InvalidArgument, "chunk", "%v", err)
	}
	in.s.copies.moved(k, held)
	if held.Refused != "" && !o.skipped {
		o.skipped, o.reason = true, held.Refused
		tail := uint64(0)
		if o.reason == ReasonQuota {
			tail = uint64(store.TailBytes() / 2) // the rest is for frames
		}
		in.post(&agentplanev1.OutputResponse{Message: &agentplanev1.OutputResponse_Skip{Skip: &agentplanev1.OutputSkip{
			InvocationId: k.Invocation, Attempt: k.Attempt, Reason: held.Refused, TailBytes: tail, Held: held.Ends.proto(),
		}}})
	}
	return nil
}

// finish seals the attempt's output here: what has not come is a gap.
func (in *intake) finish(ctx context.Context, m *agentplanev1.OutputFinish) error {
	k := Key{m.GetInvocationId(), m.GetAttempt()}
	o := in.offers[k]
	if o == nil {
		return refusal(codes.InvalidArgument, "not_offered", "output of %s was not offered", k)
	}
	held, _, err := in.s.o.Store.Held(ctx, k)
	if err != nil {
		return err
	}
	reason := m.GetGapReason()
	switch {
	case o.skipped:
		reason = o.reason
	case reason == "":
		reason = ReasonLost
	}
	var gaps []*agentplanev1.OutputChunk
	for i, total := range endsOf(m.GetTotals()) {
		if total > held.Ends[i] {
			gaps = append(gaps, &agentplanev1.OutputChunk{Stream: streamOf(i), Offset: held.Ends[i], GapBytes: total - held.Ends[i], GapReason: reason})
		}
	}
	if held, err = in.s.o.Store.Append(ctx, k, gaps, true); err != nil {
		return refusal(codes.Unavailable, "store", "the end of the output of %s is not stored: %v", k, err)
	}
	if m.GetWhole() {
		in.s.copies.forget(k)
		delete(in.offers, k)
		in.post(doneResponse(k, DoneWhole))
		return nil
	}
	in.s.copies.moved(k, held)
	return nil
}

// fetch gets from other nodes what they have of an attempt and this one lacks. What none
// of them gives in time is asked of the agent.
func (s *Service) fetch(ctx context.Context, k Key, held Held, wanted Ends) (Held, error) {
	within, cancel := context.WithTimeout(ctx, fetchFor)
	defer cancel()
	linked := s.o.Peers.Linked()
	for _, id := range s.copies.candidates(k) {
		if _, there := linked[id]; !there || held.Totals != nil || wanted != (Ends{}) && held.Ends.covers(wanted) {
			continue
		}
		h, err := s.fetchFrom(within, id, k, held)
		if err != nil {
			s.log.Debug("output not fetched", "peer", id, "attempt", k.String(), "err", err)
		}
		held = h
		if within.Err() != nil {
			break
		}
	}
	return held, ctx.Err()
}

func (s *Service) fetchFrom(ctx context.Context, id string, k Key, held Held) (Held, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	peer, err := s.o.Peers.Client(id)
	if err != nil {
		return held, err
	}
	stream, err := peer.Output(ctx)
	if err != nil {
		return held, err
	}
	if err := stream.Send(&agentplanev1.PeerServiceOutputRequest{Add: []*agentplanev1.OutputPlace{{
		InvocationId: k.Invocation, Attempt: k.Attempt, Ends: held.Ends.proto(),
	}}}); err != nil {
		return held, err
	}
	for {
		m, err := stream.Recv()
		if err != nil {
			return held, err
		}
		if len(m.GetChunks()) > 0 || m.GetTotals() != nil {
			var ends *Ends
			if m.GetTotals() != nil {
				e := endsIn(m.GetTotals())
				ends = &e
			}
			h, err := s.o.Store.AppendCopy(ctx, k, slices.Clone(m.GetChunks()), ends)
			if err != nil {
				return held, err
			}
			held = h
		}
		if m.GetCaughtUp() || m.GetAbsent() || m.GetTotals() != nil || held.Refused != "" {
			return held, nil
		}
	}
}

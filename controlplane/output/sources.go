package output

import (
	"context"
	"sync"

	"google.golang.org/grpc"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
)

// arrival is what a node gave of an attempt, or why it gives nothing any more.
type arrival struct {
	node  string
	batch Batch
	err   error
}

// sources read attempts from this node's store and from other nodes, one stream for each
// node. Its methods are the follow's; the readers send arrivals.
type sources struct {
	s        *Service
	ctx      context.Context //nolint:containedctx // the life of the follow that it belongs to
	arrivals chan arrival
	group    sync.WaitGroup
	local    *subscription
	peers    map[string]*peerSource
}

// peerSource reads from one peer.
type peerSource struct {
	asks chan *agentplanev1.PeerServiceOutputRequest // never closed
	end  context.CancelFunc
	done chan struct{} // closed when the peer can be asked no more
}

func (s *Service) newSources(ctx context.Context) *sources {
	return &sources{s: s, ctx: ctx, arrivals: make(chan arrival, 4), peers: make(map[string]*peerSource)}
}

// close ends when no reader is left. The context has ended.
func (x *sources) close() {
	x.group.Wait()
	if x.local != nil {
		x.local.close()
	}
}

func (x *sources) add(node string, k Key, have Ends) {
	if node == x.s.o.NodeID {
		if x.local == nil {
			x.local = x.s.o.Store.subscribe()
			x.group.Go(x.readLocal)
		}
		x.local.add(k, have)
		return
	}
	x.ask(node, &agentplanev1.PeerServiceOutputRequest{Add: []*agentplanev1.OutputPlace{{
		InvocationId: k.Invocation, Attempt: k.Attempt, Ends: have.proto(),
	}}})
}

func (x *sources) drop(node string, k Key) {
	if node == x.s.o.NodeID {
		if x.local != nil {
			x.local.drop(k)
		}
		return
	}
	if x.peers[node] != nil {
		x.ask(node, &agentplanev1.PeerServiceOutputRequest{Drop: []*agentplanev1.OutputPlace{{InvocationId: k.Invocation, Attempt: k.Attempt}}})
	}
}

// ask hands a request to the peer's reader. When that has ended, the arrival that says so
// is on its way, or was seen: then there is a new one.
func (x *sources) ask(node string, m *agentplanev1.PeerServiceOutputRequest) {
	p := x.peers[node]
	if p != nil {
		select {
		case <-p.done:
			p = nil
		default:
		}
	}
	if p == nil {
		ctx, end := context.WithCancel(x.ctx)
		p = &peerSource{asks: make(chan *agentplanev1.PeerServiceOutputRequest, 64), end: end, done: make(chan struct{})}
		x.peers[node] = p
		x.group.Go(func() {
			defer end()
			x.send(arrival{node: node, err: x.readPeer(ctx, node, p)})
		})
	}
	for {
		select {
		case p.asks <- m:
			return
		case <-p.done:
			return // the arrival of its end makes the follow ask anew
		case <-x.ctx.Done():
			return
		}
	}
}

// send hands an arrival to the follow.
func (x *sources) send(a arrival) {
	select {
	case x.arrivals <- a:
	case <-x.ctx.Done():
	}
}

func (x *sources) readLocal() {
	for {
		b, err := x.local.next(x.ctx)
		if x.ctx.Err() != nil {
			return
		}
		if err != nil {
			x.s.log.Error("output cannot be read", "attempt", b.Key.String(), "err", err)
			b = Batch{Key: b.Key, Absent: true}
		}
		x.send(arrival{node: x.s.o.NodeID, batch: b})
	}
}

// readPeer reads until the stream breaks, and gives why.
func (x *sources) readPeer(ctx context.Context, node string, p *peerSource) error {
	defer close(p.done)
	peer, err := x.s.o.Peers.Client(node)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stream, err := peer.Output(ctx)
	if err != nil {
		return err
	}
	var sender sync.WaitGroup
	defer sender.Wait()
	defer cancel(nil)
	sender.Go(func() { cancel(p.forward(ctx, stream)) })
	for {
		m, err := stream.Recv()
		if err != nil {
			return err
		}
		x.send(arrival{node: node, batch: Batch{
			Key: Key{m.GetInvocationId(), m.GetAttempt()}, Chunks: m.GetChunks(), CaughtUp: m.GetCaughtUp(), Absent: m.GetAbsent(), Totals: m.GetTotals(),
		}})
	}
}

// forward sends requests until ctx ends or the stream breaks.
func (p *peerSource) forward(ctx context.Context, stream grpc.BidiStreamingClient[agentplanev1.PeerServiceOutputRequest, agentplanev1.PeerServiceOutputResponse]) error {
	for {
		select {
		case m := <-p.asks:
			if err := stream.Send(m); err != nil {
				return err
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

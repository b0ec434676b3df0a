package gossip

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/memberlist"
)

const (
	maxStreams     = 64      // inbound, at once
	maxStreamBytes = 1 << 20 // read from one stream; 256 members fill less than 256 KiB
)

var errGuardClosed = errors.New("gossip transport is closed")

// guard stands between memberlist and its transport. It bounds inbound streams
// and their bytes, cuts every stream at shutdown so that memberlist's handlers
// end, lets a join end with its context, and gives the observer its pipe.
type guard struct {
	memberlist.NodeAwareTransport
	dial    func(ctx context.Context, a memberlist.Address) (net.Conn, error)
	logger  hclog.Logger
	streams chan net.Conn // the guard sends, memberlist receives; never closed
	ctx     context.Context
	cancel  context.CancelFunc
	stop    chan struct{} // closed by Shutdown once the inner transport is silent
	pumped  chan struct{} // closed when the pump has ended
	refused atomic.Uint64 // streams

	mu      sync.Mutex // guards what follows; never held while dialling or closing
	closed  bool
	conns   map[*guardedConn]struct{}
	inbound int
	joins   map[string]context.Context // by the name that tags their dials
	joinSeq uint64
}

func newGuard(inner memberlist.NodeAwareTransport, dial func(context.Context, memberlist.Address) (net.Conn, error), logger hclog.Logger) *guard {
	g := &guard{
		NodeAwareTransport: inner,
		dial:               dial,
		logger:             logger,
		streams:            make(chan net.Conn),
		stop:               make(chan struct{}),
		pumped:             make(chan struct{}),
		conns:              make(map[*guardedConn]struct{}),
		joins:              make(map[string]context.Context),
	}
	g.ctx, g.cancel = context.WithCancel(context.Background())
	go g.pump()
	return g
}

// pump admits streams until Shutdown. It keeps reading while the inner transport
// shuts down, because that one may be blocked on handing a stream over.
func (g *guard) pump() {
	defer close(g.pumped)
	for {
		select {
		case c := <-g.NodeAwareTransport.StreamCh():
			gc, err := g.track(c, true)
			if err != nil {
				_ = c.Close()
				g.logger.Debug("gossip stream refused", "from", c.RemoteAddr(), "err", err)
				continue
			}
			select {
			case g.streams <- gc:
			case <-g.ctx.Done():
				_ = gc.Close()
			}
		case <-g.stop:
			return
		}
	}
}

// track registers c; the returned conn takes itself out when it is closed.
func (g *guard) track(c net.Conn, inbound bool) (*guardedConn, error) {
	gc := &guardedConn{Conn: c, guard: g, inbound: inbound, left: maxStreamBytes}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return nil, errGuardClosed
	}
	if inbound {
		if g.inbound >= maxStreams {
			g.refused.Add(1)
			return nil, fmt.Errorf("%d streams are open, which is the maximum", maxStreams)
		}
		g.inbound++
	}
	g.conns[gc] = struct{}{}
	return gc, nil
}

func (g *guard) release(gc *guardedConn) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.conns, gc)
	if gc.inbound {
		g.inbound--
	}
}

// StreamCh is the channel of admitted streams.
func (g *guard) StreamCh() <-chan net.Conn { return g.streams }

// DialTimeout dials addr.
func (g *guard) DialTimeout(addr string, timeout time.Duration) (net.Conn, error) {
	return g.DialAddressTimeout(memberlist.Address{Addr: addr}, timeout)
}

// DialAddressTimeout dials a. When a.Name tags a join, the stream ends with that
// join's context.
func (g *guard) DialAddressTimeout(a memberlist.Address, timeout time.Duration) (net.Conn, error) {
	parent := g.ctx
	g.mu.Lock()
	join, tagged := g.joins[a.Name]
	g.mu.Unlock()
	if tagged {
		a.Name = ""
		parent = join
	}
	ctx, cancel := context.WithTimeout(parent, timeout)
	defer cancel()
	defer context.AfterFunc(g.ctx, cancel)()
	c, err := g.dial(ctx, a)
	if err != nil {
		return nil, err
	}
	gc, err := g.track(c, false)
	if err != nil {
		_ = c.Close()
		return nil, err
	}
	if tagged {
		gc.endWith(join)
	}
	return gc, nil
}

// dialSelf opens a stream to this node's own memberlist. The channel is closed
// when memberlist has done with its end.
func (g *guard) dialSelf(ctx context.Context) (net.Conn, <-chan struct{}, error) {
	near, far := newPipe()
	mine, err := g.track(near, false)
	if err != nil {
		return nil, nil, errors.Join(err, near.Close(), far.Close())
	}
	select {
	case g.streams <- far: // memberlist closes it, at the latest when ours is closed
		return mine, far.closed, nil
	case <-g.ctx.Done():
		err = errGuardClosed
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	return nil, nil, errors.Join(err, mine.Close(), far.Close())
}

// tagJoin returns a name under which memberlist's dials belong to ctx, and a
// function that ends that.
func (g *guard) tagJoin(ctx context.Context) (string, func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.joinSeq++
	tag := " join " + strconv.FormatUint(g.joinSeq, 10) // no node id has a space
	g.joins[tag] = ctx
	return tag, func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		delete(g.joins, tag)
	}
}

// Shutdown cuts all streams, shuts the inner transport down and waits for the
// pump. Memberlist calls it once.
func (g *guard) Shutdown() error {
	g.mu.Lock()
	if g.closed {
		g.mu.Unlock()
		return nil
	}
	g.closed = true
	conns := make([]*guardedConn, 0, len(g.conns))
	for c := range g.conns {
		conns = append(conns, c)
	}
	g.mu.Unlock()
	g.cancel()
	for _, c := range conns {
		_ = c.Close()
	}
	err := g.NodeAwareTransport.Shutdown()
	close(g.stop)
	<-g.pumped
	return err
}

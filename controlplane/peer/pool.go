package peer

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	"github.com/agentplane/agentplane/controlplane/consensus"
	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/client"
	"github.com/agentplane/agentplane/proto/identity"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

const (
	// MinKeepalive is the shortest interval at which a client may ping a node;
	// servers allow it and clients keep to it.
	MinKeepalive = 5 * time.Second

	poolKeepalive = 10 * time.Second
	poolTimeout   = 5 * time.Second
	dialTimeout   = 3 * time.Second
	// maxPeerMessage bounds a message between nodes.
	maxPeerMessage = 4 << 20
)

// PoolOptions configures a Pool. Fields are required where nothing else is said.
type PoolOptions struct {
	Identity Identity
	Prefaces Prefaces
	Book     Book
	Gone     func(nodeID string) // see Stream
	Stranger func()              // see Stream
	Dial     client.Dial         // nil is a net.Dialer
	// Saw is told what peers answer of themselves. It must not block; may be nil.
	Saw    func(nodeID string, said *agentplanev1.ReadTermResponse)
	Logger hclog.Logger
}

// Pool holds one gRPC connection to each other node. Methods may be called at
// once.
type Pool struct {
	o PoolOptions

	mu     sync.Mutex // guards what follows
	conns  map[string]*pooled
	links  map[string]*link // the newest open connection to each node
	failed map[string]failing
	lost   map[string]time.Time // since when there is no connection to a node where one was
	closed bool
}

type pooled struct {
	address string
	conn    *grpc.ClientConn
	// dialled counts the connections that were made. The state of conn alone could
	// pass from connecting to idle without anybody having seen it ready.
	dialled atomic.Int64
}

// link is an open connection to a node, which has proved its key.
type link struct {
	net.Conn
	p     *Pool
	id    string
	since time.Time
}

// Close closes the connection and forgets it.
func (l *link) Close() error {
	l.p.mu.Lock()
	if l.p.links[l.id] == l {
		delete(l.p.links, l.id)
		l.p.lost[l.id] = time.Now()
	}
	l.p.mu.Unlock()
	return l.Conn.Close()
}

// failing is since when, and why, no connection to a node comes about.
type failing struct {
	since time.Time
	why   error
}

// unreachedAfter is how long a node is tried before it is said to be out of reach: it
// may be starting.
const unreachedAfter = 3 * time.Second

// Linked answers to which nodes a connection is open, and since when.
func (p *Pool) Linked() map[string]time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := make(map[string]time.Time, len(p.links))
	for id, l := range p.links {
		all[id] = l.since
	}
	return all
}

// Unreached answers to which nodes no connection comes about for some time, and why.
func (p *Pool) Unreached() map[string]string {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := make(map[string]string)
	for id, f := range p.failed {
		if p.links[id] == nil && time.Since(f.since) > unreachedAfter {
			all[id] = reachError(f.why).Error()
		}
	}
	return all
}

// Silent answers from which nodes nothing is heard, and for how long: the connection to
// them has broken, or is tried for, and there is none.
func (p *Pool) Silent() map[string]time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := make(map[string]time.Duration)
	for id, f := range p.failed {
		all[id] = time.Since(f.since)
	}
	for id, since := range p.lost {
		all[id] = max(all[id], time.Since(since))
	}
	for id := range p.links {
		delete(all, id)
	}
	return all
}

// linked notes what a dial has come to.
func (p *Pool) linked(id string, conn net.Conn, err error) net.Conn {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err != nil {
		f, known := p.failed[id]
		if !known {
			f.since = time.Now()
		}
		p.failed[id] = failing{f.since, err}
		return nil
	}
	delete(p.failed, id)
	delete(p.lost, id)
	l := &link{Conn: conn, p: p, id: id, since: time.Now()}
	p.links[id] = l
	return l
}

var _ consensus.Peers = (*Pool)(nil)

// NewPool returns a pool without connections.
func NewPool(o PoolOptions) *Pool {
	return &Pool{o: o, conns: make(map[string]*pooled), links: make(map[string]*link), failed: make(map[string]failing), lost: make(map[string]time.Time)}
}

// Run keeps a connection to every node of the book open until ctx ends, and tells
// which peers are gone. The pool is closed when it returns.
func (p *Pool) Run(ctx context.Context) error {
	var watchers sync.WaitGroup
	watched := make(map[*grpc.ClientConn]bool)
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		p.dropStrangers()
		for _, id := range p.o.Book.Nodes() {
			c, err := p.conn(id)
			if err != nil || watched[c.conn] {
				continue
			}
			watched[c.conn] = true
			watchers.Go(func() { p.watch(ctx, id, c) })
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			p.close()
			watchers.Wait()
			return context.Cause(ctx)
		}
	}
}

// watch keeps the connection from falling idle, and says when it breaks.
func (p *Pool) watch(ctx context.Context, id string, c *pooled) {
	for broken := int64(0); ; {
		dialled, state := c.dialled.Load(), c.conn.GetState()
		switch state {
		case connectivity.Shutdown:
			return
		case connectivity.Idle, connectivity.TransientFailure:
			if dialled > broken {
				broken = dialled
				p.o.Gone(id)
			}
		}
		c.conn.Connect()
		if !c.conn.WaitForStateChange(ctx, state) {
			return
		}
	}
}

// renewAfter is how old a connection is at least that is given up for its certificate.
const renewAfter = time.Second

// renewing gives up a connection whose handshake has shown a certificate that was out of
// its time: what the other side has judged then it goes on to believe. The next one shows
// another, once this node's clock or its certificate is right.
func (p *Pool) renewing(id string) grpc.UnaryClientInterceptor {
	return func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		err := invoke(ctx, method, req, reply, cc, opts...)
		if agentplanev1.DetailOf(err).GetReason() == ReasonExpired {
			p.giveUp(id, cc)
		}
		return err
	}
}

func (p *Pool) giveUp(id string, cc *grpc.ClientConn) {
	p.mu.Lock()
	c, l := p.conns[id], p.links[id]
	if c == nil || c.conn != cc || l == nil || time.Since(l.since) < renewAfter {
		p.mu.Unlock()
		return
	}
	delete(p.conns, id)
	p.mu.Unlock()
	_ = cc.Close() // not under the lock: its connection is forgotten under it
}

// dropStrangers closes connections to nodes that are no longer in the book.
func (p *Pool) dropStrangers() {
	nodes := p.o.Book.Nodes()
	var dropped []*grpc.ClientConn
	p.mu.Lock()
	for id, c := range p.conns {
		if !slices.Contains(nodes, id) {
			dropped = append(dropped, c.conn)
			delete(p.conns, id)
			delete(p.failed, id)
		}
	}
	p.mu.Unlock()
	for _, c := range dropped { // not under the lock, under which connections are forgotten
		_ = c.Close()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for id := range p.lost {
		if !slices.Contains(nodes, id) {
			delete(p.lost, id)
		}
	}
}

func (p *Pool) close() {
	p.mu.Lock()
	conns := p.conns
	p.closed, p.conns = true, nil
	p.mu.Unlock()
	for _, c := range conns {
		_ = c.conn.Close()
	}
}

// Client returns a client of the node's peer service.
func (p *Pool) Client(nodeID string) (agentplanev1.PeerServiceClient, error) {
	c, err := p.conn(nodeID)
	if err != nil {
		return nil, err
	}
	return agentplanev1.NewPeerServiceClient(c.conn), nil
}

func (p *Pool) conn(id string) (*pooled, error) {
	address, ok := p.o.Book.Address(id)
	if !ok {
		return nil, status.Errorf(codes.Unavailable, "node %q is not known here yet", id)
	}
	var moved *grpc.ClientConn
	defer func() {
		if moved != nil {
			_ = moved.Close() // not under the lock: its connection is forgotten under it
		}
	}()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, status.Error(codes.Unavailable, "the node is shutting down")
	}
	if c, ok := p.conns[id]; ok {
		if c.address == address {
			return c, nil
		}
		moved = c.conn
		delete(p.conns, id)
	}
	c := &pooled{address: address}
	var err error
	c.conn, err = grpc.NewClient("passthrough:///"+address,
		grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
			conn, err := p.dial(ctx, id, address)
			if err == nil {
				c.dialled.Add(1)
			}
			return conn, err
		}),
		// The dialer has done TLS already.
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithChainUnaryInterceptor(p.o.Prefaces.clientInterceptor(id), p.renewing(id)),
		grpc.WithChainStreamInterceptor(p.o.Prefaces.clientStreamInterceptor(id)),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: poolKeepalive, Timeout: poolTimeout, PermitWithoutStream: true}),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second},
			MinConnectTimeout: dialTimeout,
		}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxPeerMessage), grpc.MaxCallSendMsgSize(maxPeerMessage)),
		grpc.WithIdleTimeout(0),
		grpc.WithDisableServiceConfig(),
	)
	if err != nil {
		return nil, fmt.Errorf("connect to node %q at %s: %w", id, address, err)
	}
	p.conns[id] = c
	return c, nil
}

// Outsider connects to the node without showing a certificate, which is what is left to
// a node whose own is refused everywhere. The other side is verified as always: it must
// be that node by this node's bundle. The caller closes the connection.
func (p *Pool) Outsider(nodeID string) (*grpc.ClientConn, error) {
	address, ok := p.o.Book.Address(nodeID)
	if !ok {
		return nil, status.Errorf(codes.Unavailable, "node %q is not known here", nodeID)
	}
	return grpc.NewClient("passthrough:///"+address,
		grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
			ctx, cancel := context.WithTimeout(ctx, dialTimeout)
			defer cancel()
			return secure(ctx, p.o.Dial, address, p.o.Identity.Verifier.ClientConfig(identity.ProtocolGRPC, nodeID, nil))
		}),
		grpc.WithTransportCredentials(insecure.NewCredentials()), // the dialer has done TLS already
		grpc.WithDisableServiceConfig(),
	)
}

func (p *Pool) dial(ctx context.Context, id, address string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	conn, err := dial(ctx, p.o.Dial, address, p.o.Identity, identity.ProtocolGRPC, id)
	link := p.linked(id, conn, err)
	if err == nil {
		return link, nil
	}
	if gone(err) {
		p.o.Gone(id)
	}
	if errors.Is(err, identity.ErrKeyNotRegistered) || errors.Is(err, identity.ErrUnknownCA) {
		p.o.Stranger()
	}
	return nil, err
}

// ReadTerm is consensus.Peers'.
func (p *Pool) ReadTerm(ctx context.Context, id consensus.ServerID, _ consensus.ServerAddress) (consensus.TermReply, error) {
	c, err := p.Client(string(id))
	if err != nil {
		return consensus.TermReply{}, err
	}
	r, err := c.ReadTerm(ctx, &agentplanev1.ReadTermRequest{})
	if err != nil {
		return consensus.TermReply{}, err
	}
	if p.o.Saw != nil {
		p.o.Saw(string(id), r)
	}
	return consensus.TermReply{
		Term: r.GetTerm(), WallClock: time.Unix(0, r.GetWallClock()), LastIndex: r.GetLastIndex(),
		Published: r.GetAppliedIndex(), Willing: r.GetWilling(),
	}, nil
}

// LostLeader is consensus.Peers'.
func (p *Pool) LostLeader(ctx context.Context, id consensus.ServerID, _ consensus.ServerAddress, q consensus.LostQuery) (consensus.LostReply, error) {
	c, err := p.Client(string(id))
	if err != nil {
		return consensus.LostReply{}, err
	}
	r, err := c.LostLeader(ctx, &agentplanev1.LostLeaderRequest{
		LeaderId: string(q.Leader), Term: q.Term, LastIndex: q.LastIndex, LastTerm: q.LastTerm,
	})
	return consensus.LostReply{Lost: r.GetLost(), Reason: r.GetReason()}, err
}

// ReadIndex runs a read round on the node.
func (p *Pool) ReadIndex(ctx context.Context, nodeID string) (uint64, error) {
	c, err := p.Client(nodeID)
	if err != nil {
		return 0, err
	}
	r, err := c.ReadIndex(ctx, &agentplanev1.ReadIndexRequest{})
	return r.GetIndex(), err
}

// Propose hands this node's mutations to the node.
func (p *Pool) Propose(ctx context.Context, nodeID string, mutations []*raftlogv1.Mutation) ([]*raftlogv1.Outcome, error) {
	c, err := p.Client(nodeID)
	if err != nil {
		return nil, err
	}
	r, err := c.Propose(ctx, &agentplanev1.ProposeRequest{Mutations: mutations})
	return r.GetOutcomes(), err
}

// Forward runs a whole call on the node.
func (p *Pool) Forward(ctx context.Context, nodeID string, req *agentplanev1.ForwardRequest) (*agentplanev1.ForwardResponse, error) {
	c, err := p.Client(nodeID)
	if err != nil {
		return nil, err
	}
	return c.Forward(ctx, req)
}

package consensustest

import (
	"bytes"
	"errors"
	"io"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// Transport is a raft.Transport on a Network. Requests and replies are copied, so
// that nodes share no memory.
type Transport struct {
	net      *Network
	end      *endpoint
	consumer chan raft.RPC
	turn     chan struct{} // held by the request that raft has

	mu        sync.Mutex // guards what follows
	heartbeat func(raft.RPC)
	voted     func(*raft.RequestVoteRequest)
}

var (
	_ raft.WithPreVote = (*Transport)(nil)
	_ raft.WithClose   = (*Transport)(nil)
)

func newTransport(n *Network, e *endpoint) *Transport {
	return &Transport{net: n, end: e, consumer: make(chan raft.RPC), turn: make(chan struct{}, 1)}
}

// Consumer implements raft.Transport.
func (t *Transport) Consumer() <-chan raft.RPC { return t.consumer }

// LocalAddr implements raft.Transport.
func (t *Transport) LocalAddr() raft.ServerAddress { return t.end.addr }

// EncodePeer implements raft.Transport.
func (t *Transport) EncodePeer(_ raft.ServerID, addr raft.ServerAddress) []byte { return []byte(addr) }

// DecodePeer implements raft.Transport.
func (t *Transport) DecodePeer(b []byte) raft.ServerAddress { return raft.ServerAddress(b) }

// SetHeartbeatHandler implements raft.Transport: like the real one, heartbeats do not
// wait for raft's disk.
func (t *Transport) SetHeartbeatHandler(f func(raft.RPC)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.heartbeat = f
}

// onVote has f called when this node gives its vote. It is given no other request meanwhile, so
// that f finds the log by which it did.
func (t *Transport) onVote(f func(*raft.RequestVoteRequest)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.voted = f
}

// Close implements raft.WithClose.
func (t *Transport) Close() error {
	t.net.detach(t.end)
	return nil
}

// serve hands one request to this node's raft and waits for the reply.
func (t *Transport) serve(cmd any, body []byte) (any, error) {
	replies := make(chan raft.RPCResponse, 1)
	rpc := raft.RPC{Command: cmd, RespChan: replies}
	if body != nil {
		rpc.Reader = bytes.NewReader(body)
	}
	t.mu.Lock()
	beat, voted := t.heartbeat, t.voted
	t.mu.Unlock()
	if a, ok := cmd.(*raft.AppendEntriesRequest); ok && beat != nil && isHeartbeat(a) {
		beat(rpc)
		return t.reply(replies)
	}
	select {
	case t.turn <- struct{}{}:
	case <-t.end.closed:
		return nil, errReset
	}
	defer func() { <-t.turn }()
	select {
	case t.consumer <- rpc:
	case <-t.end.closed:
		return nil, errReset
	}
	v, err := t.reply(replies)
	if r, ok := v.(*raft.RequestVoteResponse); ok && r.Granted && voted != nil {
		voted(cmd.(*raft.RequestVoteRequest))
	}
	return v, err
}

func (t *Transport) reply(replies <-chan raft.RPCResponse) (any, error) {
	select {
	case r := <-replies:
		return r.Response, r.Error
	case <-t.end.closed:
		return nil, errReset
	}
}

// isHeartbeat is what raft's own network transport calls one.
func isHeartbeat(a *raft.AppendEntriesRequest) bool {
	return a.Term != 0 && a.PrevLogEntry == 0 && a.PrevLogTerm == 0 && len(a.Entries) == 0 && a.LeaderCommitIndex == 0
}

func (t *Transport) rpc(to raft.ServerAddress, timeout time.Duration, done <-chan struct{}, cmd any, body []byte) (any, error) {
	if to == t.end.addr {
		return t.serve(cmd, body)
	}
	return t.net.call(t.end, to, timeout, done, func(e *endpoint) (any, error) { return e.raft.serve(cmd, body) })
}

// AppendEntries implements raft.Transport.
func (t *Transport) AppendEntries(_ raft.ServerID, to raft.ServerAddress, args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	v, err := t.rpc(to, 0, nil, copyAppend(args), nil)
	return take(resp, v, err)
}

// RequestVote implements raft.Transport.
func (t *Transport) RequestVote(_ raft.ServerID, to raft.ServerAddress, args *raft.RequestVoteRequest, resp *raft.RequestVoteResponse) error {
	c := *args
	v, err := t.rpc(to, 0, nil, &c, nil)
	return take(resp, v, err)
}

// RequestPreVote implements raft.WithPreVote.
func (t *Transport) RequestPreVote(_ raft.ServerID, to raft.ServerAddress, args *raft.RequestPreVoteRequest, resp *raft.RequestPreVoteResponse) error {
	c := *args
	v, err := t.rpc(to, 0, nil, &c, nil)
	return take(resp, v, err)
}

// TimeoutNow implements raft.Transport.
func (t *Transport) TimeoutNow(_ raft.ServerID, to raft.ServerAddress, args *raft.TimeoutNowRequest, resp *raft.TimeoutNowResponse) error {
	c := *args
	v, err := t.rpc(to, 0, nil, &c, nil)
	return take(resp, v, err)
}

// InstallSnapshot implements raft.Transport.
func (t *Transport) InstallSnapshot(_ raft.ServerID, to raft.ServerAddress, args *raft.InstallSnapshotRequest, resp *raft.InstallSnapshotResponse, data io.Reader) error {
	body, err := io.ReadAll(data)
	if err != nil {
		return err
	}
	c := *args
	v, err := t.rpc(to, 10*t.net.timeout, nil, &c, body)
	return take(resp, v, err)
}

// take copies a reply to where raft wants it.
func take[T any](dst *T, v any, err error) error {
	if err != nil {
		return err
	}
	src, ok := v.(*T)
	if !ok {
		return errors.New("reply of another type")
	}
	*dst = *src
	return nil
}

func copyAppend(a *raft.AppendEntriesRequest) *raft.AppendEntriesRequest {
	c := *a
	c.Entries = make([]*raft.Log, len(a.Entries))
	for i, l := range a.Entries {
		e := *l
		e.Data = bytes.Clone(l.Data)
		c.Entries[i] = &e
	}
	return &c
}

// AppendEntriesPipeline implements raft.Transport.
func (t *Transport) AppendEntriesPipeline(_ raft.ServerID, to raft.ServerAddress) (raft.AppendPipeline, error) {
	if t.net.reach(t.end.addr, to) == nil {
		return nil, errRefused
	}
	p := &pipeline{
		t:        t,
		to:       to,
		inflight: make(chan *appendFuture), // as raft's own transport has them: two are on
		done:     make(chan raft.AppendFuture),
		closed:   make(chan struct{}),
	}
	go p.run()
	return p, nil
}

// pipeline has requests on their way and hands out their replies in order.
type pipeline struct {
	t        *Transport
	to       raft.ServerAddress
	inflight chan *appendFuture
	done     chan raft.AppendFuture
	closed   chan struct{}
	once     sync.Once
}

func (p *pipeline) AppendEntries(args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) (raft.AppendFuture, error) {
	f := &appendFuture{start: time.Now(), args: args, resp: resp, done: make(chan struct{})}
	select {
	case <-p.closed:
		return nil, raft.ErrPipelineShutdown
	case p.inflight <- f:
	}
	req := copyAppend(args)
	go func() {
		defer close(f.done)
		v, err := p.t.rpc(p.to, 0, p.closed, req, nil)
		f.err = take(resp, v, err)
	}()
	return f, nil
}

func (p *pipeline) run() {
	for {
		select {
		case f := <-p.inflight:
			<-f.done // ends by its timeout at the latest
			select {
			case p.done <- f:
			case <-p.closed:
				return
			}
		case <-p.closed:
			return
		}
	}
}

func (p *pipeline) Consumer() <-chan raft.AppendFuture { return p.done }

func (p *pipeline) Close() error {
	p.once.Do(func() { close(p.closed) })
	return nil
}

type appendFuture struct {
	start time.Time
	args  *raft.AppendEntriesRequest
	resp  *raft.AppendEntriesResponse
	done  chan struct{}
	err   error
}

func (f *appendFuture) Error() error                          { <-f.done; return f.err }
func (f *appendFuture) Start() time.Time                      { return f.start }
func (f *appendFuture) Request() *raft.AppendEntriesRequest   { return f.args }
func (f *appendFuture) Response() *raft.AppendEntriesResponse { return f.resp }

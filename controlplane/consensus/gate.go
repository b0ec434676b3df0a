package consensus

import (
	"errors"
	"io"
	"strings"
	"sync"

	"github.com/hashicorp/raft"
)

var (
	errNotCampaigning = errors.New("this node does not campaign")
	errOutlivedTerm   = errors.New("the request is of an older term than what it brings")
)

// gate is the transport under raft. It keeps the pre-vote requests of a node that
// does not want to lead from leaving (doc.go says why not by timeouts), so that such
// a node raises no term and disturbs nobody; it lets the host hand requests to its own
// raft; and it answers for snapshots that the node need not install.
type gate struct {
	raft.Transport
	preVote  raft.WithPreVote
	willing  func() bool
	installs *installs
	votes    *voteStore

	out    chan raft.RPC // to raft
	closed chan struct{}
	once   sync.Once
}

func newGate(t raft.Transport, willing func() bool, in *installs, votes *voteStore) *gate {
	return &gate{
		Transport: t,
		preVote:   t.(raft.WithPreVote),
		willing:   willing,
		installs:  in,
		votes:     votes,
		out:       make(chan raft.RPC),
		closed:    make(chan struct{}),
	}
}

// Consumer is where raft takes requests from.
func (g *gate) Consumer() <-chan raft.RPC { return g.out }

// SetHeartbeatHandler lets heartbeats that change nothing be answered at once, as raft
// asks for, so that they do not wait for its disk. The others go the way of all requests.
func (g *gate) SetHeartbeatHandler(answer func(raft.RPC)) {
	g.Transport.SetHeartbeatHandler(func(rpc raft.RPC) {
		if req, ok := rpc.Command.(*raft.AppendEntriesRequest); !ok || !g.votes.beat(req.Term, func() { answer(rpc) }) {
			g.pass(rpc)
		}
	})
}

// forward moves requests in their order until the gate closes.
func (g *gate) forward() {
	for {
		select {
		case <-g.closed:
			return
		case rpc := <-g.Transport.Consumer():
			var passed bool
			switch req := rpc.Command.(type) {
			case *raft.InstallSnapshotRequest:
				if req.LastLogTerm > req.Term {
					_, _ = io.Copy(io.Discard, rpc.Reader) // the next request comes behind it
					rpc.Respond(nil, errOutlivedTerm)
					passed = true
					break
				}
				passed = g.install(rpc, req)
			case *raft.AppendEntriesRequest:
				if outlived(req) {
					rpc.Respond(nil, errOutlivedTerm)
					passed = true
					break
				}
				rpc.Command = g.installs.trim(req)
				passed = g.pass(rpc)
			default:
				passed = g.pass(rpc)
			}
			if !passed {
				return
			}
		}
	}
}

// outlived says that the request comes from a sender whose term of leadership is over.
//
// raft's senders outlive their term by as much as they wait for a follower, and then go
// on with whatever their node holds by now: entries, or a snapshot, of the next term in a
// request of the last one. A follower that takes them has a log of a later term than it is
// in, and when it starts again it looks like one that has forgotten its vote (verifyStable).
func outlived(req *raft.AppendEntriesRequest) bool {
	n := len(req.Entries)
	return n > 0 && req.Entries[n-1].Term > req.Term
}

func (g *gate) pass(rpc raft.RPC) bool {
	select {
	case g.out <- rpc:
		return true
	case <-g.closed:
		return false
	}
}

// install lets raft install a snapshot and waits for its answer. When the snapshot
// was refused because the log holds it already, the leader is told that it has
// succeeded, which is what the paper asks for.
func (g *gate) install(rpc raft.RPC, req *raft.InstallSnapshotRequest) bool {
	answers := make(chan raft.RPCResponse, 1)
	inner := rpc
	inner.RespChan = answers
	g.installs.begin(req.LastLogIndex, req.LastLogTerm)
	defer g.installs.end()
	if !g.pass(inner) {
		return false
	}
	select {
	case a := <-answers:
		// raft quotes the error of the snapshot store without wrapping it.
		if resp, ok := a.Response.(*raft.InstallSnapshotResponse); ok && a.Error != nil && strings.Contains(a.Error.Error(), errHaveSnapshot.Error()) {
			done := *resp
			done.Success = true
			a = raft.RPCResponse{Response: &done}
		} else if ok && a.Error == nil && resp.Success {
			g.installs.goesOnWith(req.LastLogIndex, req.LastLogTerm)
		}
		rpc.Respond(a.Response, a.Error)
		return true
	case <-g.closed:
		return false
	}
}

// timeoutNow hands this node's raft the request with which a leader hands over.
func (g *gate) timeoutNow(id raft.ServerID) bool {
	answers := make(chan raft.RPCResponse, 1)
	ok := g.pass(raft.RPC{RespChan: answers, Command: &raft.TimeoutNowRequest{RPCHeader: raft.RPCHeader{
		ProtocolVersion: raft.ProtocolVersionMax,
		ID:              []byte(id),
		Addr:            g.EncodePeer(id, g.LocalAddr()),
	}}})
	if !ok {
		return false
	}
	select {
	case a := <-answers:
		return a.Error == nil
	case <-g.closed:
		return false
	}
}

func (g *gate) RequestPreVote(id raft.ServerID, target raft.ServerAddress, args *raft.RequestPreVoteRequest, resp *raft.RequestPreVoteResponse) error {
	if !g.willing() {
		return errNotCampaigning
	}
	return g.preVote.RequestPreVote(id, target, args, resp)
}

// Close closes the inner transport; raft calls it when it has shut down.
func (g *gate) Close() error {
	g.once.Do(func() { close(g.closed) })
	if c, ok := g.Transport.(raft.WithClose); ok {
		return c.Close()
	}
	return nil
}

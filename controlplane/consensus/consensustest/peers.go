package consensustest

import (
	"context"

	"github.com/hashicorp/raft"

	"github.com/agentplane/agentplane/controlplane/consensus"
)

// peerServer is a node's side of the peer service; *consensus.Host is one.
type peerServer interface {
	TermReply() consensus.TermReply
	LostLeader(q consensus.LostQuery) consensus.LostReply
}

// peers is a consensus.Peers over the network, in order with raft's messages.
type peers struct {
	net *Network
	end *endpoint
}

func (p *peers) ReadTerm(ctx context.Context, _ raft.ServerID, addr raft.ServerAddress) (consensus.TermReply, error) {
	v, err := p.net.call(p.end, addr, 0, ctx.Done(), func(e *endpoint) (any, error) {
		s := p.net.peerOf(e)
		if s == nil {
			return nil, errRefused
		}
		return s.TermReply(), nil
	})
	if err != nil {
		return consensus.TermReply{}, err
	}
	return v.(consensus.TermReply), nil
}

func (p *peers) LostLeader(ctx context.Context, _ raft.ServerID, addr raft.ServerAddress, q consensus.LostQuery) (consensus.LostReply, error) {
	v, err := p.net.call(p.end, addr, 0, ctx.Done(), func(e *endpoint) (any, error) {
		s := p.net.peerOf(e)
		if s == nil {
			return nil, errRefused
		}
		return s.LostLeader(q), nil
	})
	if err != nil {
		return consensus.LostReply{}, err
	}
	return v.(consensus.LostReply), nil
}

// peerOf is the host at e; nil until it has opened.
func (n *Network) peerOf(e *endpoint) peerServer {
	n.mu.Lock()
	defer n.mu.Unlock()
	return e.peer
}

func (n *Network) servePeer(e *endpoint, s peerServer) {
	n.mu.Lock()
	defer n.mu.Unlock()
	e.peer = s
}

package consensus

import (
	"errors"

	"github.com/hashicorp/raft"
)

var errNotCampaigning = errors.New("this node does not campaign")

// gate is the transport under raft. It keeps the pre-vote requests of a node that
// does not want to lead from leaving (doc.go says why not by timeouts), so that such
// a node raises no term and disturbs nobody.
type gate struct {
	raft.Transport
	preVote raft.WithPreVote
	willing func() bool
}

func newGate(t raft.Transport, willing func() bool) *gate {
	return &gate{Transport: t, preVote: t.(raft.WithPreVote), willing: willing}
}

func (g *gate) RequestPreVote(id raft.ServerID, target raft.ServerAddress, args *raft.RequestPreVoteRequest, resp *raft.RequestPreVoteResponse) error {
	if !g.willing() {
		return errNotCampaigning
	}
	return g.preVote.RequestPreVote(id, target, args, resp)
}

// Close closes the inner transport; raft calls it when it shuts down.
func (g *gate) Close() error {
	if c, ok := g.Transport.(raft.WithClose); ok {
		return c.Close()
	}
	return nil
}

package consensus

import (
	"context"
	"time"

	"github.com/hashicorp/raft"
)

// Peers asks other nodes over the peer service. Each call sends a new request: an
// answer never stems from a request that was sent earlier. Implementations are safe
// for concurrent use and return soon after ctx has ended.
type Peers interface {
	ReadTerm(ctx context.Context, id raft.ServerID, addr raft.ServerAddress) (TermReply, error)
	LostLeader(ctx context.Context, id raft.ServerID, addr raft.ServerAddress, q LostQuery) (LostReply, error)
}

// TermReply is what a node says of itself: Host.TermReply.
type TermReply struct {
	Term      uint64    // the term raft has at this moment
	WallClock time.Time // the node's own clock
	LastIndex uint64    // of its log or snapshot
	Published uint64    // index that its state has published
	Willing   bool      // it would lead if it were elected
}

// LostQuery asks: have you, too, lost this leader of this term, and is your log no
// newer than mine?
type LostQuery struct {
	From      raft.ServerID
	Leader    raft.ServerID
	Term      uint64
	LastIndex uint64
	LastTerm  uint64
}

// LostReply answers a LostQuery. Reason is for logs.
type LostReply struct {
	Lost   bool
	Reason string
}

// TermReply is this node's answer to ReadTerm. A node that has granted its vote in
// a term answers that term or a later one: raft raises its term before it votes.
func (h *Host) TermReply() TermReply {
	published, _ := h.opts.Machine.Published()
	return TermReply{
		Term:      h.raft.CurrentTerm(),
		WallClock: h.opts.WallClock(),
		LastIndex: h.raft.LastIndex(),
		Published: published,
		Willing:   h.will.willing(),
	}
}

// answer is one voter's reply to ReadTerm, with how long the question took.
type answer struct {
	server raft.Server
	reply  TermReply
	sent   time.Time // by this node's wall clock
	rtt    time.Duration
	err    error
}

// askVoters asks every voter of cfg but this node for its term. The channel gets
// one answer for each and is never closed; it has room for all, so nobody needs to
// read it.
func (h *Host) askVoters(ctx context.Context, cfg raft.Configuration) (answers <-chan answer, asked int) {
	ch := make(chan answer, len(cfg.Servers))
	for _, s := range cfg.Servers {
		if s.Suffrage != raft.Voter || s.ID == h.opts.NodeID {
			continue
		}
		if h.tasks.Go(func() {
			a := answer{server: s, sent: h.opts.WallClock().Round(0)}
			start := time.Now()
			a.reply, a.err = h.opts.Peers.ReadTerm(ctx, s.ID, s.Address)
			a.rtt = time.Since(start)
			ch <- a
		}) {
			asked++
		}
	}
	return ch, asked
}

// votersOf counts the voters of cfg and says whether id is one of them.
func votersOf(cfg raft.Configuration, id raft.ServerID) (voters int, member bool) {
	for _, s := range cfg.Servers {
		if s.Suffrage == raft.Voter {
			voters++
			member = member || s.ID == id
		}
	}
	return voters, member
}

// majority is the least number of voters that is more than half of n.
func majority(n int) int { return n/2 + 1 }

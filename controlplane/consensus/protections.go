//go:build !agentplane_mutants

package consensus

import (
	"context"

	"github.com/hashicorp/raft"
)

// acknowledgesEarly answers a batch before raft has: never, since what is not committed
// may be lost (I1).
func acknowledgesEarly([]*proposal) bool { return false }

// asksVoters says that a read round asks a majority of the voters (I7, I10).
const asksVoters = true

// boundsQueue says that the queue of proposals is bounded (I14).
const boundsQueue = true

// votesAtOnce says that term and candidate of a vote are written together (I4).
const votesAtOnce = true

// keepsTerm says that no heartbeat changes the term beside raft's main loop (I4).
const keepsTerm = true

// confirmation is how this node makes sure that it still leads before it answers a
// read.
func (h *Host) confirmation() func(context.Context) (uint64, error) { return h.round }

// closesPipelines says that a pipeline to a follower ends with the answer that ends it
// (I10, I11: a follower must not starve while all looks well).
const closesPipelines = true

// offer hands an entry to raft, once: what raft refuses is of a leader that was, and
// nothing has happened (I4).
func (h *Host) offer(entry []byte) raft.ApplyFuture { return h.raft.Apply(entry, enqueueTimeout) }

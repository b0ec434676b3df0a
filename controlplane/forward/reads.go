package forward

import (
	"context"
	"sync"

	"github.com/agentplane/agentplane/controlplane/consensus"
)

// reads holds the rounds in which this node asks the leader. Another leader is asked
// in rounds of its own, so that nobody waits for what the old one does not answer.
type reads struct {
	mu     sync.Mutex // guards leader and rounds
	leader string
	rounds *consensus.Rounds
}

// at answers the rounds in which the leader is asked.
func (r *reads) at(f *Forwarder, leader string) *consensus.Rounds {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.rounds == nil || r.leader != leader {
		r.leader = leader
		r.rounds = consensus.NewRounds(f.o.Hold,
			func(round func()) bool {
				go round()
				return true
			},
			func(ctx context.Context) (uint64, error) { return f.o.Remote.ReadIndex(ctx, leader) })
	}
	return r.rounds
}

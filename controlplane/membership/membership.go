// Package membership decides which nodes vote. raft-autopilot's promoter would
// promote every stable non-voter; this one promotes only registered candidates, up to
// a maximum, and only so that the number of voters becomes odd: an even one
// tolerates no more deaths than the odd one below it and needs one more vote.
//
// A candidate is promoted when it has caught up and when every voter has reported a
// boot.state that knows it: a voter that does not know the newcomer's key could not
// verify it as a leader after a restart.
//
// The decision ([Decide]) is pure; [Promoter] asks and acts, on the leader only. It
// is repeated from what raft and the nodes say, so it remembers nothing and may die
// at any step. What else follows from what the nodes say is decided here, too: the feature
// level ([NextLevel]) and the next step of a rotation of the gossip keys ([NextKeyring]).
package membership

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
)

// Server is one node of raft's configuration, with what is known of it.
type Server struct {
	ID    string
	Voter bool
	// Candidate says that the node is registered as one that may vote.
	Candidate bool
	// Removed says that the state no longer trusts the node: raft is to follow.
	Removed bool
	// Registered is the index at which it was registered.
	Registered uint64
	// Answers says that the node answered just now.
	Answers bool
	// Level is the feature level that it has registered.
	Level uint32
	// Applied is the index that its state has reached, Boot the index of its
	// boot.state, Ring that of the boot.state whose gossip keys it uses.
	Applied, Boot, Ring uint64
}

// Decision says whom to remove or promote next, if anybody, and why each other
// candidate waits.
type Decision struct {
	// Remove is a node that was removed from the state and is still in raft's
	// configuration: whoever removed it died in between.
	Remove  string
	Promote string
	Waits   map[string]Wait
}

// Wait says why a candidate is not a voter yet. Settled means that nothing is left
// to do on it: it has caught up and waits for other nodes.
type Wait struct {
	Why     string
	Settled bool
	// Node says that it waits for one more node to join.
	Node bool
}

// Lag is how many entries behind the leader a node may be to count as caught up.
const Lag = 64

// Decide looks at raft's configuration: commit is the leader's commit index, most
// the number of voters wanted at most.
func Decide(servers []Server, commit uint64, most int) Decision {
	d := Decision{Waits: make(map[string]Wait)}
	voters := 0
	var ready []Server
	for _, s := range servers {
		if s.Removed {
			d.Remove = s.ID
			return d // first this; it changes what is counted below
		}
		if s.Voter {
			voters++
		}
	}
	for _, s := range servers {
		switch {
		case s.Voter || !s.Candidate:
			continue
		case !s.Answers:
			d.Waits[s.ID] = Wait{Why: "the leader gets no answer from it"}
			continue
		case s.Applied+Lag < commit:
			d.Waits[s.ID] = Wait{Why: fmt.Sprintf("it is catching up (at entry %d of %d)", s.Applied, commit)}
			continue
		}
		behind := ""
		for _, v := range servers {
			if v.Voter && v.Boot < s.Registered {
				behind = v.ID
			}
		}
		if behind != "" {
			d.Waits[s.ID] = Wait{Why: fmt.Sprintf("voter %s has not yet stored its key: start that node, or remove it", behind)}
			continue
		}
		ready = append(ready, s)
	}
	// From an odd number two are needed, from an even one (a step of the way, or a
	// voter was removed) one.
	need := 1 + voters%2
	switch {
	case len(ready) == 0:
	case voters+need > most:
		for _, s := range ready {
			d.Waits[s.ID] = Wait{Why: fmt.Sprintf("there are %d voters and at most %d are wanted", voters, most), Settled: true}
		}
	case len(ready) < need && voters%2 == 1:
		d.Waits[ready[0].ID] = Wait{
			Why: fmt.Sprintf("one more node: %d voters would tolerate no more deaths than %d", voters+1, voters), Settled: true, Node: true,
		}
	default:
		d.Promote = ready[0].ID
		for _, s := range ready[1:] {
			d.Waits[s.ID] = Wait{Why: "another candidate is being promoted first"}
		}
	}
	return d
}

// Options configures a Promoter. All fields are required.
type Options struct {
	// Servers answers raft's configuration, its index, and the leader's commit
	// index.
	Servers func(ctx context.Context) (servers []Server, index, commit uint64, err error)
	// Promote makes a non-voter a voter if the configuration still has the index.
	Promote func(ctx context.Context, id string, index uint64) error
	// Remove takes a node out of the configuration if that still has the index.
	Remove func(ctx context.Context, id string, index uint64) error
	// Settle does what else follows from what the servers say, and answers whether that
	// was anything. It is asked when nobody is to be removed or promoted.
	Settle func(ctx context.Context, servers []Server) (bool, error)
	// MaxVoters is how many nodes vote at most; odd.
	MaxVoters int
	Logger    hclog.Logger
}

// Promoter runs on the leader.
type Promoter struct {
	o    Options
	kick chan struct{}

	mu    sync.Mutex // guards waits
	waits map[string]Wait
}

// New returns a Promoter.
func New(o Options) *Promoter { return &Promoter{o: o, kick: make(chan struct{}, 1)} }

// Kick makes Run look at once.
func (p *Promoter) Kick() {
	select {
	case p.kick <- struct{}{}:
	default:
	}
}

// WaitsFor says why the candidate is not a voter yet, as of the last look.
func (p *Promoter) WaitsFor(id string) Wait {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.waits[id]
}

// every is how often the leader looks when nobody kicks.
const every = 500 * time.Millisecond

// Run looks and promotes until ctx, the leader's term, ends.
func (p *Promoter) Run(ctx context.Context) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		if p.look(ctx) {
			p.Kick() // there may be more to do
		}
		select {
		case <-tick.C:
		case <-p.kick:
		case <-ctx.Done():
			return nil
		}
	}
}

func (p *Promoter) look(ctx context.Context) (again bool) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	servers, index, commit, err := p.o.Servers(ctx)
	if err != nil {
		return false
	}
	d := Decide(servers, commit, p.o.MaxVoters)
	p.mu.Lock()
	p.waits = d.Waits
	p.mu.Unlock()
	if d.Remove != "" {
		if err := p.o.Remove(ctx, d.Remove, index); err != nil {
			p.o.Logger.Warn("removal failed, trying again", "node_id", d.Remove, "err", err)
			return false
		}
		p.o.Logger.Info("removed node is out of raft's configuration", "node_id", d.Remove)
		return true
	}
	if d.Promote == "" {
		did, err := p.o.Settle(ctx, servers)
		if err != nil && !errors.Is(err, context.Canceled) {
			p.o.Logger.Warn("what follows from the members failed, trying again", "err", err)
		}
		return did && err == nil
	}
	if err := p.o.Promote(ctx, d.Promote, index); err != nil {
		if !errors.Is(err, context.Canceled) {
			p.o.Logger.Warn("promotion failed, trying again", "node_id", d.Promote, "err", err)
		}
		return false
	}
	p.o.Logger.Info("node is a voter now", "node_id", d.Promote)
	return true
}

package output

import (
	"cmp"
	"context"
	"hash/fnv"
	"math"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

const (
	// wholeBytes is what a result may hold: output up to it is not copied before it has
	// ended, since it is most likely not to be kept at all.
	wholeBytes = 8 << 10
	// lookEvery is how often it is looked for other nodes in the place of those that do not
	// take copies, stalledAfter how long one may take.
	lookEvery    = 500 * time.Millisecond
	stalledAfter = 2 * time.Second
	// recordsAtOnce bounds a proposal.
	recordsAtOnce = 64
)

// copies knows of each attempt whose output comes in here, or is not recorded yet, which
// nodes have how much of it.
type copies struct {
	s     *Service
	ready chan struct{} // something may be recorded; holds one

	mu       sync.Mutex // guards what follows; nothing is waited for under it
	attempts map[Key]*attempt
	pushers  map[string]*pusher
	run1     func(*pusher) // starts a pusher; nil when nothing runs
}

// attempt is output of which this node is the first to have what comes.
type attempt struct {
	key      Key
	held     Held // here
	copied   bool // it is to be copied
	replicas map[string]*replica
	acked    Ends
	owner    *intake // nil when the agent's stream has ended
	recorded bool    // it is being recorded
}

// replica is what another node has.
type replica struct {
	held    Ends
	totals  *agentplanev1.OutputTotals
	useless bool      // it keeps no more, or has other content
	moved   time.Time // when it came on last
}

func newCopies(s *Service) *copies {
	return &copies{s: s, ready: make(chan struct{}, 1), attempts: make(map[Key]*attempt), pushers: make(map[string]*pusher)}
}

// begin notes that the agent is about to send an attempt's output.
func (c *copies) begin(k Key, h Held, owner *intake) {
	c.mu.Lock()
	defer c.mu.Unlock()
	a := c.attempts[k]
	if a == nil {
		a = &attempt{key: k, replicas: make(map[string]*replica)}
		c.attempts[k] = a
	}
	a.owner = owner
	c.movedLocked(a, h)
}

// moved notes what this node has.
func (c *copies) moved(k Key, h Held) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if a := c.attempts[k]; a != nil && h.Ends.covers(a.held.Ends) { // a store that fails may say less
		c.movedLocked(a, h)
	}
}

func (c *copies) movedLocked(a *attempt, h Held) {
	a.held = h
	if !a.copied && (h.Ends.total() > wholeBytes || h.Totals != nil) {
		a.copied = true
		c.spreadLocked(a)
	}
	c.judgeLocked(a)
}

// leave notes that an agent's stream has ended. Output that has ended goes on to be
// copied and recorded; the rest begins anew on the agent's next node.
func (c *copies) leave(owner *intake) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for k := range owner.offers {
		if a := c.attempts[k]; a != nil && a.owner == owner {
			a.owner = nil
			if a.held.Totals == nil {
				c.forgetLocked(a)
			}
		}
	}
}

// has says whether an attempt is being sent, or not recorded yet.
func (c *copies) has(k Key) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.attempts[k] != nil
}

// forget ends an attempt that is not to be recorded.
func (c *copies) forget(k Key) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if a := c.attempts[k]; a != nil {
		c.forgetLocked(a)
	}
}

func (c *copies) forgetLocked(a *attempt) {
	delete(c.attempts, a.key)
	for id := range a.replicas {
		if p := c.pushers[id]; p != nil {
			p.sub.drop(a.key)
		}
	}
}

// needed is how many nodes must have what is acknowledged. While the voters are not
// known, no number is enough.
func (c *copies) needed() int {
	voters := len(c.s.o.Voters())
	if voters == 0 {
		return math.MaxInt
	}
	return neededOf(voters)
}

// spreadLocked sees to it that as many nodes as are needed take copies, those of the
// voters first that are linked. A node that is slow is not given up, but helped.
func (c *copies) spreadLocked(a *attempt) {
	linked := c.s.o.Peers.Linked()
	want := c.needed() - 1
	for id, r := range a.replicas {
		_, there := linked[id]
		if there && !r.useless && (r.held.covers(a.held.Ends) || time.Since(r.moved) < stalledAfter) {
			want--
		}
	}
	for _, id := range c.candidates(a.key) {
		if want <= 0 {
			return
		}
		if _, there := linked[id]; !there || a.replicas[id] != nil {
			continue
		}
		a.replicas[id] = &replica{moved: time.Now()}
		want--
		c.pusherLocked(id).place(a.key, Ends{})
	}
}

// candidates lists the other nodes in the order in which they get copies of the attempt:
// voters before others, and of each every attempt has its own order.
func (c *copies) candidates(k Key) []string {
	voters := c.s.o.Voters()
	type ranked struct {
		id    string
		voter bool
		hash  uint64
	}
	var all []ranked
	for n := range c.s.o.Machine.View().RegisteredNodes() {
		if n.GetId() != c.s.o.NodeID {
			h := fnv.New64a()
			_, _ = h.Write([]byte(n.GetId() + "/" + k.String()))
			all = append(all, ranked{n.GetId(), slices.Contains(voters, n.GetId()), h.Sum64()})
		}
	}
	slices.SortFunc(all, func(a, b ranked) int {
		if a.voter != b.voter {
			if a.voter {
				return -1
			}
			return 1
		}
		return cmp.Or(cmp.Compare(a.hash, b.hash), cmp.Compare(a.id, b.id))
	})
	ids := make([]string, len(all))
	for i, r := range all {
		ids[i] = r.id
	}
	return ids
}

// confirmed notes what another node has on its disk.
func (c *copies) confirmed(nodeID string, k Key, m *agentplanev1.StoreOutputResponse) {
	c.mu.Lock()
	defer c.mu.Unlock()
	a := c.attempts[k]
	if a == nil || a.replicas[nodeID] == nil {
		return
	}
	r := a.replicas[nodeID]
	if held := endsOf(m.GetHeld()); held != r.held || m.GetTotals() != nil {
		r.held, r.moved = held, time.Now()
	}
	r.totals = m.GetTotals()
	useless := m.GetRefused() != "" || r.totals != nil && a.held.Totals != nil && !proto.Equal(r.totals, a.held.Totals)
	if useless && !r.useless {
		c.s.log.Warn("a node takes no copy of output; another one is looked for", "peer", nodeID, "attempt", k.String(), "reason", m.GetRefused(), "other_content", m.GetRefused() == "")
		r.useless = true
		c.spreadLocked(a)
	}
	c.judgeLocked(a)
}

// placeOf is from where a node needs an attempt's output; false when it needs none.
func (c *copies) placeOf(nodeID string, k Key) (Ends, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if a := c.attempts[k]; a != nil && a.replicas[nodeID] != nil {
		return a.replicas[nodeID].held, true
	}
	return Ends{}, false
}

// judgeLocked acknowledges what enough nodes have.
func (c *copies) judgeLocked(a *attempt) {
	need := c.needed()
	all := []Ends{a.held.Ends}
	sealed := 0
	if a.held.Totals != nil {
		sealed++
	}
	for _, r := range a.replicas {
		all = append(all, r.held)
		if r.totals != nil && a.held.Totals != nil && proto.Equal(r.totals, a.held.Totals) {
			sealed++
		}
	}
	if acked := common(all, need); acked != a.acked && acked.covers(a.acked) {
		a.acked = acked
		if a.owner != nil {
			a.owner.post(&agentplanev1.OutputResponse{Message: &agentplanev1.OutputResponse_Ack{Ack: &agentplanev1.OutputAck{
				InvocationId: a.key.Invocation, Attempt: a.key.Attempt, Held: acked.proto(),
			}}})
		}
	}
	if a.copied && sealed >= need && !a.recorded {
		a.recorded = true
		select {
		case c.ready <- struct{}{}:
		default:
		}
	}
}

// common is the place that at least need of the nodes have passed.
func common(all []Ends, need int) Ends {
	if len(all) < need {
		return Ends{}
	}
	var e Ends
	for i := range e {
		one := make([]uint64, len(all))
		for n, h := range all {
			one[n] = h[i]
		}
		slices.Sort(one)
		e[i] = one[len(one)-need]
	}
	return e
}

// run pushes and records until ctx ends.
func (c *copies) run(ctx context.Context) error {
	var group sync.WaitGroup
	defer group.Wait()
	c.mu.Lock()
	c.run1 = func(p *pusher) {
		ctx, end := context.WithCancel(ctx)
		p.end = end
		group.Go(func() {
			defer end()
			p.run(ctx)
		})
	}
	for _, p := range c.pushers {
		c.run1(p)
	}
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		c.run1 = nil
		c.mu.Unlock()
	}()
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-c.ready:
			c.record(ctx)
		case <-tick.C:
			c.forgetRemoved()
			c.look()
		}
	}
}

// look finds further nodes for copies that do not come on.
func (c *copies) look() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, a := range c.attempts {
		if a.copied && (a.acked != a.held.Ends || a.held.Totals != nil && !a.recorded) {
			c.spreadLocked(a)
			c.judgeLocked(a) // the voters may be others than before
		}
	}
}

// forgetRemoved ends what copies to nodes that were removed, which never come back.
func (c *copies) forgetRemoved() {
	registered := make(map[string]bool)
	for n := range c.s.o.Machine.View().RegisteredNodes() {
		registered[n.GetId()] = true
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for id, p := range c.pushers {
		if registered[id] {
			continue
		}
		p.end()
		delete(c.pushers, id)
		for _, a := range c.attempts {
			if a.replicas[id] == nil {
				continue
			}
			delete(a.replicas, id)
			a.recorded = false // of nodes that are fewer now
			if a.copied {
				c.spreadLocked(a)
			}
			c.judgeLocked(a)
		}
	}
}

// pusherLocked gives the pusher of a peer.
func (c *copies) pusherLocked(id string) *pusher {
	p := c.pushers[id]
	if p == nil {
		p = newPusher(c, id)
		c.pushers[id] = p
		if c.run1 != nil {
			c.run1(p)
		}
	}
	return p
}

// record proposes who keeps what, for all attempts of which enough nodes do.
func (c *copies) record(ctx context.Context) {
	for {
		keys, mutations := c.due()
		if len(keys) == 0 {
			return
		}
		outcomes, err := c.s.o.Proposer.Propose(ctx, mutations...)
		if err != nil || len(outcomes) != len(keys) {
			if ctx.Err() != nil {
				return
			}
			c.s.log.Warn("output not recorded yet", "attempts", len(keys), "err", err)
			c.again(keys)
			pause(ctx, lookEvery)
			continue
		}
		for i, o := range outcomes {
			c.done(keys[i], o)
		}
	}
}

// due takes attempts that can be recorded.
func (c *copies) due() (keys []Key, mutations []*raftlogv1.Mutation) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for k, a := range c.attempts {
		if !a.recorded || a.held.Totals == nil {
			continue
		}
		nodes := []string{c.s.o.NodeID}
		for id, r := range a.replicas {
			if r.totals != nil && proto.Equal(r.totals, a.held.Totals) {
				nodes = append(nodes, id)
			}
		}
		slices.Sort(nodes)
		of := func(t *agentplanev1.OutputTotal) *raftlogv1.StreamRecord {
			return &raftlogv1.StreamRecord{Bytes: t.GetBytes(), Missing: t.GetMissing(), Sha256: t.GetSha256()}
		}
		keys = append(keys, k)
		mutations = append(mutations, &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_RecordOutput{RecordOutput: &raftlogv1.RecordOutput{
			InvocationId: k.Invocation, NodeId: c.s.o.NodeID, Record: &raftlogv1.OutputRecord{
				Attempt: k.Attempt, NodeIds: nodes, Stdout: of(a.held.Totals.GetStdout()), Stderr: of(a.held.Totals.GetStderr()),
			},
		}}})
		if len(keys) == recordsAtOnce {
			break
		}
	}
	return keys, mutations
}

// again lets attempts be judged anew before they are proposed again: nodes may have been
// removed.
func (c *copies) again(keys []Key) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, k := range keys {
		if a := c.attempts[k]; a != nil {
			a.recorded = false
			c.judgeLocked(a)
		}
	}
}

// done ends an attempt whose output was recorded, or will never be.
func (c *copies) done(k Key, o *raftlogv1.Outcome) {
	reason := DoneKept
	switch o.GetCode() {
	case raftlogv1.Code_CODE_OK:
	case raftlogv1.Code_CODE_CONFLICT:
		// Another node has recorded it with other gaps, and that stands.
		c.s.log.Warn("output was recorded before, with other content", "attempt", k.String())
	default:
		if o.GetReason() == "no_node" || o.GetReason() == "node_removed" { // a holder, or this node
			c.again([]Key{k})
			return
		}
		c.s.log.Info("output is not recorded", "attempt", k.String(), "reason", o.GetReason(), "detail", o.GetDetail())
		reason = DoneGone
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	a := c.attempts[k]
	if a == nil {
		return
	}
	if a.owner != nil {
		a.owner.post(doneResponse(k, reason))
	}
	c.forgetLocked(a)
}

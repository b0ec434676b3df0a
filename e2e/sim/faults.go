package sim

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/agentplane/agentplane/controlplane/consensus/consensustest"
	"github.com/agentplane/agentplane/gossip/gossiptest"
	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/client"
)

// Fault is one thing that breaks, and for how long.
type Fault struct {
	At   time.Duration
	Kind string
	// Who is the number of a node or an agent; -1 is whoever leads then.
	Who int
	// To is the other side of a cut, or the shape of a partition.
	To  int
	For time.Duration
}

func (f Fault) String() string {
	return fmt.Sprintf("%s(%d, %d) at %v for %v", f.Kind, f.Who, f.To, f.At, f.For)
}

// agentRemoval names the fault that explains what became of its agent's work.
const agentRemoval = "removal of an agent"

// longMute takes a follower's answers from the leader for longer than an exchange of raft
// may take, while it goes on hearing the leader: some append fails with others on their way.
const (
	longMute     = "follower mute for long"
	mutePatience = 11 * time.Second
)

// hostPowerCut takes from an agent's journal what was not fsynced.
const hostPowerCut = "power cut of an agent's host"

const flappingLinks = "flapping links of all agents"

// rare are faults whose histories are rare among what is drawn, and without which some
// protections would not be needed. Every life has one of them.
var rare = []Fault{
	{Kind: flappingLinks, For: 8 * time.Second},
	{Kind: flappingLinks, For: 8 * time.Second},
	{Kind: journalPutBack, For: 3 * time.Second},
	{Kind: longMute, For: time.Second},
}

// ending ends a fault, and answers whether it took effect: whether something of what it does
// was seen between its begin and its end.
type ending func() (effect bool)

// faultKind is what a fault does, and how it ends. A nil ending is that of a fault which is
// over and has noted itself whether it took effect.
type faultKind struct {
	name   string
	ofNode bool
	begin  func(*World, Fault) ending
}

// kinds are all faults but those of steps.
var kinds = []faultKind{
	{"kill node", true, func(w *World, f Fault) ending { return w.killNode(w.nodeOf(f.Who), false) }},
	{"power cut of node", true, func(w *World, f Fault) ending { return w.killNode(w.nodeOf(f.Who), true) }},
	{"power cut of all nodes", true, func(w *World, _ Fault) ending {
		var all []ending
		for _, n := range w.nodes {
			all = append(all, w.killNode(n, true))
		}
		return anyOf(all)
	}},
	{"replacement of node", true, (*World).removeNode},
	{"older disk of node", true, (*World).putBackNode},
	{"pause node", true, func(w *World, f Fault) ending { return w.pauseHost(w.nodeOf(f.Who).ip) }},
	{"partition", true, (*World).partition},
	{"isolate node", true, func(w *World, f Fault) ending { return w.isolate(w.nodeOf(f.Who)) }},
	{longMute, true, func(w *World, f Fault) ending {
		n, leader := w.nodeOf(max(f.Who, 0)), w.leader()
		if n == leader {
			n = w.nodeOf(max(f.Who, 0) + 1)
		}
		end := w.cutAll([]link{{n.ip, leader.ip}})
		time.Sleep(mutePatience) // and For
		return end
	}},
	{"one-way cut", true, func(w *World, f Fault) ending {
		a, b := w.nodeOf(f.Who), w.nodeOf(f.To)
		return w.cutAll([]link{{a.ip, b.ip}})
	}},
	{"loss", false, func(w *World, f Fault) ending {
		lost := func() uint64 { n, _ := w.net.Worsened(); return n + w.gossip.Lost() }
		before := lost()
		w.net.SetLoss(0.02 * float64(1+f.To))
		w.gossip.SetLoss(0.05 * float64(1+f.To))
		return func() bool {
			w.net.SetLoss(0)
			w.gossip.SetLoss(0)
			return lost() > before
		}
	}},
	{"delay", false, func(w *World, f Fault) ending {
		_, before := w.net.Worsened()
		d := time.Duration(5*(1+f.To)) * time.Millisecond
		w.net.SetDelay(0, 2*d)
		w.gossip.SetLatency(0, 2*d) // packets overtake each other
		return func() bool {
			w.net.SetDelay(usualLeast, usualMost)
			w.gossip.SetLatency(gossiptest.DefaultLatency, gossiptest.DefaultLatency)
			_, delayed := w.net.Worsened()
			return delayed > before
		}
	}},
	{"clock jump of node", true, func(w *World, f Fault) ending {
		n, by := w.nodeOf(f.Who), time.Duration(f.To-2)*25*time.Second
		if n == w.nodes[0] { // one in each world: of three clocks two are right
			by = time.Duration(f.To-2) * 30 * time.Minute
		}
		return n.jump(by)
	}},
	{"clock jump of an agent", false, func(w *World, f Fault) ending {
		return w.agentOf(f.Who).jump(time.Duration(f.To-2) * 40 * time.Minute)
	}},
	{"slow leader cut off", false, func(w *World, _ Fault) ending { return w.deposeSlowLeader(w.isolate) }},
	{"slow leader paused", false, func(w *World, _ Fault) ending {
		return w.deposeSlowLeader(func(n *node) ending { return w.pauseHost(n.ip) })
	}},
	{"transfer of leadership", false, func(w *World, f Fault) ending {
		w.lives.Go(func() { w.once(f, w.transfer("", 5*time.Second) == nil) })
		return nil
	}},
	{oldLeader, true, doubleComes(livesOtherwise, "I13", "lives in another incarnation")},
	{oldNode, true, (*World).oldNodeAnswers},
	{stolenCA, true, doubleComes(mintsItself, "I12", "tls: ")},
	{ofAnother, true, doubleComes(namesAnother, "I12", "tls: ")},
	{lyingNode, true, (*World).lyingNodeAnswers},
	{"slow disk of node", true, func(w *World, f Fault) ending {
		n := w.nodeOf(f.Who)
		before := n.slowWrites.Load()
		w.slowDisk(n, slowWrite*time.Duration(1+f.To))
		return func() bool {
			w.slowDisk(n, time.Millisecond)
			return n.slowWrites.Load() > before
		}
	}},
	{"failing disk of node", true, func(w *World, f Fault) ending {
		return w.breakDisk(w.nodeOf(f.Who), func(d *consensustest.MemDisk) { d.Fail(errors.New("input/output error")) })
	}},
	{"hanging disk of node", true, func(w *World, f Fault) ending {
		return w.breakDisk(w.nodeOf(f.Who), (*consensustest.MemDisk).Hang)
	}},
	{"kill agentd", false, func(w *World, f Fault) ending {
		a := w.agentOf(f.Who)
		killed := a.kill()
		return func() bool { w.must(a.start()); return killed }
	}},
	{"crash of agentd at a start", false, func(w *World, f Fault) ending {
		a := w.agentOf(f.Who)
		a.crashAtNextStart(f.To%3, func(point string) {
			w.trace.Note(a.name, "agentd crashes %s", point)
			w.trouble()
			w.note(f.Kind)
			w.lives.Go(func() {
				time.Sleep(f.For)
				w.must(a.start())
				w.trouble()
			})
		})
		return nil // counted when it comes
	}},
	{"pause agentd", false, func(w *World, f Fault) ending { return w.pauseHost(w.agentOf(f.Who).ip) }},
	{"reboot of an agent's host", false, func(w *World, f Fault) ending {
		a := w.agentOf(f.Who)
		killed := a.kill()
		ended := a.Host.kill(1<<30, "reboot")
		return func() bool { w.must(a.start()); return killed || ended > 0 }
	}},
	{hostPowerCut, false, func(w *World, f Fault) ending {
		a := w.agentOf(f.Who)
		ran := a.cutPower(rand.New(rand.NewPCG(w.seed, uint64(f.At))))
		return func() bool { w.must(a.start()); return ran }
	}},
	{agentRemoval, false, func(w *World, f Fault) ending {
		a := w.agentOf(f.Who)
		ctx, cancel := context.WithTimeout(w.ctx, 3*time.Second)
		defer cancel()
		_, err := agentplanev1.NewFleetServiceClient(w.operators.clients[0]).RemoveAgent(ctx, &agentplanev1.RemoveAgentRequest{Agent: a.name})
		w.trace.Note(a.name, "is removed: %v", err)
		return func() bool { w.enrolAgain(a, 3*time.Second); return false } // counted when it has gone, whatever was answered
	}},
	{journalPutBack, false, (*World).putBack},
	{"kill a supervisor", false, func(w *World, f Fault) ending {
		return w.once(f, w.agentOf(f.Who).Host.kill(1, "supervisor_gone") > 0)
	}},
	{"cut an agent from a node", false, func(w *World, f Fault) ending {
		a, n := w.agentOf(f.Who), w.nodeOf(f.To)
		return w.cutAll([]link{{a.ip, n.ip}, {n.ip, a.ip}})
	}},
	{"flapping link of an agent", false, func(w *World, f Fault) ending { return w.flap(f, w.agentOf(f.Who)) }},
	{flappingLinks, false, func(w *World, f Fault) ending { return w.flap(f, w.agents...) }},
	{"broken connections of node", true, func(w *World, f Fault) ending {
		n, broken := w.nodeOf(f.Who), w.net.Reset(w.nodeOf(f.Who).ip, operatorsIP)
		for _, a := range w.agents {
			broken += w.net.Reset(n.ip, a.ip)
		}
		for _, other := range w.nodes {
			broken += w.net.Reset(n.ip, other.ip)
		}
		return w.once(f, broken > 0)
	}},
	{"isolate an agent", false, func(w *World, f Fault) ending {
		a := w.agentOf(f.Who)
		var links []link
		for _, n := range w.nodes {
			links = append(links, link{a.ip, n.ip}, link{n.ip, a.ip})
		}
		return w.cutAll(links)
	}},
}

// kindOf is the kind of that name.
func kindOf(name string) faultKind {
	all := slices.Concat(kinds, stepKinds)
	return all[slices.IndexFunc(all, func(k faultKind) bool { return k.name == name })]
}

// plan draws the faults of a life.
func plan(rng *rand.Rand, within time.Duration) []Fault {
	all := make([]Fault, 4+rng.IntN(8))
	for i := range all {
		k := kinds[rng.IntN(len(kinds))]
		all[i] = Fault{
			At: time.Second + time.Duration(rng.Int64N(int64(within-time.Second))), Kind: k.name, Who: rng.IntN(8), To: rng.IntN(5),
			For: 200*time.Millisecond + time.Duration(rng.Int64N(int64(6*time.Second))),
		}
		if k.ofNode && rng.IntN(2) == 0 {
			all[i].Who = -1
		}
	}
	one := rare[rng.IntN(len(rare))]
	one.At, one.Who, one.To = time.Second+time.Duration(rng.Int64N(int64(within/2))), rng.IntN(8), rng.IntN(5)
	return append(all, one)
}

// suffer lets the faults happen. It returns when the last has ended.
func (w *World) suffer(faults []Fault) {
	var wg sync.WaitGroup
	for _, f := range faults {
		wg.Go(func() {
			time.Sleep(f.At)
			w.trouble()
			w.trace.Note("fault", "%s", f)
			if end := kindOf(f.Kind).begin(w, f); end != nil {
				time.Sleep(f.For)
				w.once(f, end())
				w.trace.Note("fault", "over: %s", f)
			}
			w.trouble()
		})
	}
	wg.Wait()
}

// enrolAgain gives an agent that the cluster does not have an empty disk and a new token,
// unless that was done a moment ago.
func (w *World) enrolAgain(a *agentHost, within time.Duration) {
	w.mu.Lock()
	young := a.lives == 0 || !a.wiped.IsZero() && time.Since(a.wiped) < 20*time.Second
	w.mu.Unlock()
	if young {
		return
	}
	ctx, cancel := context.WithTimeout(w.ctx, within)
	defer cancel()
	_, err := agentplanev1.NewFleetServiceClient(w.operators.clients[0]).GetAgent(ctx, &agentplanev1.GetAgentRequest{Agent: a.name})
	if e := client.AsError(err); e == nil || e.Code != codes.NotFound {
		return
	}
	token, err := w.operators.token(ctx, agentplanev1.TokenKind_TOKEN_KIND_AGENT, 1)
	if err != nil {
		w.trace.Note(a.name, "is not enrolled again: %v", err)
		return
	}
	w.note(agentRemoval)
	a.wipe(token)
	w.must(a.start())
}

// note counts a fault that took effect.
func (w *World) note(kind string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.effects[kind]++
}

// once counts a fault if it took effect, and ends nothing.
func (w *World) once(f Fault, effect bool) ending {
	if effect {
		w.note(f.Kind)
	}
	return nil
}

func (w *World) must(err error) {
	if err != nil {
		w.fault("%v", err)
	}
}

func (w *World) nodeOf(who int) *node {
	if who < 0 {
		return w.leader()
	}
	return w.nodes[who%len(w.nodes)]
}

func (w *World) agentOf(who int) *agentHost { return w.agents[max(who, 0)%len(w.agents)] }

func (w *World) killNode(n *node, power bool) ending {
	killed := n.kill(power)
	return func() bool { w.must(n.start()); return killed }
}

// anyOf ends all, and answers whether one of them took effect.
func anyOf(all []ending) ending {
	return func() (effect bool) {
		for _, end := range all {
			effect = end() || effect
		}
		return effect
	}
}

// slowWrite is how long a write takes at least on a slow disk, and never on another one that
// does not hang.
const slowWrite = 20 * time.Millisecond

func (w *World) slowDisk(n *node, delay time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	n.disk.SetDelay(delay)
}

// breakDisk does something to a disk, until somebody puts in another one with what
// lies on it, and starts the node if it has given up.
func (w *World) breakDisk(n *node, do func(*consensustest.MemDisk)) ending {
	w.mu.Lock()
	defer w.mu.Unlock()
	// While raft opens, a failure would leave goroutines that only the end of a process
	// ends.
	if n.life == nil || time.Since(n.life.began) < 2*time.Second {
		return nil
	}
	w.badDisk[n] = true
	d, life := n.disk, n.life
	before := life.writes.Load()
	do(d)
	return func() bool {
		met := life.writes.Load() > before
		d.Unhang()
		d.Fail(nil)
		w.must(n.start())
		return met
	}
}

func (w *World) pauseHost(ip string) ending {
	before := w.net.Kept(ip)
	w.pause(ip, true)
	return func() bool {
		w.pause(ip, false)
		return w.net.Kept(ip) > before
	}
}

// transfer hands leadership to a node, or to any.
func (w *World) transfer(to string, within time.Duration) error {
	ctx, cancel := context.WithTimeout(w.ctx, within)
	defer cancel()
	_, err := agentplanev1.NewClusterServiceClient(w.operators.clients[0]).TransferLeadership(ctx, &agentplanev1.TransferLeadershipRequest{To: to})
	return err
}

// deposeSlowLeader has the node with slow timers lead, and takes it from the others for
// long enough that they elect another one while it believes that it leads. In the end,
// when the news of that and answers from before come together, it is asked.
func (w *World) deposeSlowLeader(take func(*node) ending) ending {
	if w.slow == none {
		return nil
	}
	n := w.nodes[w.slow]
	if w.leader() != n && w.transfer(n.name, 2*time.Second) != nil {
		return nil
	}
	time.Sleep(200 * time.Millisecond) // it takes office
	if w.leader() != n {
		return nil
	}
	readers := w.operators.readersAt(w.slow)
	end := take(n)
	time.Sleep(1500 * time.Millisecond) // and For
	return func() bool {
		read := readers()
		time.Sleep(10 * time.Millisecond) // their questions are on the way
		effect := end()
		read()
		return effect
	}
}

// isolate cuts a node off from the others.
func (w *World) isolate(n *node) ending {
	var links []link
	for _, other := range w.nodes {
		links = append(links, link{n.ip, other.ip}, link{other.ip, n.ip})
	}
	return w.cutAll(links)
}

// flap leaves agents one node, whose connections break again and again, mostly while that
// node reaches no other, or while leadership moves: they come back to the same node, where
// the opening of the new session and what the last one had to say wait for a leader
// together.
func (w *World) flap(f Fault, agents ...*agentHost) ending {
	n, effect := w.nodeOf(f.To), false
	for _, a := range agents {
		for _, other := range w.nodes {
			if other != n {
				w.net.Refuse(a.ip, other.ip, true)
				effect = w.net.Reset(a.ip, other.ip) > 0 || effect
			}
		}
	}
	rng := rand.New(rand.NewPCG(w.seed, uint64(f.At)))
	nap := func(most int) { time.Sleep(time.Duration(rng.IntN(most)) * time.Millisecond) }
	for end := time.Now().Add(f.For); time.Now().Before(end); {
		mend := func() bool { return false }
		switch rng.IntN(3) {
		case 0:
			w.lives.Go(func() { _ = w.transfer("", 2*time.Second) })
			nap(20)
		case 1:
			mend = w.isolate(w.leader())
			nap(300)
		default:
			mend = w.isolate(n)
			nap(300)
		}
		for _, a := range agents {
			effect = w.net.Reset(a.ip, n.ip) > 0 || effect
		}
		nap(2500)
		effect = mend() || effect
		nap(2500) // opening sessions again and again is held back
	}
	for _, a := range agents {
		for _, other := range w.nodes {
			w.net.Refuse(a.ip, other.ip, false)
		}
	}
	return w.once(f, effect)
}

// partition puts each node on one of two sides by the bits of To.
func (w *World) partition(f Fault) ending {
	side := func(i int) bool { return (f.To+1)>>(i%3)&1 == 1 }
	var links []link
	for i, a := range w.nodes {
		for j, b := range w.nodes {
			if side(i) != side(j) {
				links = append(links, link{a.ip, b.ip})
			}
		}
	}
	return w.cutAll(links)
}

// cutAll cuts links. That takes effect when something did not come through one of them.
func (w *World) cutAll(links []link) ending {
	var cut []link
	for _, l := range links {
		if l.from != l.to {
			cut = append(cut, l)
			w.cut(l.from, l.to, true)
		}
	}
	held := func() (n uint64) {
		for _, l := range cut {
			n += w.net.Held(l.from, l.to) + w.gossip.Held(gossipsAt(l.from), gossipsAt(l.to))
		}
		return n
	}
	before := held()
	return func() bool {
		for _, l := range cut {
			w.cut(l.from, l.to, false)
		}
		return held() > before
	}
}

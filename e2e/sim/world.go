package sim

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/agentplane/agentplane/controlplane/consensus"
	"github.com/agentplane/agentplane/controlplane/consensus/consensustest"
	"github.com/agentplane/agentplane/fsm"
	"github.com/agentplane/agentplane/gossip/gossiptest"
	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
)

// The times of a world: shorter than the defaults, in the same order.
const (
	heartbeat   = 500 * time.Millisecond
	misses      = 3
	grace       = 5 * time.Second
	lostAfter   = 3 * time.Second
	leaderless  = 3 * time.Second
	killGrace   = time.Second
	operatorsIP = "10.0.9.1"

	// settled is how long after all troubles every agent has a session: a handshake may
	// wait 20 s for a node that has stopped, and a round of connections and a back-off
	// follow.
	settled = time.Minute
)

// compaction is how often nodes make snapshots and how much of the log they keep behind
// them; a zero threshold leaves that to the defaults, which a life does not reach.
type compaction struct {
	interval            time.Duration
	threshold, trailing int
}

// drawCompaction draws one. Of three lives two have logs that end behind the oldest of what
// a node may lack after a fault, so that it is sent a snapshot.
func drawCompaction(rng *rand.Rand) compaction {
	c := compaction{interval: time.Duration(200+rng.IntN(2800)) * time.Millisecond, threshold: 16 + rng.IntN(80)}
	c.trailing = 16 + rng.IntN(c.threshold)
	if rng.IntN(3) == 0 {
		return compaction{}
	}
	return c
}

// none is the number of no node.
const none = -1

// World is one cluster with its agents and operators. Its methods are safe for
// concurrent use within the bubble.
type World struct {
	seed      uint64
	dir       string
	net       *Network
	gossip    *gossiptest.Network
	trace     *Trace
	book      *book
	watches   *watches
	nodes     []*node
	agents    []*agentHost
	operators *operators
	trade     trade
	locks     locks
	sheets    sheets
	profile   string
	breaking  time.Duration
	slow      int // number of the node with slow timers, or none
	compact   compaction

	ctx  context.Context // of the watchers
	stop context.CancelFunc

	lives sync.WaitGroup // everything that belongs to a life of a process
	quiet chan struct{}  // holds a value while somebody waits until no goroutine runs

	mu         sync.Mutex     // guards what follows and the lives; never held while waiting
	closed     bool           // nothing starts any more
	badDisk    map[*node]bool // it may give up
	cuts       map[link]bool
	paused     map[string]bool
	red        []string // what must not be
	accepted   map[string]int
	effects    map[string]int        // faults that took effect
	troubled   time.Time             // when something was last broken or mended
	sessions   map[session]bool      // all that any node has shown
	noted      map[sight]bool        // what the trace tells of sessions and leaders
	away       map[session]time.Time // when a session was first seen to have ended
	names      map[string]string     // of agents, by id
	replacedAt time.Time             // when the last node had joined in the place of another one
	putBacks   map[string]bool       // agents, by name
	imaged     *node                 // of which an older disk is put back, until it has begun anew
	doubles    int                   // of nodes, that have come
	lies       map[string]bool       // commands that nobody has submitted, by id
	replaced   []string              // gossip keys, by id
}

// session is one session of an agent.
type session struct {
	agent string
	epoch uint64
}

// newWorld makes the parts; nothing runs yet.
func newWorld(seed uint64, dir string, rng *rand.Rand) *World {
	w := &World{
		seed: seed, dir: dir, net: NewNetwork(seed), gossip: gossiptest.NewNetwork(seed), trace: &Trace{began: time.Now()}, book: newBook(), quiet: make(chan struct{}, 1), watches: newWatches(),
		trade:   tradeOf(seed),
		badDisk: make(map[*node]bool), cuts: make(map[link]bool), paused: make(map[string]bool), accepted: make(map[string]int), effects: make(map[string]int), sessions: make(map[session]bool), noted: make(map[sight]bool), away: make(map[session]time.Time), names: make(map[string]string), putBacks: make(map[string]bool), lies: make(map[string]bool),
		profile: []string{"lan", "wan"}[rng.IntN(2)], compact: drawCompaction(rng), slow: []int{0, 0, 1, none, none, none}[rng.IntN(6)],
	}
	w.sheets.began, w.sheets.newest = time.Now(), make(map[string]*agentplanev1.Template)
	w.ctx, w.stop = context.WithCancel(context.Background())
	for i := range 3 + 2*(rng.IntN(8)/7) {
		n := &node{
			w: w, name: fmt.Sprintf("node-%d", i+1), ip: fmt.Sprintf("10.0.1.%d", i+1),
			disk: consensustest.NewMemDisk(seed<<8 | uint64(i)), kept: storedOutput{known: true},
		}
		n.dir = filepath.Join(dir, n.name+".0")
		n.older = w.beginsOlder()
		n.disk.SetDelay(time.Duration(rng.IntN(3)) * time.Millisecond)
		n.usual = int64(rng.IntN(10_000)-5_000) * int64(time.Millisecond)
		n.skew.Store(n.usual)
		w.nodes = append(w.nodes, n)
	}
	fleet := 2 + rng.IntN(3)
	if rng.IntN(24) == 0 {
		fleet = 16 + rng.IntN(17) // few lives: what a life costs is mostly its agents
	}
	for i := range fleet {
		name := fmt.Sprintf("agent-%d", i+1)
		w.agents = append(w.agents, &agentHost{Host: newHost(name, w.trace), w: w, ip: fmt.Sprintf("10.0.2.%d", i+1), dir: filepath.Join(dir, name+".0")})
	}
	return w
}

// timers are raft's on the node; zero ones are those of the profile. Those of lan are
// twice as long as they are, which halves the heartbeats that a life costs. Those of a slow
// node stand for a clock that stands still: cut off, it believes for seconds that it
// leads.
func (w *World) timers(n *node) consensus.Profile {
	if w.slow == none || n != w.nodes[w.slow] {
		if w.profile == "lan" {
			return consensus.Profile{Heartbeat: 500 * time.Millisecond, Election: 500 * time.Millisecond, Lease: 250 * time.Millisecond, Commit: 5 * time.Millisecond}
		}
		return consensus.Profile{}
	}
	return consensus.Profile{Heartbeat: 3 * time.Second, Election: 3 * time.Second, Lease: 3 * time.Second, Commit: 5 * time.Millisecond}
}

func (w *World) nodeFlags(n *node, dir string) map[string][]string {
	flags := map[string][]string{
		"data_dir": {dir}, "name": {n.name}, "listen": {n.address()}, "advertise": {n.address()},
		"gossip.listen": {n.gossips()}, "gossip.advertise": {n.ip}, "raft.profile": {w.profile},
		"agent.heartbeat_interval": {heartbeat.String()}, "agent.heartbeat_misses": {fmt.Sprint(misses)},
		"agent.node_death_grace": {grace.String()}, "agent.leaderless_after": {leaderless.String()},
		"commands.lost_after": {lostAfter.String()}, "output.reserve_bytes": {"0"},
	}
	if w.purging() {
		flags["commands.retain"] = []string{retained.String()}
	}
	if w.shortQueues() {
		flags["agent.queue_max"] = []string{fmt.Sprint(queueMax)}
	}
	if w.seed%2 == 0 {
		flags["output.attempt_bytes"] = []string{fmt.Sprint(quota)}
	}
	if c := w.compact; c.threshold > 0 {
		flags["raft.snapshot_interval"], flags["raft.snapshot_threshold"], flags["raft.trailing_logs"] = []string{c.interval.String()}, []string{fmt.Sprint(c.threshold)}, []string{fmt.Sprint(c.trailing)}
	}
	return flags
}

func (w *World) agentFlags(a *agentHost, dir, token string) map[string][]string {
	return map[string][]string{
		"data_dir": {dir}, "name": {a.name}, "servers": w.addresses(), "token": {token}, "run.kill_grace": {killGrace.String()},
	}
}

func (w *World) addresses() []string {
	var all []string
	for _, n := range w.nodes {
		all = append(all, n.address())
	}
	return all
}

func (w *World) logger(name string) hclog.Logger {
	if os.Getenv("AGENTPLANE_SIM_LOG") == "" && w.trade == tradeTemplates {
		return hclog.New(&hclog.LoggerOptions{Name: name, Level: hclog.Info, Output: eavesdropper{w}})
	}
	if os.Getenv("AGENTPLANE_SIM_LOG") == "" {
		return hclog.NewNullLogger()
	}
	level := hclog.LevelFromString(os.Getenv("AGENTPLANE_SIM_LOG"))
	if level == hclog.NoLevel {
		level = hclog.Info
	}
	return hclog.New(&hclog.LoggerOptions{Name: name, Level: level, Output: os.Stderr, TimeFormat: "04:05.000"})
}

// fault notes that something happened which must not.
func (w *World) fault(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.redLocked(format, args...)
}

func (w *World) redLocked(format string, args ...any) {
	s := fmt.Sprintf(format, args...)
	w.red = append(w.red, s)
	w.trace.Note("RED", "%s", s)
}

// quiesce returns when no goroutine runs. Only one may wait for that at a time.
func (w *World) quiesce() {
	w.quiet <- struct{}{}
	synctest.Wait()
	<-w.quiet
}

// gaveUp judges why a node has given itself up.
func (w *World) gaveUp(n *node, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.accepted["gave up"]++
	// What raft cannot mend itself, and what a bad disk does.
	if !strings.Contains(err.Error(), "raft#") && !w.badDisk[n] {
		w.redLocked("%s gave up: %v", n.name, err)
	}
}

// machine is the state of the node's life, if it lives.
func (n *node) machine() *fsm.Machine {
	n.w.mu.Lock()
	defer n.w.mu.Unlock()
	if n.life == nil {
		return nil
	}
	return n.life.machine
}

// newest is the view of the node that is furthest.
func (w *World) newest() *fsm.View {
	var best *fsm.View
	for _, n := range w.nodes {
		if m := n.machine(); m != nil {
			if v := m.View(); best == nil || v.Index() > best.Index() {
				best = v
			}
		}
	}
	if best == nil {
		best = fsm.New(fsm.Options{}).View()
	}
	return best
}

// sample looks at the state of some node again and again until ctx ends.
func (w *World) sample(ctx context.Context) {
	rng := rand.New(rand.NewPCG(w.seed, 0x68617368))
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(time.Duration(1000+rng.IntN(3000)) * time.Millisecond):
		}
		n := w.nodes[rng.IntN(len(w.nodes))]
		if m := n.machine(); m != nil {
			w.book.sample(n.name, m.View())
		}
	}
}

// leader is the node that took office last.
func (w *World) leader() *node {
	id := w.newest().Cluster().GetOffice().GetNodeId()
	w.mu.Lock()
	defer w.mu.Unlock()
	i := slices.IndexFunc(w.nodes, func(n *node) bool { return n.id == id })
	return w.nodes[max(i, 0)]
}

// cut holds up what goes from one host to another, over TCP and over gossip.
func (w *World) cut(from, to string, cut bool) {
	w.mu.Lock()
	if cut {
		w.cuts[link{from, to}] = true
	} else {
		delete(w.cuts, link{from, to})
	}
	w.mu.Unlock()
	w.net.Cut(from, to, cut)
	w.cutGossip()
}

func (w *World) pause(ip string, paused bool) {
	w.mu.Lock()
	if paused {
		w.paused[ip] = true
	} else {
		delete(w.paused, ip)
	}
	w.mu.Unlock()
	w.net.Pause(ip, paused)
	w.cutGossip()
}

// cutGossip gives the network of gossip the same cuts. What a paused node is sent by
// gossip is lost.
func (w *World) cutGossip() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.gossip.Heal()
	for _, a := range w.nodes {
		for _, b := range w.nodes {
			if a != b && (w.cuts[link{a.ip, b.ip}] || w.paused[a.ip] || w.paused[b.ip]) {
				w.gossip.Cut(a.gossips(), b.gossips())
			}
		}
	}
}

// heal ends every fault and starts whatever is dead.
func (w *World) heal() error {
	w.mu.Lock()
	clear(w.cuts)
	clear(w.paused)
	w.mu.Unlock()
	w.net.Heal()
	w.gossip.SetLoss(0)
	w.gossip.SetLatency(gossiptest.DefaultLatency, gossiptest.DefaultLatency)
	w.cutGossip()
	for _, a := range w.agents {
		a.arm(nil)
	}
	return w.revive()
}

// revive starts whatever is dead.
func (w *World) revive() error {
	for _, n := range w.nodes {
		if err := n.start(); err != nil {
			return err
		}
	}
	for _, a := range w.agents {
		if err := a.start(); err != nil {
			return err
		}
	}
	return nil
}

// close ends everything and returns when no goroutine is left.
func (w *World) close() {
	w.stop()
	w.mu.Lock()
	w.closed = true
	w.mu.Unlock()
	for _, a := range w.agents {
		a.kill()
		a.close()
	}
	if w.operators != nil {
		w.operators.close()
	}
	for _, n := range w.nodes {
		n.kill(false)
	}
	w.lives.Wait()
}

// trouble notes that something was broken or mended just now.
func (w *World) trouble() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.troubled = time.Now()
}

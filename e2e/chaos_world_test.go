package e2e

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"google.golang.org/grpc/codes"

	"github.com/agentplane/agentplane/cmd/agentplane/lab"
	"github.com/agentplane/agentplane/e2e/linear"
	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/client"
)

const (
	chaosRunClients = 3
	chaosRecorders  = 3
	// recordedLeast is how many of their operations are answered, at least.
	recordedLeast = 50
	// seenBound is how long a fault has to show its effect.
	seenBound = 15 * time.Second
)

// world is a cluster with its fleet that one run breaks.
type world struct {
	*fleet
	shape   shape
	rng     *rand.Rand
	net     *network         // nil without namespaces
	disks   map[string]*disk // by node
	fuse    *faultFS         // nil when no fault needs it
	clocks  map[string]string
	proxies map[string]*proxy
	s       *stream
	b       *breaker
	each    []*client.Client // that asks this node only
	keeper  *keeper
	bins    programs

	upgraded int                     // how often a node was replaced by another version
	programs map[*lab.Process]string // what they are by then; none is the older version

	undo   []func() error  // of what is broken now
	struck int             // faults that were done
	seen   map[string]int  // and of which the effect was seen, by fault
	meant  map[string]bool // nodes and agents that a fault of this round has for target
	deaths []agentDeath
	ailing []ailment
	locks  *lockRecorder
	slow   time.Duration // the longest that it took to be whole again
	levels levels        // what processes took at each gate
}

// newWorld starts everything, and has it end and removed with the test.
func newWorld(t *testing.T, s shape, b programs, missing map[string]string) *world {
	t.Helper()
	w := &world{
		shape: s, rng: rand.New(rand.NewPCG(s.seed, 3)), seen: make(map[string]int),
		disks: make(map[string]*disk), clocks: make(map[string]string), proxies: make(map[string]*proxy), bins: b, programs: make(map[*lab.Process]string), meant: make(map[string]bool),
		fleet: &fleet{Lab: newLab(t), goodbyes: s.upgrades()},
	}
	w.Bin = b.now
	w.keeper = &keeper{held: make(map[string]bool), excused: make(map[string]string), ended: make(map[string]int), stop: make(chan struct{})}
	t.Cleanup(func() { w.close(t) })
	w.witnesses = filepath.Join(w.Dir, "witnesses")
	if err := os.Mkdir(w.witnesses, 0o700); err != nil {
		t.Fatal(err)
	}
	var err error
	if w.self, err = os.Executable(); err != nil {
		t.Fatal(err)
	}
	if missing[needNamespaces] == "" {
		if w.net, err = newNetwork(); err != nil {
			t.Fatal(err)
		}
	}
	if s.needs(needFuse) {
		if w.fuse, err = newFaultFS(w.Dir); err != nil {
			t.Fatal(err)
		}
	}
	for i := range s.nodes {
		w.nodes = append(w.nodes, w.node(t, i, b))
	}
	if err := w.Found(within(t, 2*time.Minute), w.nodes); err != nil {
		t.Fatal(err)
	}
	voters(t, w.Lab, s.nodes)
	for _, n := range w.nodes {
		address, err := n.Address(within(t, 10*time.Second))
		if err != nil {
			t.Fatal(err)
		}
		w.addresses = append(w.addresses, address)
	}
	token, err := w.Token(within(t, 20*time.Second), "agent", "--uses", fmt.Sprint(s.agents+1))
	if err != nil {
		t.Fatal(err)
	}
	for i := range s.agents {
		w.agents = append(w.agents, w.agent(t, i, fmt.Sprintf("a%d", i+1), token, b))
		if i%agentsAtOnce == agentsAtOnce-1 {
			w.enrolled(t)
		}
	}
	w.s = newStream(t, w.fleet)
	c, err := w.s.client(1)
	if err != nil {
		t.Fatal(err)
	}
	w.b = &breaker{f: w.fleet, client: c, rng: w.rng}
	for i := range w.addresses {
		c, err := w.s.onlyOf(w.addresses[i])
		if err != nil {
			t.Fatal(err)
		}
		w.each = append(w.each, c)
	}
	w.haunt(t, w.agent(t, s.agents, "ghost", token, b))
	w.keeper.working.Go(w.keep)
	return w
}

// agentsAtOnce is how many agents are started before they are waited for: hundreds at once would
// want all of the machine.
const agentsAtOnce = 50

// enrolled waits until all agents that were started have enrolled.
func (w *world) enrolled(t *testing.T) {
	t.Helper()
	await(t, time.Minute, "the agents that were started have enrolled", func() error {
		for _, a := range w.agents {
			if _, err := os.Stat(filepath.Join(a.DataDir, "agent.json")); err != nil {
				return err
			}
		}
		return nil
	})
}

// haunt ends an agent for good when the cluster knows it. What is queued for it moves by
// what clients do alone, so that porcupine can judge it.
func (w *world) haunt(t *testing.T, a *lab.Agent) {
	t.Helper()
	fleet := agentplanev1.NewFleetServiceClient(w.b.client)
	await(t, w.shape.gateBound(), "the ghost is known", func() error {
		_, err := fleet.GetAgent(t.Context(), &agentplanev1.GetAgentRequest{Agent: a.Name})
		return err
	})
	a.Kill()
	w.ghost = a.Name
}

// node adds one of the nodes, each with its own address and, if the faults ask for it,
// disk or clock. Every third one is old where versions are mixed.
func (w *world) node(t *testing.T, i int, b programs) *lab.Node {
	t.Helper()
	name := fmt.Sprintf("n%d", i+1)
	w.Bin.Agentplane = b.now.Agentplane
	switch {
	case w.shape.needs(needClock):
		w.Bin.Agentplane = b.clock
	case w.shape.upgrades(), w.shape.old && i%3 == 2:
		w.Bin.Agentplane = b.old.Agentplane
	}
	dir := name
	if w.shape.needs(needDisk) {
		d, err := newDisk(filepath.Join(w.Dir, "disk-"+name))
		if err != nil {
			t.Fatal(err)
		}
		w.disks[name] = d
		dir = filepath.Join("disk-"+name, name)
	}
	if w.shape.onFuse(true) {
		dir = filepath.Join("fuse", name)
	}
	args := []string{"--name", name}
	var under []string
	var h *netHost
	if w.net != nil {
		var err error
		if h, err = w.net.host(name, fmt.Sprintf("10.99.0.%d", 11+i)); err != nil {
			t.Fatal(err)
		}
		under = h.under()
		args = append(args, "--listen", h.address+":7460", "--advertise", h.address, "--gossip-listen", h.address+":7461", "--gossip-advertise", h.address)
	}
	if w.shape.needs(needProxy) {
		at := "127.0.0.1:0"
		if h != nil {
			at = h.address + ":7462"
		}
		x, err := newProxy(h, at, filepath.Join(w.Dir, dir))
		if err != nil {
			t.Fatal(err)
		}
		w.proxies[name] = x
		args = append(args, "--advertise", x.listener.Addr().String())
	}
	n := w.Lab.Node(dir, args...)
	n.Name, n.Log = name, filepath.Join(w.Dir, "logs", name+".log")
	if w.shape.needs(needClock) {
		under = append(under, w.clock(t, name)...)
	}
	n.Under = under
	return n
}

// clock gives a process a wall clock that can be moved: what it runs under for that.
func (w *world) clock(t *testing.T, name string) (under []string) {
	t.Helper()
	w.clocks[name] = filepath.Join(w.Dir, "clock-"+name)
	if err := os.WriteFile(w.clocks[name], []byte{0}, 0o600); err != nil {
		t.Fatal(err)
	}
	return []string{"env", movedClockVar + "=" + w.clocks[name]}
}

// agent adds one of the agents and starts it. Every other one is old where versions are
// mixed.
func (w *world) agent(t *testing.T, i int, name, token string, b programs) *lab.Agent {
	t.Helper()
	w.Bin.Agentd = b.now.Agentd
	moves := false
	switch {
	case w.shape.upgrades() || w.shape.old && i%2 == 1:
		w.Bin.Agentd = b.old.Agentd
	case w.shape.needs(needClock):
		w.Bin.Agentd, moves = b.agentClock, true
	}
	dir := name
	if w.shape.onFuse(false) {
		dir = filepath.Join("fuse", name)
	}
	a := w.Lab.Agent(dir, strings.Join(w.addresses, ","), token, "--name", name)
	a.Name, a.Log = name, filepath.Join(w.Dir, "logs", name+".log")
	if w.net != nil {
		first := i - i%w.shape.perHost()
		h := w.net.hosts[fmt.Sprintf("a%d", first+1)]
		if i == first {
			var err error
			if h, err = w.net.host(a.Name, fmt.Sprintf("10.99.%d.%d", 1+i/250, 1+i%250)); err != nil {
				t.Fatal(err)
			}
		}
		a.Under = w.net.share(a.Name, h).under()
	}
	if moves {
		a.Under = append(a.Under, w.clock(t, a.Name)...)
	}
	if err := a.Start(); err != nil {
		t.Fatal(err)
	}
	return a
}

// close mends what is broken, ends every process, and removes what was made.
func (w *world) close(t *testing.T) {
	close(w.keeper.stop)
	w.keeper.working.Wait()
	for _, mend := range w.undo {
		if err := mend(); err != nil {
			t.Errorf("mend: %v", err)
		}
	}
	w.Lab.Close()
	for _, x := range w.proxies {
		x.close()
	}
	for _, d := range w.disks {
		if err := d.close(); err != nil {
			t.Errorf("remove a disk: %v", err)
		}
	}
	if w.fuse != nil {
		if err := w.fuse.close(); err != nil {
			t.Errorf("remove a file system: %v", err)
		}
	}
	if w.net != nil {
		if err := w.net.close(); err != nil {
			t.Errorf("remove the network: %v", err)
		}
	}
	if w.b != nil {
		w.b.client.Close()
	}
	for _, c := range w.each {
		c.Close()
	}
}

// round does the faults of the run, one after the other and together, and mends them.
func (w *world) round(t *testing.T, number int) {
	t.Helper()
	clear(w.meant)
	faults := slices.Clone(w.shape.faults)
	w.rng.Shuffle(len(faults), func(i, j int) { faults[i], faults[j] = faults[j], faults[i] })
	// One that leaves no node running comes last: the other needs a target.
	slices.SortStableFunc(faults, func(a, b *weapon) int { return int(a.reach) - int(b.reach) })
	w.undo = nil
	for _, f := range faults {
		began := time.Now()
		st, err := f.begin(t.Context(), w)
		if err != nil {
			t.Fatalf("round %d: %s: %v", number, f.name, err)
		}
		if st == nil {
			t.Logf("round %d: %s: nothing to strike", number, f.name)
			continue
		}
		w.undo = append(w.undo, sync.OnceValue(st.mend))
		w.struck++
		err = lab.Await(within(t, seenBound), st.seen)
		if err == nil {
			w.seen[f.name]++
		}
		t.Logf("%s round %d: %s on %s, seen after %.1fs (%v)", began.Format("15:04:05.0"), number, f.name, st.target, time.Since(began).Seconds(), err)
		goOn(t.Context(), time.Duration(w.rng.IntN(2000))*time.Millisecond) // how the faults overlap
	}
	goOn(t.Context(), time.Duration(500+w.rng.IntN(6000))*time.Millisecond) // how long they last
	w.rng.Shuffle(len(w.undo), func(i, j int) { w.undo[i], w.undo[j] = w.undo[j], w.undo[i] })
	for _, mend := range w.undo {
		if err := mend(); err != nil {
			t.Fatalf("round %d: mend: %v", number, err)
		}
	}
	w.undo = nil
}

// goOn lets load and faults go on for so long, or until the run ends.
func goOn(ctx context.Context, d time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	<-ctx.Done()
}

// gate waits until the cluster is whole: all processes run, one node leads, all vote,
// every node answers a linearizable read, every agent is online, and a new command
// succeeds on every agent.
func (w *world) gate(t *testing.T, when string) {
	t.Helper()
	began := time.Now()
	ctx := within(t, w.shape.gateBound())
	// The last try ends with the time: what the one before it lacked tells more.
	var lacked error
	try := func(condition func() error) error {
		return lab.Await(ctx, func() error {
			err := condition()
			if ctx.Err() == nil {
				lacked = err
			}
			return err
		})
	}
	err := try(func() error {
		for _, n := range w.nodes {
			if !n.Running() {
				return fmt.Errorf("node %s does not run", n.Name)
			}
		}
		for _, a := range w.agents {
			if !a.Running() {
				return fmt.Errorf("agent %s does not run", a.Name)
			}
		}
		if err := w.b.voting(ctx); err != nil {
			return err
		}
		for i, c := range w.each {
			call, cancel := context.WithTimeout(ctx, 5*time.Second)
			_, err := agentplanev1.NewClusterServiceClient(c).ListMembers(call, &agentplanev1.ListMembersRequest{})
			cancel()
			if err != nil {
				return fmt.Errorf("ask node %s: %w", w.nodes[i].Name, err)
			}
		}
		return w.b.online(ctx)
	})
	if err == nil {
		err = try(func() error { return w.cured(ctx) })
	}
	if err == nil {
		err = try(func() error { return w.command(ctx) })
	}
	if err != nil {
		busy, _ := os.ReadFile("/proc/loadavg") // where there is none it says nothing
		t.Fatalf("the cluster is not whole %s: %v; before that: %v; the load of the machine is %s", when, err, lacked, busy)
	}
	w.slow = max(w.slow, time.Since(began))
	w.measure(t)
	t.Logf("%s whole %s, after %.1fs", time.Now().Format("15:04:05.0"), when, time.Since(began).Seconds())
}

// record has clients work on commands for the ghost, and others on locks, until the stream
// ends.
func (w *world) record(t *testing.T) *recorder {
	t.Helper()
	r := &recorder{
		s: w.s, agent: w.ghost, began: time.Now(), pace: 5, clocks: w.shape.needs(needClock), content: make(map[string]string),
		claims: newClaimsOf(t, w.fleet, w.agents[0].Name),
	}
	r.renew()
	for n := range chaosRecorders {
		rng := rand.New(rand.NewPCG(w.shape.seed, uint64(n)+100))
		w.s.working.Go(func() { r.work(n, rng) })
	}
	w.locks = &lockRecorder{s: w.s, began: r.began, pace: 5, clocks: r.clocks}
	for n := range chaosRecorders {
		rng := rand.New(rand.NewPCG(w.shape.seed, uint64(n)+200))
		w.s.working.Go(func() { w.locks.work(chaosRecorders+n, rng) })
	}
	return r
}

// linear judges what the recorders wrote down, and has the ghost's commands end.
func (w *world) linear(t *testing.T, r *recorder) (void string) {
	t.Helper()
	ops, err := r.history(within(t, w.shape.gateBound()), w.b.client)
	if err != nil {
		t.Fatal(err)
	}
	commands := agentplanev1.NewCommandServiceClient(w.b.client)
	for id := range r.content {
		await(t, w.shape.gateBound(), "the commands of the ghost are canceled", func() error {
			_, err := commands.CancelCommand(within(t, 20*time.Second), &agentplanev1.CancelCommandRequest{Id: id})
			if err != nil && client.AsError(err).Code != codes.NotFound {
				return err
			}
			return nil
		})
	}
	page := filepath.Join(w.Dir, "history.html")
	switch result, err := linear.JudgeCommands(ops, page); {
	case err != nil:
		t.Fatal(err)
	case result == porcupine.Unknown:
		return "porcupine came to no end of the history of commands"
	case result == porcupine.Illegal:
		t.Errorf("the history is not linearizable; it is drawn in %s", page)
	}
	if n := r.acknowledged(); n < recordedLeast {
		return fmt.Sprintf("%d operations of the judged history were answered, at least %d are needed", n, recordedLeast)
	}
	return w.locks.judge(t, filepath.Join(w.Dir, "locks.html"))
}

// keeper does what a supervisor of the host would: it starts again what has ended by
// itself.
type keeper struct {
	stop    chan struct{} // closed by the world
	working sync.WaitGroup

	mu      sync.Mutex        // guards what follows
	held    map[string]bool   // those that a fault keeps down
	excused map[string]string // processes that may end, since this was done to them
	ended   map[string]int    // how often each ended by itself
	odd     []string
}

// hold has the keeper leave it alone; it answers when no start is under way.
func (k *keeper) hold(name string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.held[name] = true
}

func (k *keeper) release(name string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.held, name)
}

func (k *keeper) excuse(name, why string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.excused[name] = why
}

// forgive ends all excuses: all is whole again.
func (k *keeper) forgive() {
	k.mu.Lock()
	defer k.mu.Unlock()
	clear(k.excused)
}

// restartAfter is how long a supervisor waits, as the unit files say.
const restartAfter = time.Second

func (w *world) keep() {
	for {
		select {
		case <-w.keeper.stop:
			return
		case <-time.After(restartAfter):
		}
		for _, n := range w.nodes {
			w.restart(&n.Process, true)
		}
		for _, a := range w.agents {
			w.restart(&a.Process, false)
		}
	}
}

func (w *world) restart(p *lab.Process, node bool) {
	k := w.keeper
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.held[p.Name] || p.Running() {
		return
	}
	code, err := p.Await(context.Background())
	k.ended[p.Name]++
	// 1 is an error that it says, 3 something after which a node must not go on.
	if _, excused := k.excused[p.Name]; !excused || code != 1 && !(node && code == 3) {
		k.odd = append(k.odd, fmt.Sprintf("%s ended by itself before %s: exit code %d (%v): %s",
			p.Name, time.Now().Format(time.StampMilli), code, err, lastLine(p.Log)))
	}
	if err := p.Start(); err != nil && !errors.Is(err, lab.ErrRunning) {
		k.odd = append(k.odd, err.Error())
	}
}

func (w *world) oddities() []string {
	w.keeper.mu.Lock()
	defer w.keeper.mu.Unlock()
	return slices.Clone(w.keeper.odd)
}

func (w *world) exits() int {
	w.keeper.mu.Lock()
	defer w.keeper.mu.Unlock()
	sum := 0
	for _, n := range w.keeper.ended {
		sum += n
	}
	return sum
}

// endedOf is how often the process ended by itself, that it is not running now included.
func (w *world) endedOf(p *lab.Process) int {
	w.keeper.mu.Lock()
	defer w.keeper.mu.Unlock()
	n := w.keeper.ended[p.Name]
	if !p.Running() {
		n++
	}
	return n
}

package health

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/agentplane/agentplane/fsm"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

// every is how often the leader looks at gossip and at what is due. It is far below
// maxStep, so that a leader at work loses no time.
const every = 250 * time.Millisecond

// Monitor judges sessions and agents while this node leads.
type Monitor struct {
	o      Options
	brake  Brake
	status atomic.Pointer[BrakeStatus]
}

// BrakeStatus is the brake as operators see it.
type BrakeStatus struct {
	Engaged bool
	// Held is how many agents would be DOWN without it, Limit how many may fall in
	// a window.
	Held, Limit int
	Since       time.Time
}

// New returns a Monitor. It touches nothing outside.
func New(o Options) (*Monitor, error) {
	if err := o.complete(); err != nil {
		return nil, err
	}
	m := &Monitor{o: o, brake: Brake{Count: o.BrakeCount, Percent: o.BrakePercent, Window: o.BrakeWindow}}
	m.status.Store(&BrakeStatus{})
	return m, nil
}

// Braked says whether DOWN transitions are held. Anybody may call it at any time;
// a node that does not lead holds none.
func (m *Monitor) Braked() BrakeStatus { return *m.status.Load() }

// Run is the life of one term: it returns nil when ctx, the term, has ended, and
// never because a proposal failed. One Run at a time.
func (m *Monitor) Run(ctx context.Context) error {
	defer m.status.Store(&BrakeStatus{})
	var running sync.WaitGroup
	defer running.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()

	view, cursor := m.o.Machine.ViewAndWatch()
	l := &term{
		Monitor: m, graces: newGraces(), nodes: make(map[string]*watched),
		running: &running, answers: make(chan answer),
	}
	l.graces.list(view, l.clock.advance(time.Now()))
	feed := make(chan fsm.News)
	running.Go(func() { m.o.Machine.Follow(ctx, cursor, feed, fsm.TableNodes, fsm.TableSessions) })

	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		l.look(ctx)
		for waiting := true; waiting; {
			select {
			case n := <-feed:
				waiting = !l.take(n)
			case a := <-l.answers:
				l.answered(a)
				waiting = false
			case <-tick.C:
				waiting = false
			case <-ctx.Done():
				return nil
			}
		}
	}
}

// term is what one leader remembers. It belongs to the goroutine of Run.
type term struct {
	*Monitor
	clock  awake
	graces *graces
	held   BrakeState
	nodes  map[string]*watched
	ends   []HeldSession // that their nodes do not hold

	running *sync.WaitGroup
	answers chan answer // sent by askers, received by Run

	backoff time.Duration
	retryAt time.Time
}

// take takes what the feed brought, and says whether to look at once.
func (l *term) take(n fsm.News) (urgent bool) {
	now := l.clock.advance(time.Now())
	if n.List != nil {
		l.graces.list(n.List, now)
		return true
	}
	for _, c := range n.Changes {
		s, isSession := c.Row.(*raftlogv1.Session)
		switch {
		case c.Table == fsm.TableNodes:
			urgent = true
		case isSession:
			l.graces.see(s, now)
		default:
			l.graces.drop(c.Key)
		}
	}
	return urgent
}

// look judges everything by what is known now. A proposal that failed ends it; a
// later look takes the same decisions again if they still are right.
func (l *term) look(ctx context.Context) {
	now := l.clock.advance(time.Now())
	if time.Now().Before(l.retryAt) {
		return
	}
	err := l.judgeNodes(ctx, now)
	if err == nil {
		err = l.endMissing(ctx)
	}
	if err == nil {
		err = l.markDown(ctx, now)
	}
	if err == nil {
		l.backoff = 0
		return
	}
	if ctx.Err() == nil {
		l.backoff = min(max(2*l.backoff, 100*time.Millisecond), 5*time.Second)
		l.retryAt = time.Now().Add(l.backoff)
		l.o.Logger.Warn("proposal failed, looking again", "after", l.backoff, "err", err)
	}
}

// judgeNodes begins the grace of sessions whose node or process is gone, and asks
// the nodes that may know better than the state.
func (l *term) judgeNodes(ctx context.Context, now time.Duration) error {
	lives := make(map[string]NodeLife)
	for _, n := range l.o.Nodes() {
		lives[n.ID] = n
	}
	for n := range l.o.Machine.View().Nodes() {
		w := l.nodes[n.GetId()]
		if w == nil {
			w = &watched{}
			l.nodes[n.GetId()] = w
		}
		w.hear(lives[n.GetId()], now)
		if upTo, reason := Lost(w.evidence(n, now), l.o.NodeDeathGrace); upTo > w.cleared {
			if err := l.lose(ctx, n.GetId(), upTo, reason); err != nil {
				return err
			}
			// No session of a start before the registered one can be opened any more.
			if before := n.GetStartCounter() - 1; n.GetStartCounter() > 0 {
				w.cleared = max(w.cleared, min(upTo, before))
			}
		}
		l.ask(ctx, n, w, now)
	}
	return nil
}

// ask asks a node for its table when that is due. A node on which the state shows no
// session is not asked: nothing could come of it, and its earlier silence says nothing
// about sessions that open later.
func (l *term) ask(ctx context.Context, n *raftlogv1.Node, w *watched, now time.Duration) {
	view := l.o.Machine.View()
	if n.GetState() >= raftlogv1.NodeState_NODE_STATE_REMOVED || !shows(view, n.GetId(), n.GetStartCounter()) {
		w.silent, w.missing = false, nil
		return
	}
	// Once gossip stops calling a node alive, its own word is wanted sooner.
	if !called(w.life.State) {
		w.nextAsk = min(w.nextAsk, now+askAgain)
	}
	if w.asking || now < w.nextAsk {
		return
	}
	w.asking = true
	a := answer{nodeID: n.GetId(), asked: now, view: view}
	l.running.Go(func() {
		askCtx, cancel := context.WithTimeout(ctx, l.o.CollectTimeout)
		defer cancel()
		a.start, a.held, a.err = l.o.Sessions(askCtx, a.nodeID)
		select {
		case l.answers <- a:
		case <-ctx.Done():
		}
	})
}

// answer is what asking a node brought.
type answer struct {
	nodeID string
	asked  time.Duration // on the awake clock
	view   *fsm.View     // taken before it was asked
	start  uint64
	held   []HeldSession
	err    error
}

// answered weighs what a node said of its sessions.
func (l *term) answered(a answer) {
	now, w := l.clock.advance(time.Now()), l.nodes[a.nodeID]
	w.asking = false
	if a.err != nil {
		if !w.silent {
			w.silent, w.silence = true, a.asked
			l.o.Logger.Info("node does not answer which sessions it holds", "node_id", a.nodeID, "err", a.err)
		}
		w.nextAsk = now + askAgain
		return
	}
	w.silent, w.answered = false, max(w.answered, a.start)
	if gone(w.life.State) && !w.refuted && a.asked >= w.heard {
		w.refuted = true
		l.o.Logger.Warn("node answers although gossip calls it dead or gone: its sessions stand; look at the gossip port", "node_id", a.nodeID)
	}
	gone := w.confirm(Missing(a.view.LiveSessions(a.nodeID), a.start, a.held), a.asked)
	l.ends = append(l.ends, gone...)
	switch {
	case len(w.missing) > 0:
		w.nextAsk = now + settle
	case called(w.life.State):
		w.nextAsk = now + askEvery
	default:
		w.nextAsk = now + askAgain
	}
}

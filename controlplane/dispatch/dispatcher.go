package dispatch

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
)

// Dispatcher serves the sessions of this node. All methods may be called at once; Run
// once.
type Dispatcher struct {
	agentplanev1.UnimplementedAgentServiceServer

	o       Options
	count   counters
	control *lane // sessions open, get ready and end
	claims  *lane // has one worker, so that claims keep their order
	reports *lane // also facts; gathers
	gather  gathering
	admit   *rate.Limiter
	clock   clusterClock
	sweeper *sweeper
	places  *places

	// leaving ends when the streams that are left have to end, at the end of Drain.
	leaving context.Context
	letGo   context.CancelFunc

	// left has a value when a stream has gone or an end was settled; Drain reads it.
	left chan struct{}

	mu        sync.Mutex // guards what follows; never held across anything that waits
	life      context.Context
	started   time.Time
	stopped   bool
	draining  bool
	leader    bool // seen within NoLeaderAfter
	trust     uint64
	streams   int
	byAgent   map[string][]*session
	lives     sync.WaitGroup // handlers, receivers and writers
	drainOnly sync.Mutex     // one Drain at a time
}

var _ agentplanev1.AgentServiceServer = (*Dispatcher)(nil)

// New returns a dispatcher that serves once Run is called.
func New(o Options) (*Dispatcher, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	d := &Dispatcher{
		o:       o,
		admit:   rate.NewLimiter(rate.Limit(o.SessionsPerSecond), o.SessionsPerSecond),
		left:    make(chan struct{}, 1),
		byAgent: make(map[string][]*session),
		leader:  true,
		places:  newPlaces(o.Machine.View),
	}
	d.leaving, d.letGo = context.WithCancel(context.Background())
	d.control, d.claims, d.reports = newLane(o.Proposer, &d.count, o.MaxMutations), newLane(o.Proposer, &d.count, o.MaxMutations), newLane(o.Proposer, &d.count, o.MaxMutations)
	d.reports.gather = &d.gather
	d.sweeper = newSweeper(d)
	return d, nil
}

// Run serves until ctx ends. When it returns, every stream has ended and no goroutine
// is left.
func (d *Dispatcher) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	d.mu.Lock()
	if d.life != nil {
		d.mu.Unlock()
		return errors.New("dispatch: Run was called twice")
	}
	d.life, d.started = ctx, time.Now()
	d.mu.Unlock()
	view, cursor := d.o.Machine.ViewAndWatch()
	d.clock.observe(view.Now())
	for range laneWorkers {
		g.Go(func() error { return d.control.work(ctx) })
		g.Go(func() error { return d.reports.work(ctx) })
	}
	g.Go(func() error { return d.claims.work(ctx) })
	g.Go(func() error { return d.follow(ctx, cursor) })
	g.Go(func() error { return d.watch(ctx) })
	g.Go(func() error { return d.sweeper.run(ctx) })
	err := g.Wait()
	d.mu.Lock()
	d.stopped = true
	d.mu.Unlock()
	d.lives.Wait()
	return err
}

// Session is the life of one agent on this node. It returns when the stream breaks or
// is to be ended; the error says why.
func (d *Dispatcher) Session(stream grpc.BidiStreamingServer[agentplanev1.SessionRequest, agentplanev1.SessionResponse]) error {
	life, err := d.enter()
	if err != nil {
		return err
	}
	defer d.leave()
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	defer context.AfterFunc(life, cancel)()
	agentID, key, err := d.o.Caller(ctx)
	if err != nil || agentID == "" {
		return &endError{code: codes.Unauthenticated, reason: "no_identity", text: "the connection has not proved which agent it is"}
	}
	s := newSession(d, agentID, key)
	go func() {
		defer d.lives.Done()
		s.out.write(ctx, stream)
	}()
	go func() {
		defer d.lives.Done()
		s.receive(ctx, stream)
	}()
	err = s.run(ctx)
	if life.Err() != nil {
		err = &endError{code: codes.Unavailable, reason: "stopping", text: "the node is stopping"}
	}
	return err
}

// enter counts a stream with its three goroutines, and refuses it when there is no
// room or no Run.
func (d *Dispatcher) enter() (context.Context, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case d.life == nil || d.stopped || d.life.Err() != nil:
		return nil, &endError{code: codes.Unavailable, reason: "not_ready", text: "the node takes no sessions now"}
	case d.streams >= d.o.MaxStreams:
		d.count.refused.Add(1)
		return nil, &endError{code: codes.ResourceExhausted, reason: "streams", text: "the node holds as many streams as it may", retry: time.Second}
	}
	d.streams++
	d.lives.Add(3)
	return d.life, nil
}

func (d *Dispatcher) leave() {
	d.mu.Lock()
	d.streams--
	d.mu.Unlock()
	d.lives.Done()
	d.poke()
}

func (d *Dispatcher) poke() {
	select {
	case d.left <- struct{}{}:
	default:
	}
}

// register makes the stream the one that holds the session which its stream id will
// be granted. It comes before the proposal, so that the sweeper takes no session for
// abandoned that is just being opened.
func (d *Dispatcher) register(s *session, streamID []byte) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch list := d.byAgent[s.agentID]; {
	case d.draining:
		return &refusal{reason: "not_ready", detail: "this node is draining", retry: time.Second}
	case s.streamID == nil && len(list) >= maxStreamsOfAgent:
		return &refusal{reason: "rate", detail: "this agent has too many streams on this node", retry: 5 * time.Second}
	default:
		for _, other := range list {
			if other != s && bytes.Equal(other.streamID, streamID) {
				return &endError{code: codes.InvalidArgument, reason: "stream_id", text: "another stream has the same stream id: it must be random"}
			}
		}
		if s.streamID == nil {
			d.byAgent[s.agentID] = append(list, s)
		}
		s.streamID = streamID
		return nil
	}
}

// unregister lets go of the session; what its end means goes to the sweeper.
func (d *Dispatcher) unregister(s *session, e ending) {
	d.mu.Lock()
	list := d.byAgent[s.agentID]
	kept := make([]*session, 0, len(list))
	for _, other := range list {
		if other != s {
			kept = append(kept, other)
		}
	}
	if len(kept) == 0 {
		delete(d.byAgent, s.agentID)
	} else {
		d.byAgent[s.agentID] = kept
	}
	d.mu.Unlock()
	d.sweeper.ended(s.agentID, e)
}

func (d *Dispatcher) grant(s *session, epoch uint64) {
	d.mu.Lock()
	s.granted = epoch
	d.mu.Unlock()
}

// holds says whether a stream is registered with the stream id.
func (d *Dispatcher) holds(agentID string, streamID []byte) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, s := range d.byAgent[agentID] {
		if bytes.Equal(s.streamID, streamID) {
			return true
		}
	}
	return false
}

// wake marks the sessions of one agent.
func (d *Dispatcher) wake(agentID string, m mark) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, s := range d.byAgent[agentID] {
		s.mail.mark(m)
	}
}

// wakeAll marks every session.
func (d *Dispatcher) wakeAll(m mark) {
	for _, s := range d.all() {
		s.mail.mark(m)
	}
}

func (d *Dispatcher) all() []*session {
	d.mu.Lock()
	defer d.mu.Unlock()
	all := make([]*session, 0, len(d.byAgent))
	for _, list := range d.byAgent {
		all = append(all, list...)
	}
	return all
}

// Held answers the sessions that this node holds now, for a new leader that collects
// them.
func (d *Dispatcher) Held() []*agentplanev1.HeldSession {
	d.mu.Lock()
	defer d.mu.Unlock()
	held := make([]*agentplanev1.HeldSession, 0, len(d.byAgent))
	for id, list := range d.byAgent {
		for _, s := range list {
			if s.granted != 0 {
				held = append(held, &agentplanev1.HeldSession{AgentId: id, SessionEpoch: s.granted})
			}
		}
	}
	return held
}

// open says whether sessions are taken now, and why not.
func (d *Dispatcher) open() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case d.draining:
		return &refusal{reason: "not_ready", detail: "this node is draining", retry: time.Second}
	case !d.leader:
		return &refusal{reason: "not_ready", detail: "this node has no contact with a leader", retry: time.Second}
	}
	return nil
}

package gossip

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/memberlist"
)

var (
	// ErrClosed says that the pool is closed, or has left.
	ErrClosed = errors.New("gossip pool is closed")
	// ErrWrongKey says that a peer and this node have no key in common.
	ErrWrongKey = errors.New("gossip keys differ: the peer's key in use is not installed here, or this node's not there")
)

// lookGap is the shortest time between two looks at memberlist's table, so that
// a storm of news costs a bounded share of a core.
const lookGap = 10 * time.Millisecond

// Pool is this node's membership in the gossip of its cluster. All methods may be
// called at once.
type Pool struct {
	opts     Options
	timing   Timing
	logger   hclog.Logger
	bridge   *logBridge
	bound    string
	self     netip.AddrPort // advertised
	keys     *keyring
	delegate *delegate
	guard    *guard
	list     *memberlist.Memberlist
	table    *table

	life context.Context // ends with Close
	end  context.CancelFunc

	lookMu   sync.Mutex // one look at a time, so that the table never goes back
	observer *observer

	own  chan struct{} // holds a value during a change of this node's own state (metadata, leave, shutdown)
	left atomic.Bool

	wrongKeys atomic.Uint64

	runMu   sync.Mutex // guards running and the first Add of runs
	running bool
	runs    sync.WaitGroup
}

// Stats counts what went wrong since the pool was opened.
type Stats struct {
	StreamsRefused     uint64 // too many at once
	MembersRefused     uint64 // notices of members with bad names, metadata or versions, or too many
	LogLinesSuppressed uint64 // of memberlist's log
	WrongKeys          uint64 // joins that failed with ErrWrongKey
}

// Open binds and starts to answer. The pool is alone until Join or Run find
// somebody. The caller must Close it.
func Open(o Options) (*Pool, error) {
	p, err := open(o)
	if err != nil {
		return nil, fmt.Errorf("open gossip pool: %w", err)
	}
	return p, nil
}

func open(o Options) (*Pool, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	timing, err := o.Timing.withDefaults()
	if err != nil {
		return nil, err
	}
	meta, err := o.Meta.MarshalBinary()
	if err != nil {
		return nil, err
	}
	keys, err := newKeyring(o.Keys)
	if err != nil {
		return nil, err
	}
	o.Keys = nil // the ring has copies
	if o.Logger == nil {
		o.Logger = hclog.NewNullLogger()
	}
	p := &Pool{
		opts: o, timing: timing, logger: o.Logger, bridge: newLogBridge(o.Logger.Named("memberlist")), keys: keys,
		delegate: newDelegate(meta, 2*gossipToTheDead), table: newTable(o.Logger), own: make(chan struct{}, 1),
	}
	p.life, p.end = context.WithCancel(context.Background())
	if err := p.start(); err != nil {
		p.end()
		return nil, err
	}
	return p, nil
}

// start brings up transport, memberlist and observer, or leaves nothing behind.
func (p *Pool) start() (err error) {
	conf := p.config()
	inner := p.opts.Transport
	dial := func(ctx context.Context, a memberlist.Address) (net.Conn, error) {
		deadline, _ := ctx.Deadline()
		return inner.DialAddressTimeout(a, time.Until(deadline))
	}
	if inner == nil {
		t, err := listen(&p.opts, p.bridge)
		if err != nil {
			return err
		}
		conf.BindPort = t.GetAutoBindPort()
		if conf.AdvertiseAddr, conf.AdvertisePort, err = advertise(&p.opts, conf.BindPort); err != nil {
			_ = t.Shutdown() // nothing has been handed over yet
			return err
		}
		host, _, _ := splitAddr(p.opts.BindAddr, 0) // was parsed by listen
		if host == "" {
			host = "0.0.0.0"
		}
		p.bound = net.JoinHostPort(host, strconv.Itoa(conf.BindPort))
		inner = t
		dial = func(ctx context.Context, a memberlist.Address) (net.Conn, error) {
			var d net.Dialer // unlike the transport's, it ends with ctx
			return d.DialContext(ctx, "tcp", a.Addr)
		}
	}
	p.guard = newGuard(inner, dial, p.logger)
	defer func() {
		if err != nil {
			_ = p.guard.Shutdown()
		}
	}()
	ip, port, err := inner.FinalAdvertiseAddr(conf.AdvertiseAddr, conf.AdvertisePort)
	if err != nil {
		return err
	}
	addr, _ := netip.AddrFromSlice(ip)
	p.self = netip.AddrPortFrom(addr.Unmap(), uint16(port))
	if p.bound == "" {
		p.bound = p.self.String()
	}
	conf.Transport = p.guard
	if p.list, err = memberlist.Create(conf); err != nil {
		return err
	}
	if p.observer, err = newObserver(p.guard, p.opts.Label, p.keys.ring, p.timing.StreamTimeout); err != nil {
		_ = p.list.Shutdown()
		return err
	}
	if err := p.look(); err != nil {
		p.observer.close()
		_ = p.list.Shutdown()
		return err
	}
	return nil
}

func (p *Pool) config() *memberlist.Config {
	t := p.timing
	c := memberlist.DefaultLANConfig()
	c.Name = p.opts.NodeID
	c.Label = p.opts.Label
	c.Keyring = p.keys.ring
	c.GossipVerifyIncoming, c.GossipVerifyOutgoing = true, true
	c.EnableCompression = false
	c.Delegate, c.Events, c.Alive, c.Conflict = p.delegate, p.delegate, p.delegate, p.delegate
	c.Logger = p.bridge.std()
	c.ProbeInterval, c.ProbeTimeout = t.ProbeInterval, t.ProbeTimeout
	c.SuspicionMult, c.SuspicionMaxTimeoutMult = t.SuspicionMult, t.SuspicionMaxMult
	c.GossipInterval, c.PushPullInterval = t.GossipInterval, t.PushPullInterval
	c.TCPTimeout = t.StreamTimeout
	c.GossipToTheDeadTime = gossipToTheDead
	c.AwarenessMaxMultiplier = 4 // bounds how long a probe outlives Close
	c.HandoffQueueDepth = 1024
	// A node that is dead may come back elsewhere, at once, for its id is no other's.
	// Zero would refuse it.
	c.DeadNodeReclaimTime = time.Nanosecond
	return c
}

// Addr returns the bound address, host:port.
func (p *Pool) Addr() string { return p.bound }

// AdvertiseAddr returns the address that others are told, host:port.
func (p *Pool) AdvertiseAddr() string { return p.self.String() }

// Run watches the members and joins missing peers until ctx ends, whose cause it
// returns, or the pool is closed (nil). One Run at a time.
func (p *Pool) Run(ctx context.Context) error {
	p.runMu.Lock()
	if p.life.Err() != nil || p.running {
		p.runMu.Unlock()
		if p.life.Err() != nil {
			return ErrClosed
		}
		return errors.New("run gossip pool: it is running already")
	}
	p.running = true
	p.runs.Add(1)
	p.runMu.Unlock()
	defer p.runs.Done()
	defer func() {
		p.runMu.Lock()
		p.running = false
		p.runMu.Unlock()
	}()

	own, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(p.life, cancel)() //nolint:contextcheck // the pool's life ends it too
	var wg sync.WaitGroup
	wg.Go(func() { newRejoiner(p).run(own) })
	p.lookLoop(own)
	wg.Wait()
	if p.life.Err() != nil {
		return nil
	}
	return context.Cause(ctx)
}

// lookLoop looks after every callback, and once per probe interval for the
// suspicions, of which there is none.
func (p *Pool) lookLoop(ctx context.Context) {
	tick := time.NewTicker(p.timing.ProbeInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.delegate.wake:
		case <-tick.C:
		}
		if err := p.look(); err != nil && ctx.Err() == nil {
			p.logger.Warn("the view of the members is stale", "err", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(lookGap):
		}
	}
}

// look brings the table up to date.
func (p *Pool) look() error {
	p.lookMu.Lock()
	defer p.lookMu.Unlock()
	seen, err := p.observer.look()
	if err != nil {
		return err
	}
	p.table.update(seen, time.Now())
	return nil
}

// Members returns all members, this node and the lately gone included, by id.
func (p *Pool) Members() []Member {
	members, _, _ := p.table.since(0)
	return members
}

// Watch yields first all members, then again and again those that changed since,
// each in its latest state, by id, until ctx or the pool ends. The reader may be
// slow. A member that was gone for an hour is dropped without a word. Changes
// show while Run runs.
func (p *Pool) Watch(ctx context.Context) iter.Seq[[]Member] {
	return func(yield func([]Member) bool) {
		var seen uint64
		for ctx.Err() == nil && p.life.Err() == nil {
			members, version, changed := p.table.since(seen)
			seen = version
			if len(members) > 0 {
				if !yield(members) {
					return
				}
				continue
			}
			select {
			case <-changed:
			case <-ctx.Done():
			case <-p.life.Done():
			}
		}
	}
}

// SetMeta changes what this node says of itself. It returns when the own member
// shows it; the others learn it by gossip.
func (p *Pool) SetMeta(m Meta) error {
	b, err := m.MarshalBinary()
	if err != nil {
		return err
	}
	if p.left.Load() { // it may go on leaving for seconds
		return fmt.Errorf("set gossip metadata: %w", ErrClosed)
	}
	p.own <- struct{}{}
	defer func() { <-p.own }()
	if p.life.Err() != nil || p.left.Load() {
		return fmt.Errorf("set gossip metadata: %w", ErrClosed)
	}
	p.delegate.meta.Store(&b)
	// The error says only that the news was not yet sent to everybody meant.
	_ = p.list.UpdateNode(time.Nanosecond)
	return p.look()
}

// InstallKey makes a key known: what others encrypt with it is understood.
// Installing it again is harmless. A change of keys takes three steps, each on
// all nodes before the next: install, use, remove.
func (p *Pool) InstallKey(key []byte) error { return p.keys.install(key) }

// UseKey makes an installed key the one with which this node encrypts.
func (p *Pool) UseKey(key []byte) error { return p.keys.use(key) }

// RemoveKey forgets a key that is not in use. Removing it again is harmless.
func (p *Pool) RemoveKey(key []byte) error { return p.keys.remove(key) }

// KeyIDs returns the KeyID of each installed key, the one in use first.
func (p *Pool) KeyIDs() []string { return p.keys.ids() }

// Stats returns what was refused so far.
func (p *Pool) Stats() Stats {
	return Stats{
		StreamsRefused:     p.guard.refused.Load(),
		MembersRefused:     p.delegate.refused.Load(),
		LogLinesSuppressed: p.bridge.suppressed.Load(),
		WrongKeys:          p.wrongKeys.Load(),
	}
}

// Close ends the pool without a word to the others, who will find it dead; call
// Leave before in a planned shutdown. It waits for Run and for a Leave that is
// under way, and may be called again.
func (p *Pool) Close() error {
	p.runMu.Lock()
	p.end()
	p.runMu.Unlock()
	p.own <- struct{}{}
	defer func() { <-p.own }()
	err := p.list.Shutdown()
	p.runs.Wait()
	p.lookMu.Lock()
	defer p.lookMu.Unlock()
	p.observer.close()
	return err
}

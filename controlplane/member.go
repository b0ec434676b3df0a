package controlplane

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"

	"github.com/agentplane/agentplane/configs"
	"github.com/agentplane/agentplane/controlplane/authz"
	"github.com/agentplane/agentplane/controlplane/consensus"
	"github.com/agentplane/agentplane/controlplane/depot"
	"github.com/agentplane/agentplane/controlplane/dispatch"
	"github.com/agentplane/agentplane/controlplane/forward"
	"github.com/agentplane/agentplane/controlplane/membership"
	"github.com/agentplane/agentplane/controlplane/operator"
	"github.com/agentplane/agentplane/controlplane/output"
	"github.com/agentplane/agentplane/controlplane/peer"
	"github.com/agentplane/agentplane/controlplane/pki"
	"github.com/agentplane/agentplane/fsm"
	"github.com/agentplane/agentplane/gossip"
	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/identity"
)

// Bounds of the steps of a stop, in their order.
const (
	drainTimeout    = 5 * time.Second
	transferTimeout = 5 * time.Second
	callsTimeout    = 3 * time.Second
	leaveTimeout    = 3 * time.Second
)

// member is a node that belongs to a cluster.
type member struct {
	n      *Node
	logger hclog.Logger

	ca        *pki.CA
	leaf      *pki.Leaf
	trust     *trust
	state     *fsm.Machine
	clock     clock
	host      *consensus.Host
	opened    atomic.Pointer[consensus.Host] // host, for those whom raft's goroutines call early
	pool      *peer.Pool
	forwarder *forward.Forwarder
	promoter  *membership.Promoter
	gossip    *gossip.Pool
	keys      []identity.Secret // that gossip was opened with
	ring      atomic.Uint64     // index of the boot.state whose keys it uses
	dispatch  *dispatch.Dispatcher
	outputs   *output.Store
	depot     *depot.Service
	output    *output.Service
	calls     *calls
	services  *operator.Services
	trailer   grpc.UnaryServerInterceptor // puts index and age into the trailer
	server    *grpc.Server

	trustChanged chan struct{} // has a value when followTrust should look
	removalNews  chan struct{} // has a value when learnRemoval should look
	strangers    chan struct{} // has a value when a key was not known
	draining     atomic.Bool
	stopping     atomic.Bool
	stopped      chan struct{} // closed when stop has done all
}

// openMember opens everything that a member is made of, in the order in which one
// part needs the other. What was opened when a later step fails ends with the
// process.
func openMember(n *Node) (_ *member, err error) {
	logger := n.o.Logger
	boot, err := pki.LoadBootState(n.dir.Path(bootFile))
	if err != nil {
		return nil, err
	}
	m := &member{
		n: n, logger: logger, state: n.o.Surroundings.Machine,
		trustChanged: make(chan struct{}, 1), removalNews: make(chan struct{}, 1), strangers: make(chan struct{}, 1), stopped: make(chan struct{}),
	}
	if m.state == nil {
		m.state = fsm.New(fsm.Options{FeedChanges: n.o.Config.Feed.MaxChanges, FeedBytes: int(n.o.Config.Feed.MaxBytes)})
	}
	m.clock.wall = n.o.Surroundings.WallClock
	if m.ca, m.leaf, err = n.openIdentity(boot.Bundle.ClusterID, m.clock.moment); err != nil {
		return nil, err
	}
	if m.trust, err = openTrust(n.ID(), n.dir.Path(bootFile), boot, m.clock.moment, logger.Named("trust"), n.o.Fatal); err != nil {
		return nil, err
	}
	m.trust.changed = func() {
		signal(m.trustChanged)
		signal(m.removalNews)
	}
	ident := peer.Identity{Verifier: m.trust.verifier, Certificate: m.leaf.GetCertificate}
	prefaces := peer.Prefaces{
		Self:         m.preface,
		FeatureLevel: func() uint32 { return m.trust.state().FeatureLevel },
		Seen:         m.trust.memory.judge,
	}
	gone := func(id string) {
		if h := m.opened.Load(); h != nil {
			h.PeerGone(consensus.ServerID(id))
		}
	}
	stranger := func() { signal(m.strangers) }
	peerLog := consensus.Quiet(logger.Named("peer"))
	m.pool = peer.NewPool(peer.PoolOptions{
		Identity: ident, Prefaces: prefaces, Book: m.trust, Gone: gone, Stranger: stranger,
		Dial: n.o.Surroundings.Dial, Saw: m.trust.memory.saw, Logger: peerLog,
	})
	transport := consensus.NewTransport(&peer.Stream{
		Listener: n.port.Listener(identity.ProtocolRaft), Advertise: n.advertise, Identity: ident, Prefaces: prefaces,
		Book: m.trust, Gone: gone, Connect: n.o.Surroundings.Dial, Stranger: stranger, Logger: peerLog,
	}, m.trust, logger.Named("transport"))
	if err := m.openHost(transport); err != nil {
		return nil, err
	}
	m.promoter = membership.New(membership.Options{
		Servers: m.servers, Settle: (&settler{m: m}).settle, MaxVoters: n.o.Config.Voters, Logger: logger.Named("membership"),
		Promote: func(ctx context.Context, id string, index uint64) error {
			return m.host.Promote(ctx, consensus.ServerID(id), index)
		},
		Remove: func(ctx context.Context, id string, index uint64) error {
			return m.host.Remove(ctx, consensus.ServerID(id), index)
		},
	})
	m.forwarder = forward.New(forward.Options{NodeID: n.ID(), Local: m.host, Remote: m.pool, Hold: n.o.Config.HoldWithoutLeader, LeaderSeen: m.leaderSeen})
	if err := m.openGossip(boot); err != nil {
		return nil, err
	}
	if err := m.openServices(prefaces); err != nil {
		return nil, err
	}
	n.port.Use(ident)
	return m, nil
}

// preface is what this node says first to a peer. Before raft is open it has no term.
func (m *member) preface() *agentplanev1.Preface {
	var r consensus.TermReply
	if h := m.opened.Load(); h != nil {
		r = h.TermReply()
	}
	return m.trust.preface(m.n.level(), m.n.dir.Starts(), m.n.dir.StartIDs(), r.Term, r.LastIndex)
}

// openIdentity opens the node's CA and its own certificate in a cluster.
func (n *Node) openIdentity(clusterID string, clock identity.Clock) (*pki.CA, *pki.Leaf, error) {
	dir, err := n.dir.Subdir(pkiDir)
	if err != nil {
		return nil, nil, err
	}
	ca, err := pki.OpenCA(dir, identity.ID{Cluster: clusterID, Kind: identity.KindNode, Name: n.ID()}, clock)
	if err != nil {
		return nil, nil, err
	}
	leaf, err := pki.OpenLeaf(pki.LeafOptions{CA: ca, KeyPath: n.dir.Path(pkiDir, nodeKey), Log: configs.Slog(n.o.Logger.Named("leaf"))})
	if err != nil {
		return nil, nil, err
	}
	return ca, leaf, nil
}

func (m *member) openHost(transport consensus.Transport) error {
	c := m.n.o.Config
	profile, err := consensus.ParseProfile(c.Raft.Profile)
	if err != nil {
		return err
	}
	if p := m.n.o.Surroundings.Profile; p != (consensus.Profile{}) {
		profile = p
	}
	dir, err := m.n.dir.Subdir(raftDir)
	if err != nil {
		return err
	}
	m.host, err = consensus.Open(consensus.Options{
		NodeID: consensus.ServerID(m.n.ID()), Dir: dir, Log: c.Raft.LogStore, Disk: m.n.o.Surroundings.Disk, Transport: transport,
		FreeBytes: m.n.o.Surroundings.FreeBytes, WallClock: m.n.o.Surroundings.WallClock, Reckoned: m.clock.reckoned,
		Machine: machine{fsm.Raft{Machine: m.state}, m.trust, &m.clock}, Peers: m.pool, Profile: profile,
		SnapshotInterval: c.Raft.SnapshotInterval, SnapshotThreshold: uint64(c.Raft.SnapshotThreshold), TrailingLogs: uint64(c.Raft.TrailingLogs),
		MaxBatchMutations: c.Batch.MaxMutations, MaxBatchBytes: int(c.Batch.MaxBytes), MaxInFlight: c.Batch.MaxInFlight,
		RunOffice: m.runOffice, Fatal: m.n.o.Fatal, MaxClockDistance: c.Clock.MaxDistanceLeading, Logger: m.logger,
	})
	if err != nil {
		return err
	}
	m.opened.Store(m.host)
	if m.trust.state().Index > 0 {
		return nil
	}
	// A founder. When the process dies between writing boot.state and this, or
	// before the cluster's first entry, the next start comes by here again.
	if err := m.host.Bootstrap(); err != nil && !errors.Is(err, consensus.ErrHasState) {
		return err
	}
	return nil
}

func (m *member) openGossip(boot *pki.BootState) error {
	c := m.n.o.Config
	advertise := c.Gossip.Advertise
	if advertise == "" {
		host, _, err := net.SplitHostPort(m.n.advertise)
		if err != nil {
			return fmt.Errorf("advertised address %q: %w", m.n.advertise, err)
		}
		advertise = host
	}
	m.keys = boot.GossipKeyring
	m.ring.Store(boot.Index)
	var keys [][]byte
	for _, k := range m.keys {
		keys = append(keys, k.Reveal())
	}
	timing, err := gossip.Profile(c.Raft.Profile)
	if err != nil {
		return err
	}
	var transport gossip.Transport
	if m.n.o.Surroundings.Gossip != nil {
		transport = m.n.o.Surroundings.Gossip(advertise)
	}
	m.gossip, err = gossip.Open(gossip.Options{
		Transport: transport,
		NodeID:    m.n.ID(), Label: boot.Bundle.ClusterID, Meta: m.meta(), Keys: keys,
		BindAddr: c.Gossip.Listen, AdvertiseAddr: advertise, Peers: m.gossipPeers, Timing: timing, Logger: consensus.Quiet(m.logger.Named("gossip")),
	})
	if err != nil {
		return err
	}
	return m.n.writeAddresses(m.gossip.Addr(), m.gossip.AdvertiseAddr())
}

func (m *member) meta() gossip.Meta {
	return gossip.Meta{
		Name: m.n.name, APIAddr: m.n.advertise, Version: m.n.o.Version, FeatureLevel: m.n.level(),
		Incarnation: uint32(m.trust.state().Bundle.Incarnation.Number), Draining: m.draining.Load(),
	}
}

func (m *member) gossipPeers() []string {
	var addrs []string
	for node := range m.state.View().RegisteredNodes() {
		if node.GetId() != m.n.ID() && node.GetGossipAddress() != "" {
			addrs = append(addrs, node.GetGossipAddress())
		}
	}
	return addrs
}

// streamWorkers is how many goroutines answer calls one after the other; more calls at
// once get one of their own each, as without them, and so do calls beside sessions that
// hold a worker. A goroutine's stack must grow for each call that it answers first: a
// tenth of what a submission by a call of its own cost the leader.
const streamWorkers = 256

// openServices puts the API on the port.
func (m *member) openServices(prefaces peer.Prefaces) error {
	c := m.n.o.Config
	gate := authz.New(authz.Options{
		Identify: identify, View: m.state.View, CatchUp: m.catchUpBriefly,
		Hint: fmt.Sprintf("a majority of the voters must be up; on this node's own machine: agentctl cluster status --why --data-dir %s", m.n.o.Config.DataDir),
	})
	m.calls = &calls{gate: gate, forwarder: m.forwarder, office: m.office, remote: m.pool.Forward, methods: make(map[string]method)}
	unary, stream := operator.AppliedIndex(m.state, m.leaderSeen)
	m.trailer = unary
	m.server = grpc.NewServer(
		grpc.Creds(peer.ServerCredentials()),
		// Whoever may not call gets no further than the gate.
		grpc.ChainUnaryInterceptor(m.recovered, gate.Unary, prefaces.ServerInterceptor, unary, m.calls.interceptor),
		grpc.ChainStreamInterceptor(m.recoveredStream, gate.Stream, prefaces.ServerStreamInterceptor, stream),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: peer.MinKeepalive - time.Second, PermitWithoutStream: true}),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 30 * time.Second, Timeout: 10 * time.Second}),
		grpc.MaxRecvMsgSize(int(c.Limits.MessageBytes)),
		grpc.MaxConcurrentStreams(1024),
		grpc.NumStreamWorkers(streamWorkers),
	)
	var err error
	m.dispatch, err = dispatch.New(dispatch.Options{
		NodeID: m.n.ID(), StartCounter: m.n.dir.Starts(), Machine: m.state, Proposer: m.forwarder, CatchUp: m.catchUp,
		Caller: func(ctx context.Context) (string, []byte, error) {
			c := authz.From(ctx)
			return c.Name, c.Key, nil
		},
		Bundle:            func() *agentplanev1.Bundle { return operator.BundleOf(m.state.View()) },
		LeaderSeen:        m.leaderSeen,
		HeartbeatInterval: c.Agent.HeartbeatInterval, HeartbeatMisses: c.Agent.HeartbeatMisses,
		NodeDeathGrace: c.Agent.NodeDeathGrace, RebootGrace: c.Agent.RebootGrace,
		SessionsPerSecond: c.Admission.SessionsPerSecond, NoLeaderAfter: c.Agent.LeaderlessAfter, MaxMutations: c.Batch.MaxMutations, Logger: m.logger.Named("dispatch"),
	})
	if err != nil {
		return err
	}
	if err := m.openOutput(); err != nil {
		return err
	}
	if err := m.openDepot(); err != nil {
		return err
	}
	return m.register()
}

// identify answers who came over the port.
func identify(ctx context.Context) (authz.Caller, error) {
	p, ok := peer.Caller(ctx)
	if !ok {
		return authz.Caller{}, errors.New("the call did not come over the port")
	}
	return authz.Caller{Kind: string(p.ID.Kind), Name: p.ID.Name, Key: p.Key, RenewOnly: p.RenewOnly(), From: peer.From(ctx)}, nil
}

// office answers who leads, and whether it is this node.
func (m *member) office() (id, address string, here bool) {
	_, here = m.host.InOffice()
	leader, addr, _ := m.host.Leader()
	return string(leader), string(addr), here
}

// leaderSeen is when this node last had contact with a leader.
func (m *member) leaderSeen() time.Time {
	if _, ok := m.host.InOffice(); ok {
		return time.Now()
	}
	return m.host.Stats().LastContact
}

// catchUp returns when the state holds all that was acknowledged before the call.
func (m *member) catchUp(ctx context.Context) error {
	index, err := m.forwarder.Read(ctx)
	if err != nil {
		return err
	}
	return m.state.WaitPublished(ctx, index)
}

// callerPatience is how long a caller whom the state does not know waits for it to catch
// up: longer than an election. What such a caller wants is not held any longer, since
// it may be what tells that there is no leader.
const callerPatience = 2 * time.Second

func (m *member) catchUpBriefly(ctx context.Context) error {
	brief, cancel := context.WithTimeout(ctx, callerPatience)
	defer cancel()
	err := m.catchUp(brief)
	if errors.Is(err, forward.ErrNoLeader) && brief.Err() != nil && ctx.Err() == nil {
		return forward.ErrNoLeader // and not that the time is over
	}
	return err
}

// read answers a view that is linearizable unless stale is asked for.
func (m *member) read(ctx context.Context, stale bool) (*fsm.View, error) {
	if !stale {
		if err := m.catchUp(ctx); err != nil {
			return nil, refusal(err)
		}
		if err := m.calls.gate.Still(ctx); err != nil {
			return nil, err
		}
	}
	return m.state.View(), nil
}

// ready is what /readyz says.
func (m *member) ready() (string, bool) {
	s := m.host.Stats()
	switch {
	case m.draining.Load():
		return "draining", false
	case s.Leader == "":
		return "no leader", false
	case s.Published+membership.Lag < s.CommitIndex:
		return "catching up", false
	case m.state.View().Cluster().GetClusterId() == "":
		return "no cluster", false
	}
	return "ok", true
}

// run is the member's life: until stop ends and it has stopped in order, until life
// ends, or until a part fails.
func (m *member) run(stop, life context.Context) error {
	life, end := context.WithCancel(life)
	defer end()
	g, life := errgroup.WithContext(life)
	for name, run := range map[string]func(context.Context) error{
		"peers": m.pool.Run, "consensus": m.host.Run, "certificate": m.leaf.Run, "gossip": m.gossip.Run,
		"trust": m.followTrust, "strangers": m.askAboutStrangers, "dispatch": m.dispatch.Run,
		"output store": m.outputs.Run, "output": m.output.Run, "depot": m.depot.Run,
		"membership": m.becomeKnown, "memory": m.keepMemory, "removal": m.learnRemoval,
		"streams": func(ctx context.Context) error { return m.calls.gate.Run(ctx, m.state) },
		"api": func(ctx context.Context) error {
			return serveGRPC(ctx, m.server, m.n.port.Listener(identity.ProtocolGRPC))
		},
	} {
		g.Go(func() error {
			err := run(life)
			if life.Err() != nil {
				return nil
			}
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			return nil
		})
	}
	g.Go(func() error {
		select {
		case <-stop.Done():
			m.stop() //nolint:contextcheck // its steps have bounds of their own
			end()
		case <-life.Done():
		}
		return nil
	})
	err := g.Wait()
	return errors.Join(err, m.gossip.Close(), m.host.Close())
}

// stop is the written order of a planned stop. Each step has a bound and its failure
// does not keep the next from being tried. Whoever calls it again waits for the first.
func (m *member) stop() {
	if m.stopping.Swap(true) {
		<-m.stopped
		return
	}
	defer close(m.stopped)
	m.stopOnce()
}

func (m *member) stopOnce() {
	m.logger.Info("stopping: no longer ready")
	m.draining.Store(true)
	step := func(name string, bound time.Duration, f func(context.Context) error) {
		ctx, cancel := context.WithTimeout(context.Background(), bound)
		defer cancel()
		start := time.Now()
		err := f(ctx)
		about := []any{"took", time.Since(start).Round(time.Millisecond)}
		if err != nil {
			about = append(about, "err", err)
		}
		m.logger.Info("stopping: "+name, about...)
	}
	if err := m.gossip.SetMeta(m.meta()); err != nil {
		m.logger.Warn("cannot announce the stop", "err", err)
	}
	step("agents sent elsewhere", drainTimeout, m.dispatch.Drain)
	if _, ok := m.host.InOffice(); ok && len(m.voters()) > 1 {
		step("leadership handed over", transferTimeout, func(ctx context.Context) error { return m.host.Transfer(ctx, "") })
	}
	step("calls finished", callsTimeout, func(ctx context.Context) error {
		done := make(chan struct{})
		go func() {
			m.server.GracefulStop()
			close(done)
		}()
		select {
		case <-done:
		case <-ctx.Done():
			m.server.Stop()
			<-done
		}
		return nil
	})
	step("goodbye said to gossip", leaveTimeout, m.gossip.Leave)
}

func (m *member) voters() []string {
	cfg, _ := m.host.Configuration()
	var ids []string
	for _, s := range cfg.Servers {
		if s.Suffrage == consensus.Voter {
			ids = append(ids, string(s.ID))
		}
	}
	slices.Sort(ids)
	return ids
}

// serveGRPC serves until ctx ends, or until the node's stop has stopped the server, which
// may come before the server was begun. Where the server waits for handlers, none is left
// then.
func serveGRPC(ctx context.Context, s *grpc.Server, ln net.Listener) error {
	stop := context.AfterFunc(ctx, s.Stop)
	defer stop()
	err := s.Serve(ln)
	s.Stop() // Serve returns while an earlier Stop still waits
	if err != nil && ctx.Err() == nil && !errors.Is(err, net.ErrClosed) && !errors.Is(err, grpc.ErrServerStopped) {
		return fmt.Errorf("serve gRPC: %w", err)
	}
	return nil
}

// signal puts a value into a channel of one, if there is none.
func signal(ch chan<- struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

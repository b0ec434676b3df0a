package consensus

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

// Host is one node's raft with what surrounds it. All methods are safe for
// concurrent use once Open has returned.
type Host struct {
	opts  Options
	log   hclog.Logger
	disk  *Disk // guarded
	watch *watch
	raft  *raft.Raft
	gate  *gate
	will  *will

	compaction compaction
	tasks      tasks
	// forwarder ends with the gate, which raft closes when it has shut down.
	forwarder sync.WaitGroup

	notify chan bool // from raft; Run receives
	office atomic.Pointer[term]
	rounds *Rounds
	lost   lostLeaders

	stopping     atomic.Bool   // Run's ctx has ended
	transferring atomic.Uint64 // counts transfers, for their watchdogs

	fatalOnce sync.Once
	failed    chan struct{} // closed after fatalErr is set
	fatalErr  error

	closing   chan struct{} // closed first of all by Close
	closeOnce sync.Once
	closeErr  error

	subs subscribers

	// confirm is ReadIndex's round; tests put raft's own way in its place to show
	// that they would notice.
	confirm func(ctx context.Context) (uint64, error)
}

// Open opens and verifies the stores and starts raft, which then follows and votes.
// It leads only while Run runs. When Open fails, a Disk that was given is closed.
func Open(opts Options) (_ *Host, err error) {
	disk := opts.Disk
	defer func() {
		if err != nil && disk != nil {
			err = errors.Join(err, disk.Close())
		}
	}()
	opts, err = opts.withDefaults()
	if err != nil {
		return nil, err
	}
	if disk == nil {
		if disk, err = OpenDisk(opts.Dir, opts.Log, opts.SnapshotRetain, opts.Logger); err != nil {
			return nil, err
		}
	}
	h := &Host{
		opts:    opts,
		log:     opts.Logger.Named("consensus").With("node_id", string(opts.NodeID)),
		notify:  make(chan bool, 64),
		failed:  make(chan struct{}),
		closing: make(chan struct{}),
	}
	h.lost.kick = make(chan struct{}, 1)
	h.will = newWill(h)
	h.confirm = h.confirmation()
	// As long as a leader may be without its majority, and a little more.
	h.rounds = NewRounds(2*opts.Profile.Heartbeat, h.tasks.Go, func(ctx context.Context) (uint64, error) {
		if office, ok := h.InOffice(); ok && h.log.IsDebug() {
			h.log.Debug("read round begins", "term", office.Term) // a later term may lead by now
		}
		return h.confirm(ctx)
	})
	h.watch = newWatch(opts.StallAfter, h.fatal)
	guarded, err := guard(disk, h.watch, h.compaction.appended)
	if err != nil {
		return nil, err
	}
	h.disk, disk = guarded, guarded
	h.will.lookAtSpace()
	cache, err := raft.NewLogCache(logCacheEntries, guarded.Log)
	if err != nil {
		return nil, fmt.Errorf("open raft: %w", err)
	}
	in := newInstalls(guarded, cache, h.fatal, &h.compaction)
	h.gate = newGate(opts.Transport, h.will.mayCampaign, in, guarded.votes)
	h.raft, err = raft.NewRaft(opts.raftConfig(h.notify), opts.Machine, cache, guarded.Stable, in, h.gate)
	if err := in.begins(err); err != nil {
		return nil, err
	}
	h.forwarder.Go(h.gate.forward)
	h.observe()
	return h, nil
}

// fatal ends the process, once.
func (h *Host) fatal(err error) {
	h.fatalOnce.Do(func() {
		h.log.Error("the node cannot go on", "err", err)
		h.fatalErr = err
		close(h.failed)
		h.opts.Fatal(err)
	})
}

// Run leads when raft says so and watches disk, space, clocks and dead leaders. It
// returns when ctx ends, or with the cause when the node cannot go on. When it
// returns no leader-only loop runs. It may be called once.
func (h *Host) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { h.leadership(ctx) })
	wg.Go(func() { h.watchStores(ctx) })
	wg.Go(func() { h.will.run(ctx) })
	wg.Go(func() { h.failover(ctx) })
	wg.Go(func() { h.compact(ctx) })
	defer wg.Wait()
	defer cancel()
	select {
	case <-ctx.Done():
		return nil
	case <-h.closing:
		return nil
	case <-h.failed:
		return h.fatalErr
	}
}

// watchStores looks for store calls that hang.
func (h *Host) watchStores(ctx context.Context) {
	tick := time.NewTicker(max(h.opts.StallAfter/10, 10*time.Millisecond))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			h.watch.check()
		}
	}
}

// Close ends raft and closes transport and disk. Call it after Run has returned. A
// leader that can should Transfer before.
func (h *Host) Close() error {
	h.closeOnce.Do(func() {
		close(h.closing)
		// What raft has is answered now, or when it notices that it has lost its
		// majority; what lies in its queue to the state when it shuts down is
		// never answered.
		ended := h.tasks.Close()
		within(ended, h.drainTime(), h.failed)
		shutdown := h.raft.Shutdown()
		// raft waits for calls that are under way, and closes its transport only then.
		// Two nodes that stop at once would wait for each other until the calls time out.
		if c, ok := h.opts.Transport.(Cutter); ok {
			c.Cut()
		}
		h.watch.release()
		var err error
		down := make(chan struct{})
		go func() {
			defer close(down)
			err = shutdown.Error()
			h.forwarder.Wait()
		}()
		if !within(down, h.opts.StallAfter, nil) {
			// Its disk hangs. Closing files under it would help nobody.
			h.closeErr = fmt.Errorf("close: raft has not ended within %s", h.opts.StallAfter)
			return
		}
		if !within(ended, h.drainTime(), nil) {
			err = errors.Join(err, errors.New("close: raft has not answered everything"))
		}
		h.closeErr = errors.Join(err, h.disk.Close())
		h.subs.close()
	})
	return h.closeErr
}

// drainTime is how long raft may take until it has answered what it was given.
func (h *Host) drainTime() time.Duration { return 2*h.opts.Profile.Lease + time.Second }

// within waits for done, at most for d and until cut, and says whether it came.
func within(done <-chan struct{}, d time.Duration, cut <-chan struct{}) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-done:
		return true
	case <-cut:
	case <-t.C:
	}
	return false
}

// Leader says who leads. This node says so of itself only once it is in office.
func (h *Host) Leader() (id raft.ServerID, addr raft.ServerAddress, known bool) {
	addr, id = h.raft.LeaderWithID()
	if _, ok := h.InOffice(); id == h.opts.NodeID && !ok {
		return "", "", false
	}
	return id, addr, id != ""
}

// InOffice answers this node's office while it leads.
func (h *Host) InOffice() (Office, bool) {
	t := h.office.Load()
	if t == nil || h.raft.CurrentTerm() != t.Term || h.raft.State() != raft.Leader {
		return Office{}, false // also when raft knows already and the host does not
	}
	return t.Office, true
}

// notLeader is the error of a node that does not lead.
func (h *Host) notLeader() error {
	addr, id := h.raft.LeaderWithID()
	if id == h.opts.NodeID {
		return &NotLeaderError{TakingOffice: true}
	}
	return &NotLeaderError{LeaderID: id, LeaderAddress: addr}
}

// Propose puts muts into one entry, in their order, and returns what applying them
// on this node answered, one outcome for each. The error says whether nothing
// happened or nobody knows; an ended ctx matches ErrUnknown only when raft already
// had the entry. muts must not change until Propose has returned, nor afterwards
// when the outcome is unknown.
func (h *Host) Propose(ctx context.Context, muts ...*raftlogv1.Mutation) ([]*raftlogv1.Outcome, error) {
	select {
	case <-h.closing:
		return nil, ErrShutdown
	case <-h.failed:
		return nil, ErrShutdown
	default:
	}
	t := h.office.Load()
	if t == nil {
		return nil, h.notLeader()
	}
	return t.batch.propose(ctx, muts)
}

package agent

import (
	"context"
	"encoding/hex"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/agentplane/agentplane/agent/execute"
	"github.com/agentplane/agentplane/agent/journal"
	"github.com/agentplane/agentplane/agent/session"
	"github.com/agentplane/agentplane/configs"
	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
)

const (
	inboxSize   = 1024
	outboxSize  = 256
	tendEvery   = 15 * time.Second // resending, mending the journal
	resendAfter = 30 * time.Second
	sweepEvery  = time.Hour
	// maxRefused bounds the refusals that could not be journalled. At the bound nothing new
	// is understood at all until the journal lives.
	maxRefused = 64 << 10
)

type workerOptions struct {
	AgentID   string
	Name      string
	ClusterID string
	Slots     int
	Book      *book
	Runner    Runner
	Clock     *session.Clock
	// Now is the cluster's time in Unix nanoseconds; before the first Welcome the host's, which
	// then only dates records.
	Now      func() int64
	Settings func() configs.Agent
	Policy   Policy
	Output   outputShelf
	Contents *contents // of what commands bring along; nil when there is none
	Logger   hclog.Logger
}

// worker is where deliveries become attempts, and attempts reports. See the package
// comment.
type worker struct {
	o       workerOptions
	inbox   chan *agentplanev1.SessionResponse // session to Run; never closed
	reports chan *agentplanev1.Report          // to the session; never closed
	freed   chan struct{}                      // a slot is free; holds one
	fetched chan *fetching                     // from those that fetch to Run; never closed
	group   sync.WaitGroup                     // the followers of attempts

	mu       sync.Mutex // guards what follows; never held while the disk is waited for
	grant    session.Grant
	running  map[journal.Key]*attempt
	waiting  []*order                             // claims without a slot, oldest first
	fetching map[journal.Key]*fetching            // claims whose files are on their way
	refused  map[journal.Key]*agentplanev1.Report // refusals that could not be journalled
	told     map[journal.Key]*told                // ends that were told and not confirmed
	fences   map[journal.Key]uint64               // of attempts canceled before they were known
}

// attempt is one that has been started and not ended.
type attempt struct {
	run      Run
	fence    uint64
	adopted  bool
	canceled bool          // guarded by worker.mu
	stepped  chan struct{} // of one with steps: a further one is about to begin; holds one
}

// told is the first and the last report of an end.
type told struct {
	seq     uint64 // journal number of the first: a confirmation below it is of RUNNING
	at      time.Time
	tooLate bool // a cancel came after it had ended
}

func newWorker(o workerOptions) *worker {
	w := &worker{
		o:        o,
		inbox:    make(chan *agentplanev1.SessionResponse, inboxSize),
		reports:  make(chan *agentplanev1.Report, outboxSize),
		freed:    make(chan struct{}, 1),
		fetched:  make(chan *fetching),
		fetching: map[journal.Key]*fetching{},
		running:  map[journal.Key]*attempt{},
		refused:  map[journal.Key]*agentplanev1.Report{},
		told:     map[journal.Key]*told{},
		fences:   map[journal.Key]uint64{},
	}
	if o.Book != nil {
		o.Book.stepped, o.Book.awaited = w.stepped, w.tellRunning
	}
	return w
}

// Run works until ctx ends; the supervisors of running programs go on. Adopt comes first.
func (w *worker) Run(ctx context.Context) error {
	defer w.group.Wait()
	tend, sweep := time.NewTicker(tendEvery), time.NewTicker(sweepEvery)
	defer tend.Stop()
	defer sweep.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case m := <-w.inbox:
			w.take(ctx, m)
		case <-w.freed:
		case f := <-w.fetched:
			w.arrived(ctx, f)
		case <-tend.C:
			w.tend()
		case <-sweep.C:
			w.sweep()
		}
		w.startWaiting(ctx)
	}
}

// Adopt follows every attempt that an earlier life of agentd has started.
func (w *worker) Adopt(ctx context.Context) {
	for _, r := range w.o.Book.now().OpenRecords() {
		if r.Ended() {
			continue
		}
		run, err := w.o.Runner.Adopt(execute.Attempt{InvocationID: r.InvocationID, Number: r.Attempt})
		if err != nil { // its id was fit for a directory when it was started
			w.o.Logger.Error("attempt not adopted", "invocation_id", r.InvocationID, "attempt", r.Attempt, "err", err)
			continue
		}
		w.o.Logger.Info("attempt adopted", "invocation_id", r.InvocationID, "attempt", r.Attempt)
		w.follow(ctx, r.Key, &attempt{run: run, fence: r.Fence, adopted: true}, len(r.Steps) > 0)
	}
}

// take handles one message, and with a confirmation all that follow it at once: they share
// an fsync.
func (w *worker) take(ctx context.Context, m *agentplanev1.SessionResponse) {
	for m != nil {
		if c := m.GetConfirm(); c != nil {
			m = w.confirm(c)
			continue
		}
		switch b := m.GetMessage().(type) {
		case *agentplanev1.SessionResponse_Deliver:
			w.deliver(ctx, b.Deliver)
		case *agentplanev1.SessionResponse_Cancel:
			w.cancel(b.Cancel)
		case *agentplanev1.SessionResponse_Keep:
			w.keep(b.Keep)
		case *agentplanev1.SessionResponse_Ask:
			w.ask(b.Ask)
		}
		return
	}
}

// Offer queues a message of the session.
func (w *worker) Offer(m *agentplanev1.SessionResponse) bool {
	select {
	case w.inbox <- m:
		return true
	default:
		return false
	}
}

// Reports gives what is to be said.
func (w *worker) Reports() <-chan *agentplanev1.Report { return w.reports }

// Rebooting says whether a program that runs here has announced a reboot of the host.
func (w *worker) Rebooting() bool {
	w.mu.Lock()
	var all []Run
	for _, a := range w.running {
		all = append(all, a.run)
	}
	w.mu.Unlock()
	return slices.ContainsFunc(all, func(r Run) bool {
		run, can := r.(interface{ Announced() bool })
		return can && run.Announced()
	})
}

// Running counts the attempts that run.
func (w *worker) Running() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.running)
}

// Incarnation is that of the last session epoch journalled.
func (w *worker) Incarnation() *agentplanev1.Incarnation {
	e := w.o.Book.now().Prev()
	if e.Session == 0 {
		return nil
	}
	id, _ := hex.DecodeString(e.IncarnationID) // written by Begin
	return &agentplanev1.Incarnation{Number: uint32(e.Incarnation), Id: id}
}

// Standing is what Hello says of the journal, which is all there is to say of it. What waits to
// be told may be of an earlier journal, whose numbers would be taken for those of this one: the
// cluster would wait for records that this one does not have, and quarantine the agent.
func (w *worker) Standing() (session.Standing, error) {
	j := w.o.Book.now()
	w.recall()
	var open []*agentplanev1.Report
	before := j.Seq()
	for _, r := range j.OpenRecords() {
		open = append(open, w.report(j, r, before))
	}
	floor, _ := j.Floor()
	id := j.ID()
	return session.Standing{
		// The number is read after the records: it is never below what they tell.
		Journal:  &agentplanev1.JournalState{Id: id[:], Floor: floor, Seq: j.Seq()},
		Previous: j.Prev().Session,
		Open:     open,
	}, nil
}

// Begin makes the grant durable. Claims of earlier sessions that still wait are forgotten:
// the node sends them again under this epoch.
func (w *worker) Begin(g session.Grant) error {
	if err := w.o.Book.mend(); err != nil {
		return err
	}
	j := w.o.Book.now()
	if _, known := j.Floor(); !known {
		if err := j.SetFloor(g.Now); err != nil {
			return err
		}
	}
	err := j.SetEpoch(journal.Epoch{
		Incarnation: uint64(g.Incarnation.GetNumber()), IncarnationID: hex.EncodeToString(g.Incarnation.GetId()), Session: g.Epoch,
	})
	if err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.grant, w.waiting = g, nil
	w.stopFetchesLocked()
	return nil
}

// Rotate begins a new journal. Attempts that run go on under their supervisors; their
// results have nowhere to go, since the cluster has called them LOST.
func (w *worker) Rotate(now int64) error {
	if err := w.o.Book.rotate(); err != nil {
		return err
	}
	w.mu.Lock()
	w.grant, w.waiting = session.Grant{}, nil
	w.stopFetchesLocked()
	clear(w.told)
	clear(w.fences)
	clear(w.refused) // nobody asks any more
	w.mu.Unlock()
	return w.o.Book.now().SetFloor(now)
}

// follow waits for the attempt's end in a goroutine, and tells in another one which of its
// steps is at hand, if it has some.
func (w *worker) follow(ctx context.Context, k journal.Key, a *attempt, steps bool) {
	if steps {
		a.stepped = make(chan struct{}, 1)
	}
	w.mu.Lock()
	w.running[k] = a
	w.mu.Unlock()
	w.group.Go(func() {
		ctx, over := context.WithCancel(ctx)
		defer over()
		if steps {
			w.group.Go(func() { w.tellSteps(ctx, k, a) })
		}
		w.wait(ctx, k, a)
	})
}

// stepped says that a further step of an attempt is about to begin.
func (w *worker) stepped(k journal.Key) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if a := w.running[k]; a != nil && a.stepped != nil {
		select {
		case a.stepped <- struct{}{}:
		default: // it is to be told already
		}
	}
}

// tellSteps tells how far an attempt is, until it has ended. Steps that end at once are told
// with the next, or with the end.
func (w *worker) tellSteps(ctx context.Context, k journal.Key, a *attempt) {
	for {
		select {
		case <-a.stepped:
		case <-ctx.Done():
			return
		}
		if !pauseFor(ctx, tellRunningAfter) {
			return
		}
		w.tellRunning(k)
	}
}

// tellRunningAfter is how long a program must run to be reported as RUNNING.
const tellRunningAfter = 200 * time.Millisecond

func (w *worker) wait(ctx context.Context, k journal.Key, a *attempt) {
	log := w.o.Logger.With("invocation_id", k.InvocationID, "attempt", k.Attempt)
	first, cancel := context.WithTimeout(ctx, tellRunningAfter)
	res, err := a.run.Wait(first)
	cancel()
	if err != nil && ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded) {
		w.tellRunning(k)
		w.o.Output.started(k, a.adopted)
		res, err = a.run.Wait(ctx)
	}
	for pause := 100 * time.Millisecond; err != nil && !errors.Is(err, errOtherJournal); pause = min(2*pause, 10*time.Second) {
		if ctx.Err() != nil {
			return // the supervisor goes on; the next start adopts it
		}
		log.Error("the attempt's end cannot be taken yet", "err", err)
		if !pauseFor(ctx, pause) {
			return
		}
		res, err = a.run.Wait(ctx)
	}
	w.mu.Lock()
	delete(w.running, k)
	canceled := a.canceled
	w.mu.Unlock()
	defer w.free()
	if err != nil {
		log.Warn("the result is not reported", "state", string(res.State), "err", err)
		w.o.Output.forget(k)
		return
	}
	log.Info("attempt ended", "state", string(res.State), "reason", res.Reason, "exit_code", res.ExitCode)
	w.tellEnd(k, canceled)
	w.outputEnded(k, a.adopted)
}

func pauseFor(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// free says that a slot is free.
func (w *worker) free() {
	select {
	case w.freed <- struct{}{}:
	default: // said already
	}
}

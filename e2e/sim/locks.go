package sim

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/agentplane/agentplane/e2e/linear"
	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/client"
)

const (
	// semaphore is a lock of the fleet of which commands and operators take places, budget
	// one that lets a single program run on the first of the agents, hostLock one of hosts.
	semaphore = "sem"
	budget    = "one"
	hostLock  = "apt"
	budgetsOf = "agent-1"

	// rivals are the operators who contend for locks, each of which has so many places, and
	// lockOps how many operations there are on one before another takes its place.
	rivals      = 2
	rivalPlaces = 1
	lockOps     = 32

	// longLease is longer than any life, whatever clocks do; shortLease may end by itself.
	longLease  = 10 * time.Minute
	shortLease = time.Second
)

// locks are what operators were told of locks of the fleet. They are safe for concurrent
// use.
type locks struct {
	places int // of the semaphore
	began  time.Time

	mu       sync.Mutex // guards what follows; never held while waiting
	holdings []holding
	ops      []linear.LockOp
}

// holding is a time for which somebody relied on a place.
type holding struct {
	who         string
	from, until time.Time
}

// makeLocks makes the semaphore and the budget.
func (o *operators) makeLocks(ctx context.Context) error {
	l := &o.w.locks
	rng := rand.New(rand.NewPCG(o.w.seed, 0x6c6f636b))
	l.places, l.began = 1+rng.IntN(2), time.Now()
	for _, req := range []*agentplanev1.CreateLockRequest{
		{Name: semaphore, Limit: uint32(l.places)}, {Name: budget, Limit: 1, Selector: fmt.Sprintf("name == %q", budgetsOf)},
	} {
		if _, _, err := o.clients[0].CreateLock(ctx, req); err != nil {
			return fmt.Errorf("make lock %s: %w", req.Name, err)
		}
	}
	return nil
}

// lockUp gives some commands a lock of the host, or the host for themselves, and where it
// is the life's trade the semaphore.
func (o *operators) lockUp(rng *rand.Rand, spec *agentplanev1.CommandSpec) {
	switch n := rng.IntN(12); {
	case n == 0:
		spec.Exclusive = true
	case n < 3:
		spec.Locks = []string{hostLock}
	}
	if o.w.trade == tradeLocks && rng.IntN(3) == 0 {
		spec.FleetLocks = []string{semaphore}
	}
}

// lease takes places of the semaphore beside the commands until ctx ends. Those of short
// leases are left to end by themselves: only the audit judges them. For as long as a long
// one is not given back nobody else may have its place.
func (o *operators) lease(ctx context.Context) {
	d := o.desk(0x6c73)
	defer d.close()
	for ctx.Err() == nil {
		time.Sleep(time.Duration(200+d.rng.IntN(1500)) * time.Millisecond)
		d.turn(ctx, 1, func(c *client.Client) {
			ttl, id := longLease, o.madeID()
			if d.rng.IntN(3) == 0 {
				ttl = shortLease
			}
			one, cancel := context.WithTimeout(ctx, 3*time.Second)
			fence, err := c.AcquireLock(one, &agentplanev1.AcquireLockRequest{Name: semaphore, LeaseId: id, Ttl: int64(ttl), WaitMs: 1000})
			cancel()
			o.told("take a place of "+semaphore, err)
			switch {
			case err == nil && ttl == longLease:
				h := holding{who: fmt.Sprintf("lease %s with fence %d", id, fence), from: time.Now()}
				time.Sleep(time.Duration(d.rng.IntN(1500)) * time.Millisecond)
				h.until = time.Now()
				o.w.locks.mu.Lock()
				o.w.locks.holdings = append(o.w.locks.holdings, h)
				o.w.locks.mu.Unlock()
			case err == nil, client.AsError(err).Reason == "locked":
				return
			}
			o.giveBack(id) //nolint:contextcheck // also when the work is over
		})
	}
}

// giveBack gives a place of the semaphore back, however long that takes.
func (o *operators) giveBack(id string) {
	for o.w.ctx.Err() == nil {
		ctx, cancel := context.WithTimeout(o.w.ctx, 3*time.Second)
		err := o.clients[0].ReleaseLock(ctx, semaphore, id)
		cancel()
		if o.told("give back a place of "+semaphore, err); err == nil {
			return
		}
		time.Sleep(300 * time.Millisecond)
	}
}

// told notes an answer to a write of which nothing else is kept.
func (o *operators) told(what string, err error) {
	o.heed(err)
	if err == nil {
		o.mu.Lock()
		o.writes++
		o.mu.Unlock()
	}
	o.w.trace.Note("operator", "%s: %v", what, err)
}

// madeID is an id for something of an operator.
func (o *operators) madeID() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.serial++
	return madeID(o.w.newest().Now(), o.serial)
}

// contend takes, renews and gives back the places of one lock after the other, and notes
// for porcupine what it is told.
func (o *operators) contend(ctx context.Context, number int) {
	d := o.desk(0x636f + uint64(number))
	defer d.close()
	for ctx.Err() == nil {
		d.turn(ctx, perTurn, func(c *client.Client) {
			time.Sleep(time.Duration(400+d.rng.IntN(2000)) * time.Millisecond)
			op := linear.LockOp{Client: number, Lock: o.w.locks.current(), Kind: linear.Acquire, Lease: o.madeID()}
			held := o.lock(ctx, c, d.rng, op)
			op.Kind = linear.Holders
			o.lock(ctx, d.any(), d.rng, op)
			op.Kind = linear.Renew
			for held && d.rng.IntN(2) == 0 {
				o.lock(ctx, c, d.rng, op)
			}
			op.Kind = linear.Release
			for held && ctx.Err() == nil && !o.lock(ctx, c, d.rng, op) {
				time.Sleep(100 * time.Millisecond)
			}
		})
	}
}

func (l *locks) current() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return fmt.Sprint("rivals-", len(l.ops)/lockOps)
}

// lock does one operation; false when it is known to have done nothing.
func (o *operators) lock(ctx context.Context, c *client.Client, rng *rand.Rand, op linear.LockOp) bool {
	ctx, cancel := context.WithTimeout(ctx, time.Duration(300+rng.IntN(5000))*time.Millisecond)
	defer cancel()
	l := &o.w.locks
	var err error
	op.Call = time.Since(l.began)
	switch op.Kind {
	case linear.Acquire:
		op.Fence, err = c.AcquireLock(ctx, &agentplanev1.AcquireLockRequest{Name: op.Lock, LeaseId: op.Lease, Ttl: int64(longLease), Limit: rivalPlaces})
	case linear.Renew:
		err = c.RenewLock(ctx, op.Lock, op.Lease)
	case linear.Release:
		err = c.ReleaseLock(ctx, op.Lock, op.Lease)
	default:
		var row *agentplanev1.Lock
		row, err = c.Lock(ctx, op.Lock)
		for _, h := range row.GetHolders() {
			op.Saw = append(op.Saw, fmt.Sprint(h.GetLeaseId(), "=", h.GetFence()))
		}
		slices.Sort(op.Saw)
	}
	op.End = time.Since(l.began)
	o.heed(err)
	if err != nil {
		switch e := client.AsError(err); {
		case e.OutcomeUnknown && op.Kind != linear.Holders:
			op.Answer = linear.Unknown
		case e.Reason == "locked":
			op.Answer = linear.Conflict
		case e.Reason == "lease_over", e.Reason == "lease_lost":
			op.Answer = linear.Absent
		case op.Kind == linear.Holders && e.Reason == "no_lock": // nobody holds it
		default:
			if !nothingDone(e) {
				o.w.fault("%s: %v", op, err)
			}
			return false
		}
	}
	o.w.trace.Note("operator", "%s", op)
	l.mu.Lock()
	l.ops = append(l.ops, op)
	l.mu.Unlock()
	o.mu.Lock()
	defer o.mu.Unlock()
	switch {
	case op.Kind == linear.Holders:
		o.reads++
	case err == nil:
		o.writes++
	}
	return op.Answer == linear.OK || op.Answer == linear.Unknown
}

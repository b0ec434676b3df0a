package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/google/uuid"
	"google.golang.org/grpc/codes"

	"github.com/agentplane/agentplane/e2e/linear"
	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/client"
)

const (
	lockClients = 3
	// lockPlaces is how many may hold a lock, so that some have to be told that it is taken.
	lockPlaces = 2
	// lockOps is how many operations there are on one lock before another takes its place.
	lockOps = 40
)

// lockRecorder lets clients take and give back places of one lock after the other, and
// writes down what they are told.
type lockRecorder struct {
	s      *stream
	began  time.Time
	pace   int  // how many times as long as usual a client thinks; 0 is 1
	clocks bool // as of a recorder

	mu   sync.Mutex // guards what follows
	ops  []linear.LockOp
	lock int
}

func (r *lockRecorder) note(o linear.LockOp) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ops = append(r.ops, o); len(r.ops)%lockOps == 0 {
		r.lock++
	}
}

func (r *lockRecorder) current() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return fmt.Sprint("history-", r.lock)
}

// work is one client, until the stream's stop.
func (r *lockRecorder) work(number int, rng *rand.Rand) {
	for {
		c, err := r.s.client(number + rng.IntN(2))
		if err != nil {
			r.s.oddity("make a client: %v", err)
			return
		}
		for range perClient {
			if !r.s.pause(time.Duration(max(r.pace, 1)*(20+rng.IntN(60))) * time.Millisecond) {
				_ = c.Close()
				return
			}
			r.hold(number, rng, agentplanev1.NewLockServiceClient(c))
		}
		_ = c.Close()
	}
}

// hold takes a place, looks, and gives it back: also one that it may not have.
func (r *lockRecorder) hold(number int, rng *rand.Rand, locks agentplanev1.LockServiceClient) {
	id, err := uuid.NewV7()
	if err != nil {
		panic(err) // the kernel's random numbers
	}
	lock := r.current()
	taken := r.do(linear.LockOp{Client: number, Lock: lock, Kind: linear.Acquire, Lease: id.String()}, rng, locks)
	r.do(linear.LockOp{Client: number, Lock: lock, Kind: linear.Holders}, rng, locks)
	if taken {
		if rng.IntN(2) == 0 {
			r.do(linear.LockOp{Client: number, Lock: lock, Kind: linear.Renew, Lease: id.String()}, rng, locks)
		}
		r.s.pause(time.Duration(rng.IntN(60)) * time.Millisecond)
		for n := 0; n < 20 && !r.do(linear.LockOp{Client: number, Lock: lock, Kind: linear.Release, Lease: id.String()}, rng, locks); n++ {
			r.s.pause(50 * time.Millisecond)
		}
	}
}

// do does one operation; false when it is known to have done nothing.
func (r *lockRecorder) do(o linear.LockOp, rng *rand.Rand, locks agentplanev1.LockServiceClient) bool {
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(200+rng.IntN(8000))*time.Millisecond)
	defer cancel()
	var err error
	o.Call = time.Since(r.began)
	switch o.Kind {
	case linear.Acquire:
		var a *agentplanev1.AcquireLockResponse
		a, err = locks.AcquireLock(ctx, &agentplanev1.AcquireLockRequest{Name: o.Lock, LeaseId: o.Lease, Ttl: int64(24 * time.Hour), Limit: lockPlaces})
		o.Fence = a.GetFence()
	case linear.Renew:
		_, err = locks.RenewLock(ctx, &agentplanev1.RenewLockRequest{Name: o.Lock, LeaseId: o.Lease})
	case linear.Release:
		_, err = locks.ReleaseLock(ctx, &agentplanev1.ReleaseLockRequest{Name: o.Lock, LeaseId: o.Lease})
	default:
		var a *agentplanev1.GetLockResponse
		a, err = locks.GetLock(ctx, &agentplanev1.GetLockRequest{Name: o.Lock})
		for _, h := range a.GetLock().GetHolders() {
			o.Saw = append(o.Saw, fmt.Sprint(h.GetLeaseId(), "=", h.GetFence()))
		}
		slices.Sort(o.Saw)
	}
	o.End = time.Since(r.began)
	if err != nil {
		switch e := client.AsError(err); {
		case e.OutcomeUnknown && o.Kind != linear.Holders:
			o.Answer = linear.Unknown
		case e.Reason == "locked":
			o.Answer = linear.Conflict
		case e.Reason == "lease_over", e.Reason == "lease_lost":
			o.Answer = linear.Absent
		case o.Kind == linear.Holders && e.Reason == "no_lock": // nobody holds it
		case r.clocks && e.Reason == "certificate_expired", e.Code == codes.Unavailable, e.Code == codes.DeadlineExceeded, e.Code == codes.Canceled, e.Code == codes.ResourceExhausted:
			return false
		default:
			r.s.oddity("%s: %v", o, err)
			return false
		}
	}
	r.note(o)
	return o.Answer == linear.OK || o.Answer == linear.Unknown
}

// judge says what is wrong with the history, or why it proves nothing.
func (r *lockRecorder) judge(t *testing.T, page string) (void string) {
	t.Helper()
	kinds := make(map[string]int)
	for _, o := range r.ops {
		kinds[fmt.Sprint(o.Kind, " ", o.Answer)]++
	}
	t.Logf("%d operations on %d locks (%v)", len(r.ops), r.lock+1, kinds)
	for _, want := range []string{"acquire ok", "acquire conflict", "renew ok", "release ok", "holders ok"} {
		if kinds[want] == 0 {
			return fmt.Sprintf("no operation %q", want)
		}
	}
	switch result, err := linear.JudgeLocks(r.ops, lockPlaces, page); {
	case err != nil:
		t.Fatal(err)
	case result == porcupine.Unknown:
		return "porcupine came to no end of the history of locks"
	case result == porcupine.Illegal:
		t.Errorf("the history of locks is not linearizable; it is drawn in %s", page)
	}
	return ""
}

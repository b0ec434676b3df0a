package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/google/uuid"
	"google.golang.org/grpc/codes"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/client"
)

// The operations on one lock of the fleet.
const (
	opAcquire = "acquire"
	opRelease = "release"
	opHolders = "holders"
)

const (
	lockClients = 3
	// lockPlaces is how many may hold a lock, so that some have to be told that it is taken.
	lockPlaces = 2
	// lockOps is how many operations there are on one lock before another takes its place.
	lockOps = 40
)

// lockOp is one call of one client: what it asked and what it was told.
type lockOp struct {
	client    int
	lock      string
	kind      string
	lease     string
	call, end time.Duration

	answer answer // conflict: there was no place; absent: the lease is over
	fence  uint64
	saw    []string // leases with their fences
}

func (o lockOp) String() string {
	return fmt.Sprintf("client %d: %s %s %s = %d (fence %d, saw %v)", o.client, o.kind, o.lock, o.lease, o.answer, o.fence, o.saw)
}

// lockState is one lock, as the specification has it: who holds it, with which fence (0 =
// nobody was told), who holds it no more, and the highest fence that anybody was told.
type lockState struct {
	held map[string]uint64
	over map[string]bool
	top  uint64
}

func (s lockState) clone() lockState {
	c := lockState{held: make(map[string]uint64), over: make(map[string]bool), top: s.top}
	for k, v := range s.held {
		c.held[k] = v
	}
	for k := range s.over {
		c.over[k] = true
	}
	return c
}

// key is the state as a text, by which porcupine knows it again.
func (s lockState) key() string { return fmt.Sprint(s.held, s.over, s.top) }

// lockModel is the specification: no more than its places are held, each grant has a
// higher fence than all before, and a lease that is over holds nothing ever again.
var lockModel = porcupine.Model{
	Partition: func(history []porcupine.Operation) (parts [][]porcupine.Operation) {
		at := make(map[string]int)
		for _, o := range history {
			lock := o.Input.(lockOp).lock
			n, seen := at[lock]
			if !seen {
				n = len(parts)
				at[lock] = n
				parts = append(parts, nil)
			}
			parts[n] = append(parts[n], o)
		}
		return parts
	},
	Init:              func() any { return lockState{} },
	Step:              func(state, input, _ any) (bool, any) { return lockStep(state.(lockState), input.(lockOp)) },
	Equal:             func(a, b any) bool { return a.(lockState).key() == b.(lockState).key() },
	DescribeOperation: func(input, _ any) string { return input.(lockOp).String() },
}

// lockStep says whether the answer is right where the state is s, and what it is then.
func lockStep(s lockState, o lockOp) (bool, lockState) {
	next := s.clone()
	fence, holds := s.held[o.lease]
	switch o.kind {
	case opAcquire:
		switch {
		case o.answer == answerConflict:
			return !holds && !s.over[o.lease] && len(s.held) == lockPlaces, s
		case o.answer == answerAbsent:
			return s.over[o.lease], s
		case o.answer == answerUnknown && (holds || s.over[o.lease] || len(s.held) == lockPlaces):
			return true, s
		case o.answer == answerUnknown:
			next.held[o.lease] = 0
			return true, next
		case holds && fence == o.fence:
			return true, s
		}
		if s.over[o.lease] || (!holds && len(s.held) == lockPlaces) || (holds && fence != 0) || (!holds && o.fence <= s.top) {
			return false, s
		}
		next.held[o.lease], next.top = o.fence, max(s.top, o.fence)
		return true, next
	case opRelease:
		delete(next.held, o.lease)
		next.over[o.lease] = true
		return true, next
	default:
		if len(o.saw) != len(s.held) {
			return false, s
		}
		for _, h := range o.saw {
			lease, seen, _ := strings.Cut(h, "=")
			if fence, holds := s.held[lease]; !holds || fence != 0 && fmt.Sprint(fence) != seen {
				return false, s
			}
		}
		return true, s
	}
}

// judgeLocks checks a history of operations on locks.
func judgeLocks(ops []lockOp, page string) (porcupine.CheckResult, error) {
	last := time.Duration(0)
	for _, o := range ops {
		last = max(last, o.end)
	}
	var history []porcupine.Operation
	for _, o := range ops {
		end := o.end
		if o.answer == answerUnknown {
			end = last + 1
		}
		history = append(history, porcupine.Operation{ClientId: o.client, Input: o, Call: int64(o.call), Return: int64(end)})
	}
	result, info := porcupine.CheckOperationsVerbose(lockModel, history, checkBound)
	if result == porcupine.Ok || page == "" {
		return result, nil
	}
	return result, porcupine.VisualizePath(lockModel, info, page)
}

// A judge that lets everything pass judges nothing.
func TestLockJudge(t *testing.T) {
	at := func(call, end int, o lockOp) lockOp {
		o.client, o.lock, o.call, o.end = call, "l", time.Duration(call), time.Duration(end)
		return o
	}
	acquire := func(lease string, fence uint64) lockOp { return lockOp{kind: opAcquire, lease: lease, fence: fence} }
	none := func(lease string) lockOp { return lockOp{kind: opAcquire, lease: lease, answer: answerConflict} }
	lost := func(lease string) lockOp { return lockOp{kind: opAcquire, lease: lease, answer: answerUnknown} }
	release := func(lease string) lockOp { return lockOp{kind: opRelease, lease: lease} }
	saw := func(all ...string) lockOp { return lockOp{kind: opHolders, saw: all} }
	for _, c := range []struct {
		name  string
		ops   []lockOp
		legal bool
	}{
		{"a life", []lockOp{at(1, 2, acquire("a", 5)), at(3, 4, acquire("b", 6)), at(5, 6, none("c")), at(7, 8, release("a")), at(9, 10, acquire("c", 7)), at(11, 12, saw("b=6", "c=7"))}, true},
		{"the same lease again", []lockOp{at(1, 2, acquire("a", 5)), at(3, 4, acquire("a", 5))}, true},
		{"an unknown one that took effect", []lockOp{at(1, 2, lost("a")), at(3, 4, saw("a=5")), at(5, 6, acquire("a", 5))}, true},
		{"an unknown one that did not", []lockOp{at(1, 2, lost("a")), at(3, 4, saw())}, true},
		{"one place too many", []lockOp{at(1, 2, acquire("a", 5)), at(3, 4, acquire("b", 6)), at(5, 6, acquire("c", 7))}, false},
		{"a fence that is not higher", []lockOp{at(1, 2, acquire("a", 5)), at(3, 4, release("a")), at(5, 6, acquire("b", 5))}, false},
		{"another fence for the same lease", []lockOp{at(1, 2, acquire("a", 5)), at(3, 4, acquire("a", 6))}, false},
		{"refused with a place free", []lockOp{at(1, 2, acquire("a", 5)), at(3, 4, none("b"))}, false},
		{"a stale list", []lockOp{at(1, 2, acquire("a", 5)), at(3, 4, saw())}, false},
		{"back after the release", []lockOp{at(1, 2, lost("a")), at(3, 4, release("a")), at(5, 6, saw("a=5"))}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			result, err := judgeLocks(c.ops, "")
			if legal := result == porcupine.Ok; err != nil || legal != c.legal {
				t.Errorf("the judge says %v (%v), want legal = %v", result, err, c.legal)
			}
		})
	}
}

// lockRecorder lets clients take and give back places of one lock after the other, and
// writes down what they are told.
type lockRecorder struct {
	s     *stream
	began time.Time

	mu   sync.Mutex // guards what follows
	ops  []lockOp
	lock int
}

func (r *lockRecorder) note(o lockOp) {
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
			if !r.s.pause(time.Duration(20+rng.IntN(60)) * time.Millisecond) {
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
	taken := r.do(lockOp{client: number, lock: lock, kind: opAcquire, lease: id.String()}, rng, locks)
	r.do(lockOp{client: number, lock: lock, kind: opHolders}, rng, locks)
	if taken {
		r.s.pause(time.Duration(rng.IntN(60)) * time.Millisecond)
		for n := 0; n < 20 && !r.do(lockOp{client: number, lock: lock, kind: opRelease, lease: id.String()}, rng, locks); n++ {
			r.s.pause(50 * time.Millisecond)
		}
	}
}

// do does one operation; false when it is known to have done nothing.
func (r *lockRecorder) do(o lockOp, rng *rand.Rand, locks agentplanev1.LockServiceClient) bool {
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(200+rng.IntN(8000))*time.Millisecond)
	defer cancel()
	var err error
	o.call = time.Since(r.began)
	switch o.kind {
	case opAcquire:
		var a *agentplanev1.AcquireLockResponse
		a, err = locks.AcquireLock(ctx, &agentplanev1.AcquireLockRequest{Name: o.lock, LeaseId: o.lease, Ttl: int64(time.Hour), Limit: lockPlaces})
		o.fence = a.GetFence()
	case opRelease:
		_, err = locks.ReleaseLock(ctx, &agentplanev1.ReleaseLockRequest{Name: o.lock, LeaseId: o.lease})
	default:
		var a *agentplanev1.GetLockResponse
		a, err = locks.GetLock(ctx, &agentplanev1.GetLockRequest{Name: o.lock})
		for _, h := range a.GetLock().GetHolders() {
			o.saw = append(o.saw, fmt.Sprint(h.GetLeaseId(), "=", h.GetFence()))
		}
		slices.Sort(o.saw)
	}
	o.end = time.Since(r.began)
	if err != nil {
		switch e := client.AsError(err); {
		case e.OutcomeUnknown && o.kind != opHolders:
			o.answer = answerUnknown
		case e.Reason == "locked":
			o.answer = answerConflict
		case e.Reason == "lease_over":
			o.answer = answerAbsent
		case o.kind == opHolders && e.Reason == "no_lock": // nobody holds it
		case e.Code == codes.Unavailable, e.Code == codes.DeadlineExceeded, e.Code == codes.Canceled, e.Code == codes.ResourceExhausted:
			return false
		default:
			r.s.oddity("%s: %v", o, err)
			return false
		}
	}
	r.note(o)
	return o.answer == answerOK || o.answer == answerUnknown
}

// judge says what is wrong with the history.
func (r *lockRecorder) judge(t *testing.T, page string) {
	kinds := make(map[string]int)
	for _, o := range r.ops {
		kinds[fmt.Sprint(o.kind, " ", [...]string{"ok", "over", "taken", "unknown"}[o.answer])]++
	}
	t.Logf("%d operations on %d locks (%v)", len(r.ops), r.lock+1, kinds)
	for _, want := range []string{"acquire ok", "acquire taken", "release ok", "holders ok"} {
		if kinds[want] == 0 {
			t.Errorf("void: no operation %q", want)
		}
	}
	switch result, err := judgeLocks(r.ops, page); {
	case err != nil:
		t.Fatal(err)
	case result == porcupine.Unknown:
		t.Errorf("void: porcupine did not come to an end within %v", checkBound)
	case result == porcupine.Illegal:
		t.Errorf("the history of locks is not linearizable; it is drawn in %s", page)
	}
}

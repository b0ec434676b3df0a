package linear

import (
	"fmt"
	"maps"
	"strings"
	"time"

	"github.com/anishathalye/porcupine"
)

// The operations on one lock of the fleet.
const (
	Acquire = "acquire"
	Renew   = "renew"
	Release = "release"
	Holders = "holders"
)

// LockOp is one call of one client: what it asked and what it was told.
type LockOp struct {
	Client    int
	Lock      string
	Kind      string
	Lease     string
	Call, End time.Duration

	Answer Answer // Conflict: there was no place; Absent: the lease is over
	Fence  uint64
	Saw    []string // leases with their fences: "LEASE=FENCE"
}

// String says what was asked and told.
func (o LockOp) String() string {
	return fmt.Sprintf("client %d: %s %s %s = %s (fence %d, saw %v)", o.Client, o.Kind, o.Lock, o.Lease, o.Answer, o.Fence, o.Saw)
}

// lockState is one lock, as the specification has it: who holds it, with which fence (0 =
// nobody was told), who holds it no more, and the highest fence that anybody was told.
type lockState struct {
	held map[string]uint64
	over map[string]bool
	top  uint64
}

func (s lockState) clone() lockState {
	c := lockState{held: maps.Clone(s.held), over: maps.Clone(s.over), top: s.top}
	if c.held == nil {
		c.held, c.over = make(map[string]uint64), make(map[string]bool)
	}
	return c
}

// key is the state as a text, by which porcupine knows it again.
func (s lockState) key() string { return fmt.Sprint(s.held, s.over, s.top) }

// lockModel is the specification: no more than its places are held, each grant has a
// higher fence than all before, a lease that is held can be renewed, and one that is over
// holds nothing ever again. No lease ends by itself while a history is made.
func lockModel(places int) porcupine.Model {
	return porcupine.Model{
		Partition:         partition(func(input any) string { return input.(LockOp).Lock }),
		Init:              func() any { return lockState{} },
		Step:              func(state, input, _ any) (bool, any) { return state.(lockState).step(input.(LockOp), places) },
		Equal:             func(a, b any) bool { return a.(lockState).key() == b.(lockState).key() },
		DescribeOperation: func(input, _ any) string { return input.(LockOp).String() },
	}
}

// step says whether the answer is right where the state is s, and what it is then.
func (s lockState) step(o LockOp, places int) (bool, lockState) {
	fence, holds := s.held[o.Lease]
	switch o.Kind {
	case Acquire:
		return s.acquire(o, places)
	case Renew:
		switch o.Answer {
		case Unknown:
			return true, s
		case Absent:
			return !holds, s
		default:
			return holds && (fence == 0 || o.Fence == 0 || fence == o.Fence), s
		}
	case Release:
		next := s.clone()
		delete(next.held, o.Lease)
		next.over[o.Lease] = true
		return true, next
	default:
		if len(o.Saw) != len(s.held) {
			return false, s
		}
		for _, h := range o.Saw {
			lease, seen, _ := strings.Cut(h, "=")
			if fence, holds := s.held[lease]; !holds || fence != 0 && fmt.Sprint(fence) != seen {
				return false, s
			}
		}
		return true, s
	}
}

func (s lockState) acquire(o LockOp, places int) (bool, lockState) {
	fence, holds := s.held[o.Lease]
	full := len(s.held) == places
	switch {
	case o.Answer == Conflict:
		return !holds && !s.over[o.Lease] && full, s
	case o.Answer == Absent:
		return s.over[o.Lease], s
	case o.Answer == Unknown && (holds || s.over[o.Lease] || full):
		return true, s
	case o.Answer != Unknown && holds && fence == o.Fence:
		return true, s
	case o.Answer != Unknown && (s.over[o.Lease] || !holds && full || holds && fence != 0 || !holds && o.Fence <= s.top):
		return false, s
	}
	next := s.clone()
	next.held[o.Lease] = 0
	if o.Answer != Unknown {
		next.held[o.Lease], next.top = o.Fence, max(s.top, o.Fence)
	}
	return true, next
}

// JudgeLocks judges operations on locks of so many places. What is illegal is drawn on the
// page, a path; empty is none.
func JudgeLocks(ops []LockOp, places int, page string) (porcupine.CheckResult, error) {
	return check(lockModel(places), ops, func(o LockOp) span { return span{o.Client, o.Call, o.End, o.Answer == Unknown} }, page)
}

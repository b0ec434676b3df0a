package linear

import (
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
)

// A judge that lets everything pass judges nothing.
func TestLockJudge(t *testing.T) {
	at := func(call, end int, o LockOp) LockOp {
		o.Client, o.Lock, o.Call, o.End = call, "l", time.Duration(call), time.Duration(end)
		return o
	}
	acquire := func(lease string, fence uint64) LockOp { return LockOp{Kind: Acquire, Lease: lease, Fence: fence} }
	none := func(lease string) LockOp { return LockOp{Kind: Acquire, Lease: lease, Answer: Conflict} }
	lost := func(lease string) LockOp { return LockOp{Kind: Acquire, Lease: lease, Answer: Unknown} }
	renew := func(lease string, a Answer) LockOp { return LockOp{Kind: Renew, Lease: lease, Answer: a} }
	release := func(lease string) LockOp { return LockOp{Kind: Release, Lease: lease} }
	saw := func(all ...string) LockOp { return LockOp{Kind: Holders, Saw: all} }
	for _, c := range []struct {
		name  string
		ops   []LockOp
		legal bool
	}{
		{"a life", []LockOp{at(1, 2, acquire("a", 5)), at(3, 4, acquire("b", 6)), at(5, 6, none("c")), at(7, 8, release("a")), at(9, 10, acquire("c", 7)), at(11, 12, saw("b=6", "c=7"))}, true},
		{"the same lease again", []LockOp{at(1, 2, acquire("a", 5)), at(3, 4, acquire("a", 5))}, true},
		{"an unknown one that took effect", []LockOp{at(1, 2, lost("a")), at(3, 4, saw("a=5")), at(5, 6, acquire("a", 5))}, true},
		{"an unknown one that did not", []LockOp{at(1, 2, lost("a")), at(3, 4, saw())}, true},
		{"one place too many", []LockOp{at(1, 2, acquire("a", 5)), at(3, 4, acquire("b", 6)), at(5, 6, acquire("c", 7))}, false},
		{"a fence that is not higher", []LockOp{at(1, 2, acquire("a", 5)), at(3, 4, release("a")), at(5, 6, acquire("b", 5))}, false},
		{"another fence for the same lease", []LockOp{at(1, 2, acquire("a", 5)), at(3, 4, acquire("a", 6))}, false},
		{"refused with a place free", []LockOp{at(1, 2, acquire("a", 5)), at(3, 4, none("b"))}, false},
		{"a stale list", []LockOp{at(1, 2, acquire("a", 5)), at(3, 4, saw())}, false},
		{"back after the release", []LockOp{at(1, 2, lost("a")), at(3, 4, release("a")), at(5, 6, saw("a=5"))}, false},
		{"renewed while it is held", []LockOp{at(1, 2, acquire("a", 5)), at(3, 4, renew("a", OK)), at(5, 6, renew("a", Unknown)), at(7, 8, release("a")), at(9, 10, renew("a", Absent))}, true},
		{"an unknown one that took effect, and is renewed", []LockOp{at(1, 2, lost("a")), at(3, 4, renew("a", OK)), at(5, 6, saw("a=5"))}, true},
		{"renewed after the release", []LockOp{at(1, 2, acquire("a", 5)), at(3, 4, release("a")), at(5, 6, renew("a", OK))}, false},
		{"lost while it is held", []LockOp{at(1, 2, acquire("a", 5)), at(3, 4, renew("a", Absent))}, false},
		{"renewed by somebody who never had it", []LockOp{at(1, 2, renew("a", OK))}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			result, err := JudgeLocks(c.ops, 2, "")
			if legal := result == porcupine.Ok; err != nil || legal != c.legal {
				t.Errorf("the judge says %v (%v), want legal = %v", result, err, c.legal)
			}
		})
	}
}

package linear

import (
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
)

// A judge that lets everything pass judges nothing.
func TestCommandJudge(t *testing.T) {
	at := func(call, end int, o CommandOp) CommandOp {
		o.Command = "c"
		o.Call, o.End = time.Duration(call), time.Duration(end)
		return o
	}
	submitted := CommandOp{Kind: Submit, Content: "x"}
	again := CommandOp{Kind: Submit, Content: "x", Repeated: true}
	other := CommandOp{Kind: Submit, Content: "y", Answer: Conflict}
	lost := CommandOp{Kind: Submit, Content: "x", Answer: Unknown}
	canceled, late := CommandOp{Kind: Cancel, Canceled: true}, CommandOp{Kind: Cancel, Ended: true}
	lostCancel := CommandOp{Kind: Cancel, Answer: Unknown}
	seen := CommandOp{Kind: Read, Content: "x"}
	over := CommandOp{Kind: Read, Content: "x", Canceled: true}
	none := CommandOp{Kind: Read, Answer: Absent}
	claim := func(i string) CommandOp { return CommandOp{Kind: Claim, Claims: []string{i}} }
	saw := func(o CommandOp, claims ...string) CommandOp {
		o.Claims = append([]string{}, claims...)
		return o
	}
	for _, c := range []struct {
		name  string
		ops   []CommandOp
		legal bool
	}{
		{"a life", []CommandOp{at(1, 2, none), at(3, 4, submitted), at(5, 6, again), at(7, 8, other), at(9, 10, seen), at(11, 12, canceled), at(13, 14, over)}, true},
		{"a read that overlaps may see either", []CommandOp{at(1, 9, submitted), at(2, 3, none), at(4, 5, seen)}, true},
		{"an unknown one that took effect", []CommandOp{at(1, 2, lost), at(3, 4, none), at(5, 6, seen)}, true},
		{"an unknown one that did not", []CommandOp{at(1, 2, lost), at(3, 4, none), at(5, 6, none)}, true},
		{"its own first try", []CommandOp{at(1, 2, again), at(3, 4, seen)}, true},
		{"an unknown cancel of nothing", []CommandOp{at(1, 2, lostCancel), at(3, 4, submitted), at(5, 6, seen)}, true},
		{"a stale read after the submission", []CommandOp{at(1, 2, submitted), at(3, 4, none)}, false},
		{"a stale read after another read", []CommandOp{at(1, 20, submitted), at(3, 4, seen), at(5, 6, none)}, false},
		{"a stale read after the cancel", []CommandOp{at(1, 2, submitted), at(3, 4, canceled), at(5, 6, seen)}, false},
		{"accepted as new twice", []CommandOp{at(1, 2, submitted), at(3, 4, submitted)}, false},
		{"two contents", []CommandOp{at(1, 2, submitted), at(3, 4, CommandOp{Kind: Submit, Content: "y"})}, false},
		{"a conflict with nothing", []CommandOp{at(1, 2, other)}, false},
		{"a cancel of nothing", []CommandOp{at(1, 2, canceled)}, false},
		{"nothing to cancel after the submission", []CommandOp{at(1, 2, submitted), at(3, 4, CommandOp{Kind: Cancel, Answer: Absent})}, false},
		{"seen before it was submitted", []CommandOp{at(1, 2, seen), at(3, 4, submitted)}, false},
		{"an unknown one that took effect and was undone", []CommandOp{at(1, 2, lost), at(3, 4, seen), at(5, 6, none)}, false},
		{"canceled by nobody", []CommandOp{at(1, 2, submitted), at(3, 4, over)}, false},

		{"a cancel of what has ended", []CommandOp{at(1, 2, submitted), at(3, 4, late), at(5, 6, seen)}, true},
		{"a cancel that does nothing", []CommandOp{at(1, 2, submitted), at(3, 4, CommandOp{Kind: Cancel}), at(5, 6, seen)}, false},
		{"too late, and canceled", []CommandOp{at(1, 2, submitted), at(3, 4, late), at(5, 6, over)}, false},
		{"too late for what is canceled", []CommandOp{at(1, 2, submitted), at(3, 4, canceled), at(5, 6, late)}, false},
		{"a stale read after an unknown cancel", []CommandOp{at(1, 2, submitted), at(3, 4, lostCancel), at(5, 6, over), at(7, 8, seen)}, false},

		{"claimed before it starts", []CommandOp{at(1, 2, submitted), at(0, 9, claim("c.1")), at(3, 4, saw(seen)), at(5, 6, saw(seen, "c.1")), at(10, 11, saw(seen, "c.1"))}, true},
		{"canceled while it runs", []CommandOp{at(1, 2, submitted), at(0, 3, claim("c.1")), at(4, 5, canceled), at(6, 7, saw(over, "c.1"))}, true},
		{"claimed, and its start comes after the cancel", []CommandOp{at(1, 2, submitted), at(3, 4, canceled), at(0, 9, claim("c.1")), at(10, 11, saw(over, "c.1"))}, true},
		{"claimed, and never started", []CommandOp{at(1, 2, submitted), at(0, 0, claim("c.1")), at(3, 4, saw(seen)), at(5, 6, saw(seen, "c.1"))}, true},
		{"one after the other", []CommandOp{at(1, 2, submitted), at(0, 8, claim("c.1")), at(0, 9, claim("c.2")), at(3, 4, saw(seen, "c.2")), at(5, 6, saw(seen, "c.1", "c.2"))}, true},
		{"started, and a read does not know", []CommandOp{at(1, 2, submitted), at(0, 5, claim("c.1")), at(6, 7, saw(seen))}, false},
		{"claimed after the cancel", []CommandOp{at(1, 2, submitted), at(3, 4, canceled), at(5, 6, saw(over)), at(0, 9, claim("c.1"))}, false},
		{"started before it was submitted", []CommandOp{at(0, 1, claim("c.1")), at(2, 3, submitted)}, false},
		{"claimed twice", []CommandOp{at(1, 2, submitted), at(0, 5, claim("c.1")), at(0, 9, claim("c.1"))}, false},
		{"a claim that a later read has lost", []CommandOp{at(1, 2, submitted), at(0, 9, claim("c.1")), at(3, 4, saw(seen, "c.1")), at(5, 6, saw(seen))}, false},
		{"two reads in another order each", []CommandOp{at(1, 2, submitted), at(0, 8, claim("c.1")), at(0, 9, claim("c.2")), at(3, 4, saw(seen, "c.2")), at(5, 6, saw(seen, "c.1"))}, false},
		{"seen claimed by nobody", []CommandOp{at(1, 2, submitted), at(3, 4, saw(seen, "c.1"))}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			result, err := JudgeCommands(c.ops, "")
			if legal := result == porcupine.Ok; err != nil || legal != c.legal {
				t.Errorf("the judge says %v (%v), want legal = %v", result, err, c.legal)
			}
		})
	}
}

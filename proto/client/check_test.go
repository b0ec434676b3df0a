package client

import (
	"testing"
	"time"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
)

func stateAt(index uint64, hash string) NodeState {
	return NodeState{Member: &agentplanev1.Member{}, State: &agentplanev1.CheckStateResponse{AppliedIndex: index, Hash: []byte(hash)}}
}

func TestStatesAreComparedAtEqualIndexes(t *testing.T) {
	gone := NodeState{Member: &agentplanev1.Member{}, Err: &Error{Message: "gone"}}
	for name, c := range map[string]struct {
		states          []NodeState
		sameIndex, same bool
	}{
		"all the same":                           {[]NodeState{stateAt(7, "x"), stateAt(7, "x")}, true, true},
		"another state":                          {[]NodeState{stateAt(7, "x"), stateAt(7, "y"), stateAt(7, "x")}, true, false},
		"another index":                          {[]NodeState{stateAt(7, "x"), stateAt(8, "y")}, false, true},
		"two differ while a third is elsewhere":  {[]NodeState{stateAt(7, "x"), stateAt(8, "z"), stateAt(7, "y")}, false, false},
		"one is not known, and the others agree": {[]NodeState{gone, stateAt(7, "x"), stateAt(7, "x")}, false, true},
	} {
		if got := SameIndex(c.states); got != c.sameIndex {
			t.Errorf("%s: SameIndex is %v", name, got)
		}
		if got := SameState(c.states); got != c.same {
			t.Errorf("%s: SameState is %v", name, got)
		}
	}
}

func TestAnIndexIsAskedForThatNoneHasYet(t *testing.T) {
	var a aim
	at := time.Unix(1, 0)
	if got := a.next(make([]NodeState, 3), at); got != 0 {
		t.Errorf("at first %d is asked for, want whatever is there", got)
	}
	if got := a.next([]NodeState{stateAt(100, ""), stateAt(90, "")}, at); got != 101 {
		t.Errorf("where nothing is known of the rate %d is asked for, want 101", got)
	}
	if got := a.next([]NodeState{stateAt(1100, ""), stateAt(1090, "")}, at.Add(time.Second)); got != 1401 {
		t.Errorf("at 1000 entries a second %d is asked for, want 1401", got)
	}
	if got := a.next([]NodeState{stateAt(1100, "")}, at.Add(2*time.Second)); got != 1101 {
		t.Errorf("where nothing is written any more %d is asked for, want 1101", got)
	}
}

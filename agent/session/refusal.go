package session

import (
	"fmt"
	"math/rand/v2"
	"time"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
)

// RefusedError is a node's refusal of a session.
type RefusedError struct {
	Reason string
	Detail string
	// Hint is the node's, of what a person is to do; may be empty.
	Hint       string
	RetryAfter time.Duration
}

func refused(r *agentplanev1.Refused) *RefusedError {
	return &RefusedError{Reason: r.GetReason(), Detail: r.GetDetail(), RetryAfter: time.Duration(r.GetRetryAfterMs()) * time.Millisecond}
}

func (e *RefusedError) Error() string {
	if e.Detail == "" {
		return fmt.Sprintf("session refused: %.64s", e.Reason)
	}
	return fmt.Sprintf("session refused: %.64s: %.512s", e.Reason, e.Detail)
}

// course is what follows from a refusal.
type course uint8

const (
	courseNext  course = iota // another node may see it otherwise: try it at once
	courseWait                // any node would say so now: wait as told, then begin anew
	courseSlow                // a person has to do something: wait long, say what
	courseRenew               // the agent has done something about it: begin anew at once
	courseEnrol               // the cluster does not know the agent: ask the other nodes, then enrol again
)

// courseOf is the table of refusals. What this release does not know is a matter of that
// one node.
func courseOf(reason, agentID string) (course, string) {
	switch reason {
	case "rate", "superseded":
		return courseWait, ""
	case "new_journal":
		return courseRenew, ""
	case "clone":
		return courseSlow, "two processes use this agent's key: stop one of them and remove its data directory, run: agentctl agents readmit " + agentID + ", and start the other one with a new token (--token)"
	case "journal_behind":
		return courseSlow, "this host's disk was put back to an older state: make sure that no copy of it runs, then run: agentctl agents readmit " + agentID
	case "blocked":
		return courseSlow, "an operator has blocked this agent; run: agentctl agents readmit " + agentID
	case "removed":
		return courseEnrol, "this agent was removed from the cluster: stop it, or start it with a new token (--token), and it enrols again"
	default: // not_ready, wrong_cluster, old_incarnation
		return courseNext, ""
	}
}

const (
	slowBase = 5 * time.Second
	slowCap  = time.Minute
)

// slow is the wait of the given round when a person has to do something: the upper half
// of 5, 10, 20, 40, 60 s.
func slow(round int) time.Duration {
	bound := slowCap
	if round < 4 {
		bound = min(slowBase<<round, slowCap)
	}
	return bound/2 + rand.N(bound/2+1)
}

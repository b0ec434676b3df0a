package rollout

import (
	"math"
	"time"

	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

// The reasons of LOST that a leader gives.
const (
	NoContact = "no_contact"
	NoAnswer  = "no_answer"
)

const (
	// askAfter is how long after its time an attempt is overdue: then its agent is
	// asked.
	askAfter = time.Minute
	// endsAfter bounds, in LostAfter, how long an overdue attempt is waited for when
	// its agent comes and goes and never answers.
	endsAfter = 3
	// forever is a wait that only a change ends.
	forever = time.Duration(math.MaxInt64)
)

// Patience decides when nobody can know any more what became of an attempt.
type Patience struct{ LostAfter time.Duration }

// Attempt is what a leader knows of a CLAIMED or RUNNING attempt.
type Attempt struct {
	State raftlogv1.AttemptState
	// Allowed is its run timeout and kill grace: of all it does, the wait for a confirmation
	// and the undo included.
	Allowed time.Duration
	// Age is how long it is in this state, by the cluster's time. RUNNING is one state,
	// whatever the agent tells of its parts.
	Age time.Duration
	// Live says that its agent has a live session, For how long this leader has seen
	// that so.
	Live bool
	For  time.Duration
	// Overdue is for how long this leader has seen it overdue.
	Overdue time.Duration
}

// IsOverdue says that the attempt should have ended, with a minute to spare.
func (a Attempt) IsOverdue() bool { return a.Age >= a.Allowed+askAfter }

// Judge answers why the attempt is LOST; "" when it is not, and after how long that
// may change by itself.
//
// Without a live session, LOST follows after LostAfter, and not before the program's
// time is over: a program that was reported running has the rest of it left, one that
// was claimed may be started at the last moment before contact was lost. With a live
// session it follows when an overdue attempt was not answered for LostAfter. Whoever
// comes and goes again and again gets three times that.
func (p Patience) Judge(a Attempt) (lost string, wait time.Duration) {
	wait = forever
	if !a.Live {
		ran := time.Duration(0) // when contact was lost
		if a.State == raftlogv1.AttemptState_ATTEMPT_STATE_RUNNING {
			ran = max(0, a.Age-a.For)
		}
		left := max(p.LostAfter, a.Allowed-ran) - a.For
		if left <= 0 || !waits {
			return NoContact, 0
		}
		wait = left
	}
	if !a.IsOverdue() {
		return "", min(wait, a.Allowed+askAfter-a.Age)
	}
	left := endsAfter*p.LostAfter - a.Overdue
	if a.Live {
		left = min(left, p.LostAfter-min(a.For, a.Overdue))
	}
	switch {
	case left > 0:
		return "", min(wait, left)
	case a.Live:
		return NoAnswer, 0
	default:
		return NoContact, 0
	}
}

// Bound is how long a claimed attempt can stay without a final state while one leader
// is in office, whatever its agent does: once as CLAIMED and once as RUNNING.
func (p Patience) Bound(allowed time.Duration) time.Duration {
	return 2 * (allowed + askAfter + endsAfter*p.LostAfter)
}

package fleet

import (
	"fmt"
	"math/rand/v2"
	"time"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
)

// Program says what the programs of a fleet do. The zero value is /bin/true: it ends at
// once, with success.
type Program struct {
	// Fail is the share of attempts that exit with 1, and Mute of those that never answer,
	// as on a host whose disk hangs. Both from 0 to 1.
	Fail, Mute float64
	// Slow is how long a program runs at most; each runs a random part of it.
	Slow time.Duration
}

// Validate says which value is out of bounds.
func (p Program) Validate() error {
	switch {
	case p.Fail < 0 || p.Fail > 1:
		return fmt.Errorf("a share of failures of %g is not from 0 to 1", p.Fail)
	case p.Mute < 0 || p.Mute > 1:
		return fmt.Errorf("a share of %g that never answers is not from 0 to 1", p.Mute)
	case p.Slow < 0 || p.Slow > time.Hour:
		return fmt.Errorf("programs that run for up to %v are not from 0s to 1h", p.Slow)
	}
	return nil
}

// course is what one attempt will do.
type course struct {
	mute  bool
	takes time.Duration
	state agentplanev1.AttemptState
	code  int32
}

// draw decides for one attempt, whose program may run for so long.
func (p Program) draw(r *rand.Rand, timeout time.Duration) course {
	c := course{state: agentplanev1.AttemptState_ATTEMPT_STATE_SUCCEEDED}
	if p.Fail > 0 && r.Float64() < p.Fail {
		c.state, c.code = agentplanev1.AttemptState_ATTEMPT_STATE_FAILED, 1
	}
	c.mute = p.Mute > 0 && r.Float64() < p.Mute
	if p.Slow > 0 {
		c.takes = time.Duration(r.Int64N(int64(p.Slow)))
	}
	if timeout > 0 && c.takes > timeout {
		c.takes, c.state, c.code = timeout, agentplanev1.AttemptState_ATTEMPT_STATE_TIMED_OUT, -1
	}
	return c
}

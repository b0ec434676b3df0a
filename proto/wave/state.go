package wave

import "time"

// Reasons of a breach.
const (
	// MaxFailures says that more have failed than may.
	MaxFailures = "max_failures"
	// Strict says that no failure is left, and something still to be released.
	Strict = "strict"
)

// State is how far a rollout is.
type State struct {
	// Ends are the ends of the waves, as Lay has them.
	Ends []uint32
	// Wave is the one at hand, from 1; 0 = none yet.
	Wave int

	// Waiting are those of the waves so far that are not released, Pending those of all
	// waves. Released are those that are and that nobody has begun, Running those that
	// somebody has and that have not ended.
	Waiting, Pending, Released, Running uint32

	// Failures are those that are not forgiven. They may be Max, when Limited.
	Failures uint32
	Limited  bool
	Max      uint32
	Strict   bool

	// Stopped says that nothing is to go on: paused, aborted, canceled.
	Stopped bool
	// Settled is since when nothing of the waves so far is in flight, Unix nanoseconds; 0
	// = something is.
	Settled int64
	Soak    time.Duration
	// Probing says that the probe behind the wave at hand has not ended.
	Probing bool
}

// Kind says what a Step is.
type Kind int

// What may be due.
const (
	// Hold: nothing, before Wait is over or something changes.
	Hold Kind = iota
	// Release: that many of the wave are to be released.
	Release
	// Gate: the gates behind the wave at hand are to be asked; when they are open, so
	// many of the wave that follows are to be released.
	Gate
)

// Step is what is due.
type Step struct {
	Kind    Kind
	Wave    int
	Release uint32
	// Wait is after how long it may be due by itself; 0 = not at all.
	Wait time.Duration
}

// Next answers what is due at now (Unix nanoseconds).
func (s State) Next(now int64) Step {
	next := s.follows()
	switch {
	case s.Stopped:
		return Step{}
	case s.Wave > 0 && s.Waiting > 0:
		if n := min(s.Waiting, s.allowed()); n > 0 {
			return Step{Kind: Release, Wave: s.Wave, Release: n}
		}
		return Step{}
	case next == 0:
		return Step{}
	case s.Wave == 0:
		if n := min(s.size(next), s.allowed()); n > 0 {
			return Step{Kind: Release, Wave: next, Release: n}
		}
		return Step{}
	case s.Settled == 0, s.Probing:
		return Step{}
	}
	if wait := time.Duration(s.Settled - now + int64(s.Soak)); wait > 0 {
		return Step{Wait: wait}
	}
	return Step{Kind: Gate, Wave: next, Release: min(s.size(next), s.allowed())}
}

// Soaked is when the soak of the wave at hand is over, Unix nanoseconds; 0 = it has not
// begun, or no wave follows.
func (s State) Soaked() int64 {
	if s.Wave == 0 || s.Settled == 0 || s.follows() == 0 {
		return 0
	}
	return s.Settled + int64(s.Soak)
}

// Over says that nothing of the waves so far is in flight or waits.
func (s State) Over() bool {
	return s.Wave > 0 && s.Waiting == 0 && s.inFlight() == 0
}

// Breach says why the rollout must stop, if it must: there is something to stop, and the
// failures forbid it.
func (s State) Breach() string {
	switch {
	case !s.Limited || s.Pending+s.Released == 0:
		return ""
	case s.Failures > s.Max:
		return MaxFailures
	case s.Strict && s.Failures == s.Max && s.Pending > 0:
		return Strict
	default:
		return ""
	}
}

func (s State) inFlight() uint32 { return s.Released + s.Running }

// allowed is how many may be released now.
func (s State) allowed() uint32 {
	switch {
	case !s.Strict:
		return s.Pending
	case s.Failures+s.inFlight() >= s.Max:
		return 0
	default:
		return s.Max - s.Failures - s.inFlight()
	}
}

// follows is the wave after the one at hand in which somebody is; 0 = there is none.
func (s State) follows() int {
	for n := s.Wave; n < len(s.Ends); n++ {
		if s.size(n+1) > 0 {
			return n + 1
		}
	}
	return 0
}

// size is how many the wave has.
func (s State) size(wave int) uint32 {
	if wave == 1 {
		return s.Ends[0]
	}
	return s.Ends[wave-1] - s.Ends[wave-2]
}

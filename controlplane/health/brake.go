package health

import "time"

// Brake holds DOWN transitions in a mass failure: when more than max(Count, Percent
// of the fleet) would fall in one window, rather the network is broken than the
// agents are. It holds all of them while their number still grows, at most for ten
// windows, and then lets go no more than that limit per window. It releases by itself
// when enough agents have come back. Nothing depends on it but a word in the state:
// work of an agent that is RECONNECTING ends by its own rules.
type Brake struct {
	Count, Percent int
	Window         time.Duration
}

// holdWindows bounds how long nothing falls at all.
const holdWindows = 10

// Load is what the brake decides on.
type Load struct {
	// Fleet is the number of agents that could fall.
	Fleet int
	// Due is how many have no grace left, Soon how many more will have none within
	// a window unless they come back.
	Due, Soon int
}

// BrakeState is what the brake remembers between two decisions. The zero value is
// released.
type BrakeState struct {
	Engaged bool
	// Since is when it engaged, Grew when the number last rose above Peak.
	Since, Grew time.Duration
	Peak        int
	// Limit is how many may fall in a window, Held how many are held now.
	Limit, Held int

	fell []fell // within the last window
}

// fell says how many agents were marked DOWN at a time.
type fell struct {
	at time.Duration
	n  int
}

// Fell notes that n agents were marked DOWN.
func (s BrakeState) Fell(now time.Duration, n int) BrakeState {
	if n > 0 {
		s.fell = append(s.fell[:len(s.fell):len(s.fell)], fell{now, n})
	}
	return s
}

// Limit is how many agents of a fleet may fall in one window.
func (b Brake) Limit(fleet int) int { return max(b.Count, fleet*b.Percent/100) }

// Decide answers how many of the due may fall now, and what to remember. now is any
// clock that does not go back.
func (b Brake) Decide(s BrakeState, now time.Duration, l Load) (next BrakeState, allow int) {
	for len(s.fell) > 0 && now-s.fell[0].at >= b.Window {
		s.fell = s.fell[1:]
	}
	fallen := 0
	for _, f := range s.fell {
		fallen += f.n
	}
	limit, waiting := b.Limit(l.Fleet+fallen), l.Due+l.Soon
	if l.Due == 0 || fallen+waiting <= limit {
		return BrakeState{fell: s.fell}, l.Due
	}
	if !s.Engaged {
		s.Engaged, s.Since, s.Grew, s.Peak = true, now, now, waiting
	}
	if waiting > s.Peak {
		s.Peak, s.Grew = waiting, now
	}
	if now-s.Grew >= b.Window || now-s.Since >= holdWindows*b.Window {
		allow = min(max(limit-fallen, 0), l.Due)
	}
	s.Limit, s.Held = limit, l.Due-allow
	return s, allow
}

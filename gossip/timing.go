package gossip

import (
	"fmt"
	"time"
)

// Timing says how fast a pool notices. A zero field takes the value of the
// profile "lan".
type Timing struct {
	ProbeInterval    time.Duration // one member is probed per interval
	ProbeTimeout     time.Duration // for the direct answer; below ProbeInterval
	SuspicionMult    int           // a suspicion lasts at least this many probe intervals
	SuspicionMaxMult int           // and at most this many times as long
	GossipInterval   time.Duration // between two rounds of news
	PushPullInterval time.Duration // between two full exchanges with a random member
	StreamTimeout    time.Duration // for dialling, and for one whole exchange over a stream
	RejoinMin        time.Duration // the first wait before a missing peer is joined again
	RejoinMax        time.Duration // the longest
	LeaveTimeout     time.Duration // the longest that Leave takes
}

// Profile returns the timing of a named profile: lan, lan-fast or wan, the names
// of raft's profiles.
func Profile(name string) (Timing, error) {
	switch name {
	case "lan":
		return lan(), nil
	case "lan-fast":
		t := lan()
		t.ProbeInterval = 200 * time.Millisecond
		t.ProbeTimeout = 100 * time.Millisecond
		t.GossipInterval = 50 * time.Millisecond
		return t, nil
	case "wan":
		t := lan()
		t.ProbeInterval = 3 * time.Second
		t.ProbeTimeout = 1500 * time.Millisecond
		t.SuspicionMult = 5
		t.GossipInterval = 500 * time.Millisecond
		t.PushPullInterval = time.Minute
		t.StreamTimeout = 15 * time.Second
		return t, nil
	}
	return Timing{}, fmt.Errorf("gossip profile %q is not known: use lan, lan-fast or wan", name)
}

func lan() Timing {
	return Timing{
		ProbeInterval:    500 * time.Millisecond,
		ProbeTimeout:     200 * time.Millisecond,
		SuspicionMult:    4,
		SuspicionMaxMult: 4,
		GossipInterval:   100 * time.Millisecond,
		PushPullInterval: 5 * time.Second,
		StreamTimeout:    5 * time.Second,
		RejoinMin:        time.Second,
		RejoinMax:        30 * time.Second,
		LeaveTimeout:     3 * time.Second,
	}
}

// withDefaults fills zero fields and checks the bounds.
func (t Timing) withDefaults() (Timing, error) {
	d := lan()
	for _, f := range []struct {
		name     string
		v        *time.Duration
		def      time.Duration
		min, max time.Duration
	}{
		{"probe interval", &t.ProbeInterval, d.ProbeInterval, 10 * time.Millisecond, time.Minute},
		{"probe timeout", &t.ProbeTimeout, d.ProbeTimeout, time.Millisecond, time.Minute},
		{"gossip interval", &t.GossipInterval, d.GossipInterval, time.Millisecond, time.Minute},
		{"push/pull interval", &t.PushPullInterval, d.PushPullInterval, 100 * time.Millisecond, time.Hour},
		{"stream timeout", &t.StreamTimeout, d.StreamTimeout, 10 * time.Millisecond, time.Minute},
		{"rejoin minimum", &t.RejoinMin, d.RejoinMin, 10 * time.Millisecond, time.Hour},
		{"rejoin maximum", &t.RejoinMax, d.RejoinMax, 10 * time.Millisecond, time.Hour},
		{"leave timeout", &t.LeaveTimeout, d.LeaveTimeout, time.Millisecond, time.Minute},
	} {
		if *f.v == 0 {
			*f.v = f.def
		}
		if *f.v < f.min || *f.v > f.max {
			return t, fmt.Errorf("gossip %s: %v is not within %v to %v", f.name, *f.v, f.min, f.max)
		}
	}
	if t.SuspicionMult == 0 {
		t.SuspicionMult = d.SuspicionMult
	}
	if t.SuspicionMaxMult == 0 {
		t.SuspicionMaxMult = d.SuspicionMaxMult
	}
	switch {
	case t.SuspicionMult < 3 || t.SuspicionMult > 30:
		// Below three intervals the observer could look between its begin and end.
		return t, fmt.Errorf("gossip suspicion multiplier: %d is not within 3 to 30", t.SuspicionMult)
	case t.SuspicionMaxMult < 1 || t.SuspicionMaxMult > 30:
		return t, fmt.Errorf("gossip suspicion maximum multiplier: %d is not within 1 to 30", t.SuspicionMaxMult)
	case t.ProbeTimeout >= t.ProbeInterval:
		return t, fmt.Errorf("gossip probe timeout: %v is not below the probe interval %v", t.ProbeTimeout, t.ProbeInterval)
	case t.RejoinMin > t.RejoinMax:
		return t, fmt.Errorf("gossip rejoin minimum: %v is above the rejoin maximum %v", t.RejoinMin, t.RejoinMax)
	}
	return t, nil
}

package identity

import "time"

// Moment is what a machine knows of the time. A wall clock may be set wrong, and so may
// those of a majority have been, so that neither is believed alone: a certificate is in its
// time when any moment between the two is.
type Moment struct {
	// Own is by the machine's wall clock.
	Own time.Time
	// Cluster is the cluster's time; zero when it is not known.
	Cluster time.Time
}

// Clock answers the moment. A nil one is the wall clock alone.
type Clock func() Moment

// Wall is a Clock that knows nothing but now; that of a nil now is nil.
func Wall(now func() time.Time) Clock {
	if now == nil {
		return nil
	}
	return func() Moment { return Moment{Own: now()} }
}

func (c Clock) moment() Moment {
	if c == nil {
		return Moment{Own: time.Now()}
	}
	return c()
}

func (c Clock) own() time.Time { return c.moment().Own }

// span is between which times it is now.
func (m Moment) span() window {
	switch {
	case m.Cluster.IsZero():
		return window{from: m.Own, to: m.Own}
	case m.Cluster.Before(m.Own):
		return window{from: m.Cluster, to: m.Own}
	default:
		return window{from: m.Own, to: m.Cluster}
	}
}

// Now is the cluster's time, or the machine's own while that is not known.
func (m Moment) Now() time.Time {
	if m.Cluster.IsZero() {
		return m.Own
	}
	return m.Cluster
}

// Outside says that no moment between the two clocks lies between from and to.
func (m Moment) Outside(from, to time.Time) bool { return !window{from: from, to: to}.meets(m.span()) }

// Lean is how far the cluster's time is ahead of the machine's own, at most most, and
// negative where it is behind. It is pure, so that a table tests it.
func (m Moment) Lean(most time.Duration) time.Duration {
	if m.Cluster.IsZero() {
		return 0
	}
	return min(max(m.Cluster.Sub(m.Own), -most), most)
}

package controlplane

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestClockTellsTheClustersTimeOnceTheStateIsCurrent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		skew := time.Duration(0)
		c := clock{wall: func() time.Time { return time.Now().Add(skew) }}
		if m := c.moment(); !m.Cluster.IsZero() || !m.Own.Equal(start) {
			t.Errorf("before the state says anything: %+v", m)
		}
		c.saw(start.Add(-time.Hour).UnixNano())
		if m := c.moment(); !m.Cluster.IsZero() {
			t.Errorf("the state is as old as the node's last stop, and is believed: %+v", m)
		}
		skew = -2 * time.Hour
		if m := c.moment(); !m.Cluster.Equal(start.Add(-time.Hour)) {
			t.Errorf("even the old state is later than the wall clock: %+v", m)
		}
		c.saw(start.UnixNano())
		c.current.Store(true)
		time.Sleep(time.Minute)
		for _, skew = range []time.Duration{0, time.Hour, -time.Hour} {
			if m := c.moment(); !m.Cluster.Equal(start.Add(time.Minute)) || !m.Own.Equal(start.Add(time.Minute+skew)) {
				t.Errorf("with a wall clock %v off: %+v", skew, m)
			}
		}
	})
}

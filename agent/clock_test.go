package agent

import (
	"crypto/tls"
	"crypto/x509"
	"sync/atomic"
	"testing"
	"time"

	"github.com/agentplane/agentplane/agent/agenttest"
	"github.com/agentplane/agentplane/proto/identity"
)

// TestAWrongWallClockKeepsNobodyAway: by the host's clock no certificate is in its time any
// more; by the cluster's, of which a node has told the agent, all are.
func TestAWrongWallClockKeepsNobodyAway(t *testing.T) {
	const year = 365 * 24 * time.Hour
	c := agenttest.NewCluster(t, 1)
	h := newHost(t, c)
	var skew atomic.Int64
	h.options = func(o *Options) {
		o.WallClock = func() time.Time { return time.Now().Add(time.Duration(skew.Load())) }
	}
	id := h.ready()
	for _, by := range []time.Duration{2 * year, -2 * year, 0} {
		skew.Store(int64(by))
		epoch := c.Agent(id).Epoch
		c.Nodes[0].Kill()
		c.Nodes[0].Restart()
		c.WaitReady(epoch)
		inv := c.Submit(id, h.steps("true"))
		if r := c.Wait(inv); r.GetState() != succeeded {
			t.Errorf("with a clock that is wrong by %v: %v", by, r)
		}
	}
	if n := c.Agent(id).Renewals; n > 0 {
		t.Errorf("the certificate was renewed %d times, and is good for hours", n)
	}
}

// TestRenewalIsDueByBothClocks: whichever of the two is wrong, no fresh certificate is due again.
func TestRenewalIsDueByBothClocks(t *testing.T) {
	issued := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	c := &credential{cert: &tls.Certificate{Leaf: &x509.Certificate{NotBefore: issued, NotAfter: issued.Add(24 * time.Hour)}}}
	at := func(own, cluster time.Duration) identity.Moment {
		return identity.Moment{Own: issued.Add(own), Cluster: issued.Add(cluster)}
	}
	for name, test := range map[string]struct {
		now  identity.Moment
		want time.Duration
	}{
		"both are right":                         {at(time.Hour, time.Hour), 11 * time.Hour},
		"half of its life is over":               {at(13*time.Hour, 13*time.Hour), 0},
		"the cluster's time is not known":        {identity.Moment{Own: issued.Add(13 * time.Hour)}, 0},
		"the cluster's time is a day ahead":      {at(time.Minute, 24*time.Hour), 12*time.Hour - time.Minute},
		"the cluster's time is a day behind":     {at(time.Minute, -24*time.Hour), 12*time.Hour - time.Minute},
		"the host's clock is two years ahead":    {at(17520*time.Hour, time.Hour), 11 * time.Hour},
		"the host's clock is a year behind":      {at(-8760*time.Hour, time.Hour), 11 * time.Hour},
		"it is over by both, though they differ": {at(17520*time.Hour, 30*time.Hour), 0},
	} {
		if got := c.due(test.now); got != test.want {
			t.Errorf("%s: renewal is due in %v, want %v", name, got, test.want)
		}
	}
}

package agent

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/agentplane/agentplane/agent/agenttest"
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

package agent

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/agentplane/agentplane/agent/agenttest"
	"github.com/agentplane/agentplane/configs"
)

// The failures of other systems that issue threads tell of, as tests of this one.

// amazon-ssm-agent#169: an update restarts the agent, and documents that had run, or were
// running, run again. Here agentd is replaced by another version before, in and after the
// run, and everything is delivered to it once more.
func TestPeerSSM169RerunAfterRestart(t *testing.T) {
	c := agenttest.NewCluster(t, 1)
	h := newHost(t, c)
	id := h.ready()
	release := filepath.Join(t.TempDir(), "release")
	c.Confirming(false)
	done := c.Submit(id, c.Spec(h.mark("")...))
	c.Wait(done)
	runs := c.Submit(id, c.Spec(h.mark("while [ ! -e "+release+" ]; do sleep 0.05; done")...))
	c.Until("it runs", func() bool { return h.marks(runs) == 1 })
	for n, version := range []string{"newer", "newest"} {
		epoch, told := c.Agent(id).Epoch, len(c.Reports(done))
		h.stop()
		h.options = func(o *Options) { o.Version = version }
		h.start()
		c.WaitReady(epoch)
		c.Redeliver(done)
		c.Redeliver(runs)
		c.Until("what had run is answered again", func() bool { return len(c.Reports(done)) > told })
		if n == 0 {
			if err := os.WriteFile(release, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			c.Wait(runs)
		}
	}
	h.wantMarks(done, 1)
	h.wantMarks(runs, 1)
	if r := c.Wait(runs); r.GetState() != succeeded {
		t.Errorf("what ran over the restart is %v", r)
	}
}

// rundeck#1742: in a cluster a job is run by two servers. Here the node that delivered an
// attempt dies, and others deliver it as well, while it waits for a slot, while it runs and
// when it has ended.
func TestPeerRundeck1742TwiceAfterFailover(t *testing.T) {
	c := agenttest.NewCluster(t, 3)
	h := newHost(t, c, func(a *configs.Agent) { a.Slots = 1 })
	id := h.ready()
	release := filepath.Join(t.TempDir(), "release")
	c.Confirming(false)
	runs := c.Submit(id, c.Spec(h.mark("while [ ! -e "+release+" ]; do sleep 0.05; done")...))
	c.Until("it runs", func() bool { return h.marks(runs) == 1 })
	waits := c.Submit(id, c.Spec(h.mark("")...))
	failover := func() {
		state := c.Agent(id)
		for _, n := range c.Nodes {
			if n.ID == state.Node {
				n.Kill()
				defer n.Restart()
			}
		}
		c.WaitReady(state.Epoch)
		for range 2 {
			c.Redeliver(runs)
			c.Redeliver(waits)
		}
	}
	failover()
	if err := os.WriteFile(release, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	c.Wait(runs)
	c.Wait(waits)
	failover()
	c.Until("both are answered by another node's session", func() bool { return len(c.Reports(runs)) > 1 && len(c.Reports(waits)) > 1 })
	h.wantMarks(runs, 1)
	h.wantMarks(waits, 1)
}

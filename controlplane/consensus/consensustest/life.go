package consensustest

import (
	"context"
	"fmt"

	"github.com/hashicorp/raft"

	"github.com/agentplane/agentplane/controlplane/consensus"
)

// Start opens the host of a node that does not run and begins its Run.
func (c *Cluster) Start(i int) {
	c.T.Helper()
	if err := c.TryStart(i); err != nil {
		c.T.Fatalf("start node %d: %v", i, err)
	}
}

// TryStart is Start for tests that expect a refusal.
func (c *Cluster) TryStart(i int) error {
	machine := c.opts.NewMachine(i)
	c.mu.Lock()
	n := c.nodes[i]
	if n.host != nil {
		c.mu.Unlock()
		return fmt.Errorf("node %d runs already", i)
	}
	n.life++
	life := n.life
	disk := n.disk
	c.mu.Unlock()

	end := c.Net.attach(n.addr)
	end.raft.onVote(func(req *raft.RequestVoteRequest) { c.judge.granted(i, disk, req) })
	o := consensus.Options{
		NodeID:    n.id,
		Disk:      disk.Disk(),
		Transport: end.raft,
		Machine:   machine,
		Peers:     &peers{c.Net, end},
		FreeBytes: func() (uint64, error) { return 1 << 40, nil },
	}
	c.wg.Add(1)
	o.Fatal = func(err error) {
		if c.opts.OnFatal != nil {
			c.opts.OnFatal(i, err)
		} else {
			c.T.Errorf("node %d gave up: %v", i, err)
		}
		go c.kill(i, life, false)
	}
	if c.opts.Host != nil {
		c.opts.Host(i, &o)
	}
	h, err := consensus.Open(o)
	if err != nil {
		c.Net.detach(end)
		c.wg.Done()
		return err
	}
	c.Net.servePeer(end, h)
	ctx, cancel := context.WithCancel(context.Background())
	ran := make(chan struct{})
	go func() {
		defer close(ran)
		_ = h.Run(ctx)
	}()
	c.mu.Lock()
	defer c.mu.Unlock()
	n.machine, n.host, n.end = machine, h, end
	n.stop = func() {
		defer c.wg.Done()
		cancel()
		disk.Unhang()
		<-ran
		if err := h.Close(); err != nil {
			c.T.Logf("close node %d: %v", i, err)
		}
	}
	return nil
}

// Kill ends a node as SIGKILL does. The disk keeps what was written.
func (c *Cluster) Kill(i int) { c.kill(i, 0, false) }

// PowerCut ends a node as a loss of power does.
func (c *Cluster) PowerCut(i int) { c.kill(i, 0, true) }

// kill ends the given life of the node, 0 = any, if it still runs.
func (c *Cluster) kill(i, life int, power bool) {
	c.mu.Lock()
	n := c.nodes[i]
	if n.host == nil || life != 0 && n.life != life {
		c.mu.Unlock()
		return
	}
	n.host = nil
	end, stop := n.end, n.stop
	n.disk = n.disk.Image(power)
	c.mu.Unlock()
	c.Net.detach(end)
	go stop()
}

// Stop ends a node as SIGTERM does, and returns when it has closed.
func (c *Cluster) Stop(i int) {
	c.mu.Lock()
	n := c.nodes[i]
	stop := n.stop
	alive := n.host != nil
	n.host = nil
	c.mu.Unlock()
	if alive {
		stop()
	}
}

// Restart starts a node that was killed or stopped.
func (c *Cluster) Restart(i int) {
	c.T.Helper()
	c.Start(i)
}

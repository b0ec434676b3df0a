package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/agentplane/agentplane/agent"
	"github.com/agentplane/agentplane/configs"
	"github.com/agentplane/agentplane/controlplane"
	"github.com/agentplane/agentplane/proto/client"
)

// devCluster is one life of a dev cluster. Its goroutines are one for each node and
// each agent, and none is left when run returns.
type devCluster struct {
	o              devOptions
	dir            *devDir
	user           *client.Contexts
	stdout, stderr io.Writer
	begin          time.Time

	nodes    []*devNode
	agents   []*devAgent
	operator *client.Context
	started  bool // there are logs to look at

	talking sync.Mutex // guards stdout and stderr
	told    sync.Once  // what to type
}

// devNode is a node in this process.
type devNode struct {
	name, dir string
	node      *controlplane.Node
	log       *logFile
	stop      context.CancelFunc
	done      chan struct{} // closed when Run has returned
}

// devAgent is an agent in this process.
type devAgent struct {
	name   string
	config configs.Agent
	log    *logFile
}

// say prints a line about how far things are.
func (c *devCluster) say(format string, args ...any) {
	c.talking.Lock()
	defer c.talking.Unlock()
	fmt.Fprintf(c.stderr, "%6.1fs  %s\n", time.Since(c.begin).Seconds(), fmt.Sprintf(format, args...))
}

func number(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}

// count settles how many nodes and agents there are.
func (c *devCluster) count() error {
	nodes, agents := c.dir.existing("node"), c.dir.existing("agent")
	switch {
	case c.o.nodes < 0 && nodes > 0:
		c.o.nodes = nodes
	case c.o.nodes < 0:
		c.o.nodes = devNodes
	case c.o.nodes < nodes:
		return usageError{fmt.Errorf("--nodes %d: the cluster in %q has %d, and fewer may be no majority", c.o.nodes, c.dir.path, nodes)}
	}
	switch {
	case c.o.agents < 0 && nodes > 0:
		c.o.agents = agents
	case c.o.agents < 0:
		c.o.agents = devAgents
	}
	return nil
}

// run is the life: it ends with ctx, in order, or with the first part that fails.
func (c *devCluster) run(ctx context.Context) (err error) {
	life, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	defer func() {
		for _, n := range c.nodes {
			err = errors.Join(err, n.node.Close(), n.log.Close())
		}
	}()
	for i := range c.o.nodes {
		if err := c.openNode(fmt.Sprintf("node-%d", i+1)); err != nil {
			return err
		}
	}
	c.started = true
	c.say("%s and %s in process %d; logs in %s", number(c.o.nodes, "node"), number(c.o.agents, "agent"), os.Getpid(), c.dir.logs())
	for _, n := range c.nodes {
		c.runNode(ctx, n, fail)
	}
	err = c.live(life, fail)
	switch {
	case ctx.Err() != nil:
		err = nil // told to stop, whatever that has broken
	case err == nil || errors.Is(err, context.Canceled):
		err = context.Cause(life)
	}
	return errors.Join(err, c.stopNodes())
}

// live sets everything up and waits. When it returns, no agent is left and nothing
// that one has started.
func (c *devCluster) live(life context.Context, fail context.CancelCauseFunc) error {
	early := time.AfterFunc(time.Until(c.begin.Add(devPatience)), func() {
		if life.Err() == nil {
			c.told.Do(func() {
				c.say("still starting; in a moment this works")
				c.next()
			})
		}
	})
	defer early.Stop()
	var agents sync.WaitGroup
	defer c.stopAgents(&agents)
	running, stop := context.WithCancel(life)
	defer stop()
	if err := c.setUp(life, func(a *devAgent) {
		agents.Go(func() { c.runAgent(running, a, fail) })
	}); err != nil {
		return err
	}
	c.say("everything is up")
	c.told.Do(c.next)
	<-life.Done()
	return nil
}

// openNode takes the node's directory and ports.
func (c *devCluster) openNode(name string) error {
	config, err := configs.Load(configs.Sources{Program: configs.ProgramNode, Flags: map[string][]string{
		"data_dir": {c.dir.join(name)}, "name": {name}, "listen": {"127.0.0.1:0"}, "advertise": {"127.0.0.1"},
		"gossip.listen": {"127.0.0.1:0"}, "gossip.advertise": {"127.0.0.1"},
	}})
	if err != nil {
		return err
	}
	n := &devNode{name: name, dir: c.dir.join(name), log: c.dir.log(name), done: make(chan struct{})}
	logger := hclog.New(&hclog.LoggerOptions{Name: name, Level: hclog.Info, Output: n.log})
	n.node, err = controlplane.Open(controlplane.Options{
		Config: config.Node(), Version: version, Logger: logger,
		Fatal: func(err error) {
			logger.Error("the node cannot go on", "err", err)
			c.fatal(n, err)
		},
	})
	if err != nil {
		return errors.Join(err, n.log.Close())
	}
	c.nodes = append(c.nodes, n)
	return nil
}

// fatal ends the process: nothing of the node may act any more, and the other nodes
// are made to survive that.
func (c *devCluster) fatal(n *devNode, err error) {
	c.talking.Lock() // and never unlocked: this is the last word
	fmt.Fprintf(c.stderr, "agentplane: error: %s cannot go on: %s\n", n.name, oneLine(err.Error()))
	fmt.Fprintf(c.stderr, "agentplane: hint: its log is %s; \"agentplane dev --data-dir %s\" goes on\n", n.log.path, c.dir.path)
	c.o.exit(exitFatal)
}

// runNode runs the node until it is stopped. A node that ends before takes all with
// it, but for one that the cluster has removed: that is what somebody wanted to see.
func (c *devCluster) runNode(ctx context.Context, n *devNode, fail context.CancelCauseFunc) {
	ctx, stop := context.WithCancel(context.WithoutCancel(ctx)) // nodes stop in an order
	n.stop = stop
	go func() {
		defer close(n.done)
		err := n.node.Run(ctx)
		switch {
		case ctx.Err() != nil:
			if err != nil {
				c.say("%s stopped with: %s", n.name, oneLine(err.Error()))
			}
		case errors.Is(err, controlplane.ErrRemoved):
			c.say("%s has stopped: it was removed from the cluster", n.name)
		case err != nil:
			fail(fmt.Errorf("%s: %w", n.name, err))
		default:
			fail(fmt.Errorf("%s has ended by itself", n.name))
		}
	}()
}

// runAgent runs the agent until ctx ends.
func (c *devCluster) runAgent(ctx context.Context, a *devAgent, fail context.CancelCauseFunc) {
	one, err := agent.New(agent.Options{
		Settings: func() configs.Agent { return a.config }, Version: version,
		Logger: hclog.New(&hclog.LoggerOptions{Name: a.name, Level: hclog.Info, Output: a.log}),
	})
	if err == nil {
		err = one.Run(ctx)
	}
	err = errors.Join(err, a.log.Close())
	switch {
	case ctx.Err() != nil:
	case err != nil:
		fail(fmt.Errorf("%s: %w", a.name, err))
	default:
		fail(fmt.Errorf("%s has ended by itself", a.name))
	}
}

// stopAgents waits for the agents, which have been told, and ends what they run.
func (c *devCluster) stopAgents(agents *sync.WaitGroup) {
	c.say("stopping")
	agents.Wait()
	running, stuck := endPrograms(c.dir.path, time.Second)
	if running > 0 {
		c.say("programs that were still running and were ended: %d", running)
	}
	if stuck > 0 {
		c.say("of them without a record of how they ended: %d", stuck)
	}
}

// stopNodes stops one node after the other, so that there is somebody to hand
// leadership to for as long as there is a majority.
func (c *devCluster) stopNodes() error {
	for _, n := range c.nodes {
		n.stop()
		select {
		case <-n.done:
		case <-time.After(devStopTimeout):
			return hinted{
				fmt.Errorf("%s has not stopped within %v", n.name, devStopTimeout),
				"see " + n.log.path + "; the end of this process ends it",
			}
		}
	}
	c.say("stopped")
	return nil
}

// devStopTimeout is above the sum of the bounds of a node's own steps.
const devStopTimeout = 20 * time.Second

// addresses are those of the nodes as they are now.
func (c *devCluster) addresses() []string {
	var all []string
	for _, n := range c.nodes {
		all = append(all, n.node.Address())
	}
	return all
}

// next prints what to type next.
func (c *devCluster) next() {
	text := devNext + devKept
	if c.dir.temporary {
		text = devNext + devTemporary
	}
	ctl := agentctl() + " --context " + c.o.context
	c.talking.Lock()
	defer c.talking.Unlock()
	_, _ = strings.NewReplacer("CTL", ctl, "DIR", c.dir.path, "PID", fmt.Sprint(os.Getpid())).WriteString(c.stdout, text)
}

const devNext = `
type next, in another terminal:

  CTL cluster status
  CTL agents list
  CTL run --on all -- uptime
  CTL run --on 'label.zone == "a"' -- sh -c 'echo here is $AGENTPLANE_AGENT_ID'
  CTL cluster transfer        # another node leads

Ctrl-C stops everything in order; kill -9 PID kills it all at once.
`

const devTemporary = `The cluster is in DIR and gone at the end; --data-dir keeps one.
To see one node die of kill -9 and the others go on: agentplane demo
`

const devKept = `The cluster is in DIR and goes on there with the next dev --data-dir.
To see one node die of kill -9 and the others go on: agentplane demo
`

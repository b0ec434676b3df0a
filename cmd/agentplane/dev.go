package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/agentplane/agentplane/controlplane"
	"github.com/agentplane/agentplane/proto/client"
	"github.com/agentplane/agentplane/proto/identity"
)

const (
	devNodes     = 3
	devAgents    = 5
	devMaxNodes  = 9
	devMaxAgents = 200
	devContext   = "dev"
	// devPatience is when people are told what to type, however far things are.
	devPatience = 4 * time.Second
)

// devOptions says what a dev cluster is made of. Counts that are negative were not
// given: what the directory holds counts then, and the defaults for a new one.
type devOptions struct {
	nodes, agents int
	dataDir       string // empty for a temporary one
	context       string
	getenv        func(string) string
	// exit ends the process at once, from whichever goroutine.
	exit func(int)
}

func devCommand(environ []string) *cobra.Command {
	o := devOptions{getenv: lookup(environ), exit: os.Exit}
	cmd := &cobra.Command{
		Use:   "dev",
		Short: "Run a whole cluster with agents in this one process",
		Long: `Runs nodes and agents in this one process, on free ports of loopback, with real
TLS and real disks, without root. It prints what to type next, and runs until
Ctrl-C, which stops agents, what they run, and nodes, in this order.

Without --data-dir everything is in a temporary directory and gone at the end, the
context of agentctl too. With it the same cluster goes on at the next start.

Logs are files in the directory, not on the terminal.

Exit codes: 0 stopped in order, 1 error, 2 usage, 3 a node met something after
which it must not go on.`,
		Args: noArgs,
	}
	f := cmd.Flags()
	f.IntVar(&o.nodes, "nodes", devNodes, fmt.Sprintf("`N` nodes, 1 to %d", devMaxNodes))
	f.IntVar(&o.agents, "agents", devAgents, fmt.Sprintf("`N` agents, 0 to %d", devMaxAgents))
	f.StringVar(&o.dataDir, "data-dir", "", "`DIR` of the cluster, kept and continued (default a temporary one)")
	f.StringVar(&o.context, "context", devContext, "`NAME` of the context that agentctl gets")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		switch {
		case o.nodes < 1 || o.nodes > devMaxNodes:
			return usageError{fmt.Errorf("--nodes %d is not within 1 and %d", o.nodes, devMaxNodes)}
		case o.agents < 0 || o.agents > devMaxAgents:
			return usageError{fmt.Errorf("--agents %d is not within 0 and %d", o.agents, devMaxAgents)}
		case f.Changed("data-dir") && o.dataDir == "":
			return usageError{errors.New("--data-dir is empty")}
		}
		if err := identity.ValidateName(o.context); err != nil {
			return usageError{fmt.Errorf("--context %q: %w", o.context, err)}
		}
		if !f.Changed("nodes") {
			o.nodes = -1
		}
		if !f.Changed("agents") {
			o.agents = -1
		}
		ctx := cmd.Context()
		if !signal.Ignored(syscall.SIGHUP) { // nohup is heeded, a closed terminal too
			var stop context.CancelFunc
			ctx, stop = signal.NotifyContext(ctx, syscall.SIGHUP)
			defer stop()
		}
		return dev(ctx, o, cmd.OutOrStdout(), cmd.ErrOrStderr())
	}
	return cmd
}

// dev is the whole life of a dev cluster.
func dev(ctx context.Context, o devOptions, stdout, stderr io.Writer) (err error) {
	path, err := client.ContextsPath(o.getenv)
	if err != nil {
		return hinted{err, "set HOME, or AGENTCTL_CONFIG to the file in which agentctl may keep its contexts"}
	}
	user := client.OpenContexts(path)
	d, err := openDevDir(o.dataDir)
	if err != nil {
		return err
	}
	c := &devCluster{o: o, dir: d, user: user, stdout: stdout, stderr: stderr, begin: time.Now()}
	defer func() { err = c.leave(err) }()
	if err := c.checkContext(ctx); err != nil {
		return err
	}
	if err := c.count(); err != nil {
		return err
	}
	return c.run(ctx)
}

// leave gives back what nobody needs any more. After an error a temporary directory
// stays, for its logs, if there are any.
func (c *devCluster) leave(err error) error {
	if err != nil && c.started {
		return c.pointToLogs(err)
	}
	if !c.dir.temporary {
		return err
	}
	if c.operator != nil {
		err = errors.Join(err, c.user.Remove(c.o.context, c.operator.ClusterID))
	}
	return errors.Join(err, os.RemoveAll(c.dir.path))
}

// pointToLogs gives an error without a hint one.
func (c *devCluster) pointToLogs(err error) error {
	if c.dir.temporary {
		err = fmt.Errorf("%w (the directory %s is kept)", err, c.dir.path)
	}
	if h := (hinted{}); errors.As(err, &h) || errors.Is(err, controlplane.ErrPutBack) {
		return err
	}
	return hinted{err, "the logs in " + c.dir.logs() + " say more"}
}

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"sync"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/agentplane/agentplane/configs"
	"github.com/agentplane/agentplane/controlplane"
	"github.com/agentplane/agentplane/controlplane/consensus"
	"github.com/agentplane/agentplane/controlplane/datadir"
	"github.com/agentplane/agentplane/proto/identity"
)

func runCommand(environ []string) *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Run a node",
		Long: `Run a node until SIGTERM or Ctrl-C, which stop it in order: agents are sent
elsewhere and leadership is handed over first.

Without a cluster yet the node waits for "agentctl cluster init" or "agentctl
cluster join", which talk to it over the socket in its data directory.

Values come from flags, the environment (AGENTPLANE_CONFIG_...), the file of
--config, and defaults, in this order.

Exit codes: 0 stopped in order, 1 error, 2 usage, 3 the node met something after
which it must not go on; start it again. 4 the node was removed from the cluster,
or its disk was put back to an earlier time: do not start it again with this data
directory.`,
		Args: noArgs,
	}
	cmd.Flags().StringVar(&file, "config", "", "YAML file with options")
	given := configs.BindFlags(cmd.Flags(), configs.ProgramNode)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		sources := configs.Sources{Program: configs.ProgramNode, Flags: given, Environ: environ, File: file}
		c, err := configs.Load(sources) // says how to log
		if err != nil {
			return usageError{err}
		}
		return runNode(cmd.Context(), sources, c.Node(), environ, cmd.ErrOrStderr())
	}
	return cmd
}

func runNode(ctx context.Context, sources configs.Sources, c configs.Node, environ []string, log io.Writer) error {
	logger := c.Log.Logger("agentplane", log)
	tuneMemory(environ, logger)
	watcher, err := configs.NewWatcher(configs.WatcherOptions{Sources: sources, Logger: configs.Slog(logger.Named("config"))})
	if err != nil {
		return usageError{err}
	}
	var once sync.Once
	node, err := controlplane.Open(controlplane.Options{
		Config: c, Version: version, Logger: logger,
		Fatal: func(err error) {
			// Nothing of the node may act after this: the process ends here.
			once.Do(func() { logger.Error("the node cannot go on", "err", err) })
			os.Exit(exitFatal)
		},
	})
	if err != nil {
		return lost(err, c)
	}
	watching, stop := context.WithCancel(ctx)
	var group errgroup.Group
	if sources.File != "" {
		group.Go(func() error { return watcher.Run(watching) })
		group.Go(func() error {
			watcher.FollowLevel(watching, logger)
			return nil
		})
	}
	err = node.Run(ctx)
	stop()
	return lost(errors.Join(err, group.Wait(), node.Close()), c)
}

// lost adds to an error after which the node's directory is of no use how an empty one
// takes its place. Its name is free again only once the cluster has removed the node.
func lost(err error, c configs.Node) error {
	if !errors.Is(err, controlplane.ErrPutBack) && !errors.Is(err, consensus.ErrDamaged) {
		return err
	}
	name := c.Name
	if host, herr := os.Hostname(); name == "" && herr == nil {
		name = host
	}
	return hinted{err, fmt.Sprintf(`type "agentctl cluster remove %s" and "agentctl tokens create --kind node" where the cluster is reached; then move %s away, start this node again, and let it join with the token: agentctl cluster join ADDR --token T --data-dir %s`,
		name, c.DataDir, c.DataDir)}
}

func isUnknownCommand(err error) bool { return strings.HasPrefix(err.Error(), "unknown command") }

// hint says what to do about an error.
func hint(err error, code int, command string) string {
	var h hinted
	switch {
	case errors.As(err, &h):
		return h.hint
	case errors.Is(err, datadir.ErrInUse):
		return "stop the process that runs there, or give this one another --data-dir"
	case errors.Is(err, datadir.ErrOtherCluster):
		return "give the node an empty --data-dir, or join the cluster that the directory belongs to"
	case errors.Is(err, identity.ErrNotDirectory):
		return "give a directory with --data-dir; it is made when it is missing"
	case errors.Is(err, datadir.ErrOfAgent):
		return "give the node a directory of its own with --data-dir"
	case errors.Is(err, controlplane.ErrRemoved):
		return "to have it back, start it with an empty data directory and run \"agentctl cluster join ADDR --token T --data-dir DIR\" there, with a new token (agentctl tokens create --kind node)"
	case errors.Is(err, syscall.EADDRINUSE):
		return "stop the process that has the address, or give another with --listen or --gossip-listen"
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return "give an address of this host with --listen or --gossip-listen; what others are told is --advertise"
	case errors.Is(err, fs.ErrPermission):
		return "run it as the owner of the data directory, and listen on ports from 1024 on"
	case code == exitUsage:
		return fmt.Sprintf("see %q", command+" --help")
	case errors.Is(err, identity.ErrDamagedKey):
		return fmt.Sprintf("put that file back from a backup; or move the data directory away, start the node and join it again with a new token (%s)", "agentctl tokens create --kind node")
	case errors.Is(err, syscall.EIO):
		return "look at the disk and the kernel's log, and start the node again; when the disk stays so, put in another one and let the node join anew with an empty data directory"
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return "free space on the disk of the data directory, or move it to another one with --data-dir"
	case command == "agentplane run":
		return "mend what the error names; with --log-level debug the log says more"
	default:
		return "mend what the error names"
	}
}

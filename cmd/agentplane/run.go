package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"

	"github.com/hashicorp/go-hclog"
	"github.com/spf13/cobra"

	"github.com/agentplane/agentplane/configs"
	"github.com/agentplane/agentplane/controlplane"
	"github.com/agentplane/agentplane/controlplane/datadir"
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
which it must not go on; start it again.`,
		Args: noArgs,
	}
	cmd.Flags().StringVar(&file, "config", "", "YAML file with options")
	given := configs.BindFlags(cmd.Flags(), configs.ProgramNode)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, err := configs.Load(configs.Sources{Program: configs.ProgramNode, Flags: given, Environ: environ, File: file})
		if err != nil {
			return usageError{err}
		}
		return runNode(cmd.Context(), c.Node(), cmd.ErrOrStderr())
	}
	return cmd
}

func runNode(ctx context.Context, c configs.Node, log io.Writer) error {
	logger := hclog.New(&hclog.LoggerOptions{
		Name: "agentplane", Level: hclog.LevelFromString(c.Log.Level), Output: log, JSONFormat: c.Log.Format == "json",
	})
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
		return err
	}
	return errors.Join(node.Run(ctx), node.Close())
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
	case errors.Is(err, controlplane.ErrRemoved), errors.Is(err, controlplane.ErrPutBack):
		return fmt.Sprintf("move the data directory away, start the node and join it again with a new token (%s)", "agentctl tokens create --kind node")
	case code == exitUsage:
		return fmt.Sprintf("see %q", command+" --help")
	default:
		return "the log above says more with --log-level debug"
	}
}

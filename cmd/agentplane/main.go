// Command agentplane is a node of the control plane.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

// version is set by the linker.
var version = "dev"

// Exit codes of the node. Others are those of a Go program that panicked (2) or was
// killed by a signal.
const (
	exitOK    = 0
	exitError = 1
	exitUsage = 2
	// exitFatal says that the node met something after which it must not act any
	// more: a failing disk, a stuck transfer, a state that it does not know. Start
	// it again; the log says why.
	exitFatal = 3
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Environ(), os.Stdout, os.Stderr))
}

// usageError is a mistake on the command line.
type usageError struct{ error }

// run is the program without anything global.
func run(ctx context.Context, args, environ []string, stdout, stderr io.Writer) int {
	root := &cobra.Command{
		Use:           "agentplane",
		Short:         "A node of the agentplane control plane",
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.CompletionOptions.DisableDefaultCmd = true
	root.AddCommand(runCommand(environ), demoCommand(), versionCommand())
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	code := exitError
	var usage usageError
	if errors.As(err, &usage) || isUnknownCommand(err) {
		code = exitUsage
	}
	fmt.Fprintf(stderr, "agentplane: error: %v\n", err)
	fmt.Fprintf(stderr, "agentplane: hint: %s\n", hint(err, code))
	return code
}

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version", Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprintln(cmd.OutOrStdout(), version)
			return err
		},
	}
}

func noArgs(_ *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usageError{fmt.Errorf("unexpected argument %q", args[0])}
	}
	return nil
}

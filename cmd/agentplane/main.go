// Command agentplane is a node of the control plane (run); a whole cluster with agents
// in one process (dev); a tour that kills the leader (demo); and a load program
// (bench).
//
// A failure prints two lines, `agentplane: error: …` and `agentplane: hint: …`, and
// nothing on stdout. Exit codes: 0 stopped in order, 1 error, 2 usage, 3 the node must
// not go on, 4 it was removed from the cluster, or its disk was put back.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/agentplane/agentplane/agent/execute"
	"github.com/agentplane/agentplane/configs"
	"github.com/agentplane/agentplane/controlplane"
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
	// exitRemoved says that the cluster has removed the node, or that its disk was put back:
	// to start it again with this data directory is of no use.
	exitRemoved = 4
)

func main() {
	// The agents of dev are in this process, so that it is their supervisor's too.
	if len(os.Args) > 1 && os.Args[1] == execute.SuperviseCommand {
		os.Exit(execute.SuperviseMain(os.Args[2:]))
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Environ(), os.Stdout, os.Stderr))
}

// usageError is a mistake on the command line.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// hinted is an error that knows what to do about it.
type hinted struct {
	error
	hint string
}

func (e hinted) Unwrap() error { return e.error }

// run is the program without anything global.
func run(ctx context.Context, args, environ []string, stdout, stderr io.Writer) int {
	root := &cobra.Command{
		Use:           "agentplane",
		Short:         "A node of the agentplane control plane",
		Version:       versionText(),
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.SetVersionTemplate("{{.Version}}\n")
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{configs.FlagError(err)} })
	root.CompletionOptions.DisableDefaultCmd = true
	root.AddCommand(runCommand(environ), devCommand(environ), demoCommand(), benchCommand(), benchBareCommand(), versionCommand()) //nolint:contextcheck // cobra hands the context to each command
	called, err := root.ExecuteContextC(ctx)
	if err == nil {
		return exitOK
	}
	code := exitError
	var usage usageError
	if errors.As(err, &usage) || isUnknownCommand(err) {
		code = exitUsage
	}
	if errors.Is(err, controlplane.ErrRemoved) || errors.Is(err, controlplane.ErrPutBack) {
		code = exitRemoved
	}
	fmt.Fprintf(stderr, "agentplane: error: %s\n", oneLine(err.Error()))
	fmt.Fprintf(stderr, "agentplane: hint: %s\n", oneLine(hint(err, code, called.CommandPath())))
	return code
}

// oneLine joins the lines of a text: scripts count on two lines for an error.
func oneLine(s string) string {
	return strings.Join(strings.FieldsFunc(s, func(r rune) bool { return r == '\n' || r == '\r' }), "; ")
}

// lookup answers variables of an environment.
func lookup(environ []string) func(string) string {
	return func(name string) string {
		for _, pair := range slices.Backward(environ) {
			if value, ok := strings.CutPrefix(pair, name+"="); ok {
				return value
			}
		}
		return ""
	}
}

func versionText() string {
	return fmt.Sprintf("agentplane %s (%s %s/%s)", version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
}

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version", Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprintln(cmd.OutOrStdout(), versionText())
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

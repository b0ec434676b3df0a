// Command agentd is the agent on a managed host: it keeps a session with its cluster and
// runs what is asked of it, each attempt at most once.
//
// A failure prints two lines, `agentd: error: …` and `agentd: hint: …`. Exit codes: 0 it
// was told to stop, 1 it could not run, 2 it was called wrongly.
package main

import (
	"context"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/agentplane/agentplane/agent/execute"
)

// version is set by the linker.
var version string

func main() {
	if len(os.Args) > 1 && os.Args[1] == execute.SuperviseCommand {
		os.Exit(execute.SuperviseMain(os.Args[2:]))
	}
	// An agent shares its host with what the host is for.
	debug.SetGCPercent(50)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Environ(), os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run is the whole program. It owns nothing global.
func run(ctx context.Context, args, environ []string, stdout, stderr io.Writer) int {
	p := &program{environ: environ, stdout: stdout, stderr: stderr}
	root := p.root() //nolint:contextcheck // cobra hands the context over by cmd.Context
	root.SetArgs(args)
	if err := root.ExecuteContext(ctx); err != nil {
		return p.report(err)
	}
	return exitOK
}

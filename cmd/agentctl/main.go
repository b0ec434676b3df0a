// Command agentctl is the operator's way into a cluster: it asks any node, goes
// on with another one when that node dies, and says what became of what was
// asked.
//
// Results go to stdout and everything else to stderr. A failure prints two lines,
// `agentctl: error: …` and `agentctl: hint: …`, and nothing on stdout; its exit
// code is one of those in exit.go, on which scripts rely.
package main

import (
	"context"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// version is set by the linker.
var version = "dev"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Getenv, os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run is the whole program. It owns nothing global.
func run(ctx context.Context, args []string, getenv func(string) string, stdin io.Reader, stdout, stderr io.Writer) int {
	a := &app{getenv: getenv, stdin: stdin, stdout: stdout, stderr: stderr, now: time.Now}
	root := a.root() //nolint:contextcheck // cobra hands the context to each command
	root.SetArgs(args)
	called, err := root.ExecuteContextC(ctx)
	if err == nil {
		return exitOK
	}
	if a.command == "" { // it did not come to its checks
		a.command = called.CommandPath()
	}
	return a.report(err)
}

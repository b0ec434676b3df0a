package main

import (
	"errors"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/agentplane/agentplane/cmd/agentplane/lab"
)

func TestDemoInterruptedLeavesNothing(t *testing.T) {
	if testing.Short() {
		t.Skip("SKIPPED: -short; it starts eight processes")
	}
	bin, err := lab.Build(t.Context(), ".", t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	tmp := t.TempDir()
	stdout, stderr := newOutput(), newOutput()
	cmd := exec.CommandContext(t.Context(), bin.Agentplane, "demo")
	cmd.Env, cmd.Stdout, cmd.Stderr = append(os.Environ(), "TMPDIR="+tmp), stdout, stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	for {
		text, change := stderr.watch()
		if strings.Contains(text, "two clients submit commands") {
			break
		}
		select {
		case <-change:
		case <-time.After(time.Minute):
			t.Fatalf("it did not begin:\n%s", text)
		}
	}
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	var exit *exec.ExitError
	if err := cmd.Wait(); !errors.As(err, &exit) || exit.ExitCode() != exitError {
		t.Errorf("it ended with %v, want exit code %d", err, exitError)
	}
	nothingLeft(t, tmp)
	if stdout.String() != "" {
		t.Errorf("an interrupted demo prints on stdout:\n%s", stdout)
	}
	if !strings.Contains(stderr.String(), "agentplane: error: interrupted; nothing was left behind\nagentplane: hint: ") ||
		strings.Contains(stderr.String(), "%!") || strings.Contains(stderr.String(), "--log-level") {
		t.Errorf("it does not say that it was interrupted:\n%s", stderr)
	}
}

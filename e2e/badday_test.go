package e2e

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/agentplane/agentplane/cmd/agentplane/lab"
)

// badDay is something that goes wrong, and what must be said about it.
type badDay struct {
	name string
	code int
	// says are parts of the error line: what, which value.
	says []string
	// hint is part of what follows: what to type.
	hint string
}

// judge holds what a program said against what it had to say.
func (d badDay) judge(t *testing.T, o lab.Output) {
	t.Helper()
	if o.Code != d.code || o.Stdout != "" {
		t.Errorf("exit code %d, want %d; stdout %q, want nothing; stderr: %s", o.Code, d.code, o.Stdout, o.Stderr)
	}
	lines := strings.Split(strings.TrimSuffix(o.Stderr, "\n"), "\n")
	problem, advice := "", ""
	for i, l := range lines {
		if strings.Contains(l, ": error: ") && i+1 < len(lines) {
			problem, advice = l, lines[i+1]
		}
	}
	if problem == "" || !strings.Contains(advice, ": hint: ") {
		t.Fatalf("want an error and a hint, got: %s", o.Stderr)
	}
	for _, s := range d.says {
		if !strings.Contains(problem, s) {
			t.Errorf("the error does not say %q: %s", s, problem)
		}
	}
	if !strings.Contains(problem+advice, d.hint) {
		t.Errorf("nothing says %q: %s / %s", d.hint, problem, advice)
	}
	if strings.Contains(o.Stderr, "panic") || strings.Contains(o.Stderr, "goroutine ") {
		t.Errorf("a panic: %s", o.Stderr)
	}
}

// call runs a program to its end; -1 is the code of one that did not end in time.
func call(t *testing.T, d time.Duration, env []string, path string, args ...string) lab.Output {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr, cmd.Env = &stdout, &stderr, append(os.Environ(), env...)
	cmd.WaitDelay = time.Second
	err := cmd.Run()
	o := lab.Output{Stdout: stdout.String(), Stderr: stderr.String()}
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		o.Code, o.Stderr = -1, o.Stderr+"\nstill running after "+d.String()
	case errors.As(err, &exit):
		o.Code = exit.ExitCode()
	case err != nil:
		t.Fatal(err)
	}
	return o
}

// tryNode runs a node that is expected to refuse to start.
func tryNode(t *testing.T, l *lab.Lab, dir string, args ...string) lab.Output {
	t.Helper()
	return call(t, 10*time.Second, nil, l.Bin.Agentplane, append([]string{
		"run", "--data-dir", dir, "--listen", "127.0.0.1:0", "--advertise", "127.0.0.1", "--gossip-listen", "127.0.0.1:0", "--gossip-advertise", "127.0.0.1",
	}, args...)...)
}

// tryAgent runs an agent that is expected to refuse to start.
func tryAgent(t *testing.T, l *lab.Lab, dir, servers, token string, args ...string) lab.Output {
	t.Helper()
	return call(t, 10*time.Second, nil, l.Bin.Agentd, append([]string{
		"run", "--data-dir", dir, "--servers", servers, "--token", token,
	}, args...)...)
}

// one starts a cluster of one node and answers its address.
func one(t *testing.T, l *lab.Lab, args ...string) (*lab.Node, string) {
	t.Helper()
	nodes, err := l.Cluster(within(t, time.Minute), []string{"n1"}, args...)
	if err != nil {
		t.Fatal(err)
	}
	address, err := nodes[0].Address(within(t, 10*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	return nodes[0], address
}

// mustToken makes a token.
func mustToken(t *testing.T, l *lab.Lab, kind string, args ...string) string {
	t.Helper()
	token, err := l.Token(within(t, 20*time.Second), kind, args...)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func tokenID(token string) string { return strings.Split(token, ".")[1] }

func writeFile(t *testing.T, path, text string) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

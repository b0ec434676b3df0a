package main

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/agentplane/agentplane/agent/execute"
	"github.com/agentplane/agentplane/proto/client"
	"github.com/agentplane/agentplane/proto/identity"
)

// TestMain lets the agents of dev start this very file as their supervisor.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == execute.SuperviseCommand {
		os.Exit(execute.SuperviseMain(os.Args[2:]))
	}
	goleak.VerifyTestMain(m)
}

// output is a buffer that may be read while it is written, and says when.
type output struct {
	mu     sync.Mutex
	text   bytes.Buffer
	change chan struct{} // closed by the next write
}

func newOutput() *output { return &output{change: make(chan struct{})} }

// Write is io.Writer's.
func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	defer func() {
		close(o.change)
		o.change = make(chan struct{})
	}()
	return o.text.Write(b)
}

func (o *output) String() string {
	text, _ := o.watch()
	return text
}

func (o *output) watch() (string, <-chan struct{}) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String(), o.change
}

// home is the environment of a user without any settings, whose contexts are in the
// file that it answers.
func home(t *testing.T) (environ []string, contexts *client.Contexts) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "deep", "agentctl.yaml")
	return []string{client.ContextsVariable + "=" + path}, client.OpenContexts(path)
}

// fails runs the program, which must exit with the code and print nothing but two
// lines. It returns the error and the hint.
func fails(t *testing.T, code int, environ []string, args ...string) (problem, hint string) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	if got := run(t.Context(), args, environ, &stdout, &stderr); got != code {
		t.Fatalf("agentplane %q exits with %d, want %d\n%s", args, got, code, stderr.String())
	}
	if stdout.Len() > 0 {
		t.Errorf("agentplane %q fails with this on stdout:\n%s", args, stdout.String())
	}
	lines := strings.Split(strings.TrimSuffix(stderr.String(), "\n"), "\n")
	if len(lines) != 2 {
		t.Fatalf("agentplane %q says more than an error and a hint:\n%s", args, stderr.String())
	}
	problem, ok := strings.CutPrefix(lines[0], "agentplane: error: ")
	hint, ok2 := strings.CutPrefix(lines[1], "agentplane: hint: ")
	if !ok || !ok2 || problem == "" || hint == "" {
		t.Fatalf("agentplane %q does not say an error and a hint:\n%s", args, stderr.String())
	}
	return problem, hint
}

func TestMistakesAreTwoLines(t *testing.T) {
	environ, _ := home(t)
	open := t.TempDir()
	if err := os.Chmod(open, 0o755); err != nil {
		t.Fatal(err)
	}
	foreign := t.TempDir()
	if err := errors.Join(os.Chmod(foreign, 0o700), os.WriteFile(filepath.Join(foreign, "letters"), nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "file")
	link := filepath.Join(t.TempDir(), "link")
	if err := errors.Join(os.WriteFile(file, nil, 0o600), os.Symlink(file+".not", link)); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		args           []string
		environ        []string
		code           int
		problem, hints string
	}{
		"an unknown command":             {[]string{"frob"}, environ, exitUsage, `unknown command "frob"`, "agentplane --help"},
		"an unknown flag of run":         {[]string{"run", "--frob"}, environ, exitUsage, "--frob", "agentplane run --help"},
		"an unknown flag of dev":         {[]string{"dev", "--frob"}, environ, exitUsage, "--frob", "agentplane dev --help"},
		"an argument of demo":            {[]string{"demo", "frob"}, environ, exitUsage, `"frob"`, "agentplane demo --help"},
		"an argument of version":         {[]string{"version", "frob"}, environ, exitUsage, `"frob"`, "agentplane version --help"},
		"a bad address to listen on":     {[]string{"run", "--listen", "nonsense"}, environ, exitUsage, "nonsense", "agentplane run --help"},
		"two bad values":                 {[]string{"run", "--listen", "nonsense", "--voters", "many"}, environ, exitUsage, "many", "agentplane run --help"},
		"a bad value in the environment": {[]string{"run"}, []string{"AGENTPLANE_CONFIG_VOTERS=many"}, exitUsage, "AGENTPLANE_CONFIG_VOTERS", "agentplane run --help"},
		"a missing file of options":      {[]string{"run", "--config", file + ".not"}, environ, exitUsage, file + ".not", "agentplane run --help"},
		"no node":                        {[]string{"dev", "--nodes", "0"}, environ, exitUsage, "--nodes 0", "agentplane dev --help"},
		"too many nodes":                 {[]string{"dev", "--nodes", "10"}, environ, exitUsage, "within 1 and 9", "agentplane dev --help"},
		"less than no agent":             {[]string{"dev", "--agents", "-1"}, environ, exitUsage, "--agents -1", "agentplane dev --help"},
		"a number in letters":            {[]string{"dev", "--agents", "five"}, environ, exitUsage, `invalid value "five" for --agents: want a whole number`, "agentplane dev --help"},
		"an empty directory name":        {[]string{"dev", "--data-dir", ""}, environ, exitUsage, "--data-dir", "agentplane dev --help"},
		"a bad context name":             {[]string{"dev", "--context", "a b"}, environ, exitUsage, `"a b"`, "agentplane dev --help"},
		"nowhere for contexts":           {[]string{"dev"}, nil, exitError, "HOME", "AGENTCTL_CONFIG"},
		"a node's directory others read": {[]string{"run", "--data-dir", open}, environ, exitError, "0755 lets others access it; run: chmod 700 " + open, ""},
		"dev's directory others read":    {[]string{"dev", "--data-dir", open}, environ, exitError, "0755", "chmod 700 " + open},
		"dev in a foreign directory":     {[]string{"dev", "--data-dir", foreign}, environ, exitError, "letters", "empty --data-dir"},
		"a file as dev's directory":      {[]string{"dev", "--data-dir", file}, environ, exitError, file, "--data-dir"},
		"a file as a node's directory":   {[]string{"run", "--data-dir", file}, environ, exitError, `"` + file + `" is a file`, "give a directory with --data-dir"},
		"a node below a link to nothing": {[]string{"run", "--data-dir", filepath.Join(link, "x")}, environ, exitError, "which does not exist", "give a directory with --data-dir"},
		"a node in /proc":                {[]string{"run", "--data-dir", "/proc/foo"}, environ, exitError, `"/proc" exists, but no directory can be made in it`, "--data-dir"},
	} {
		t.Run(name, func(t *testing.T) {
			problem, hint := fails(t, c.code, c.environ, c.args...)
			if !strings.Contains(problem, c.problem) {
				t.Errorf("error %q does not say %q", problem, c.problem)
			}
			if !strings.Contains(hint, c.hints) {
				t.Errorf("hint %q does not say %q", hint, c.hints)
			}
		})
	}
}

func TestHintNamesWhatToDoAboutADamagedKey(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ca.key")
	if err := os.WriteFile(path, []byte("junk"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := identity.LoadKey(path)
	if !errors.Is(err, identity.ErrDamagedKey) || !strings.Contains(err.Error(), path) {
		t.Fatalf("LoadKey = %v, want ErrDamagedKey of the file", err)
	}
	if got := hint(err, exitError, "agentplane run"); !strings.HasPrefix(got, "put that file back from a backup; or move the data directory away") {
		t.Errorf("hint is %q", got)
	}
}

func TestTakenPortSaysSo(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	taken := ln.Addr().String()
	dir := filepath.Join(t.TempDir(), "new", "n")
	problem, hint := fails(t, exitError, nil, "run", "--data-dir", dir, "--listen", taken)
	if _, err := os.Lstat(filepath.Dir(dir)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the directory that it made is left: %v", err)
	}
	if !strings.Contains(problem, taken) || !strings.Contains(problem, "in use") {
		t.Errorf("error %q does not say that %s is in use", problem, taken)
	}
	if !strings.Contains(hint, "--listen") {
		t.Errorf("hint %q does not say --listen", hint)
	}
}

func TestHelpAndVersionGoToStdout(t *testing.T) {
	for _, args := range [][]string{{"version"}, {"--version"}, {"run", "--help"}, {"dev", "--help"}, {"demo", "--help"}, {"--help"}} {
		var stdout, stderr bytes.Buffer
		if code := run(t.Context(), args, nil, &stdout, &stderr); code != exitOK || stdout.Len() == 0 || stderr.Len() > 0 {
			t.Errorf("agentplane %q exits with %d, %d bytes on stdout, on stderr %q", args, code, stdout.Len(), stderr.String())
		}
	}
	for _, args := range [][]string{{"version"}, {"--version"}} {
		var stdout bytes.Buffer
		if run(t.Context(), args, nil, &stdout, &stdout); !strings.HasPrefix(stdout.String(), "agentplane dev (go") {
			t.Errorf("agentplane %q prints %q", args, stdout.String())
		}
	}
	var stdout bytes.Buffer
	run(t.Context(), []string{"run", "--help"}, nil, &stdout, &stdout)
	for _, flag := range []string{"--data-dir", "--listen", "--advertise", "--gossip-listen", "--config", "Exit codes"} {
		if !strings.Contains(stdout.String(), flag) {
			t.Errorf("run --help does not tell of %s", flag)
		}
	}
}

// TestDirectoryOfARunningNode runs a node that waits for a cluster, and a second one
// on its directory.
func TestDirectoryOfARunningNode(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "n")
	args := []string{"run", "--data-dir", dir, "--listen", "127.0.0.1:0", "--gossip-listen", "127.0.0.1:0"}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	log, code := newOutput(), make(chan int, 1)
	go func() { code <- run(ctx, args, nil, newOutput(), log) }()
	for !strings.Contains(log.String(), "belongs to no cluster yet") {
		_, change := log.watch()
		select {
		case <-change:
		case got := <-code:
			t.Fatalf("the node exits with %d:\n%s", got, log)
		}
	}
	problem, hint := fails(t, exitError, nil, args...)
	if !strings.Contains(problem, "in use by process") || !strings.Contains(problem, dir) {
		t.Errorf("error %q does not say who has %s", problem, dir)
	}
	if !strings.Contains(hint, "--data-dir") {
		t.Errorf("hint %q does not say what to type", hint)
	}
	stop()
	if got := <-code; got != exitOK {
		t.Errorf("the node exits with %d after its stop:\n%s", got, log)
	}
}

func TestSuperviseIsNotForPeople(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), os.Args[0], execute.SuperviseCommand)
	out, err := cmd.CombinedOutput()
	if err == nil || cmd.ProcessState.ExitCode() != exitUsage {
		t.Errorf("supervise without a directory = %v, want exit %d\n%s", err, exitUsage, out)
	}
}

package main

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/agentplane/agentplane/agent/agenttest"
	"github.com/agentplane/agentplane/agent/execute"
	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
)

const (
	// envMain makes the test's binary be agentd.
	envMain = "AGENTD_TEST_MAIN"
	// envBinary names an agentd to test instead.
	envBinary = "AGENTD_TEST_BINARY"
)

func TestMain(m *testing.M) {
	if os.Getenv(envMain) != "" || len(os.Args) > 1 && os.Args[1] == execute.SuperviseCommand {
		main()
	}
	goleak.VerifyTestMain(m)
}

func TestCallsAndExitCodes(t *testing.T) {
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink("/nonexistent/zzz", link); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		args   []string
		code   int
		stdout string
		stderr []string
	}{
		"version":                 {[]string{"version"}, 0, "agentd dev (", nil},
		"help":                    {nil, 0, "agentd", nil},
		"an unknown verb":         {[]string{"start"}, 2, "", []string{"agentd: error: ", `"start"`, "agentd: hint: "}},
		"an unknown flag":         {[]string{"run", "--sandbox"}, 2, "", []string{"agentd: error: unknown flag: --sandbox", "agentd: hint: "}},
		"a value out of bounds":   {[]string{"run", "--slots", "0"}, 2, "", []string{"--slots", "minimum 1"}},
		"a server without a port": {[]string{"run", "--servers", "127.0.0.1:1,foo"}, 2, "", []string{`"foo"`, "write HOST:PORT"}},
		"the version":             {[]string{"--version"}, 0, "agentd dev (", nil},
		"too many arguments":      {[]string{"run", "now"}, 2, "", []string{`"now"`}},
		"no token":                {[]string{"run", "--data-dir", filepath.Join(t.TempDir(), "a")}, 1, "", []string{"agentd: error: this agent is not enrolled", "agentctl tokens create"}},
		"no token file":           {[]string{"run", "--data-dir", filepath.Join(t.TempDir(), "b"), "--token-file", "/nonexistent"}, 1, "", []string{"/nonexistent", "agentd: hint: a token reads"}},
		"below a link to nothing": {[]string{"run", "--data-dir", filepath.Join(link, "x"), "--servers", "127.0.0.1:1", "--token", "x"}, 1, "", []string{"link to", "which does not exist", "agentd: hint: give a directory with --data-dir"}},
		"a directory in /proc":    {[]string{"run", "--data-dir", "/proc/foo"}, 1, "", []string{`"/proc" exists, but no directory can be made in it`}},
		"a file as directory":     {[]string{"run", "--data-dir", os.Args[0]}, 1, "", []string{"is a file", "agentd: hint: give a directory with --data-dir"}},
		"a directory of others":   {[]string{"run", "--data-dir", open(t)}, 1, "", []string{"chmod 700", "agentd: hint: "}},
	} {
		t.Run(name, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			code := run(t.Context(), c.args, nil, &stdout, &stderr)
			if code != c.code || !strings.HasPrefix(stdout.String(), c.stdout) && !strings.Contains(stdout.String(), c.stdout) {
				t.Errorf("exit code %d, stdout %q; want %d, %q", code, stdout.String(), c.code, c.stdout)
			}
			if code != 0 && stdout.Len() > 0 {
				t.Errorf("a failure prints %q on stdout", stdout.String())
			}
			for _, want := range c.stderr {
				if !strings.Contains(stderr.String(), want) {
					t.Errorf("stderr %q lacks %q", stderr.String(), want)
				}
			}
		})
	}
}

func open(t *testing.T) string {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// daemon is agentd in a process of its own.
type daemon struct {
	t       *testing.T
	cluster *agenttest.Cluster
	dir     string
	witness string
	log     *os.File
	cmd     *exec.Cmd
}

func newDaemon(t *testing.T, c *agenttest.Cluster) *daemon {
	t.Helper()
	dir := t.TempDir()
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	d := &daemon{t: t, cluster: c, dir: filepath.Join(dir, "data"), witness: filepath.Join(dir, "witness"), log: log}
	t.Cleanup(func() {
		d.kill(syscall.SIGKILL)
		if text, err := os.ReadFile(log.Name()); err == nil && t.Failed() {
			t.Logf("log of agentd:\n%s", text)
		}
		_ = log.Close()
	})
	return d
}

func (d *daemon) start() {
	d.t.Helper()
	path := os.Getenv(envBinary)
	if path == "" {
		path = "/proc/self/exe"
	}
	d.cmd = exec.Command(path, "run", "--data-dir", d.dir, "--servers", strings.Join(d.cluster.Addresses(), ","),
		"--token", d.cluster.Token(), "--name", "web-1", "--label", "env=test", "--log-format", "json")
	d.cmd.Env = append(os.Environ(), envMain+"=1", "GORACE=atexit_sleep_ms=0")
	d.cmd.Stderr = d.log
	if err := d.cmd.Start(); err != nil {
		d.t.Fatal(err)
	}
}

// kill ends the process and gives its exit code.
func (d *daemon) kill(s syscall.Signal) int {
	if d.cmd == nil {
		return -1
	}
	_ = d.cmd.Process.Signal(s)
	_ = d.cmd.Wait()
	code := d.cmd.ProcessState.ExitCode()
	d.cmd = nil
	return code
}

func (d *daemon) mark(rest string) []string {
	return []string{"/bin/sh", "-c", `echo "$AGENTPLANE_INVOCATION_ID $AGENTPLANE_ATTEMPT" >> "$0"; ` + rest, d.witness}
}

func (d *daemon) marks(invocation string) int {
	b, err := os.ReadFile(d.witness)
	if err != nil && !os.IsNotExist(err) {
		d.t.Fatal(err)
	}
	return strings.Count(string(b), invocation+" ")
}

func TestProgramsOutliveAKilledAgentAndAreAdopted(t *testing.T) {
	c := agenttest.NewCluster(t, 1)
	d := newDaemon(t, c)
	d.start()
	id := c.WaitReady(0)
	release := filepath.Join(t.TempDir(), "release")
	inv := c.Submit(id, c.Spec(d.mark("while [ ! -e "+release+" ]; do sleep 0.05; done; echo survived; exit 4")...))
	c.WaitState(inv, agentplanev1.AttemptState_ATTEMPT_STATE_RUNNING)
	epoch := c.Agent(id).Epoch
	d.kill(syscall.SIGKILL)
	d.start()
	c.WaitReady(epoch)
	if err := os.WriteFile(release, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if r := c.Wait(inv); r.GetExitCode() != 4 || string(r.GetStdout().GetHead()) != "survived\n" {
		t.Errorf("report is %v, want the true result", r)
	}
	if n := d.marks(inv); n != 1 {
		t.Errorf("the program started %d times", n)
	}
	a := c.Agent(id)
	if a.Name != "web-1" || a.Labels["env"] != "test" {
		t.Errorf("agent is %+v", a)
	}
	d.sayMemory()
	if code := d.kill(syscall.SIGTERM); code != 0 {
		t.Errorf("exit code after SIGTERM is %d", code)
	}
	if g := c.Agent(id).Goodbye; g == nil {
		t.Error("no goodbye was said")
	}
}

// sayMemory logs what an idle agentd holds.
func (d *daemon) sayMemory() {
	b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(d.cmd.Process.Pid), "status"))
	if err != nil {
		return
	}
	for line := range strings.Lines(string(b)) {
		if strings.HasPrefix(line, "VmRSS") || strings.HasPrefix(line, "RssAnon") {
			d.t.Log(strings.TrimSpace(line))
		}
	}
}

// The agent is killed again and again, at moments that nobody chooses, while work comes.
// Whatever the moment: no program starts twice, every attempt ends, and one that is said
// to have never started has not.
func TestNothingRunsTwiceHoweverOftenTheAgentIsKilled(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	dice := rand.New(rand.NewPCG(seed, 1))
	c := agenttest.NewCluster(t, 1)
	d := newDaemon(t, c)
	d.start()
	id := c.WaitReady(0)
	var all []string
	for round := range 8 {
		for range 3 {
			all = append(all, c.Submit(id, c.Spec(d.mark(fmt.Sprintf("sleep 0.%d", dice.IntN(3)))...)))
		}
		time.Sleep(time.Duration(dice.IntN(60)) * time.Millisecond)
		epoch := c.Agent(id).Epoch
		d.kill(syscall.SIGKILL)
		d.start()
		c.WaitReady(epoch)
		if round%2 == 1 {
			for _, inv := range all {
				c.Wait(inv)
			}
		}
	}
	states := map[string]int{}
	for _, inv := range all {
		r := c.Wait(inv)
		states[r.GetState().ShortName()+" "+r.GetReason()]++
		n := d.marks(inv)
		switch r.GetState() {
		case agentplanev1.AttemptState_ATTEMPT_STATE_SUCCEEDED:
			if n != 1 {
				t.Errorf("%s succeeded and started %d times", inv, n)
			}
		case agentplanev1.AttemptState_ATTEMPT_STATE_REJECTED:
			if n != 0 {
				t.Errorf("%s was rejected and started %d times", inv, n)
			}
		default:
			if n > 1 {
				t.Errorf("%s started %d times", inv, n)
			}
		}
	}
	t.Logf("%v", states)
	if states["SUCCEEDED exit"] < len(all)/2 {
		t.Errorf("of %d only %v: the agent does little but die", len(all), states)
	}
}

func TestRunStopsWhenTold(t *testing.T) {
	c := agenttest.NewCluster(t, 1)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan int, 1)
	var stdout, stderr bytes.Buffer
	file := filepath.Join(t.TempDir(), "agentd.yaml")
	text := fmt.Sprintf("data_dir: %s\nservers: [%s]\ntoken: %s\nlog:\n  level: warn\n", filepath.Join(t.TempDir(), "data"), c.Addresses()[0], c.Token())
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	go func() { done <- run(ctx, []string{"run", "--config", file}, nil, &stdout, &stderr) }()
	id := c.WaitReady(0)
	cancel()
	if code := <-done; code != 0 {
		t.Errorf("exit code %d: %s", code, stderr.String())
	}
	if c.Agent(id).Goodbye == nil {
		t.Error("no goodbye was said")
	}
}

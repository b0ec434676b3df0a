package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"

	"github.com/agentplane/agentplane/cmd/agentplane/lab"
	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/client"
)

// devRun is a dev cluster that runs in the test.
type devRun struct {
	t              *testing.T
	stdout, stderr *output
	stop           context.CancelFunc
	code           chan int
	stopped        bool
}

func startDev(t *testing.T, environ []string, args ...string) *devRun {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	d := &devRun{t: t, stdout: newOutput(), stderr: newOutput(), stop: stop, code: make(chan int, 1)}
	go func() { d.code <- run(ctx, append([]string{"dev"}, args...), environ, d.stdout, d.stderr) }()
	t.Cleanup(func() { d.end() })
	return d
}

// ready waits until everything is up and what to type was said.
func (d *devRun) ready() {
	d.t.Helper()
	began := time.Now()
	for _, wait := range []struct {
		on   *output
		word string
	}{{d.stderr, "everything is up"}, {d.stdout, "agentplane demo"}} {
		for {
			text, change := wait.on.watch()
			if strings.Contains(text, wait.word) {
				break
			}
			select {
			case <-change:
			case code := <-d.code:
				d.stopped = true
				d.t.Fatalf("dev exits with %d:\n%s", code, d.stderr)
			}
		}
	}
	d.t.Logf("up after %v", time.Since(began).Round(time.Millisecond))
}

// end stops it, as Ctrl-C does, and answers the exit code.
func (d *devRun) end() int {
	d.stop()
	if d.stopped {
		return exitOK
	}
	d.stopped = true
	code := <-d.code
	if d.t.Failed() {
		d.t.Logf("dev exits with %d:\n%s", code, d.stderr)
	}
	return code
}

// operator is a client with the context that dev has written.
func operator(t *testing.T, contexts *client.Contexts, name string) (*client.Context, *client.Client) {
	t.Helper()
	c, err := contexts.Load(name)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := c.TLSCertificate()
	if err != nil {
		t.Fatal(err)
	}
	cl, err := client.New(client.Options{Addresses: c.Addresses, Bundle: c.Bundle, Certificate: client.Static(cert)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cl.Close() })
	return c, cl
}

// submit asks agents to run a program and answers the command's id.
func submit(t *testing.T, cl *client.Client, selector string, argv ...string) string {
	t.Helper()
	info, err := agentplanev1.NewClusterServiceClient(cl).Info(t.Context(), &agentplanev1.InfoRequest{})
	if err != nil {
		t.Fatal(err)
	}
	id, err := uuid.NewV7()
	if err != nil {
		t.Fatal(err)
	}
	spec, err := proto.Marshal(&agentplanev1.CommandSpec{
		ClusterId: info.GetClusterId(), Incarnation: info.GetIncarnation(), CommandId: id.String(), Selector: selector, Argv: argv,
		RunTimeout: int64(time.Minute), KillGrace: int64(time.Second), NotAfter: info.GetNow() + int64(time.Minute),
		Delivery: agentplanev1.Delivery_DELIVERY_AT_MOST_ONCE,
	})
	if err != nil {
		t.Fatal(err)
	}
	envelope, err := proto.Marshal(&agentplanev1.Envelope{Spec: spec})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := agentplanev1.NewCommandServiceClient(cl).Submit(t.Context(), &agentplanev1.SubmitRequest{Envelope: envelope}); err != nil {
		t.Fatal(err)
	}
	return id.String()
}

// command waits until the command is as it should be.
func command(t *testing.T, cl *client.Client, id string, right func(*agentplanev1.Command) bool) *agentplanev1.Command {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	var c *agentplanev1.Command
	err := retry(ctx, func() (bool, error) {
		r, err := agentplanev1.NewCommandServiceClient(cl).GetCommand(ctx, &agentplanev1.GetCommandRequest{Id: id, WithInvocations: true, WithOutput: true})
		if err != nil {
			return false, err
		}
		if c = r.GetCommand(); right(c) {
			return true, nil
		}
		return false, againError{fmt.Errorf("command %s is %v", id, c)}
	})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func done(c *agentplanev1.Command) bool {
	return c.GetState() == agentplanev1.CommandState_COMMAND_STATE_DONE
}

func voters(t *testing.T, cl *client.Client) (names []string) {
	t.Helper()
	r, err := agentplanev1.NewClusterServiceClient(cl).ListMembers(t.Context(), &agentplanev1.ListMembersRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range r.GetMembers() {
		if m.GetVoter() {
			names = append(names, m.GetName())
		}
	}
	slices.Sort(names)
	return names
}

// TestDevGoesOnWhereItStopped is the whole of dev with a directory that is kept.
func TestDevGoesOnWhereItStopped(t *testing.T) {
	environ, contexts := home(t)
	dir := filepath.Join(t.TempDir(), "d")
	d := startDev(t, environ, "--data-dir", dir, "--agents", "2")
	d.ready()
	for _, line := range []string{"--context dev agents list", "--context dev run --on all -- uptime", "Ctrl-C", dir} {
		if !strings.Contains(d.stdout.String(), line) {
			t.Errorf("stdout does not say %q:\n%s", line, d.stdout)
		}
	}
	for _, path := range []string{contexts.Path(), filepath.Join(dir, "agentctl.yaml"), filepath.Join(dir, "logs", "node-1.log")} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("mode of %s = %v (%v), want 0600", path, info.Mode(), err)
		}
	}
	first, cl := operator(t, contexts, "dev")
	if got := voters(t, cl); !slices.Equal(got, []string{"node-1", "node-2", "node-3"}) {
		t.Errorf("voters are %q", got)
	}
	hello := submit(t, cl, "all", "/bin/sh", "-c", "echo hello from here")
	c := command(t, cl, hello, done)
	if len(c.GetInvocations()) != 2 {
		t.Errorf("%d invocations, want 2", len(c.GetInvocations()))
	}
	for _, i := range c.GetInvocations() {
		if i.GetState() != agentplanev1.AttemptState_ATTEMPT_STATE_SUCCEEDED || string(i.GetStdout().GetHead()) != "hello from here\n" {
			t.Errorf("invocation is %v", i)
		}
	}

	// The directory is taken, for another process and for this one.
	problem, hint := fails(t, exitError, environ, "dev", "--data-dir", dir)
	if want := fmt.Sprintf("in use by process %d", os.Getpid()); !strings.Contains(problem, want) || !strings.Contains(hint, "--data-dir") {
		t.Errorf("a second dev says %q and %q, want %q", problem, hint, want)
	}
	// So is the context's name.
	if problem, hint := fails(t, exitError, environ, "dev"); !strings.Contains(problem, `context "dev"`) || !strings.Contains(hint, "--context") {
		t.Errorf("a second dev says %q and %q", problem, hint)
	}

	// What runs is ended, also what does not listen to TERM.
	trapped := filepath.Join(t.TempDir(), "trapped")
	deaf := submit(t, cl, "name == \"agent-1\"", "/bin/sh", "-c", "trap '' TERM; : >'"+trapped+"'; while :; do sleep 1000; done")
	command(t, cl, deaf, func(c *agentplanev1.Command) bool {
		return len(c.GetInvocations()) == 1 && c.GetInvocations()[0].GetState() == agentplanev1.AttemptState_ATTEMPT_STATE_RUNNING
	})
	// That it runs is told before it has come to its first line.
	waiting, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := lab.Await(waiting, func() error { _, err := os.Stat(trapped); return err }); err != nil {
		t.Fatalf("the program does not go deaf to TERM: %v", err)
	}
	if len(supervisorsBelow(dir)) != 1 {
		t.Errorf("supervisors: %v, want one", supervisorsBelow(dir))
	}
	_ = cl.Close()
	began := time.Now()
	if code := d.end(); code != exitOK {
		t.Errorf("dev exits with %d", code)
	}
	t.Logf("stopped after %v", time.Since(began).Round(time.Millisecond))
	if left := supervisorsBelow(dir); len(left) > 0 {
		t.Errorf("supervisors %v are left", left)
	}

	// The next start goes on, with as many nodes and agents.
	if problem, _ := fails(t, exitUsage, environ, "dev", "--data-dir", dir, "--nodes", "2"); !strings.Contains(problem, "has 3") {
		t.Errorf("fewer nodes: %q", problem)
	}
	d = startDev(t, environ, "--data-dir", dir)
	d.ready()
	again, cl := operator(t, contexts, "dev")
	if again.ClusterID != first.ClusterID || again.Operator != first.Operator {
		t.Errorf("cluster %s with operator %s, want %s with %s", again.ClusterID, again.Operator, first.ClusterID, first.Operator)
	}
	command(t, cl, hello, done)
	c = command(t, cl, deaf, done)
	if i := c.GetInvocations()[0]; i.GetState() != agentplanev1.AttemptState_ATTEMPT_STATE_FAILED || i.GetSignal() != 9 {
		t.Errorf("what was ended is told as %v", i)
	}
	if got := len(command(t, cl, submit(t, cl, "all", "/bin/true"), done).GetInvocations()); got != 2 {
		t.Errorf("%d agents after the restart, want 2", got)
	}
	_ = cl.Close()
	if code := d.end(); code != exitOK {
		t.Errorf("dev exits with %d", code)
	}
	devEndsWithANode(t, environ, dir)
}

// devEndsWithANode breaks one node of a stopped cluster.
func devEndsWithANode(t *testing.T, environ []string, dir string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, "node-2", "boot.state"), []byte("nonsense"), 0o600); err != nil {
		t.Fatal(err)
	}
	d := startDev(t, environ, "--data-dir", dir)
	code := <-d.code
	d.stopped = true
	if code != exitError || d.stdout.String() != "" {
		t.Errorf("dev with a broken node exits with %d, stdout %q", code, d.stdout)
	}
	lines := strings.Split(strings.TrimSpace(d.stderr.String()), "\n")
	problem, hint := lines[len(lines)-2], lines[len(lines)-1]
	if !strings.HasPrefix(problem, "agentplane: error: node-2: ") || !strings.Contains(problem, "boot.state") {
		t.Errorf("dev with a broken node says %q", problem)
	}
	if !strings.HasPrefix(hint, "agentplane: hint: ") || !strings.Contains(hint, filepath.Join(dir, "logs")) {
		t.Errorf("dev with a broken node hints %q", hint)
	}
}

// TestDevLeavesNothing is dev without a directory, of one node.
func TestDevLeavesNothing(t *testing.T) {
	tmp := t.TempDir()
	t.Setenv("TMPDIR", tmp)
	environ, contexts := home(t)
	d := startDev(t, environ, "--nodes", "1", "--agents", "1", "--context", "trial")
	d.ready()
	if entries, err := os.ReadDir(tmp); err != nil || len(entries) != 1 {
		t.Fatalf("temporary directories: %v (%v), want one", entries, err)
	}
	_, cl := operator(t, contexts, "trial")
	if got := len(command(t, cl, submit(t, cl, "all", "/bin/true"), done).GetInvocations()); got != 1 {
		t.Errorf("%d invocations, want 1", got)
	}
	_ = cl.Close()
	if code := d.end(); code != exitOK {
		t.Errorf("dev exits with %d", code)
	}
	if entries, err := os.ReadDir(tmp); err != nil || len(entries) > 0 {
		t.Errorf("left behind: %v (%v)", entries, err)
	}
	if names, err := contexts.Names(); err != nil || len(names) > 0 {
		t.Errorf("contexts %q (%v) are left", names, err)
	}
}

// TestDevStoppedWhileItStarts stops it at moments of its start that the machine
// chooses.
func TestDevStoppedWhileItStarts(t *testing.T) {
	tmp := t.TempDir()
	t.Setenv("TMPDIR", tmp)
	environ, contexts := home(t)
	for _, after := range []time.Duration{0, 100 * time.Millisecond, 300 * time.Millisecond, 600 * time.Millisecond} {
		d := startDev(t, environ)
		time.Sleep(after)
		if code := d.end(); code != exitOK {
			t.Errorf("stopped after %v dev exits with %d\n%s", after, code, d.stderr)
		}
		if entries, err := os.ReadDir(tmp); err != nil || len(entries) > 0 {
			t.Errorf("stopped after %v it leaves %v (%v)", after, entries, err)
		}
		if left := supervisorsBelow(tmp); len(left) > 0 {
			t.Errorf("stopped after %v it leaves supervisors %v", after, left)
		}
	}
	if c, err := contexts.Find(func(*client.Context) bool { return true }); err != nil || c != nil {
		t.Errorf("context %v (%v) is left", c, err)
	}
}

func TestDevKeepsContextsOfOthers(t *testing.T) {
	tmp := t.TempDir()
	t.Setenv("TMPDIR", tmp)
	environ, contexts := home(t)
	d := startDev(t, environ, "--nodes", "1", "--agents", "0", "--context", "mine")
	d.ready()
	elsewhere, err := contexts.Load("mine")
	if err != nil {
		t.Fatal(err)
	}
	d.end()
	elsewhere.Name, elsewhere.Addresses = "dev", []string{"192.0.2.1:7460"}
	if err := contexts.Store(elsewhere); err != nil {
		t.Fatal(err)
	}
	problem, hint := fails(t, exitError, environ, "dev")
	if !strings.Contains(problem, "192.0.2.1:7460") || !strings.Contains(hint, "--context") {
		t.Errorf("dev over another's context says %q and %q", problem, hint)
	}
	if entries, err := os.ReadDir(tmp); err != nil || len(entries) > 0 {
		t.Errorf("left behind: %v (%v)", entries, err)
	}
}

// TestFatalEndsTheProcess is about what is printed and which code is used; that a
// node calls it is for the node's own tests.
func TestFatalEndsTheProcess(t *testing.T) {
	stderr, code := newOutput(), -1
	c := &devCluster{o: devOptions{exit: func(n int) { code = n }}, dir: &devDir{path: "DIR"}, stderr: stderr, begin: time.Now()}
	c.fatal(&devNode{name: "node-2", log: c.dir.log("node-2")}, fmt.Errorf("disk:\nfailing"))
	if code != exitFatal {
		t.Errorf("exit code %d, want %d", code, exitFatal)
	}
	const want = "agentplane: error: node-2 cannot go on: disk:; failing\nagentplane: hint: its log is DIR/logs/node-2.log; \"agentplane dev --data-dir DIR\" goes on\n"
	if stderr.String() != want {
		t.Errorf("it says\n%swant\n%s", stderr, want)
	}
}

package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/client"
	"github.com/agentplane/agentplane/proto/client/clienttest"
)

// world is a cluster and a user who has a context of it.
type world struct {
	t       *testing.T
	cluster *clienttest.Cluster
	path    string
}

func newWorld(t *testing.T, nodes int, before, after time.Duration) *world {
	t.Helper()
	w := &world{t: t, cluster: clienttest.NewCluster(t, nodes), path: filepath.Join(t.TempDir(), "agentctl.yaml")}
	if err := client.OpenContexts(w.path).Store(w.cluster.Context("admin", before, after)); err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *world) getenv(name string) string {
	if name == client.ContextsVariable {
		return w.path
	}
	return ""
}

// watched is a buffer that calls back with everything written so far.
type watched struct {
	mu    sync.Mutex
	bytes bytes.Buffer
	on    func(all string)
}

func (w *watched) Write(b []byte) (int, error) {
	w.mu.Lock()
	w.bytes.Write(b)
	all := w.bytes.String()
	w.mu.Unlock()
	if w.on != nil {
		w.on(all)
	}
	return len(b), nil
}

func (w *watched) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.bytes.String()
}

func TestInterruptedRunGoesOn(t *testing.T) {
	w := newWorld(t, 1, time.Hour, time.Hour)
	w.cluster.State.AddAgent("web-1", "ONLINE", nil, clienttest.Behaviour{After: -1})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var stdout bytes.Buffer
	stderr := &watched{on: func(all string) {
		if strings.Contains(all, "1 running") {
			cancel() // as Ctrl-C does
		}
	}}
	code := run(ctx, []string{"run", "--on", "all", "--", "sleep", "1d"}, w.getenv, nil, &stdout, stderr)
	if code != exitError {
		t.Errorf("exit %d, want %d\n%s", code, exitError, stderr)
	}
	id := w.cluster.State.Commands()[0]
	for _, want := range []string{
		"agentctl: error: interrupted; command " + id + " goes on",
		"agentctl: hint: watch it: agentctl commands watch " + id + "; or cancel it: agentctl commands cancel " + id,
	} {
		if !strings.Contains(stderr.String(), want) {
			t.Errorf("stderr has no %q:\n%s", want, stderr)
		}
	}
	if stdout.Len() > 0 {
		t.Errorf("stdout on failure: %s", &stdout)
	}
}

func TestRunSurvivesTheDeathOfItsNode(t *testing.T) {
	for name, hurt := range map[string]func(*clienttest.Node){
		"kill": (*clienttest.Node).Kill, "freeze": (*clienttest.Node).Freeze,
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 3, time.Hour, time.Hour)
			w.cluster.State.AddAgent("web-1", "ONLINE", nil, clienttest.Behaviour{After: time.Second, Stdout: "done\n"})
			var stdout bytes.Buffer
			var once sync.Once
			stderr := &watched{on: func(all string) {
				if strings.Contains(all, "1 running") {
					once.Do(func() { hurt(w.cluster.Nodes[0]) })
				}
			}}
			code := run(t.Context(), []string{"run", "--on", "all", "--addr", w.cluster.Nodes[0].Address, "--", "x"}, w.getenv, nil, &stdout, stderr)
			if code != exitOK || !strings.Contains(stdout.String(), "== 1 agent SUCCEEDED: web-1\ndone\n") {
				t.Errorf("exit %d\n%s%s", code, &stdout, stderr)
			}
		})
	}
}

func TestSpecSaysWhatWasAsked(t *testing.T) {
	w := newWorld(t, 1, time.Hour, time.Hour)
	w.cluster.State.AddAgent("web-1", "ONLINE", nil, clienttest.Behaviour{})
	const id = "01890000-0000-7000-8000-000000000001"
	args := []string{
		"run", "-l", "!old", "--timeout", "90s", "--kill-grace", "5s", "--queue", "2d", "--class", "idempotent",
		"--id", id, "--detach", "--", "echo", "--on", "x y",
	}
	var stderr bytes.Buffer
	if code := run(t.Context(), args, w.getenv, nil, &bytes.Buffer{}, &stderr); code != exitOK {
		t.Fatalf("exit %d\n%s", code, &stderr)
	}
	base, err := client.IDTime(id)
	if err != nil {
		t.Fatal(err)
	}
	got := w.cluster.State.Spec(id)
	want := &agentplanev1.CommandSpec{
		ClusterId: w.cluster.ID, Incarnation: w.cluster.State.Bundle().Incarnation, CommandId: id,
		Selector: got.Selector, Argv: []string{"echo", "--on", "x y"}, RunTimeout: int64(90 * time.Second), KillGrace: int64(5 * time.Second),
		NotAfter: base.Add(48 * time.Hour).UnixNano(), Delivery: agentplanev1.Delivery_DELIVERY_IDEMPOTENT, QueueOffline: true,
	}
	if got.String() != want.String() {
		t.Errorf("spec = %v\nwant   %v", got, want)
	}
	if !strings.Contains(got.Selector, "old") {
		t.Errorf("selector = %q, want the long form of !old", got.Selector)
	}
}

func TestOldCertificateIsRenewedAndKept(t *testing.T) {
	for name, after := range map[string]time.Duration{"half of its life is over": time.Hour, "it has expired": -time.Hour} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 1, 24*time.Hour, after)
			var stdout, stderr bytes.Buffer
			if code := run(t.Context(), []string{"cluster", "members"}, w.getenv, nil, &stdout, &stderr); code != exitOK {
				t.Fatalf("exit %d\n%s", code, &stderr)
			}
			c, err := client.OpenContexts(w.path).Load("")
			if err != nil {
				t.Fatal(err)
			}
			if client.RenewalDue(c.Certificate, time.Now()) {
				t.Error("the fresh certificate was not kept")
			}
		})
	}
}

func TestWatchPrintsChangesOnly(t *testing.T) {
	w := newWorld(t, 1, time.Hour, time.Hour)
	w.cluster.State.AddAgent("web-1", "ONLINE", nil, clienttest.Behaviour{})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var added sync.Once
	stdout := &watched{}
	stdout.on = func(all string) {
		added.Do(func() { w.cluster.State.AddAgent("web-2", "DOWN", nil, clienttest.Behaviour{}) })
		if strings.Count(all, "\n") == 2 {
			cancel()
		}
	}
	var stderr bytes.Buffer
	if code := run(ctx, []string{"agents", "watch", "-o", "jsonl"}, w.getenv, nil, stdout, &stderr); code != exitOK {
		t.Fatalf("exit %d\n%s", code, &stderr)
	}
	lines := strings.Split(strings.TrimSpace(stdout.String()), "\n")
	if len(lines) != 2 || !strings.Contains(lines[0], `"name":"web-1"`) || !strings.Contains(lines[1], `"name":"web-2"`) {
		t.Errorf("stdout:\n%s", stdout)
	}
}

func TestSecretsStayInTheirFile(t *testing.T) {
	w := newWorld(t, 1, time.Hour, time.Hour)
	data, err := os.ReadFile(w.path)
	if err != nil {
		t.Fatal(err)
	}
	_, key, _ := strings.Cut(string(data), "BEGIN PRIVATE KEY-----\n")
	key = strings.TrimSpace(strings.SplitN(key, "\n", 2)[0])
	if len(key) < 32 {
		t.Fatalf("no key in the file:\n%s", data)
	}
	// A broken file is quoted in errors only as far as it is no secret.
	broken := strings.Replace(string(data), "operator: admin", "operator: [admin]", 1)
	broken = strings.Replace(broken, key, key[:20]+"!"+key[21:], 1)
	if err := os.WriteFile(w.path, []byte(broken), 0o600); err != nil {
		t.Fatal(err)
	}
	var stderr bytes.Buffer
	run(t.Context(), []string{"agents", "list"}, w.getenv, nil, &bytes.Buffer{}, &stderr)
	if strings.Contains(stderr.String(), key[:10]) {
		t.Errorf("the key is quoted:\n%s", &stderr)
	}
}

func TestProgressIsOneLineOnATerminal(t *testing.T) {
	stderr := &watched{}
	a := &app{stderr: stderr, now: time.Now}
	p := newProgress(a, true)
	v := &client.Progress{}
	v.Take(&agentplanev1.WatchCommandResponse{Snapshot: true, Invocations: []*agentplanev1.Invocation{
		{Id: "1", State: agentplanev1.AttemptState_ATTEMPT_STATE_RUNNING},
		{Id: "2", State: agentplanev1.AttemptState_ATTEMPT_STATE_PENDING},
	}})
	p.show(v)
	v.Take(&agentplanev1.WatchCommandResponse{Invocations: []*agentplanev1.Invocation{
		{Id: "2", State: agentplanev1.AttemptState_ATTEMPT_STATE_FAILED},
	}})
	p.show(v)
	p.end()
	p.show(v) // says nothing any more
	p.end()
	want := "\r\x1b[K0/2 ended, 1 running, 1 waiting (0s)\r\x1b[K1/2 ended, 1 running, 1 not succeeded (0s)\r\x1b[K"
	if got := stderr.String(); got != want {
		t.Errorf("stderr = %q\nwant     %q", got, want)
	}
}

func TestNodeThatAnswersComesFirstNextTime(t *testing.T) {
	w := newWorld(t, 3, time.Hour, time.Hour)
	w.cluster.Nodes[0].Kill()
	if code := run(t.Context(), []string{"agents", "list"}, w.getenv, nil, &bytes.Buffer{}, &bytes.Buffer{}); code != exitOK {
		t.Fatalf("exit %d", code)
	}
	c, err := client.OpenContexts(w.path).Load("")
	if err != nil {
		t.Fatal(err)
	}
	if c.Addresses[0] != w.cluster.Nodes[1].Address || len(c.Addresses) != 3 {
		t.Errorf("addresses = %v, want all three, %s first", c.Addresses, w.cluster.Nodes[1].Address)
	}
}

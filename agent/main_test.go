package agent

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"go.uber.org/goleak"

	"github.com/agentplane/agentplane/agent/agenttest"
	"github.com/agentplane/agentplane/agent/execute"
	"github.com/agentplane/agentplane/configs"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == execute.SuperviseCommand {
		os.Exit(execute.SuperviseMain(os.Args[2:]))
	}
	goleak.VerifyTestMain(m)
}

// host is one agent with its data directory, and a file that programs write to.
type host struct {
	t       *testing.T
	cluster *agenttest.Cluster
	dir     string
	witness string
	config  configs.Agent
	options func(*Options)

	cancel context.CancelFunc
	done   chan error
}

func newHost(t *testing.T, c *agenttest.Cluster, change ...func(*configs.Agent)) *host {
	t.Helper()
	loaded, err := configs.Load(configs.Sources{Program: configs.ProgramAgent})
	if err != nil {
		t.Fatal(err)
	}
	h := &host{t: t, cluster: c, dir: filepath.Join(t.TempDir(), "data"), witness: filepath.Join(t.TempDir(), "witness"), config: loaded.Agent()}
	h.config.DataDir, h.config.Servers, h.config.Token, h.config.Name = h.dir, c.Addresses(), c.Token(), "web-1"
	for _, f := range change {
		f(&h.config)
	}
	t.Cleanup(func() {
		if h.cancel != nil {
			h.stop()
		}
	})
	return h
}

func (h *host) start() {
	h.t.Helper()
	level := hclog.Warn
	if testing.Verbose() {
		level = hclog.Debug
	}
	o := Options{
		Settings: func() configs.Agent { return h.config }, Version: "test", BackoffCap: time.Second,
		Logger: hclog.New(&hclog.LoggerOptions{Level: level, Output: logWriter{h.t}, DisableTime: true}),
	}
	if h.options != nil {
		h.options(&o)
	}
	a, err := New(o)
	if err != nil {
		h.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(h.t.Context())
	h.cancel, h.done = cancel, make(chan error, 1)
	go func() { h.done <- a.Run(ctx) }()
}

func (h *host) stop() {
	h.t.Helper()
	h.cancel()
	h.cancel = nil
	select {
	case err := <-h.done:
		if err != nil {
			h.t.Errorf("Run = %v, want nil", err)
		}
	case <-time.After(15 * time.Second):
		h.t.Error("Run did not end")
	}
}

type logWriter struct{ t *testing.T }

func (w logWriter) Write(b []byte) (int, error) {
	w.t.Log(strings.TrimRight(string(b), "\n"))
	return len(b), nil
}

// ready starts the agent and waits for its session.
func (h *host) ready() string {
	h.t.Helper()
	h.start()
	return h.cluster.WaitReady(0)
}

// mark is a program that leaves a line in the witness file, then does the rest.
func (h *host) mark(rest string) []string {
	return []string{"/bin/sh", "-c", `echo "$AGENTPLANE_INVOCATION_ID $AGENTPLANE_ATTEMPT" >> "$0"; ` + rest, h.witness}
}

// marks counts the starts of an invocation.
func (h *host) marks(invocation string) int {
	h.t.Helper()
	b, err := os.ReadFile(h.witness)
	if err != nil && !os.IsNotExist(err) {
		h.t.Fatal(err)
	}
	return strings.Count(string(b), invocation+" ")
}

func (h *host) wantMarks(invocation string, want int) {
	h.t.Helper()
	if got := h.marks(invocation); got != want {
		h.t.Errorf("invocation %s started %d times, want %d", invocation, got, want)
	}
}

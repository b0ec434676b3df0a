package consensus_test

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/agentplane/agentplane/controlplane/consensus"
)

// quietLog is a logger and what it has printed.
func quietLog(level hclog.Level) (hclog.Logger, *bytes.Buffer) {
	var b bytes.Buffer
	return consensus.Quiet(hclog.New(&hclog.LoggerOptions{Output: &b, Level: level, DisableTime: true})), &b
}

func lines(b *bytes.Buffer) []string {
	return strings.FieldsFunc(b.String(), func(r rune) bool { return r == '\n' })
}

func TestRepeatedLinesBecomeRare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		logger, out := quietLog(hclog.Info)
		logger = logger.Named("raft")
		start := time.Now()
		var at []string
		for i := range 4 * 600 { // ten minutes, as raft speaks of a dead peer
			before := out.Len()
			logger.Error("failed to heartbeat to", "peer", "10.0.0.2:7460", "backoff time", time.Duration(i%7)*time.Millisecond, "error", fmt.Errorf("dial from port %d: refused", 1024+i))
			if out.Len() > before {
				at = append(at, time.Since(start).Round(time.Second).String())
			}
			time.Sleep(time.Second / 4)
		}
		if got, want := strings.Join(at[:6], " "), "0s 5s 15s 35s 1m15s 2m15s"; got != want || len(at) != 13 {
			t.Errorf("it speaks at %s, %d times in all; want %s and once a minute from then on", got, len(at), want)
		}
		if l := lines(out)[2]; !strings.Contains(l, "raft: failed to heartbeat to") || !strings.Contains(l, "repeated=") || !strings.Contains(l, "within=10s") {
			t.Errorf("a later line is %q, want one that says how often it came", l)
		}
		time.Sleep(time.Hour)
		before := len(lines(out))
		logger.Error("failed to heartbeat to", "peer", "10.0.0.2:7460", "backoff time", time.Millisecond, "error", errors.New("dial from port 1: refused"))
		if got := len(lines(out)) - before; got != 1 {
			t.Error("what comes again after an hour is hidden")
		}
	})
}

func TestEachKindOfLineIsPrintedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		logger, out := quietLog(hclog.Debug)
		with := logger.With("node_id", "a")
		for range 3 {
			logger.Error("failed", "peer", "10.0.0.2:7460", "error", errors.New("refused"))
			logger.Error("failed", "peer", "10.0.0.3:7460", "error", errors.New("refused"))
			logger.Error("failed", "peer", "10.0.0.3:7460", "error", errors.New("timeout"))
			logger.Warn("failed", "peer", "10.0.0.3:7460", "error", errors.New("timeout"))
			logger.Named("transport").Warn("failed", "peer", "10.0.0.3:7460", "error", errors.New("timeout"))
			with.Warn("failed", "peer", "10.0.0.3:7460", "error", errors.New("timeout"))
			logger.Info("entering candidate state", "term", 3)
			logger.Info("odd", "key")
		}
		if got := len(lines(out)); got != 8 {
			t.Errorf("%d lines, want 8:\n%s", got, out)
		}
		out.Reset()
		for range 3 {
			logger.Debug("as it comes")
		}
		if got := len(lines(out)); got != 3 {
			t.Errorf("%d lines of debug, want 3", got)
		}
		out.Reset()
		logger.Error("failed to accept connection", "error", &net.OpError{Op: "accept", Err: net.ErrClosed})
		if out.Len() > 0 {
			t.Errorf("what this node has closed itself is an error: %s", out)
		}
		for i := range 10_000 { // bounded, whatever comes
			logger.Info("kind " + string(rune('a'+i%26)) + strings.Repeat("x", i%1000))
		}
	})
}

package configs

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
)

func TestSlogGoesTheWayOfAllLines(t *testing.T) {
	var out lines
	log := Log{Level: "info", Format: "text"}.Logger("agentplane", &out)
	s := Slog(log.Named("leaf")).With("node_id", "n1")
	s.Debug("unseen")
	s.Warn("certificate is old", "left", 5*time.Minute)
	s.Log(context.Background(), slog.LevelError+1, "worse")
	got := out.String()
	for _, part := range []string{"[WARN]  agentplane.leaf: certificate is old: node_id=n1 left=5m0s", "[ERROR] agentplane.leaf: worse: node_id=n1"} {
		if !strings.Contains(got, part) {
			t.Errorf("log %q lacks %q", got, part)
		}
	}
	if strings.Contains(got, "unseen") {
		t.Errorf("log %q shows a line below its level", got)
	}
}

// levels tells of each level that is set.
type levels struct {
	hclog.Logger
	set chan hclog.Level
}

func (l levels) SetLevel(level hclog.Level) { l.set <- level }

func TestFollowLevel(t *testing.T) {
	path := writeFile(t, "log: {level: warn}")
	w, _ := run(t, path, time.Minute)
	log := levels{hclog.NewNullLogger(), make(chan hclog.Level)}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.FollowLevel(ctx, log)
	}()
	if got := <-log.set; got != hclog.Warn {
		t.Errorf("the first level is %v, want warn", got)
	}
	replace(t, path, "log: {level: debug}")
	if err := w.Reload(); err != nil {
		t.Fatal(err)
	}
	if got := <-log.set; got != hclog.Debug {
		t.Errorf("the next level is %v, want debug", got)
	}
	stop()
	<-done
}

package bare_test

import (
	"context"
	"encoding/json"
	"io"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"go.uber.org/goleak"

	"github.com/agentplane/agentplane/controlplane/consensus/bare"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestThreeApplyEachPayloadOnce(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var processes []bare.Process
	var inputs []*io.PipeWriter
	var serving sync.WaitGroup
	for range 3 {
		in, tell := io.Pipe()
		hear, out := io.Pipe()
		processes, inputs = append(processes, bare.Process{In: tell, Out: hear}), append(inputs, tell)
		dir := t.TempDir()
		serving.Go(func() {
			if err := bare.Serve(context.WithoutCancel(ctx), dir, in, out, hclog.NewNullLogger()); err != nil {
				t.Errorf("Serve: %v", err)
			}
			_ = out.Close()
		})
	}
	c, err := bare.Connect(ctx, processes, 2)
	if err != nil {
		t.Fatal(err)
	}
	const clients, each = 8, 25
	var working sync.WaitGroup
	for i := range clients {
		working.Go(func() {
			for range each {
				if err := c.Apply(ctx, i, make([]byte, 256)); err != nil {
					t.Errorf("Apply: %v", err)
				}
			}
		})
	}
	working.Wait()
	if got, err := c.Applied(ctx); err != nil || got != clients*each {
		t.Errorf("Applied = %d, %v, want %d", got, err, clients*each)
	}
	if term, err := c.Term(ctx); err != nil || term == 0 {
		t.Errorf("Term = %d, %v", term, err)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	for _, in := range inputs { // the parent dies
		_ = in.Close()
	}
	serving.Wait()
}

func TestServeEndsWithAnInputThatSaysNothing(t *testing.T) {
	var out strings.Builder
	dir := t.TempDir()
	if err := bare.Serve(t.Context(), dir, strings.NewReader(""), &out, nil); err != nil {
		t.Fatal(err)
	}
	var a bare.Addresses
	if err := json.Unmarshal([]byte(out.String()), &a); err != nil || a.Raft == "" || a.RPC == "" {
		t.Errorf("it said %q (%v), want its addresses", out.String(), err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
		t.Errorf("it left %v in its directory (%v)", entries, err)
	}
}

func TestConnectSaysWhichProcessWasSilent(t *testing.T) {
	_, err := bare.Connect(t.Context(), []bare.Process{{In: io.Discard, Out: strings.NewReader("")}}, 1)
	if err == nil || !strings.Contains(err.Error(), "process 1 has not said its addresses") {
		t.Errorf("Connect = %v", err)
	}
}

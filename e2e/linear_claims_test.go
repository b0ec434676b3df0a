package e2e

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/agentplane/agentplane/e2e/linear"
	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/client"
)

// claimsOf are the commands of a history that are for an agent that is there. Their program
// writes down when it began, in a file of its invocation.
type claimsOf struct {
	agent   string
	program string
	dir     string

	mu  sync.Mutex // guards all
	all map[string]bool
}

func newClaimsOf(t *testing.T, f *fleet, agent string) *claimsOf {
	t.Helper()
	c := &claimsOf{agent: agent, dir: filepath.Join(f.Dir, "claims"), all: make(map[string]bool)}
	if err := os.Mkdir(c.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	c.program = filepath.Join(c.dir, "program")
	text := fmt.Sprintf("#!/bin/sh\ndate +%%s%%N > '%s'/\"$AGENTPLANE_INVOCATION_ID\"\n", c.dir)
	if err := os.WriteFile(c.program, []byte(text), 0o700); err != nil { //nolint:gosec // it is run
		t.Fatal(err)
	}
	return c
}

func (c *claimsOf) add(command string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.all[command] = true
}

func (c *claimsOf) has(command string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.all[command]
}

// began is when the program of an invocation had begun, by the wall clock of this machine; zero
// when it has not.
func (c *claimsOf) began(invocation string) (time.Time, error) {
	b, err := os.ReadFile(filepath.Join(c.dir, invocation))
	if errors.Is(err, fs.ErrNotExist) {
		return time.Time{}, nil
	}
	text := strings.TrimSpace(string(b))
	if err != nil || text == "" { // it was killed as it wrote
		return time.Time{}, err
	}
	ns, err := strconv.ParseInt(text, 10, 64)
	return time.Unix(0, ns), err
}

// history is what clients did, and the claims of what they submitted, as the cluster knows them
// in the end: what was started was claimed before. A cancel whose outcome was unknown did nothing
// where the command is not canceled then.
func (r *recorder) history(ctx context.Context, c *client.Client) ([]linear.CommandOp, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	// Programs tell the wall clock, clients the time since the history began. Where the wall clock
	// was set meanwhile nobody knows when a program had begun.
	wall := r.began.Round(0)
	steady := (time.Now().Round(0).Sub(wall) - time.Since(r.began)).Abs() < 20*time.Millisecond
	var ops []linear.CommandOp
	canceled := make(map[string]bool)
	commands := agentplanev1.NewCommandServiceClient(c)
	for id := range r.content {
		a, err := commands.GetCommand(ctx, &agentplanev1.GetCommandRequest{Id: id, WithInvocations: true})
		if e := client.AsError(err); e != nil && e.Code == codes.NotFound {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", id, err)
		}
		canceled[id] = a.GetCommand().GetCanceledBy() != ""
		claimed := make(map[string]bool)
		for _, i := range linear.ClaimedOf(a.GetCommand()) {
			claimed[i] = true
		}
		for _, i := range a.GetCommand().GetInvocations() {
			began, err := r.claims.began(i.GetId())
			if err != nil {
				return nil, err
			}
			o := linear.CommandOp{Client: linearClients, Command: id, Kind: linear.Claim, Claims: []string{i.GetId()}}
			if !began.IsZero() && steady {
				o.End = max(began.Sub(wall), 1)
			}
			if claimed[i.GetId()] || !began.IsZero() {
				ops = append(ops, o)
			}
		}
	}
	for _, o := range r.ops {
		if o.Kind != linear.Cancel || o.Answer != linear.Unknown || canceled[o.Command] {
			ops = append(ops, o)
		}
	}
	return ops, nil
}

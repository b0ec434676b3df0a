package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/google/uuid"

	"github.com/agentplane/agentplane/cmd/agentplane/lab"
)

// client submits one command after another, each to one agent, until enough ends.
func (t *tour) client(ctx, enough context.Context, number int) {
	for i := number; enough.Err() == nil && ctx.Err() == nil; i++ {
		id, err := uuid.NewV7()
		if err != nil {
			return
		}
		agent := agentName(i)
		began := time.Now()
		o := t.l.Ctl(ctx, "run", "--detach", "--id", id.String(), "--on", fmt.Sprintf("name == %q", agent), "--",
			"/bin/sh", "-c", `echo "$AGENTPLANE_INVOCATION_ID $AGENTPLANE_ATTEMPT" >> "$0"`, filepath.Join(t.witness, agent))
		ended := time.Now()
		t.mu.Lock()
		switch {
		case o.Code == 0:
			t.accepted = append(t.accepted, accepted{id: id.String(), began: began, took: ended.Sub(began), ended: ended})
		case o.Code == 6: // it may or may not have been accepted
			t.unknown = append(t.unknown, id.String())
		}
		t.mu.Unlock()
	}
}

func (t *tour) count() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.accepted)
}

func (t *tour) awaitAccepted(ctx context.Context, n int) error {
	return lab.Await(ctx, func() error {
		if have := t.count(); have < n {
			return fmt.Errorf("%d of %d commands are acknowledged", have, n)
		}
		return nil
	})
}

// failover is the time from the kill to the first acknowledgement of a command
// submitted after it, and how many there were.
func (t *tour) failover(killed time.Time) (first time.Duration, n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, a := range t.accepted {
		if a.began.Before(killed) {
			continue
		}
		if d := a.ended.Sub(killed); n == 0 || d < first {
			first = d
		}
		n++
	}
	return first.Round(time.Millisecond), n
}

func (t *tour) json(ctx context.Context, into any, args ...string) error {
	o := t.l.Ctl(ctx, args...)
	if o.Err() != nil {
		return o.Err()
	}
	return json.Unmarshal([]byte(o.Stdout), into)
}

// shown is a command as agentctl shows it.
type shown struct {
	ID          string
	State       string
	Invocations []struct {
		ID, State, Reason string
		Attempt           int
	}
}

// judge compares what was acknowledged, what the cluster says, and what the
// programs wrote.
func (t *tour) judge(ctx context.Context, stdout io.Writer, failover time.Duration, after int) error {
	t.say("waiting for every command to end, then counting")
	starts, err := t.awaitEnd(ctx)
	if err != nil {
		return err
	}
	twice, missing, started, succeeded := 0, 0, 0, 0
	var wrong []string
	for _, lines := range starts {
		started++
		if lines > 1 {
			twice++
		}
	}
	for _, a := range t.accepted {
		c, err := t.get(ctx, a.id)
		if err != nil {
			missing++
			wrong = append(wrong, fmt.Sprintf("%s is acknowledged but: %v", a.id, err))
			continue
		}
		for _, i := range c.Invocations {
			if i.State == "SUCCEEDED" && starts[i.ID] == 1 {
				succeeded++
				continue
			}
			wrong = append(wrong, fmt.Sprintf("%s is %s(%s) and was started %d times", i.ID, i.State, i.Reason, starts[i.ID]))
		}
	}
	w := tabwriter.NewWriter(stdout, 0, 0, 2, ' ', 0)
	for _, row := range []struct {
		what  string
		value any
	}{
		{"commands acknowledged", len(t.accepted)},
		{"  of them after the leader's death", after},
		{"  succeeded, started exactly once", succeeded},
		{"commands whose acknowledgement was lost", len(t.unknown)},
		{"programs started, by their own writing", started},
		{"  started twice", twice},
		{"acknowledged and missing", missing},
		{"slowest acknowledgement", t.slowest().Round(time.Millisecond)},
		{"from kill -9 to the next acknowledgement", failover},
	} {
		fmt.Fprintf(w, "%s\t%v\n", row.what, row.value)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if twice > 0 || missing > 0 || len(wrong) > 0 || after < 20 || len(t.accepted) < 100 || started < len(t.accepted) {
		return fmt.Errorf("demo: failed acknowledged=%d started=%d twice=%d missing=%d failover=%v: %s",
			len(t.accepted), started, twice, missing, failover, strings.Join(wrong, "; "))
	}
	_, err = fmt.Fprintf(stdout, "demo: ok acknowledged=%d started=%d twice=%d missing=%d failover=%v\n",
		len(t.accepted), started, twice, missing, failover)
	return err
}

func (t *tour) get(ctx context.Context, id string) (shown, error) {
	var c shown
	err := t.json(ctx, &c, "commands", "get", id, "-o", "json")
	return c, err
}

// awaitEnd waits until no command is open, and counts the starts of each
// invocation.
func (t *tour) awaitEnd(ctx context.Context) (map[string]int, error) {
	err := lab.Await(ctx, func() error {
		var all []shown
		if err := t.json(ctx, &all, "commands", "list", "--limit", "1000", "-o", "json"); err != nil {
			return err
		}
		for _, c := range all {
			if c.State != "DONE" {
				return fmt.Errorf("command %s is %s", c.ID, c.State)
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	starts := make(map[string]int)
	for i := range demoAgents {
		f, err := os.Open(filepath.Join(t.witness, agentName(i)))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read a witness: %w", err)
		}
		lines := bufio.NewScanner(f)
		for lines.Scan() {
			invocation, _, _ := strings.Cut(lines.Text(), " ")
			starts[invocation]++
		}
		if err := errors.Join(lines.Err(), f.Close()); err != nil {
			return nil, fmt.Errorf("read a witness: %w", err)
		}
	}
	return starts, nil
}

func (t *tour) slowest() time.Duration {
	var slowest time.Duration
	for _, a := range t.accepted {
		slowest = max(slowest, a.took)
	}
	return slowest
}

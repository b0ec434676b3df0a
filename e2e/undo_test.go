package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// undoWitness is what programs and undos have written where the product knows nothing of it.
func (f *fleet) undoWitness(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(f.witnesses, "undo"))
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return strings.ReplaceAll(strings.TrimSpace(string(b)), "\n", " ")
}

func (f *fleet) undoLine(word string) string {
	file := filepath.Join(f.witnesses, "undo")
	return `echo "` + word + ` $AGENTPLANE_UNDO" >> ` + file + `; sync ` + file + `; echo ` + word
}

// armed waits until the cluster shows that the command waits for a confirmation.
func (f *fleet) armed(t *testing.T, id string) {
	t.Helper()
	await(t, 40*time.Second, "it waits for a confirmation", func() error {
		o := f.Ctl(t.Context(), "commands", "get", id, "--request-timeout", "3s")
		if !strings.Contains(o.Stdout, "armed") || !strings.Contains(o.Stdout, "unless it is confirmed within") {
			return printedError(o.Stdout + o.Stderr)
		}
		return nil
	})
}

// TestConfirmedInTime kills the node that an armed agent is at, and agentd itself: the
// confirmation reaches it all the same, and the undo never runs.
func TestConfirmedInTime(t *testing.T) {
	f := newFleet(t, 1, []string{"--agent-heartbeat-interval", "200ms"}, nil)
	a, id := f.agents[0], newID(t)
	if o := f.Ctl(within(t, 20*time.Second), "run", "--detach", "--id", id, "--on", "all", "--confirm-within", "10m",
		"--undo", f.undoLine("back"), "--", "sh", "-c", f.undoLine("change")); o.Err() != nil {
		t.Fatal(o.Err())
	}
	f.armed(t, id)
	view, err := f.agentView(t.Context(), "a1")
	if err != nil {
		t.Fatal(err)
	}
	if !a.Kill() {
		t.Fatal("the agent was not alive")
	}
	for _, n := range f.nodes {
		if n.Name == view.Node {
			n.Kill()
			defer func() {
				if err := n.Start(); err != nil {
					t.Error(err)
				}
			}()
		}
	}
	for range 2 { // the second time is a repetition, and answers what stands
		await(t, 40*time.Second, "it is confirmed", func() error {
			return f.Ctl(t.Context(), "commands", "confirm", id, "--request-timeout", "3s").Err()
		})
	}
	if err := a.Start(); err != nil {
		t.Fatal(err)
	}
	o := f.Ctl(within(t, time.Minute), "commands", "watch", id)
	if o.Code != 0 || !strings.Contains(o.Stdout, "SUCCEEDED: a1") {
		t.Errorf("%+v", o)
	}
	o = f.Ctl(within(t, 20*time.Second), "why", id, "a1")
	for _, want := range []string{"armed", "confirmed", "operator admin"} {
		if !strings.Contains(o.Stdout, want) {
			t.Errorf("why does not say %q:\n%s%s", want, o.Stdout, o.Stderr)
		}
	}
	if got := f.undoWitness(t); got != "change" {
		t.Errorf("%q were started", got)
	}

	// By contact nobody has to: a node answers a new connection, also while another is dead.
	id = newID(t)
	if o := f.Ctl(within(t, time.Minute), "run", "--id", id, "--on", "all", "--confirm-within", "30s", "--confirm-by", "contact",
		"--undo", f.undoLine("back"), "--", "true"); o.Err() != nil {
		t.Fatal(o.Err())
	}
	o = f.Ctl(within(t, 20*time.Second), "commands", "get", id)
	if !strings.Contains(o.Stdout, "confirmed by contact") || f.undoWitness(t) != "change" {
		t.Errorf("%q were started; %s%s", f.undoWitness(t), o.Stdout, o.Stderr)
	}
}

// TestUndoneWithNobodyThere kills every node, and agentd in the middle of the wait: the host
// goes its way back by itself, once, and tells of it when somebody is there again.
func TestUndoneWithNobodyThere(t *testing.T) {
	f := newFleet(t, 1, []string{"--agent-heartbeat-interval", "200ms"}, nil)
	a, id := f.agents[0], newID(t)
	if o := f.Ctl(within(t, 20*time.Second), "run", "--detach", "--id", id, "--on", "all", "--confirm-within", "12s",
		"--undo", f.undoLine("back"), "--", "sh", "-c", f.undoLine("change")); o.Err() != nil {
		t.Fatal(o.Err())
	}
	f.armed(t, id)
	for _, n := range f.nodes {
		n.Kill()
	}
	if !a.Kill() {
		t.Fatal("the agent was not alive")
	}
	if err := a.Start(); err != nil {
		t.Fatal(err)
	}
	await(t, 40*time.Second, "it is undone", func() error {
		if got := f.undoWitness(t); got != "change  back not_confirmed" {
			return printedError(got)
		}
		return nil
	})
	if !a.Kill() {
		t.Fatal("the agent was not alive")
	}
	for _, n := range f.nodes {
		if err := n.Start(); err != nil {
			t.Fatal(err)
		}
	}
	if err := a.Start(); err != nil {
		t.Fatal(err)
	}
	o := f.Ctl(within(t, time.Minute), "commands", "watch", id)
	if o.Code != 7 || !strings.Contains(o.Stdout, "FAILED (undone, cause=not_confirmed): a1") || !strings.Contains(o.Stdout, "change\nback\n") {
		t.Errorf("%+v", o)
	}
	o = f.Ctl(within(t, 20*time.Second), "commands", "confirm", id)
	if o.Code != 7 || !strings.Contains(o.Stderr, "is not kept on 1 agent, where its undo has begun: a1") {
		t.Errorf("confirmed when it was over: %+v", o)
	}
	o = f.Ctl(within(t, 20*time.Second), "commands", "output", id, "a1")
	if o.Stdout != "change\nback\n" {
		t.Errorf("output is %q %s", o.Stdout, o.Stderr)
	}
	if got := f.undoWitness(t); got != "change  back not_confirmed" {
		t.Errorf("%q were started", got)
	}
}

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// stepLine is a step that writes down that it was started, in a file that the product knows
// nothing of, and waits until it is let go.
func (f *fleet) stepLine(name, more string) string {
	return name + `=echo "$AGENTPLANE_STEP $AGENTPLANE_STEP_NAME" >> ` + filepath.Join(f.witnesses, "steps") + `; sync ` + filepath.Join(f.witnesses, "steps") +
		`; echo "` + name + ` prints"; while [ ! -e ` + filepath.Join(f.Dir, "let-"+name) + ` ]; do sleep 0.05; done; ` + more
}

func (f *fleet) stepStarts(t *testing.T) []string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(f.witnesses, "steps"))
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return strings.Split(strings.TrimSuffix(string(b), "\n"), "\n")
}

// TestStepsOutliveTheirAgent kills agentd while the first step runs, lets that end while
// agentd is away, and kills it and the node of its session again in the second: each step
// is started once, in order, and what all of them print is one text.
func TestStepsOutliveTheirAgent(t *testing.T) {
	f := newFleet(t, 1, []string{"--agent-heartbeat-interval", "200ms"}, nil)
	a := f.agents[0]
	let := func(name string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(f.Dir, "let-"+name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	started := func(want ...string) {
		t.Helper()
		await(t, 40*time.Second, strings.Join(want, ", ")+" were started", func() error {
			if got := f.stepStarts(t); !slices.Equal(got, want) {
				return printedError(strings.Join(got, ", "))
			}
			return nil
		})
	}
	id := newID(t)
	if o := f.Ctl(within(t, 20*time.Second), "run", "--detach", "--id", id, "--on", "all",
		"--step", f.stepLine("drain", "true"), "--step", f.stepLine("upgrade", "true"), "--step", f.stepLine("check", "exit 3"), "--step", "never=echo never",
	); o.Err() != nil {
		t.Fatal(o.Err())
	}
	started("1 drain")
	if !a.Kill() {
		t.Fatal("the agent was not alive")
	}
	let("drain")
	attempts := filepath.Join(a.DataDir, "attempts")
	await(t, 20*time.Second, "the first step has ended", func() error {
		found, err := filepath.Glob(filepath.Join(attempts, id+".*@1", "exit"))
		if err == nil && len(found) == 0 {
			err = printedError("not yet")
		}
		return err
	})
	if err := a.Start(); err != nil {
		t.Fatal(err)
	}
	started("1 drain", "2 upgrade")
	await(t, 40*time.Second, "the cluster knows of the second step", func() error {
		o := f.Ctl(t.Context(), "commands", "get", id, "--request-timeout", "3s")
		if !strings.Contains(o.Stdout, "STEPS") || !strings.Contains(o.Stdout, "1 drain    SUCCEEDED") || !strings.Contains(o.Stdout, "2 upgrade  RUNNING") {
			return printedError(o.Stdout + o.Stderr)
		}
		return nil
	})
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
	if err := a.Start(); err != nil {
		t.Fatal(err)
	}
	let("upgrade")
	started("1 drain", "2 upgrade", "3 check")
	let("check")
	o := f.Ctl(within(t, time.Minute), "commands", "watch", id)
	if o.Code != 7 || !strings.Contains(o.Stdout, "FAILED (exit 3, step 3 check)") || !strings.Contains(o.Stdout, "drain prints\nupgrade prints\ncheck prints\n") {
		t.Errorf("%+v", o)
	}
	o = f.Ctl(within(t, 20*time.Second), "why", id, "a1")
	if !strings.Contains(o.Stdout, "step 3 of 4 (check): the program ended with 3") || !strings.Contains(o.Stdout, "3 check    FAILED         3 ") || !strings.Contains(o.Stdout, "4 never    never started  -") {
		t.Errorf("why says\n%s%s", o.Stdout, o.Stderr)
	}
	o = f.Ctl(within(t, 20*time.Second), "commands", "output", id, "a1")
	if o.Stdout != "drain prints\nupgrade prints\ncheck prints\n" {
		t.Errorf("output is %q %s", o.Stdout, o.Stderr)
	}
	started("1 drain", "2 upgrade", "3 check")

	// More than a result holds: nodes keep the exact bytes of all steps, one after the other.
	id = newID(t)
	var want strings.Builder
	args := []string{"run", "--id", id, "--on", "all"}
	for _, letter := range []string{"a", "b", "c"} {
		args = append(args, "--step", letter+"=head -c 100000 /dev/zero | tr '\\0' "+letter)
		want.WriteString(strings.Repeat(letter, 100_000))
	}
	if o := f.Ctl(within(t, time.Minute), args...); o.Err() != nil {
		t.Fatal(o.Err())
	}
	await(t, 40*time.Second, "the nodes keep all of it", func() error {
		o := f.Ctl(t.Context(), "commands", "output", id, "a1", "--request-timeout", "3s")
		if o.Code != 0 || o.Stdout != want.String() {
			return printedError(fmt.Sprintf("%d bytes, want %d: %s", len(o.Stdout), want.Len(), o.Stderr))
		}
		return nil
	})
}

package e2e

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/agentplane/agentplane/cmd/agentplane/lab"
)

// attached is an agentctl that follows a command.
type attached struct {
	cmd    *exec.Cmd
	stdout lockedBuffer
	stderr lockedBuffer
	ended  chan error
}

// lockedBuffer may be read while it is written.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// attach follows a command, beginning with one node.
func (f *fleet) attach(t *testing.T, ctx context.Context, n *lab.Node, id string) *attached {
	t.Helper()
	address, err := n.Address(ctx)
	if err != nil {
		t.Fatal(err)
	}
	a := &attached{ended: make(chan error, 1)}
	a.cmd = exec.CommandContext(ctx, f.Bin.Agentctl, "--addr", address, "commands", "attach", id)
	a.cmd.Env = append(os.Environ(), "AGENTCTL_CONFIG="+filepath.Join(f.User, "agentctl.yaml"), "HOME="+f.User)
	a.cmd.Stdout, a.cmd.Stderr = &a.stdout, &a.stderr
	if err := a.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { a.ended <- a.cmd.Wait() }()
	return a
}

// holder is the node that holds the agent's session.
func (f *fleet) holder(ctx context.Context, agent string) (*lab.Node, error) {
	a, err := f.agentView(ctx, agent)
	if err != nil {
		return nil, err
	}
	members, err := f.Members(ctx)
	if err != nil {
		return nil, err
	}
	for _, m := range members {
		for _, n := range f.nodes {
			if m.ID == a.Node && n.Name == m.Name {
				return n, nil
			}
		}
	}
	return nil, fmt.Errorf("agent %s is on node %q", agent, a.Node)
}

// The agent's node is killed in the middle of the output, then the node that is followed:
// whoever follows sees every line once, and afterwards all of it is kept.
func TestOutputOutlivesTheDeathOfEitherNode(t *testing.T) {
	lines := 400 // about five seconds of them
	if full() {
		lines = 1600
	}
	f := newFleet(t, 1, nil, nil)
	ctx := within(t, 3*time.Minute)
	id := f.detach(t, "a1", []string{"--timeout", "2m"}, []string{"sh", "-c", fmt.Sprintf(
		`i=0; while [ $i -lt %d ]; do i=$((i+1)); echo "this is line $i of what the program prints"; sleep 0.01; done; echo the end >&2`, lines)})
	f.awaitState(t, id, "RUNNING")
	first, err := f.holder(ctx, "a1")
	if err != nil {
		t.Fatal(err)
	}
	var other *lab.Node
	for _, n := range f.nodes {
		if n != first {
			other = n
		}
	}
	want := ""
	for i := range lines {
		want += fmt.Sprintf("this is line %d of what the program prints\n", i+1)
	}
	// One begins on the agent's node, the other on the node that is killed later.
	follows := map[string]*attached{"on the agent's node": f.attach(t, ctx, first, id), "on another node": f.attach(t, ctx, other, id)}
	reached := func(part int) {
		t.Helper()
		for name, a := range follows {
			await(t, time.Minute, fmt.Sprintf("the follow that began %s shows line %d", name, part), func() error {
				if got := a.stdout.String(); !strings.Contains(got, fmt.Sprintf("line %d of", part)) {
					return fmt.Errorf("%d bytes so far: %s", len(got), a.stderr.String())
				}
				return nil
			})
		}
	}
	reached(lines / 5)
	if !first.Kill() {
		t.Fatal("the agent's node was not alive")
	}
	reached(2 * lines / 5)
	if err := first.Start(); err != nil {
		t.Fatal(err)
	}
	voters(t, f.Lab, len(three))
	if !other.Kill() {
		t.Fatal("the node that is followed was not alive")
	}
	reached(lines)
	for name, a := range follows {
		select {
		case err := <-a.ended:
			if err != nil {
				t.Errorf("the follow that began %s: %v: %s", name, err, a.stderr.String())
			}
		case <-ctx.Done():
			t.Fatalf("the follow that began %s does not end: %s", name, a.stderr.String())
		}
		if got := a.stdout.String(); got != want {
			t.Errorf("the follow that began %s shows %s", name, differs(got, want))
		}
		if !strings.Contains(a.stderr.String(), "the end\n") {
			t.Errorf("the follow that began %s shows on stderr %q", name, a.stderr.String())
		}
	}
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	for _, n := range f.nodes {
		address, err := n.Address(ctx)
		if err != nil {
			t.Fatal(err)
		}
		await(t, 30*time.Second, "all of the output through "+n.Name, func() error {
			o := f.Ctl(ctx, "--addr", address, "commands", "output", id, "a1")
			if o.Err() != nil {
				return o.Err()
			}
			if o.Stdout != want {
				return fmt.Errorf("it gives %s", differs(o.Stdout, want))
			}
			return nil
		})
	}
	f.writesFiles(t, ctx, id, want)
	var c struct {
		Invocations []struct {
			Kept *struct {
				NodeIDs []string
				Totals  struct{ Stdout, Stderr struct{ Bytes, Missing int } }
			}
		}
	}
	await(t, 30*time.Second, "two nodes keep it", func() error {
		if err := f.json(ctx, &c, "commands", "get", id, "-o", "json"); err != nil {
			return err
		}
		k := c.Invocations[0].Kept
		if k == nil || len(k.NodeIDs) < 2 || k.Totals.Stdout.Bytes != len(want) || k.Totals.Stdout.Missing != 0 || k.Totals.Stderr.Missing != 0 {
			return fmt.Errorf("kept is %+v", k)
		}
		return nil
	})
}

// writesFiles expects of a command on a1 all of its output in a file, and of another one the
// same straight after its end, whatever bytes it prints.
func (f *fleet) writesFiles(t *testing.T, ctx context.Context, id, want string) {
	t.Helper()
	earlier, now, printed := filepath.Join(f.Dir, "earlier"), filepath.Join(f.Dir, "now"), filepath.Join(f.Dir, "printed")
	if o := f.Ctl(ctx, "commands", "output", id, "--output-dir", earlier); o.Err() != nil {
		t.Fatal(o.Err())
	}
	got, err := os.ReadFile(filepath.Join(earlier, "a1", "stdout"))
	if err != nil || string(got) != want {
		t.Errorf("the file has %s (%v)", differs(string(got), want), err)
	}
	if o := f.Ctl(ctx, "run", "--on", f.everyone(), "--output-dir", now, "--", "sh", "-c", "head -c 1000000 /dev/urandom | tee "+printed); o.Err() != nil {
		t.Fatal(o.Err())
	}
	wrote, err := os.ReadFile(printed)
	if err != nil {
		t.Fatal(err)
	}
	got, err = os.ReadFile(filepath.Join(now, "a1", "stdout"))
	if err != nil || len(wrote) != 1000000 || !bytes.Equal(got, wrote) {
		t.Errorf("the file of what just ended has %s (%v)", differs(string(got), string(wrote)), err)
	}
	if _, err := os.Stat(filepath.Join(now, "a1", "gaps")); err == nil {
		t.Error("gaps are noted, and there is none")
	}
}

// differs says where two texts part.
func differs(got, want string) string {
	n := 0
	for n < len(got) && n < len(want) && got[n] == want[n] {
		n++
	}
	return fmt.Sprintf("%d bytes, %d were printed; they differ from %d on: %.80q", len(got), len(want), n, got[n:])
}

// A flood is bounded on the host and on the nodes, does not slow the program down for
// long, and what is not kept is said.
func TestAFloodOfOutputIsBoundedEverywhere(t *testing.T) {
	flood := 300_000_000
	if full() {
		flood = 2_000_000_000
	}
	f := newFleet(t, 1, nil, nil)
	id, o := f.run(t, "a1", []string{"--timeout", "1m"}, []string{"sh", "-c", fmt.Sprintf("head -c %d /dev/zero; echo the end", flood)})
	if o.Err() != nil {
		t.Fatal(o.Err())
	}
	var c struct {
		Invocations []struct {
			Kept *struct {
				Totals struct{ Stdout struct{ Bytes, Missing int } }
			}
		}
	}
	await(t, time.Minute, "the output is recorded", func() error {
		if err := f.json(t.Context(), &c, "commands", "get", id, "-o", "json"); err != nil {
			return err
		}
		if c.Invocations[0].Kept == nil {
			return fmt.Errorf("%+v", c)
		}
		return nil
	})
	total := c.Invocations[0].Kept.Totals.Stdout
	if total.Bytes != flood+len("the end\n") || total.Missing == 0 {
		t.Errorf("recorded is %+v", total)
	}
	for _, n := range f.nodes {
		if size := used(t, filepath.Join(n.DataDir, "output")); size > 140<<20 {
			t.Errorf("%s keeps %d bytes of output", n.Name, size)
		}
	}
	if size := used(t, filepath.Join(f.agents[0].DataDir, "attempts")); size > 11<<20 {
		t.Errorf("the agent keeps %d bytes of output", size)
	}
	out := f.Ctl(within(t, time.Minute), "commands", "output", id, "a1")
	if out.Err() != nil || len(out.Stdout) != total.Bytes-total.Missing || !strings.HasSuffix(out.Stdout, "the end\n") || !strings.Contains(out.Stderr, "are not kept: ") {
		t.Errorf("of %+v came %d bytes: %.500s", total, len(out.Stdout), out.Stderr)
	}
}

// used is how many bytes the files below a directory have.
func used(t *testing.T, dir string) (size int64) {
	t.Helper()
	if err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		st, err := d.Info()
		if err == nil {
			size += st.Size()
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return size
}

package e2e

import (
	"strings"
	"testing"
	"time"

	"github.com/agentplane/agentplane/cmd/agentplane/lab"
)

// TestBadDayNoQuorum kills two of three nodes. The one that is left does nothing and
// says so; what was acknowledged is there when the others are back.
func TestBadDayNoQuorum(t *testing.T) {
	f := newFleet(t, 1, []string{"--hold-without-leader", "1s"}, nil)
	before, o := f.run(t, "a1", nil, f.argv())
	if o.Code != 0 {
		t.Fatalf("%+v", o)
	}
	left := f.nodes[0]
	kill := func(n *lab.Node) {
		t.Helper()
		if !n.Kill() {
			t.Fatalf("%s was not alive", n.Name)
		}
	}
	// The death of one is said before gossip has noticed it.
	kill(f.nodes[2])
	await(t, 2*time.Second, "n3 is said to be silent, or gone", func() error {
		o := f.Ctl(t.Context(), "cluster", "status", "--why", "--addr", f.addresses[0])
		if o.Err() == nil && !strings.Contains(o.Stdout, `node "n3"`) {
			return printedError(o.Stdout)
		}
		return o.Err()
	})
	kill(f.nodes[1])
	ask := []string{"--addr", f.addresses[0], "--request-timeout", "3s"}
	await(t, 10*time.Second, left.Name+" knows that it has no quorum", func() error {
		o := f.Ctl(t.Context(), "cluster", "status", "--stale", "--why", "--addr", f.addresses[0], "--request-timeout", "2s")
		if o.Code == 0 && !strings.Contains(o.Stdout+o.Stderr, "2 of 3") {
			return printedError(o.Stdout + o.Stderr)
		}
		return o.Err()
	})

	lost := newID(t)
	badDay{code: 5, says: []string{"leader"}, hint: `must be up; see "agentctl cluster status --why"`}.judge(t,
		f.Ctl(within(t, 20*time.Second), append([]string{"agents", "list"}, ask...)...))
	o = f.Ctl(within(t, 20*time.Second), append(append([]string{"run", "--id", lost, "--detach", "--on", "all", "--queue", "1m"}, ask...), append([]string{"--"}, f.argv()...)...)...)
	written := badDay{code: 5, says: []string{"leader"}, hint: `must be up; see "agentctl cluster status --why"`}
	if o.Code == 6 { // it reached a leader that had not noticed: said as unknown
		written = badDay{code: 6, hint: "--id"}
	}
	written.judge(t, o)
	o = f.Ctl(within(t, 20*time.Second), append([]string{"agents", "list", "--stale"}, ask...)...)
	if o.Code != 0 || !strings.Contains(o.Stdout, "a1") || !strings.Contains(o.Stderr, "stale") {
		t.Errorf("a stale read answers and says its age: %+v", o)
	}
	o = f.Ctl(within(t, 20*time.Second), append([]string{"cluster", "status", "--stale", "--why"}, ask...)...)
	all := o.Stdout + o.Stderr
	for _, want := range []string{"2 of 3 voters must be up", `node "n2"`, `node "n3"`, "is dead", "type: "} {
		if o.Code != 0 || !strings.Contains(all, want) {
			t.Errorf("status --why does not say %q: %+v", want, o)
		}
	}

	for _, n := range f.nodes[1:] {
		if err := n.Start(); err != nil {
			t.Fatal(err)
		}
	}
	voters(t, f.Lab, 3)
	f.awaitHealth(t, "a1", "ONLINE")
	f.expect(t, before, "SUCCEEDED", 1)
	if written.code == 5 {
		if o := f.Ctl(within(t, 20*time.Second), "commands", "get", lost); o.Code != 3 {
			t.Errorf("known not to be done, and it is there: %+v", o)
		}
	}
	after, o := f.run(t, "a1", nil, f.argv())
	if o.Code != 0 {
		t.Fatalf("%+v", o)
	}
	f.expect(t, after, "SUCCEEDED", 1)
}

// printedError is an error that is what somebody printed.
type printedError string

func (e printedError) Error() string { return string(e) }

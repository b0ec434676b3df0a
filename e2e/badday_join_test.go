package e2e

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/agentplane/agentplane/cmd/agentplane/lab"
)

// TestBadDayAdvertise gives nodes addresses at which nobody reaches them. What can be
// seen at start is refused there; the rest by the cluster, before it knows the node.
func TestBadDayAdvertise(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	for _, c := range []struct{ advertise, says string }{
		{"0.0.0.0", "every address of this host"},
		{"[::]:7460", "every address of this host"},
		{"224.0.0.1", "not the address of one host"},
		{"nosuchhost.invalid", "nosuchhost.invalid"},
	} {
		t.Run(c.advertise, func(t *testing.T) {
			o := tryNode(t, l, filepath.Join(l.Dir, "never"), "--advertise", c.advertise)
			badDay{code: 1, says: []string{"advertise", c.says}, hint: "--advertise"}.judge(t, o)
		})
	}

	nodes, err := l.Cluster(within(t, time.Minute), []string{"n1"})
	if err != nil {
		t.Fatal(err)
	}
	first, err := nodes[0].Address(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	unused, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nowhere := unused.Addr().String()
	if err := unused.Close(); err != nil {
		t.Fatal(err)
	}
	token := mustToken(t, l, "node")
	start := func(n *lab.Node) {
		t.Helper()
		if err := n.Start(); err != nil {
			t.Fatal(err)
		}
		if _, err := n.Address(within(t, 10*time.Second)); err != nil {
			t.Fatal(err)
		}
	}
	join := []string{"cluster", "join", first, "--token", token, "--request-timeout", "20s", "--data-dir"}
	wrong := l.Node("n2", "--advertise", nowhere)
	start(wrong)
	badDay{code: 1, says: []string{"you advertise " + nowhere, `node "n1" cannot reach it`, "refused"}, hint: "--advertise"}.judge(t,
		l.Ctl(within(t, 20*time.Second), append(join, wrong.DataDir)...))
	elsewhere := l.Node("n3", "--advertise", first)
	start(elsewhere)
	badDay{code: 1, says: []string{"you advertise " + first, "another node answers there"}, hint: "--advertise"}.judge(t,
		l.Ctl(within(t, 20*time.Second), append(join, elsewhere.DataDir)...))
	if members := voters(t, l, 1); len(members) != 1 {
		t.Errorf("they left something behind: %+v", members)
	}

	// With the right address the same directory and the same token do.
	if err := wrong.Stop(10 * time.Second); err != nil {
		t.Fatal(err)
	}
	right := l.Node("n2")
	start(right)
	if o := l.Ctl(within(t, 20*time.Second), append(join, right.DataDir)...); o.Err() != nil {
		t.Fatal(o.Err())
	}

	// A member that comes back with an address at which nobody reaches it stays where it
	// was, and says so.
	if err := right.Stop(10 * time.Second); err != nil {
		t.Fatal(err)
	}
	start(wrong)
	await(t, 30*time.Second, "the node says that its address is not taken", func() error {
		log, err := os.ReadFile(wrong.Log)
		for _, want := range []string{"does not take this node's address", "you advertise " + nowhere} {
			if !strings.Contains(string(log), want) {
				return fmt.Errorf("its log does not say %q (%v)", want, err)
			}
		}
		return nil
	})
	await(t, 30*time.Second, "it is reached where it was", func() error {
		o := l.Ctl(t.Context(), "cluster", "status", "--why")
		if o.Code != 0 || strings.Contains(o.Stdout, nowhere) || strings.Contains(o.Stdout, "remove n2") {
			return fmt.Errorf("%+v", o)
		}
		return nil
	})
	if err := wrong.Stop(10 * time.Second); err != nil {
		t.Fatal(err)
	}
	start(right)

	// Nobody is left to answer: the wait has an end, and says what stands.
	if !nodes[0].Kill() {
		t.Fatal("n1 was not alive")
	}
	join[6] = "8s"
	badDay{code: 5, says: []string{"not done within 8s", "waiting to be added"}, hint: "run the same command again"}.judge(t,
		l.Ctl(within(t, 20*time.Second), append(join, right.DataDir)...))
}

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/agentplane/agentplane/controlplane/pki"
)

// TestBadDayNodeImage puts an older image of a node's directory back. The node is refused
// and ends, and what its hint says to type brings it back.
func TestBadDayNodeImage(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	nodes, err := l.Cluster(within(t, time.Minute), three)
	if err != nil {
		t.Fatal(err)
	}
	voters(t, l, 3)
	victim := nodes[2]
	stop := func() {
		t.Helper()
		if err := victim.Stop(20 * time.Second); err != nil {
			t.Fatal(err)
		}
	}
	start := func() {
		t.Helper()
		if err := victim.Start(); err != nil {
			t.Fatal(err)
		}
		if _, err := victim.Address(within(t, 10*time.Second)); err != nil {
			t.Fatal(err)
		}
	}
	stop()
	image := filepath.Join(l.Dir, "image")
	if err := os.CopyFS(image, os.DirFS(victim.DataDir)); err != nil {
		t.Fatal(err)
	}
	start()
	voters(t, l, 3)
	mustToken(t, l, "agent")
	// Followers need not have met; the leader has.
	await(t, 20*time.Second, "another node has on its disk that n3 was started again", func() error {
		var remembered []string
		for _, n := range nodes[:2] {
			boot, err := pki.LoadBootState(filepath.Join(n.DataDir, "boot.state"))
			if err != nil {
				return err
			}
			for _, p := range boot.Peers {
				if p.Starts > 1 && p.StartID != "" {
					return nil
				}
			}
			remembered = append(remembered, fmt.Sprintf("%s remembers %+v", n.Name, boot.Peers))
		}
		return printedError(strings.Join(remembered, ", "))
	})
	stop()
	if err := os.RemoveAll(victim.DataDir); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(image, victim.DataDir); err != nil {
		t.Fatal(err)
	}
	private(t, victim.DataDir)
	for _, which := range []string{"the first", "the next"} { // which asks nobody
		if err := victim.Start(); err != nil {
			t.Fatal(err)
		}
		if code, err := victim.Await(within(t, 30*time.Second)); err != nil || code != 4 {
			t.Errorf("%s start on the old image ends with exit code %d (%v), want 4", which, code, err)
		}
	}
	b, err := os.ReadFile(victim.Log)
	if err != nil {
		t.Fatal(err)
	}
	said := string(b[strings.LastIndex(string(b), "agentplane: error: "):])
	for _, want := range []string{"a disk image was put back", "agentctl cluster remove n3", "agentctl tokens create --kind node", "move " + victim.DataDir + " away"} {
		if !strings.Contains(said, want) {
			t.Errorf("the node does not say %q: %s", want, said)
		}
	}
	if strings.Contains(said, "rpc error") || strings.Contains(said, "desc =") {
		t.Errorf("the node says what is gRPC's own: %s", said)
	}

	// As typed; a script says yes, since gossip may not have noticed yet.
	if o := l.Ctl(within(t, 20*time.Second), "cluster", "remove", "n3", "--yes"); o.Err() != nil {
		t.Fatal(o.Err())
	}
	token := mustToken(t, l, "node")
	if err := os.Rename(victim.DataDir, image); err != nil {
		t.Fatal(err)
	}
	start()
	first, err := nodes[0].Address(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if o := l.Ctl(within(t, 30*time.Second), "cluster", "join", first, "--token", token, "--data-dir", victim.DataDir); o.Err() != nil {
		t.Fatal(o.Err())
	}
	voters(t, l, 3)
}

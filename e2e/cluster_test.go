package e2e

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/agentplane/agentplane/cmd/agentplane/lab"
)

var three = []string{"n1", "n2", "n3"}

// voters waits until the cluster shows the number of voters and one leader.
func voters(t *testing.T, l *lab.Lab, want int) []lab.Member {
	t.Helper()
	var members []lab.Member
	await(t, 30*time.Second, fmt.Sprintf("%d voters and a leader", want), func() (err error) {
		if members, err = l.Members(t.Context(), "--request-timeout", "3s"); err != nil {
			return err
		}
		voting, leading := 0, 0
		for _, m := range members {
			if m.Voter {
				voting++
			}
			if m.Leader {
				leading++
			}
		}
		if voting != want || leading != 1 {
			return fmt.Errorf("%d voters, %d leaders: %+v", voting, leading, members)
		}
		return nil
	})
	return members
}

func TestThreeNodesBecomeACluster(t *testing.T) {
	l := newLab(t)
	nodes, err := l.Cluster(within(t, time.Minute), three)
	if err != nil {
		t.Fatal(err)
	}
	await(t, 10*time.Second, "all three gossip", func() error {
		for _, m := range voters(t, l, 3) {
			if m.ID == "" || m.Address == "" || m.State != "alive" {
				return fmt.Errorf("member %+v", m)
			}
		}
		return nil
	})

	t.Run("setting up again is harmless and says so", func(t *testing.T) {
		first, err := nodes[0].Address(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		o := l.Ctl(t.Context(), "cluster", "init", "--data-dir", nodes[0].DataDir)
		if o.Code != 0 || !strings.Contains(o.Stdout+o.Stderr, "already") {
			t.Errorf("init again: %+v", o)
		}
		token, err := l.Token(t.Context(), "node")
		if err != nil {
			t.Fatal(err)
		}
		o = l.Ctl(t.Context(), "cluster", "join", first, "--token", token, "--data-dir", nodes[1].DataDir)
		if o.Code != 0 || !strings.Contains(o.Stdout+o.Stderr, "already") {
			t.Errorf("join again: %+v", o)
		}
		voters(t, l, 3)
	})

	t.Run("all three killed at once come back by themselves", func(t *testing.T) {
		snapshots, err := filepath.Glob(filepath.Join(l.Dir, "n*", "raft", "snapshots", "*"))
		if err != nil || len(snapshots) > 0 {
			t.Fatalf("this must happen before the first snapshot: %v, %v", snapshots, err)
		}
		for _, n := range nodes {
			if !n.Kill() {
				t.Fatalf("%s was not alive", n.Name)
			}
		}
		for _, n := range nodes {
			if err := n.Start(); err != nil {
				t.Fatal(err)
			}
		}
		voters(t, l, 3)
		if _, err := l.Token(within(t, 10*time.Second), "agent"); err != nil {
			t.Errorf("a write after coming back: %v", err)
		}
	})

	t.Run("the leader killed, the others lead on", func(t *testing.T) {
		leader, err := l.Leader(within(t, 10*time.Second))
		if err != nil {
			t.Fatal(err)
		}
		if !leader.Kill() {
			t.Fatal("the leader was not alive")
		}
		if _, err := l.Token(within(t, 10*time.Second), "agent"); err != nil {
			t.Errorf("a write after the leader's death: %v", err)
		}
		if err := leader.Start(); err != nil {
			t.Fatal(err)
		}
		voters(t, l, 3)
	})

	t.Run("a stopped leader hands over and ends in order", func(t *testing.T) {
		leader, err := l.Leader(within(t, 10*time.Second))
		if err != nil {
			t.Fatal(err)
		}
		if err := leader.Stop(20 * time.Second); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(filepath.Join(leader.DataDir, "addresses.json")); err == nil {
			t.Error("addresses.json outlives its process")
		}
		log, err := os.ReadFile(leader.Log)
		if err != nil || !strings.Contains(string(log), "leadership handed over") {
			t.Errorf("the log does not say that leadership was handed over (%v)", err)
		}
		if err := leader.Start(); err != nil {
			t.Fatal(err)
		}
		voters(t, l, 3)
	})

	t.Run("a node whose address has changed comes back", func(t *testing.T) {
		moved := nodes[2]
		old, err := moved.Address(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		moved.Kill()
		squatter, err := net.Listen("tcp", old) // so that the node must take another port
		if err != nil {
			t.Fatal(err)
		}
		defer squatter.Close()
		if err := moved.Start(); err != nil {
			t.Fatal(err)
		}
		var now string
		await(t, 10*time.Second, "the new address", func() (err error) {
			if now, err = moved.Address(t.Context()); err == nil && now == old {
				err = fmt.Errorf("the node still says %s", old)
			}
			return err
		})
		await(t, 20*time.Second, "the cluster knows the new address", func() error {
			for _, m := range voters(t, l, 3) {
				if m.Name == moved.Name && (m.Address != now || m.State != "alive") {
					return fmt.Errorf("%+v, want address %s", m, now)
				}
			}
			return nil
		})
		if o := l.Ctl(within(t, 10*time.Second), "--addr", now, "cluster", "status"); o.Err() != nil {
			t.Errorf("asked at its new address: %v", o.Err())
		}
	})

	t.Run("a node that was away trusts one that joined meanwhile", func(t *testing.T) {
		nodes[1].Kill()
		late := l.Node("n4")
		if err := late.Start(); err != nil {
			t.Fatal(err)
		}
		if _, err := late.Address(within(t, 10*time.Second)); err != nil {
			t.Fatal(err)
		}
		token, err := l.Token(within(t, 10*time.Second), "node")
		if err != nil {
			t.Fatal(err)
		}
		first, err := nodes[0].Address(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if o := l.Ctl(within(t, 20*time.Second), "cluster", "join", first, "--token", token, "--no-wait", "--data-dir", late.DataDir); o.Err() != nil {
			t.Fatal(o.Err())
		}
		if err := nodes[1].Start(); err != nil {
			t.Fatal(err)
		}
		await(t, 30*time.Second, "four members alive", func() error {
			o := l.Ctl(t.Context(), "cluster", "members", "-o", "json")
			var members []lab.Member
			if err := json.Unmarshal([]byte(o.Stdout), &members); err != nil {
				return fmt.Errorf("%w: %+v", err, o)
			}
			alive := 0
			for _, m := range members {
				if m.State == "alive" {
					alive++
				}
			}
			if alive != 4 {
				return fmt.Errorf("%d alive: %+v", alive, members)
			}
			return nil
		})
	})
}

func TestATokenIsForOneNode(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	nodes, err := l.Cluster(within(t, time.Minute), []string{"n1"})
	if err != nil {
		t.Fatal(err)
	}
	first, err := nodes[0].Address(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	token, err := l.Token(t.Context(), "node")
	if err != nil {
		t.Fatal(err)
	}
	var others []*lab.Node
	for _, name := range []string{"n2", "n3"} {
		n := l.Node(name)
		if err := n.Start(); err != nil {
			t.Fatal(err)
		}
		if _, err := n.Address(within(t, 10*time.Second)); err != nil {
			t.Fatal(err)
		}
		others = append(others, n)
	}
	o := l.Ctl(within(t, 20*time.Second), "cluster", "join", first, "--token", token, "--data-dir", others[0].DataDir)
	if o.Code != 0 || !strings.Contains(o.Stdout+o.Stderr, "one more node") {
		t.Errorf("a second node caught up must return and say what it waits for: %+v", o)
	}
	o = l.Ctl(within(t, 20*time.Second), "cluster", "join", first, "--token", token, "--data-dir", others[1].DataDir)
	if o.Code == 0 || !strings.Contains(o.Stderr, "used") {
		t.Errorf("a token used by another node: %+v", o)
	}
	for _, bad := range []string{"nonsense", strings.Replace(token, "apt1.", "apt1.0", 1), token[:len(token)-2]} {
		o := l.Ctl(within(t, 20*time.Second), "cluster", "join", first, "--token", bad, "--data-dir", others[1].DataDir)
		if o.Code == 0 || o.Stdout != "" || !strings.Contains(o.Stderr, "agentctl: hint: ") {
			t.Errorf("token %q: %+v", bad, o)
		}
		if secret := strings.Split(token, ".")[2]; strings.Contains(o.Stderr, secret[:len(secret)-2]) {
			t.Errorf("the error shows the secret: %s", o.Stderr)
		}
	}
	o = l.Ctl(within(t, 5*time.Second), "cluster", "members", "--no-such-flag")
	if o.Code != 2 {
		t.Errorf("an unknown flag: %+v", o)
	}
}

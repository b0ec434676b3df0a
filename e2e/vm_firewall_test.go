package e2e

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"
)

// guestCutsItselfOff has commands change the guest's network, whose undo takes that back, and
// which are confirmed by contact alone.
func guestCutsItselfOff(t *testing.T, k *guestKit) {
	f, g := guestFleet(t, k, []string{"--agent-heartbeat-interval", "500ms"}, nil)
	const table = "table inet change { chain in { type filter hook input priority 0; iif lo accept; %[1]s }; chain out { type filter hook output priority 0; oif lo accept; %[1]s }; }"
	firewall := func(rule string) string { return "nft '" + fmt.Sprintf(table, rule) + "'" }
	const remove = "nft delete table inet change"
	const established = "ct state established,related accept; "
	change := func(id, within, change, undo string, flags ...string) []string {
		return append(append([]string{
			"run", "--id", id, "--on", "all", "--confirm-by", "contact", "--confirm-within", within,
			"--undo", strings.Join(f.argv(), " ") + "; " + undo,
		}, flags...), "--", "sh", "-c", strings.Join(f.argv(), " ")+"; "+change)
	}
	session := func() (epoch json.Number) {
		t.Helper()
		var a struct{ SessionEpoch json.Number }
		if err := f.json(within(t, 20*time.Second), &a, "agents", "get", "guest", "-o", "json"); err != nil {
			t.Fatal(err)
		}
		return a.SessionEpoch
	}
	drops := func(t *testing.T) {
		t.Helper()
		await(t, time.Minute, "the firewall drops packets", func() error {
			said, err := g.ask(within(t, 20*time.Second), "nft list table inet change")
			if err == nil && sumOf(packetsCounted, said) == 0 {
				err = printedError(said)
			}
			return err
		})
	}

	for _, c := range []struct {
		name, change, undo string
		sessionLives       bool
	}{
		{"nothing passes", firewall("counter drop;"), remove, false},
		{"nothing new passes, and what is open lives on", firewall(established + "counter drop;"), remove, true},
		{"the interface is down", "ip link set eth0 down", "ip link set eth0 up", false},
		{"the nodes are somewhere else", "ip route add blackhole " + nodesAddress, "ip route del blackhole " + nodesAddress, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			f.awaitGuest(t)
			before, id := session(), newID(t)
			if o := f.Ctl(within(t, 20*time.Second), change(id, "15s", c.change, c.undo, "--detach")...); o.Err() != nil {
				t.Fatal(o.Err())
			}
			if strings.HasPrefix(c.change, "nft") {
				drops(t)
			}
			if c.sessionLives {
				await(t, 10*time.Second, "that it waits is told on the session", func() error {
					o := f.Ctl(t.Context(), "commands", "get", id, "--request-timeout", "3s")
					if !strings.Contains(o.Stdout, "armed") {
						return printedError(o.Stdout + o.Stderr)
					}
					return nil
				})
				if v, err := f.agentView(t.Context(), "guest"); err != nil || v.Health != "ONLINE" {
					t.Errorf("the session is not whole: %+v, %v", v, err)
				}
			}
			i := f.awaitGuestEnd(t, id, "FAILED", "undone", 2)
			o := f.Ctl(within(t, 20*time.Second), "why", id, "guest")
			if !strings.Contains(o.Stdout, "undone, cause=no_contact") {
				t.Errorf("%v; why does not say that nobody was reached:\n%s%s", i, o.Stdout, o.Stderr)
			}
			f.awaitGuest(t)
			if after := session(); c.sessionLives && after != before {
				t.Errorf("the session should have lived through it: epoch %s, then %s", before, after)
			}
			id, o = f.run(t, "guest", nil, f.argv())
			if o.Code != 0 {
				t.Errorf("the next command: %+v", o)
			}
			f.expect(t, id, "SUCCEEDED", 1)
		})
	}

	t.Run("what does not cut it off is kept", func(t *testing.T) {
		id := newID(t)
		o := f.Ctl(within(t, time.Minute), change(id, "40s", firewall(established+"tcp dport 9 counter drop;"), remove)...)
		if o.Code != 0 {
			t.Errorf("%+v", o)
		}
		f.expect(t, id, "SUCCEEDED", 1)
		next, o := f.run(t, "guest", nil, f.argv()) // behind it an undo that ran in spite of it would have, too
		if o.Code != 0 {
			t.Errorf("the next command: %+v", o)
		}
		f.expect(t, next, "SUCCEEDED", 1)
		f.expect(t, id, "SUCCEEDED", 1)
		if n := sumOf(packetsCounted, g.must(t, "nft list table inet change")); n != 0 {
			t.Errorf("the rule drops %d packets of others", n)
		}
		g.must(t, remove)
	})

	t.Run("its power is cut while it is cut off for good", func(t *testing.T) {
		f.awaitGuest(t)
		boot, id := g.bootID(t), newID(t)
		keep := `echo "` + fmt.Sprintf(table, "counter drop;") + `" > /data/firewall; sync; nft -f /data/firewall`
		if o := f.Ctl(within(t, 20*time.Second), change(id, "20s", keep, "rm /data/firewall; sync; "+remove, "--detach")...); o.Err() != nil {
			t.Fatal(o.Err())
		}
		drops(t)
		await(t, 20*time.Second, "the program has ended, behind which contact is waited for", func() error {
			_, err := g.ask(within(t, 10*time.Second), "ls /data/agent/attempts/"+id+".*/exit")
			return err
		})
		if !g.cut() {
			t.Fatal("the guest was not alive")
		}
		if err := g.power(); err != nil {
			t.Fatal(err)
		}
		if now := g.bootID(t); now == boot {
			t.Fatalf("the boot id still is %s", now)
		}
		if n := len(g.must(t, "ls /data/firewall")); n == 0 {
			t.Error("the change has not outlived the cut")
		}
		// The time begins once more when it is started anew.
		up := g.uptime(t)
		i := f.awaitGuestEnd(t, id, "FAILED", "undone", 2)
		if g.uptime(t) < 20 {
			t.Errorf("it was undone %.1f to %.1f seconds after its start, and had 20: %v", up, g.uptime(t), i)
		}
		if left := g.must(t, "ls /data; nft list tables"); strings.Contains(left, "firewall") || strings.Contains(left, "change") {
			t.Errorf("the change is still there: %s", left)
		}
		f.awaitGuest(t)
	})
}

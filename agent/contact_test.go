package agent

import (
	"context"
	"net"
	"slices"
	"strings"
	"testing"
)

// A node on the agent's own host answers whatever became of the network.
func TestContactIsSoughtElsewhere(t *testing.T) {
	for name, x := range map[string]struct {
		nodes, want string
	}{
		"the node beside it is left out":                {"here:1 away:1 away:2", "away:1 away:2"},
		"one elsewhere is enough for that":              {"here:1 here:2 away:1", "away:1"},
		"a cluster on one host alone is asked as it is": {"here:1 here:2 here:3", "here:1 here:2 here:3"},
		"nobody is known":                               {"", ""},
	} {
		t.Run(name, func(t *testing.T) {
			c := &contact{
				trust: &trust{servers: strings.Fields(x.nodes)},
				local: func(_ context.Context, address string) bool { return strings.HasPrefix(address, "here") },
			}
			var got []string
			for _, n := range c.nodes(t.Context()) {
				got = append(got, n.Address)
			}
			slices.Sort(got)
			if strings.Join(got, " ") != x.want {
				t.Errorf("it asks %q, want %q", got, x.want)
			}
		})
	}
}

func TestContactKnowsItsOwnHost(t *testing.T) {
	want := map[string]bool{
		"127.0.0.1:7443": true, "127.8.0.1:7443": true, "[::1]:7443": true, "[::ffff:127.0.0.1]:7443": true, "localhost:7443": true, "0.0.0.0:7443": true,
		"192.0.2.1:7443": false, "[2001:db8::1]:7443": false, "": false, "127.0.0.1": false,
	}
	own, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range own {
		ip, _, err := net.ParseCIDR(a.String())
		if err != nil {
			t.Fatal(err)
		}
		want[net.JoinHostPort(ip.String(), "7443")] = true
	}
	for address, here := range want {
		if got := onThisHost(t.Context(), address); got != here {
			t.Errorf("onThisHost(%q) = %v", address, got)
		}
	}
}

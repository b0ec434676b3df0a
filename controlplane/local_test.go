package controlplane

import (
	"strings"
	"testing"
)

func TestReachableRefusesLoopbackElsewhere(t *testing.T) {
	for _, c := range []struct {
		advertised string
		join       []string
		want       string
	}{
		{"127.0.0.1:7460", []string{"127.0.0.1:7461"}, ""},
		{"10.0.0.1:7460", []string{"10.0.0.2:7460"}, ""},
		{"10.0.0.1:7460", []string{"127.0.0.1:7460"}, ""}, // the other node is on this host
		{"127.0.0.1:7460", []string{"10.0.0.2:7460"}, "you advertise 127.0.0.1 but join 10.0.0.2: peers cannot reach you"},
		{"[::1]:7460", []string{"[fd00::2]:7460"}, "you advertise ::1 but join fd00::2: peers cannot reach you"},
		{"localhost:7460", []string{"node-2:7460"}, "you advertise localhost but join node-2: peers cannot reach you"},
		{"127.0.0.1:7460", []string{"127.0.0.1:7461", "10.0.0.2:7460"}, "you advertise 127.0.0.1 but join 10.0.0.2: peers cannot reach you"},
		{"10.0.0.1:7460", []string{"10.0.0.2"}, `address "10.0.0.2": want HOST:PORT`},
	} {
		err := reachable(c.advertised, c.join)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("reachable(%q, %q) = %v, want %q", c.advertised, c.join, err, c.want)
		}
	}
}

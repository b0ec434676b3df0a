package controlplane

import (
	"strings"
	"testing"
)

func TestAdvertiseRefusesWhatNobodyCanConnectTo(t *testing.T) {
	for _, c := range []struct{ configured, bound, want, err string }{
		{"", "127.0.0.1:7460", "127.0.0.1:7460", ""},
		{"10.0.0.1", "0.0.0.0:7460", "10.0.0.1:7460", ""},
		{"node-1.example:7461", "0.0.0.0:7460", "node-1.example:7461", ""},
		{"0.0.0.0", "127.0.0.1:7460", "", "means every address of this host"},
		{"::", "127.0.0.1:7460", "", "means every address of this host"},
		{"[::]:7460", "127.0.0.1:7460", "", "means every address of this host"},
		{"10.0.0.1:0", "127.0.0.1:7460", "", "is not a number from 1 to 65535"},
		{"10.0.0.1:http", "127.0.0.1:7460", "", "is not a number from 1 to 65535"},
		{":7460", "127.0.0.1:7460", "", "is not a host"},
		{"224.0.0.1", "127.0.0.1:7460", "", "is not the address of one host"},
		{"ff02::1", "127.0.0.1:7460", "", "is not the address of one host"},
		{"255.255.255.255:7460", "127.0.0.1:7460", "", "is not the address of one host"},
	} {
		got, err := advertise(c.configured, c.bound)
		if err == nil {
			err = usable(got)
		}
		switch {
		case c.err == "" && (err != nil || got != c.want):
			t.Errorf("--advertise %q on %s is %q, %v; want %q", c.configured, c.bound, got, err, c.want)
		case c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)):
			t.Errorf("--advertise %q is %q, %v; want an error that says %q", c.configured, got, err, c.err)
		}
	}
}

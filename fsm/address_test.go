package fsm

import "testing"

func TestValidAddress(t *testing.T) {
	for address, want := range map[string]bool{
		"127.0.0.1:7460": true, "[::1]:7460": true, "node-1.example:1": true, "a:65535": true,
		"": false, ":1": false, "a": false, "a:": false, "a:0": false, "a:65536": false, "a:01": false, "a:+1": false,
		"::1:7460": false, "[::1:1": false, "[]:1": false, "[a]b:1": false, "a b:1": false, "a,b:1": false, "a@b:1": false,
	} {
		if got := validAddress(address); got != want {
			t.Errorf("validAddress(%q) = %v, want %v", address, got, want)
		}
	}
}

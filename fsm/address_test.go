package fsm

import (
	"testing"

	"pgregory.net/rapid"

	"github.com/agentplane/agentplane/proto/identity"
)

// What the state accepts must be what the trust bundle accepts: an address that
// only the state takes would stop every node that applies it.
func TestAddressesAreThoseOfTheBundle(t *testing.T) {
	check := func(t interface{ Errorf(string, ...any) }, a string) {
		if got, want := validAddress(a), identity.ValidateAddress(a) == nil; got && !want {
			t.Errorf("validAddress(%q) is true, but the bundle does not take it", a)
		}
	}
	for _, a := range []string{
		"127.0.0.1:7460", "[::1]:7460", "node-1.example:1", "127.0.0.1:044843", "127.0.0.1:+1", "a,b:1", "::1:7460", "[::1:1",
		"", ":1", "a", "a:", "a:0", "a:65536", "[]:1", "a]:1", "[a:1", "[a]b:1", "a b:1", "a:1:2", "[[a]]:1",
	} {
		check(t, a)
	}
	if !validAddress("127.0.0.1:7460") || !validAddress("[::1]:7460") || !validAddress("node-1.example:1") {
		t.Error("a good address is refused")
	}
	rapid.Check(t, func(t *rapid.T) {
		check(t, rapid.StringMatching(`[\[\]a1:.,/@ +-]{0,12}`).Draw(t, "address"))
	})
}

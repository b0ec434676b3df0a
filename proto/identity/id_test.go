package identity

import (
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestParseIDIsStrict(t *testing.T) {
	for _, tt := range []struct{ name, in, fault string }{
		{"a node", "spiffe://c1/node/0199f3a2", ""},
		{"an agent", "spiffe://c1.prod_x/agent/web-3.rack_2", ""},
		{"an operator", "spiffe://c1/operator/Alice.B", ""},
		{"empty", "", "does not begin"},
		{"another scheme", "https://c1/node/a", "does not begin"},
		{"an upper-case scheme", "SPIFFE://c1/node/a", "does not begin"},
		{"no name", "spiffe://c1/node", "want spiffe://"},
		{"an empty name", "spiffe://c1/node/", "name is empty"},
		{"a trailing slash", "spiffe://c1/node/a/", "want spiffe://"},
		{"too many parts", "spiffe://c1/node/a/b", "want spiffe://"},
		{"no cluster", "spiffe:///node/a", "cluster id is empty"},
		{"an upper-case cluster", "spiffe://C1/node/a", "has the character 'C'"},
		{"a cluster with a port", "spiffe://c1:80/node/a", "has the character ':'"},
		{"a cluster with a user", "spiffe://u@c1/node/a", "has the character '@'"},
		{"a cluster that is an address", "spiffe://10.0.0.1/node/a", "is an IP address"},
		{"an empty label", "spiffe://c1..x/node/a", "empty label"},
		{"an unknown kind", "spiffe://c1/robot/a", "none of node, agent, operator"},
		{"the CA of a node", CAName("c1", "a"), "none of node, agent, operator"},
		{"a kind in upper case", "spiffe://c1/Node/a", "none of node, agent, operator"},
		{"an escape", "spiffe://c1/node/%61", "has the character '%'"},
		{"a query", "spiffe://c1/node/a?x=1", "has the character '?'"},
		{"a fragment", "spiffe://c1/node/a#x", "has the character '#'"},
		{"a dot as name", "spiffe://c1/node/.", "is a path"},
		{"two dots as name", "spiffe://c1/node/..", "is a path"},
		{"a control character", "spiffe://c1/node/a\n", "has the character"},
		{"a letter beyond ASCII", "spiffe://c1/node/ä", "has the character"},
		{"a name that is too long", "spiffe://c1/node/" + strings.Repeat("a", MaxNameBytes+1), "above the maximum"},
		{"a cluster that is too long", "spiffe://" + strings.Repeat("a", MaxClusterBytes+1) + "/node/a", "above the maximum"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			id, err := ParseID(tt.in)
			switch {
			case tt.fault == "" && err != nil:
				t.Fatalf("ParseID(%q): %v", tt.in, err)
			case tt.fault == "" && id.String() != tt.in:
				t.Fatalf("ParseID(%q).String() = %q", tt.in, id)
			case tt.fault != "" && (err == nil || !strings.Contains(err.Error(), tt.fault)):
				t.Fatalf("ParseID(%q) = %v, %v; want an error with %q", tt.in, id, err, tt.fault)
			}
		})
	}
}

func TestIDSurvivesTheRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		id := ID{
			Cluster: rapid.StringMatching(`[a-z][a-z0-9_-]{0,20}(\.[a-z0-9]{1,8})?`).Draw(t, "cluster"),
			Kind:    rapid.SampledFrom([]Kind{KindNode, KindAgent, KindOperator}).Draw(t, "kind"),
			Name:    rapid.StringMatching(`[A-Za-z0-9_-][A-Za-z0-9._-]{0,100}`).Draw(t, "name"),
		}
		got, err := ParseID(id.String())
		if err != nil || got != id {
			t.Fatalf("ParseID(%q) = %+v, %v; want %+v", id, got, err, id)
		}
	})
}

func FuzzParseID(f *testing.F) {
	f.Add("spiffe://c1/node/a")
	f.Add("spiffe://c1/agent/../operator/a")
	f.Fuzz(func(t *testing.T, s string) {
		id, err := ParseID(s)
		if err == nil && (id.String() != s || id.Validate() != nil) {
			t.Fatalf("ParseID(%q) accepted what it would not write: %q", s, id)
		}
	})
}

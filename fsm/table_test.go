package fsm

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

// TestTableMatchesAMap puts and deletes at random, takes copies on the way, and
// compares each with a map taken at the same time.
func TestTableMatchesAMap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		byValue := func(s *raftlogv1.Setting) (string, bool) { return s.GetValue() + s.GetKey(), s.GetValue() != "" }
		live := newTable((*raftlogv1.Setting).GetKey, byValue)
		want := make(map[string]string)
		type kept struct {
			t    *table[*raftlogv1.Setting]
			want map[string]string
		}
		var copies []kept
		for range rapid.IntRange(0, 300).Draw(t, "steps") {
			key := fmt.Sprint(rapid.IntRange(0, 99).Draw(t, "key"))
			switch op := rapid.IntRange(0, 9).Draw(t, "op"); {
			case op < 6:
				value := rapid.SampledFrom([]string{"", "a", "b"}).Draw(t, "value")
				live.put(&raftlogv1.Setting{Key: key, Value: value})
				want[key] = value
			case op < 9:
				_, deleted := live.delete(key)
				if _, had := want[key]; had != deleted {
					t.Fatalf("delete(%s) = %v, want %v", key, deleted, had)
				}
				delete(want, key)
			default:
				copies = append(copies, kept{live.copy(), maps.Clone(want)})
			}
		}
		for _, c := range append(copies, kept{live, want}) {
			if err := checkTable("settings", c.t); err != nil {
				t.Fatal(err)
			}
			keys := slices.Sorted(maps.Keys(c.want))
			var got, gotA, wantA []string
			for s := range c.t.all() {
				got = append(got, s.GetKey())
				if s.GetValue() != c.want[s.GetKey()] {
					t.Fatalf("%s is %q, want %q", s.GetKey(), s.GetValue(), c.want[s.GetKey()])
				}
			}
			for s := range c.t.by(0, "a") {
				gotA = append(gotA, s.GetKey())
			}
			for _, k := range keys {
				if c.want[k] == "a" {
					wantA = append(wantA, k)
				}
			}
			if !slices.Equal(got, keys) || !slices.Equal(gotA, wantA) || c.t.len() != len(keys) {
				t.Fatalf("table holds %v, with value a %v; want %v and %v", got, gotA, keys, wantA)
			}
		}
	})
}

// Two parts of an index key must not be taken for others when they are joined.
func TestIndexKeysDoNotCollide(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		part := rapid.StringOfN(rapid.SampledFrom([]rune{0, 'a', '.'}), 0, 4, -1)
		a, b, c, d := part.Draw(t, "a"), part.Draw(t, "b"), part.Draw(t, "c"), part.Draw(t, "d")
		if (sized(a)+b == sized(c)+d) != (a == c && b == d) {
			t.Fatalf("%q, %q and %q, %q", a, b, c, d)
		}
		if a != c && strings.HasPrefix(sized(c)+d, sized(a)) {
			t.Fatalf("%q is found under %q", c, a)
		}
	})
}

func TestInvocationKey(t *testing.T) {
	for id, want := range map[string]bool{
		"c.1": true, "c.0": true, "c.4294967295": true, "c.d.7": true, ".1": true,
		"": false, "c": false, "c.": false, "c.-1": false, "c.01": false, "c.+1": false, "c.4294967296": false, "c.1 ": false,
	} {
		key, ok := invocationKey(id)
		if ok != want {
			t.Errorf("invocationKey(%q) = %q, %v, want %v", id, key, ok, want)
		}
	}
}

func TestClip(t *testing.T) {
	for _, c := range []struct {
		s    string
		n    int
		want string
	}{{"abc", 3, "abc"}, {"abcd", 3, "abc"}, {"éé", 3, "é"}, {"éé", 1, ""}, {"€", 2, ""}, {"", 0, ""}} {
		if got := clip(c.s, c.n); got != c.want {
			t.Errorf("clip(%q, %d) = %q, want %q", c.s, c.n, got, c.want)
		}
	}
}

func TestLaterDoesNotRunOver(t *testing.T) {
	for _, c := range []struct{ now, d, want int64 }{{5, 3, 8}, {5, -3, 2}, {5, 0, 5}, {1 << 62, 1 << 62, 1<<63 - 1}, {-5, 1<<63 - 1, 1<<63 - 6}} {
		if got := later(c.now, c.d); got != c.want {
			t.Errorf("later(%d, %d) = %d, want %d", c.now, c.d, got, c.want)
		}
	}
}

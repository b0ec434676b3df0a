package main

import (
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestUnifiedShowsWhatDiffers(t *testing.T) {
	for name, c := range map[string]struct{ from, to, want string }{
		"equal":                    {"a\nb\n", "a\nb\n", ""},
		"one line of many":         {"1\n2\n3\n4\n5\n6\n7\n8\n9\n", "1\n2\n3\n4\nX\n6\n7\n8\n9\n", "@@ -2,7 +2,7 @@\n 2\n 3\n 4\n-5\n+X\n 6\n 7\n 8\n"},
		"a line more":              {"a\n", "a\nb\n", "@@ -1 +1,2 @@\n a\n+b\n"},
		"something for nothing":    {"", "a\n", "@@ -0,0 +1 @@\n+a\n"},
		"nothing for something":    {"a\nb\n", "", "@@ -1,2 +0,0 @@\n-a\n-b\n"},
		"two places far apart":     {"x\n1\n2\n3\n4\n5\n6\n7\n8\ny\n", "X\n1\n2\n3\n4\n5\n6\n7\n8\nY\n", "@@ -1,4 +1,4 @@\n-x\n+X\n 1\n 2\n 3\n@@ -7,4 +7,4 @@\n 6\n 7\n 8\n-y\n+Y\n"},
		"two places that touch":    {"x\n1\n2\n3\n4\n5\n6\ny\n", "X\n1\n2\n3\n4\n5\n6\nY\n", "@@ -1,8 +1,8 @@\n-x\n+X\n 1\n 2\n 3\n 4\n 5\n 6\n-y\n+Y\n"},
		"no line break at the end": {"a", "a\nb", "@@ -1 +1,2 @@\n a\n+b\n"},
	} {
		t.Run(name, func(t *testing.T) {
			if got, ok := unified(c.from, c.to); !ok || got != c.want {
				t.Errorf("unified(%q, %q) = %q, %v\nwant %q", c.from, c.to, got, ok, c.want)
			}
		})
	}
}

// A diff must lead from the first text to the second, and no shorter one may be found by
// the slow, obvious way.
func TestDiffLeadsFromOneTextToTheOther(t *testing.T) {
	word := rapid.SampledFrom([]string{"a", "b", "c", ""})
	rapid.Check(t, func(t *rapid.T) {
		a := rapid.SliceOfN(word, 0, 12).Draw(t, "a")
		b := rapid.SliceOfN(word, 0, 12).Draw(t, "b")
		edits, ok := diffLines(a, b)
		if !ok {
			t.Fatal("two short texts are called too different")
		}
		var from, to []string
		steps := 0
		for _, e := range edits {
			if e.kind != '+' {
				from = append(from, e.line)
			}
			if e.kind != '-' {
				to = append(to, e.line)
			}
			if e.kind != ' ' {
				steps++
			}
		}
		if fmt.Sprintf("%q", from) != fmt.Sprintf("%q", a) || fmt.Sprintf("%q", to) != fmt.Sprintf("%q", b) {
			t.Fatalf("diff of %q and %q leads from %q to %q", a, b, from, to)
		}
		if want := len(a) + len(b) - 2*longestCommon(a, b); steps != want {
			t.Fatalf("diff of %q and %q has %d steps, want %d", a, b, steps, want)
		}
	})
}

// longestCommon is the length of the longest common subsequence.
func longestCommon(a, b []string) int {
	row := make([]int, len(b)+1)
	for _, x := range a {
		diagonal := 0
		for j, y := range b {
			above := row[j+1]
			if x == y {
				row[j+1] = diagonal + 1
			} else {
				row[j+1] = max(row[j], row[j+1])
			}
			diagonal = above
		}
	}
	return row[len(b)]
}

func TestUnifiedGivesUpOnTextsThatAreNothingAlike(t *testing.T) {
	var a, b strings.Builder
	for i := range 4000 {
		fmt.Fprintln(&a, "a", i)
		fmt.Fprintln(&b, "b", i)
	}
	if _, ok := unified(a.String(), b.String()); ok {
		t.Error("8000 lines that differ were compared")
	}
}

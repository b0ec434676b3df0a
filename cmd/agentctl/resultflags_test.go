package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
)

func TestNamesOfAgentsBecomeSafeNamesOfDirectories(t *testing.T) {
	named := func(names ...string) (all []*agentplanev1.Invocation) {
		for n, name := range names {
			all = append(all, &agentplanev1.Invocation{Id: "c." + string(rune('1'+n)), AgentId: "id-" + string(rune('1'+n)), AgentName: name})
		}
		return all
	}
	for _, c := range []struct{ names, want []string }{
		{[]string{"web-1", "web-2"}, []string{"web-1", "web-2"}},
		{[]string{"../../etc", "a/b", "."}, []string{"id-1", "id-2", "id-3"}},
		{[]string{".ssh", "-rf", ""}, []string{"id-1", "id-2", "id-3"}},
		{[]string{"hosts.failed", "Hosts.x", "command.json"}, []string{"id-1", "id-2", "id-3"}},
		{[]string{"web", "WEB", "db"}, []string{"id-1", "id-2", "db"}},    // one file system of two sees one
		{[]string{"id-2", "web", "x\n"}, []string{"id-2", "web", "id-3"}}, // that is free
		{[]string{"id-2", "", "x"}, []string{"id-2", "agent-2", "x"}},     // that is taken
	} {
		if got := fileNames(named(c.names...)); !slices.Equal(got, c.want) {
			t.Errorf("fileNames(%q) = %q, want %q", c.names, got, c.want)
		}
	}
}

// Whatever agents call themselves, all results are inside of the directory, each in a
// directory of its own.
func TestResultsStayInTheirDirectory(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		dir, err := os.MkdirTemp("", "results")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = os.RemoveAll(dir) }()
		inside := filepath.Join(dir, "inside")
		if err := os.Mkdir(inside, 0o700); err != nil {
			t.Fatal(err)
		}
		root, err := os.OpenRoot(inside)
		if err != nil {
			t.Fatal(err)
		}
		defer root.Close()
		word := rapid.OneOf(rapid.SampledFrom([]string{"..", "../x", "/etc", "a", "A", "hosts.failed", ".x", "a/../b", "", "command.json", "agent-1"}), rapid.String())
		c := &agentplanev1.Command{Id: "c"}
		for range rapid.IntRange(1, 5).Draw(t, "n") {
			c.Invocations = append(c.Invocations, &agentplanev1.Invocation{
				Id: word.Draw(t, "invocation"), AgentId: word.Draw(t, "id"), AgentName: word.Draw(t, "name"),
				State: agentplanev1.AttemptState_ATTEMPT_STATE_FAILED, ExitCode: 1,
			})
		}
		if _, err := writeResults(root, c); err != nil {
			t.Fatal(err)
		}
		outside, err := os.ReadDir(dir)
		if err != nil || len(outside) != 1 {
			t.Fatalf("beside it there is %v (%v)", outside, err)
		}
		entries, err := os.ReadDir(inside)
		if err != nil {
			t.Fatal(err)
		}
		directories := 0
		for _, e := range entries {
			if e.IsDir() {
				directories++
			}
			if strings.HasPrefix(e.Name(), ".") {
				t.Fatalf("%q is hidden", e.Name())
			}
		}
		if directories != len(c.Invocations) {
			t.Fatalf("%d directories for %d agents: %v", directories, len(c.Invocations), entries)
		}
	})
}

func TestAgesAndTimesAreRead(t *testing.T) {
	now := time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	for text, want := range map[string]time.Time{
		"90m":                  now.Add(-90 * time.Minute),
		"2d":                   now.Add(-48 * time.Hour),
		"2026-11-19T12:00:00Z": now.Add(-24 * time.Hour),
		"2026-11-19":           time.Date(2026, 11, 19, 0, 0, 0, 0, time.Local),
		"2026-11-19 08:30":     time.Date(2026, 11, 19, 8, 30, 0, 0, time.Local),
	} {
		if got, err := parseWhen(text, now); err != nil || !got.Equal(want) {
			t.Errorf("parseWhen(%q) = %v, %v; want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"", "-1h", "yesterday", "12:00", "2026-13-01"} {
		if got, err := parseWhen(text, now); err == nil {
			t.Errorf("parseWhen(%q) = %v", text, got)
		}
	}
}

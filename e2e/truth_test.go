package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A command fails on one of two hosts; files, lists, the rerun and the proof tell so, and
// what is run again is started there alone, once more.
func TestWhatFailedIsFoundAndRunAgainThereAlone(t *testing.T) {
	f := newFleet(t, 2, nil, nil)
	bad, err := f.agentView(within(t, 10*time.Second), "a2")
	if err != nil {
		t.Fatal(err)
	}
	script := filepath.Join(t.TempDir(), "script")
	text := "#!/bin/sh\n'" + strings.Join(f.argv(), "' '") + "'\ntest \"$AGENTPLANE_AGENT_ID\" != " + bad.ID + " || exit 3\n"
	if err := os.WriteFile(script, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	id, out := newID(t), filepath.Join(t.TempDir(), "out")
	o := f.Ctl(within(t, time.Minute), "run", "--id", id, "--on", "all", "--output-dir", out, "--script", script)
	if o.Code != 7 {
		t.Fatalf("agentctl run exits with %d, want 7: %s", o.Code, o.Stderr)
	}
	for name, want := range map[string]string{
		"hosts.succeeded": "a1\n", "hosts.failed": "a2\n", "hosts.lost": "", "a1/exit": "0\n", "a2/exit": "3\n", "a2/state": "FAILED (exit 3)\n",
	} {
		if got, err := os.ReadFile(filepath.Join(out, name)); err != nil || string(got) != want {
			t.Errorf("%s holds %q, want %q (%v)", name, got, want, err)
		}
	}

	again := newID(t)
	o = f.Ctl(within(t, time.Minute), "run", "--id", again, "--rerun", "failed", id)
	if o.Code != 7 || !strings.Contains(o.Stderr, "once more, where "+id+" was FAILED or TIMED_OUT") {
		t.Fatalf("the rerun exits with %d: %s", o.Code, o.Stderr)
	}
	if i := f.expect(t, again, "FAILED", 1); i.AgentName != "a2" {
		t.Errorf("it ran again on %s", i.AgentName)
	}
	if o := f.Ctl(within(t, 20*time.Second), "run", "--id", again, "--rerun", "failed", id); !strings.Contains(o.Stderr, "stood already") {
		t.Errorf("the same rerun with the same id: %+v", o)
	}
	f.expect(t, again, "FAILED", 1)

	listed := func(filters ...string) (ids []string) {
		t.Helper()
		var all []commandView
		if err := f.json(within(t, 20*time.Second), &all, append([]string{"commands", "list", "-o", "json"}, filters...)...); err != nil {
			t.Fatal(err)
		}
		for _, c := range all {
			ids = append(ids, c.ID)
		}
		return ids
	}
	for filters, want := range map[string][]string{
		"--outcome failed":                     {again, id},
		"--agent a1 --outcome succeeded":       {id},
		"--agent a1 --outcome failed":          nil,
		"--rerun-of " + id:                     {again},
		"--since 1h --operator admin":          {again, id},
		"--until 1h":                           nil,
		"--text script --limit 1 --state done": {again},
	} {
		if got := listed(strings.Fields(filters)...); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("commands list %s: %v, want %v", filters, got, want)
		}
	}

	var why struct {
		EnvelopeSha256 string
		Transitions    []struct{ What, State, By string }
	}
	if err := f.json(within(t, 20*time.Second), &why, "why", again, "a2", "-o", "json"); err != nil {
		t.Fatal(err)
	}
	first, last := why.Transitions[0], why.Transitions[len(why.Transitions)-1]
	if first.What != "submitted" || first.By != "operator admin" || last.What != "result" || last.State != "FAILED" || last.By != "agent "+bad.ID {
		t.Errorf("the proof begins with %+v and ends with %+v", first, last)
	}
	if len(why.EnvelopeSha256) != 64 {
		t.Errorf("the envelope is %q", why.EnvelopeSha256)
	}
}

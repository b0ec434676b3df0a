package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/agentplane/agentplane/cmd/agentplane/lab"
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

// Whoever may run templates alone runs them and nothing else; a secret reaches the program
// and is found neither in listings, nor in logs, nor on the host's disk.
func TestARunnerRunsTemplatesAlone(t *testing.T) {
	f := newFleet(t, 1, nil, nil)
	dir := t.TempDir()
	file, secret := filepath.Join(dir, "check.yaml"), filepath.Join(dir, "secret")
	const word = "correct-horse-battery"
	body := `
argv: [/bin/sh, -c, 'test $${#PASSWORD} -eq 21 || exit 9; exit $$1', sh, "${code}"]
parameters:
  - {name: code, type: int, min: 0, max: 8}
  - {name: password, secret: true, env: PASSWORD}
`
	for path, content := range map[string]string{file: body, secret: word + "\n"} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if o := f.Ctl(within(t, 20*time.Second), "templates", "create", "check", "-f", file); o.Err() != nil {
		t.Fatal(o.Err())
	}
	o := f.Ctl(within(t, 20*time.Second), "tokens", "create", "--kind", "operator", "--role", "runner", "--name", "ron", "--one-word")
	if o.Err() != nil {
		t.Fatal(o.Err())
	}
	ron := func(args ...string) lab.Output { return f.CtlAs(within(t, time.Minute), "ron.yaml", args...) }
	if o := ron("login", strings.TrimSpace(o.Stdout)); o.Err() != nil {
		t.Fatal(o.Err())
	}
	id := newID(t)
	o = ron("run", "@check", "code=3", "password=@"+secret, "--id", id, "--on", "all")
	if o.Code != 7 {
		t.Fatalf("ron's template exits with %d: %s", o.Code, o.Stderr)
	}
	if i := f.awaitState(t, id, "FAILED"); i.ExitCode == nil || *i.ExitCode != 3 {
		t.Errorf("%v, exit code %v, want 3: the program did not get its secret and its argument", i, i.ExitCode)
	}
	for _, args := range [][]string{
		append([]string{"run", "--on", "all", "--"}, f.argv()...), {"templates", "delete", "check"}, {"tokens", "create", "--kind", "agent"},
	} {
		if o := ron(args...); o.Code != 4 {
			t.Errorf("ron's %q exits with %d, want 4: %s", args[:2], o.Code, o.Stderr)
		}
	}
	for _, args := range [][]string{{"commands", "list", "-o", "json"}, {"commands", "get", id, "-o", "json"}, {"why", id, "a1", "-o", "json"}} {
		if o := f.Ctl(within(t, 20*time.Second), args...); o.Err() != nil || strings.Contains(o.Stdout, word) {
			t.Errorf("agentctl %q shows the secret, or fails: %v", args, o.Err())
		}
	}
	files := 0
	err := filepath.WalkDir(f.Dir, func(path string, d os.DirEntry, err error) error {
		ofAgent := strings.HasPrefix(path, f.agents[0].DataDir+string(filepath.Separator))
		if err != nil || !d.Type().IsRegular() || !ofAgent && filepath.Ext(path) != ".log" {
			return err // what nodes replicate holds the command whole
		}
		files++
		b, err := os.ReadFile(path)
		if strings.Contains(string(b), word) {
			t.Errorf("%s holds the secret", path)
		}
		return err
	})
	if err != nil || files < 5 {
		t.Errorf("%d files were looked at: %v", files, err)
	}
}

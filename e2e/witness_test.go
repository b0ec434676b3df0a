package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestWitness is one command on one agent, from end to end, judged by what the
// programs themselves wrote down. Agents have one slot, so that a second command waits.
func TestWitness(t *testing.T) {
	f := newFleet(t, 3, []string{
		"--agent-heartbeat-interval", "200ms", "--agent-node-death-grace", "2s",
	}, []string{"--slots", "1"})

	t.Run("a program that succeeds", func(t *testing.T) {
		id, o := f.run(t, "a1", nil, f.argv())
		if o.Code != 0 {
			t.Fatalf("agentctl run: %+v", o)
		}
		i := f.expect(t, id, "SUCCEEDED", 1)
		if i.ExitCode == nil || *i.ExitCode != 0 || i.Attempt != 1 {
			t.Errorf("exit code %v, attempt %d, want 0 and 1", i.ExitCode, i.Attempt)
		}
		if !strings.Contains(o.Stdout, "started "+i.ID) || !strings.Contains(o.Stdout, "== 1 agent SUCCEEDED") {
			t.Errorf("agentctl run does not show the agent and what the program printed: %q", o.Stdout)
		}
		proof(t, f, id)
	})

	t.Run("a program that fails", func(t *testing.T) {
		id, o := f.run(t, "a1", nil, f.argv("--exit", "42"))
		if o.Code != 7 {
			t.Errorf("agentctl run exits with %d, want 7: %s", o.Code, o.Stderr)
		}
		if i := f.expect(t, id, "FAILED", 1); i.ExitCode == nil || *i.ExitCode != 42 {
			t.Errorf("exit code %v, want 42", i.ExitCode)
		}
	})

	t.Run("a program that is not there", func(t *testing.T) {
		id, o := f.run(t, "a1", nil, []string{"/no/such/program"})
		if i := f.expect(t, id, "FAILED", 0); o.Code != 7 || i.Reason != "not_found" {
			t.Errorf("exits with %d, reason %q, want 7 and not_found", o.Code, i.Reason)
		}
	})

	t.Run("a script", func(t *testing.T) {
		script := filepath.Join(t.TempDir(), "script")
		text := "#!/bin/sh\nset -e\n'" + strings.Join(f.argv(), "' '") + "'\necho from a script\nexit 3\n"
		if err := os.WriteFile(script, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		id, o := f.run(t, "a1", []string{"--script", script}, nil)
		i := f.expect(t, id, "FAILED", 1)
		if o.Code != 7 || i.ExitCode == nil || *i.ExitCode != 3 || !strings.Contains(i.Output, "from a script") {
			t.Errorf("agentctl exits with %d, the script with %v, and printed %q", o.Code, i.ExitCode, i.Output)
		}
	})

	t.Run("all agents, once each", func(t *testing.T) {
		id := newID(t)
		if o := f.Ctl(within(t, time.Minute), append([]string{"run", "--id", id, "--on", "all", "--"}, f.argv()...)...); o.Code != 0 {
			t.Fatalf("%+v", o)
		}
		var c commandView
		if err := f.json(t.Context(), &c, "commands", "get", id, "-o", "json"); err != nil {
			t.Fatal(err)
		}
		names := map[string]bool{}
		for _, i := range c.Invocations {
			names[i.AgentName] = true
			if n := f.starts(t, i.ID); i.State != "SUCCEEDED" || n != 1 {
				t.Errorf("%v: started %d times", i, n)
			}
		}
		if len(names) != len(f.agents) || c.State != "DONE" || c.Counts["succeeded"] != len(f.agents) {
			t.Errorf("agents %v, state %s, counts %v", names, c.State, c.Counts)
		}
	})

	t.Run("a run timeout kills", func(t *testing.T) {
		began := time.Now()
		id, o := f.run(t, "a1", []string{"--timeout", "1s", "--kill-grace", "500ms"}, f.argv("--sleep", "2m"))
		if i := f.expect(t, id, "TIMED_OUT", 1); o.Code != 7 || time.Since(began) > 20*time.Second {
			t.Errorf("%v: exit %d after %v", i, o.Code, time.Since(began))
		}
	})

	t.Run("cancel before the start and during the run", func(t *testing.T) {
		running := f.detach(t, "a2", nil, f.argv("--sleep", "2m"))
		f.awaitStart(t, running)
		waiting := f.detach(t, "a2", nil, f.argv())
		if o := f.Ctl(within(t, 20*time.Second), "commands", "cancel", waiting); o.Code != 0 {
			t.Fatalf("%+v", o)
		}
		if i, err := f.one(t.Context(), waiting); err != nil || i.State != "CANCELED" {
			t.Errorf("a cancel that is answered and did not meet a claim is final: %v, %v", i, err)
		}
		if o := f.Ctl(within(t, 20*time.Second), "commands", "cancel", running); o.Code != 0 {
			t.Fatalf("%+v", o)
		}
		f.expect(t, running, "CANCELED", 1)
		// The slot is free again: what was canceled would have started before this.
		id, o := f.run(t, "a2", nil, f.argv())
		if o.Code != 0 {
			t.Fatalf("%+v", o)
		}
		f.expect(t, id, "SUCCEEDED", 1)
		f.expect(t, waiting, "CANCELED", 0)
	})

	t.Run("what waits too long expires", func(t *testing.T) {
		running := f.detach(t, "a2", nil, f.argv("--sleep", "2m"))
		f.awaitStart(t, running)
		id, o := f.run(t, "a2", []string{"--ttl", "1s"}, f.argv())
		if o.Code != 7 {
			t.Errorf("exit %d, want 7", o.Code)
		}
		if o := f.Ctl(within(t, 20*time.Second), "commands", "cancel", running); o.Code != 0 {
			t.Fatalf("%+v", o)
		}
		f.expect(t, running, "CANCELED", 1)
		next, _ := f.run(t, "a2", nil, f.argv())
		f.expect(t, next, "SUCCEEDED", 1)
		f.expect(t, id, "EXPIRED", 0)
	})

	t.Run("the same id is one command", func(t *testing.T) {
		id := newID(t)
		run := func(argv ...string) (code int, stderr string) {
			o := f.Ctl(within(t, time.Minute), append([]string{"run", "--id", id, "--on", `name == "a1"`, "--"}, argv...)...)
			return o.Code, o.Stderr
		}
		for range 2 {
			if code, stderr := run(f.argv()...); code != 0 {
				t.Errorf("exit %d: %s", code, stderr)
			}
		}
		f.expect(t, id, "SUCCEEDED", 1)
		if code, stderr := run("/bin/true"); code != 8 || !strings.Contains(stderr, "agentctl: hint: ") {
			t.Errorf("another content under the same id: exit %d, want 8: %s", code, stderr)
		}
		f.expect(t, id, "SUCCEEDED", 1)
	})

	t.Run("nobody matched", func(t *testing.T) {
		_, o := f.run(t, "nobody", nil, f.argv())
		if o.Code != 3 || o.Stdout != "" || !strings.HasPrefix(o.Stderr, "agentctl: error: ") || !strings.Contains(o.Stderr, "\nagentctl: hint: ") {
			t.Errorf("%+v", o)
		}
	})

	t.Run("head and tail of a long output", func(t *testing.T) {
		id, o := f.run(t, "a1", nil, []string{"/bin/sh", "-c", "seq 1 20000; echo oh >&2"})
		if o.Code != 0 {
			t.Fatalf("%+v", o)
		}
		const total = 108894 // what seq prints
		i := f.awaitState(t, id, "SUCCEEDED")
		if i.Stdout == nil || i.Stdout.TotalBytes != total {
			t.Fatalf("stdout %+v, want %d bytes in all", i.Stdout, total)
		}
		if kept := len(i.Stdout.Head) + len(i.Stdout.Tail); kept < 4<<10 || kept > 8<<10 {
			t.Errorf("%d bytes in the result, want up to 8 KiB", kept)
		}
		// Of all agents it is the head and the tail, and how much is not shown.
		o = f.Ctl(within(t, 20*time.Second), "commands", "output", id)
		if !regexp.MustCompile(`(?m)^\[… \d+ bytes are not shown …\]$`).MatchString(o.Stdout) {
			t.Errorf("exit %d, stdout begins %.20q: no gap", o.Code, o.Stdout)
		}
		// Of one it is all of it.
		o = f.Ctl(within(t, 20*time.Second), "commands", "output", id, "a1")
		if o.Code != 0 || len(o.Stdout) != total || !strings.HasPrefix(o.Stdout, "1\n2\n3\n") || !strings.HasSuffix(o.Stdout, "\n19999\n20000\n") {
			t.Errorf("exit %d, %d bytes of stdout, which begins %.20q", o.Code, len(o.Stdout), o.Stdout)
		}
		if o.Stderr != "oh\n" {
			t.Errorf("stderr is %q, want that of the program", o.Stderr)
		}
	})

	t.Run("agentd dies in the middle of a run and is started again", func(t *testing.T) {
		id := f.detach(t, "a1", nil, f.argv("--sleep", "3s"))
		f.awaitStart(t, id)
		if !f.agents[0].Kill() {
			t.Fatal("agentd was not alive")
		}
		if len(f.agents[0].Supervisors()) != 1 {
			t.Errorf("supervisors %v, want the one of the program to outlive agentd", f.agents[0].Supervisors())
		}
		if err := f.agents[0].Start(); err != nil {
			t.Fatal(err)
		}
		f.awaitHealth(t, "a1", "ONLINE")
		f.expect(t, id, "SUCCEEDED", 1)
		proof(t, f, id)
	})

	t.Run("agentd is away while the program ends", func(t *testing.T) {
		id := f.detach(t, "a1", nil, f.argv("--sleep", "1s", "--exit", "5"))
		f.awaitStart(t, id)
		if !f.agents[0].Kill() {
			t.Fatal("agentd was not alive")
		}
		await(t, 20*time.Second, "the program ends", func() error {
			if left := f.agents[0].Supervisors(); len(left) > 0 {
				return fmt.Errorf("supervisors %v", left)
			}
			return nil
		})
		if err := f.agents[0].Start(); err != nil {
			t.Fatal(err)
		}
		if i := f.expect(t, id, "FAILED", 1); i.ExitCode == nil || *i.ExitCode != 5 {
			t.Errorf("exit code %v, want 5", i.ExitCode)
		}
	})

	t.Run("agentd and the supervisor die", func(t *testing.T) {
		id := f.detach(t, "a1", nil, f.argv("--sleep", "2m"))
		f.awaitStart(t, id)
		if !f.agents[0].Kill() {
			t.Fatal("agentd was not alive")
		}
		supervisors := f.agents[0].Supervisors()
		if len(supervisors) != 1 {
			t.Fatalf("supervisors %v, want one", supervisors)
		}
		if err := syscall.Kill(supervisors[0], syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		if err := f.agents[0].Start(); err != nil {
			t.Fatal(err)
		}
		if i := f.expect(t, id, "LOST", 1); i.Reason != "supervisor_gone" {
			t.Errorf("reason %q, want supervisor_gone", i.Reason)
		}
		next, _ := f.run(t, "a1", nil, f.argv())
		f.expect(t, next, "SUCCEEDED", 1)
	})

	t.Run("an agent that is offline", func(t *testing.T) {
		if !f.agents[2].Kill() {
			t.Fatal("agentd was not alive")
		}
		f.awaitHealth(t, "a3", "RECONNECTING")
		f.awaitHealth(t, "a3", "DOWN")
		skipped, o := f.run(t, "a3", nil, f.argv())
		if i := f.expect(t, skipped, "SKIPPED", 0); o.Code != 7 || i.Reason != "offline" {
			t.Errorf("exit %d, reason %q, want 7 and offline", o.Code, i.Reason)
		}
		expired, o := f.run(t, "a3", []string{"--queue", "1s"}, f.argv())
		if o.Code != 7 {
			t.Errorf("exit %d, want 7", o.Code)
		}
		f.expect(t, expired, "EXPIRED", 0)
		waits := f.detach(t, "a3", []string{"--queue", "1m"}, f.argv())
		if err := f.agents[2].Start(); err != nil {
			t.Fatal(err)
		}
		f.awaitHealth(t, "a3", "ONLINE")
		f.expect(t, waits, "SUCCEEDED", 1)
		f.expect(t, skipped, "SKIPPED", 0)
		f.expect(t, expired, "EXPIRED", 0)
	})
}

// proof checks that why tells the steps of a program that ran, in order, each at a
// later index of the log.
func proof(t *testing.T, f *fleet, id string) {
	t.Helper()
	o := f.Ctl(within(t, 20*time.Second), "why", id, "a1")
	if o.Code != 0 {
		t.Fatalf("why: %+v", o)
	}
	steps := regexp.MustCompile(`(?m)^(submitted|released|claimed|started|result \w+) +(\d+) `).FindAllStringSubmatch(o.Stdout, -1)
	var words []string
	last := 0
	for _, s := range steps {
		words = append(words, s[1])
		index, err := strconv.Atoi(s[2])
		if err != nil || index < last {
			t.Errorf("%s is at index %s, after index %d", s[1], s[2], last)
		}
		last = index
	}
	if got := strings.Join(words, ", "); got != "submitted, released, claimed, started, result SUCCEEDED" {
		t.Errorf("the proof is %q:\n%s", got, o.Stdout)
	}
}

package main

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/client/clienttest"
)

func TestShellWords(t *testing.T) {
	for line, want := range map[string][]string{
		"true":                            {"true"},
		"  systemctl   is-active nginx\t": {"systemctl", "is-active", "nginx"},
		`sh -c 'test -e "/x y" && echo'`:  {"sh", "-c", `test -e "/x y" && echo`},
		`a "b \"c\" \d" e\ f ''`:          {"a", `b "c" \d`, "e f", ""},
		`a'b'"c"`:                         {"abc"},
		`a $HOME *`:                       {"a", "$HOME", "*"},
	} {
		if got, err := shellWords(line); err != nil || !slices.Equal(got, want) {
			t.Errorf("%s is %q (%v), want %q", line, got, err, want)
		}
	}
	for _, line := range []string{"", " ", "'", `a "b`, `a \`, "'' a"} {
		if got, err := shellWords(line); err == nil {
			t.Errorf("%q is %q, want an error", line, got)
		}
	}
}

// TestRunSaysThatItIsPaused follows a command that stops at a failure: it says why and
// what to type, goes on following, and ends when somebody has typed it.
func TestRunSaysThatItIsPaused(t *testing.T) {
	w := newWorld(t, 1, time.Hour, time.Hour)
	w.cluster.State.AddAgent("web-1", "ONLINE", nil, clienttest.Behaviour{State: agentplanev1.AttemptState_ATTEMPT_STATE_FAILED, ExitCode: 1})
	w.cluster.State.AddAgent("web-2", "ONLINE", nil, clienttest.Behaviour{})
	const id = "01890000-0000-7000-8000-00000000000c"
	resumed := make(chan int, 1)
	var once bool
	stderr := &watched{}
	stderr.on = func(all string) {
		if !once && strings.Contains(all, "go on with: agentctl commands resume "+id) {
			once = true
			go func() {
				var out, errs watched
				resumed <- run(context.Background(), []string{"commands", "resume", id}, w.getenv, strings.NewReader(""), &out, &errs)
			}()
		}
	}
	var stdout watched
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	code := run(ctx, []string{"run", "--on", "all", "--wave", "1,100%", "--id", id, "--", "x"}, w.getenv, strings.NewReader(""), &stdout, stderr)
	if code != exitInvocations {
		t.Fatalf("exit %d: %s%s", code, stdout.String(), stderr.String())
	}
	if code := <-resumed; code != exitOK {
		t.Fatalf("resume: exit %d", code)
	}
	for _, want := range []string{
		"command " + id + " is paused (max_failures): 1 failed, and 0 may; what runs goes on",
		"or end it: agentctl commands abort " + id, "1 of 2 invocations did not succeed",
	} {
		if !strings.Contains(stderr.String(), want) {
			t.Errorf("stderr does not say %q:\n%s", want, stderr.String())
		}
	}
	if n := strings.Count(stderr.String(), "is paused"); n != 1 {
		t.Errorf("it is said %d times that it is paused:\n%s", n, stderr.String())
	}
}

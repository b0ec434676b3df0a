package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestBashCompletesWithoutItsPackage presses the key in a bash that has nothing but the
// script.
func TestBashCompletesWithoutItsPackage(t *testing.T) {
	bash, err := exec.LookPath("bash")
	if err != nil {
		t.Skip("there is no bash")
	}
	var script, stderr strings.Builder
	if code := run(t.Context(), []string{"completion", "bash"}, os.Getenv, nil, &script, &stderr); code != exitOK {
		t.Fatal(stderr.String())
	}
	dir := t.TempDir()
	// In the place of agentctl: what it was asked, as the one completion.
	fake := "#!/bin/sh\nshift\nprintf '%s\\n:4\\n' \"asked-$(IFS=,; echo \"$*\")\"\n"
	for name, text := range map[string]string{"agentctl": fake, "script": script.String()} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for line, want := range map[string]string{
		"agentctl agents get ":       "asked-agents,get,",
		"agentctl tokens create --k": "asked-tokens,create,--k",
		"agentctl agents list -l ":   "asked-agents,list,-l,",
	} {
		const press = `source script
COMP_TYPE=9 COMP_LINE="$LINE" COMP_POINT=${#LINE}
press() {
	local cur prev words cword out directive
	__agentctl_init_completion -n =: && __agentctl_get_completion_results
	printf '%s' "$out"
}
press`
		cmd := exec.Command(bash, "--norc", "--noprofile", "-c", press)
		cmd.Dir, cmd.Env = dir, []string{"PATH=" + dir + ":/usr/bin:/bin", "LINE=" + line}
		out, err := cmd.CombinedOutput()
		if err != nil || strings.TrimSpace(string(out)) != want {
			t.Errorf("at %q: %q, %v; want %q", line, out, err, want)
		}
	}
}

package e2e

import (
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestPartsBearWitness has the program be a step that finds one of two files and an input, then
// an undo that fails, and then a plain program.
func TestPartsBearWitness(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir, witnesses := t.TempDir(), t.TempDir()
	there, none := filepath.Join(dir, "there"), filepath.Join(dir, "none")
	if err := os.WriteFile(there, []byte("a file"), 0o600); err != nil {
		t.Fatal(err)
	}
	run := func(wantCode int, env []string, args ...string) {
		t.Helper()
		p := exec.Command(self, append([]string{programArg, witnesses}, args...)...)
		p.Env = append([]string{"AGENTPLANE_AGENT_ID=a", "AGENTPLANE_INVOCATION_ID=c.1", "AGENTPLANE_ATTEMPT=1"}, env...)
		p.Stdin = strings.NewReader("an input")
		if out, err := p.CombinedOutput(); p.ProcessState == nil || p.ProcessState.ExitCode() != wantCode {
			t.Fatalf("%v: %s", err, out)
		}
	}
	run(0, []string{"AGENTPLANE_STEP=1", "AGENTPLANE_STEP_NAME=one"}, "--part", "1", "--file", there, "--file", none, "--stdin")
	run(4, []string{"AGENTPLANE_UNDO=failed"}, "--part", partUndo, "--exit", "4")
	run(0, nil)
	starts, err := readWitnesses(witnesses)
	if err != nil || starts[start{"c.1", 1}] != 2 {
		t.Errorf("%v, %v; want two starts, of the step and the plain program", starts, err)
	}
	deeds, err := readDeeds(witnesses)
	d := deeds[start{"c.1", 1}]
	if err != nil || len(d) != 4 {
		t.Fatalf("%+v, %v; want four deeds", deeds, err)
	}
	sum := func(text string) string { return fmt.Sprintf("%x", sha256.Sum256([]byte(text))) }
	if d[0].Found[there] != sum("a file") || d[0].Found[foundInput] != sum("an input") || !strings.Contains(d[0].Found[none], "no such file") {
		t.Errorf("found %v", d[0].Found)
	}
	if d[0].Step != "1" || d[0].Name != "one" || d[0].Ends || !d[1].Ends || d[2].Cause != "failed" || d[3].Code != 4 || d[3].Uptime < d[0].Uptime || d[0].Uptime == 0 {
		t.Errorf("%+v", d)
	}
}

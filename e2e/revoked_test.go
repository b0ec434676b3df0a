package e2e

import (
	"bufio"
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// The watch of an operator ends with words when the operator is revoked, on whichever
// node it is open.
func TestAWatchEndsWhenItsOperatorIsRevoked(t *testing.T) {
	f := newFleet(t, 1, nil, nil)
	f.awaitHealth(t, "a1", "ONLINE")
	for _, n := range f.nodes[1:] { // a follower and another: one of them may lead
		address, err := n.Address(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		name := "viewer-" + n.Name
		token := mustToken(t, f.Lab, "operator", "--role", "viewer")
		if o := f.CtlAs(within(t, 15*time.Second), name+".yaml", "login", "--name", name, token+"@"+address); o.Err() != nil {
			t.Fatal(o.Err())
		}
		watch := exec.CommandContext(within(t, 30*time.Second), f.Bin.Agentctl, "--addr", address, "agents", "watch", "-o", "jsonl")
		watch.Env = append(os.Environ(), "AGENTCTL_CONFIG="+filepath.Join(f.User, name+".yaml"), "HOME="+f.User)
		var stderr bytes.Buffer
		watch.Stderr = &stderr
		out, err := watch.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := watch.Start(); err != nil {
			t.Fatal(err)
		}
		if first, err := bufio.NewReader(out).ReadString('\n'); err != nil || !strings.Contains(first, "a1") {
			t.Fatalf("the watch begins with %q, %v", first, err)
		}
		if o := f.Ctl(within(t, 15*time.Second), "operators", "revoke", name); o.Err() != nil {
			t.Fatal(o.Err())
		}
		err = watch.Wait()
		if code := watch.ProcessState.ExitCode(); code != 4 || !strings.Contains(stderr.String(), "was revoked") {
			t.Errorf("the watch on %s ended with code %d, %v: %s", n.Name, code, err, stderr.String())
		}
	}
}

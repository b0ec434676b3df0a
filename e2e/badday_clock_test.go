package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// clockVariable moves the wall clock of a program built by wrongClock, in seconds.
const clockVariable = "E2E_WALL_OFFSET_SECONDS"

// wrongClock builds agentplane with a time.Now that may be off; the monotonic clock
// is left alone. The standard library is built with it, which takes a minute or two
// the first time.
func wrongClock(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		t.Fatal(err)
	}
	original := filepath.Join(strings.TrimSpace(string(out)), "src", "time", "time.go")
	dir := t.TempDir()
	overlay, err := overlayOf(original, "wallOffset", `
var wallOffset = func() (sec int64) {
	s, _ := syscall.Getenv("`+clockVariable+`")
	for _, c := range s {
		sec = 10*sec + int64(c-'0')
	}
	return sec
}()
`, dir)
	if errors.Is(err, errOtherGo) {
		t.Skipf("SKIPPED: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(dir, "agentplane")
	build := exec.CommandContext(within(t, 8*time.Minute), "go", "build", "-overlay", overlay,
		"-o", program, "github.com/agentplane/agentplane/cmd/agentplane")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return program
}

// TestBadDayClockAYearOff gives one of three nodes a clock that is a year ahead. It
// does not lead, and the cluster's time stays what it was.
func TestBadDayClockAYearOff(t *testing.T) {
	if !full() {
		t.Skip("SKIPPED: builds the standard library once more; asked for by AGENTPLANE_E2E=full")
	}
	program := wrongClock(t)
	f := newFleet(t, 1, nil, nil)
	leader, err := f.Leader(within(t, 10*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	// The leader itself is the one whose clock is set wrong.
	wrong := leader.Name
	if !leader.Kill() {
		t.Fatal("the leader was not alive")
	}
	t.Setenv(clockVariable, fmt.Sprint(365*24*3600))
	right := f.Bin.Agentplane
	f.Bin.Agentplane = program
	ahead := f.Node(wrong)
	f.Bin.Agentplane = right
	if err := ahead.Start(); err != nil {
		t.Fatal(err)
	}
	sane := func() {
		t.Helper()
		token := mustToken(t, f.Lab, "agent", "--ttl", "1h")
		o := f.Ctl(within(t, 10*time.Second), "tokens", "list", "-o", "json")
		var tokens []struct {
			ID        string
			CreatedAt time.Time
		}
		if err := json.Unmarshal([]byte(o.Stdout), &tokens); err != nil {
			t.Fatalf("%v: %+v", err, o)
		}
		for _, k := range tokens {
			if d := time.Since(k.CreatedAt); k.ID == tokenID(token) && (d > time.Minute || d < -time.Minute) {
				t.Errorf("the cluster's time is %v away", -d)
			}
		}
	}
	watch := time.Now().Add(10 * time.Second)
	for time.Now().Before(watch) {
		members, err := f.Members(within(t, 10*time.Second))
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range members {
			if m.Leader && m.Name == wrong {
				t.Fatalf("%s leads with a clock that is a year ahead: %+v", wrong, members)
			}
		}
		sane()
	}
	if !ahead.Running() {
		t.Errorf("%s has ended; see %s", wrong, ahead.Log)
	}
	id, o := f.run(t, "a1", nil, f.argv())
	if o.Code != 0 {
		t.Fatalf("%+v", o)
	}
	f.expect(t, id, "SUCCEEDED", 1)

	// The clock is put right, and the node is one of three again.
	ahead.Kill()
	if err := leader.Start(); err != nil {
		t.Fatal(err)
	}
	voters(t, f.Lab, 3)
	await(t, 30*time.Second, "all three are alive", func() error {
		members, err := f.Members(t.Context())
		for _, m := range members {
			if m.State != "alive" {
				return fmt.Errorf("%+v", members)
			}
		}
		return err
	})
	sane()
}

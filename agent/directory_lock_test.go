package agent

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"
)

// What a killed agentd had just forked holds its lock for a moment longer.
func TestLockOfADeadProcessIsWaitedFor(t *testing.T) {
	dead := exec.Command("true")
	if err := dead.Run(); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "data")
	first, err := openDirectory(dir)
	if err != nil {
		t.Fatal(err)
	}
	// As if another process held what the dead one had.
	if err := os.WriteFile(first.file(lockFile), []byte(strconv.Itoa(dead.Process.Pid)), 0o600); err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(50*time.Millisecond, func() { _ = first.close() })
	second, err := openDirectory(dir)
	if err != nil {
		t.Fatalf("the lock of a dead process: %v", err)
	}
	defer func() { _ = second.close() }()
	start := time.Now()
	if _, err := openDirectory(dir); !errors.Is(err, ErrInUse) || time.Since(start) > lockPatience/2 {
		t.Errorf("the lock of this process: %v after %v, want %v at once", err, time.Since(start), ErrInUse)
	}
}

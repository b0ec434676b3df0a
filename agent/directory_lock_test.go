package agent

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
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

// What this process is just forking has a copy of the open lock file.
func TestLockIsGivenBackWhoeverHasACopy(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	first, err := openDirectory(dir)
	if err != nil {
		t.Fatal(err)
	}
	child, err := syscall.Dup(int(first.lock.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = syscall.Close(child) }()
	if err := first.close(); err != nil {
		t.Fatal(err)
	}
	second, err := openDirectory(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := second.close(); err != nil {
		t.Error(err)
	}
}

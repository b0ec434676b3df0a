package sim

import (
	"os"
	"path/filepath"
	"testing"
)

// A file that a process removes while its directory is copied keeps nothing else from being
// copied: a node that starts on a part of its files belongs to no cluster.
func TestWhatVanishesStopsNoCopy(t *testing.T) {
	from, to := t.TempDir(), filepath.Join(t.TempDir(), "copy")
	if err := os.Symlink("gone", filepath.Join(from, "addresses.json")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(from, "boot.state"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := copyDir(from, to); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(filepath.Join(to, "boot.state")); err != nil || string(b) != "x" {
		t.Errorf("the copy of what is left is %q, %v", b, err)
	}
}

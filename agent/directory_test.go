package agent

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestDirectoryOfANodeIsRefused(t *testing.T) {
	for _, name := range []string{"node", "boot.state"} {
		path := filepath.Join(t.TempDir(), "data")
		if err := errors.Join(os.Mkdir(path, 0o700), os.WriteFile(filepath.Join(path, name), nil, 0o600)); err != nil {
			t.Fatal(err)
		}
		for range 2 { // the second time: the lock of the first is free again
			d, err := openDirectory(path)
			if err == nil {
				defer func() { _ = d.close() }()
			}
			if !errors.Is(err, ErrOfNode) || !strings.Contains(err.Error(), name+" lies in it; give this agent a directory of its own") {
				t.Errorf("openDirectory = %v, want ErrOfNode", err)
			}
		}
	}
}

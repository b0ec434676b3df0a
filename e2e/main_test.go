package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/agentplane/agentplane/cmd/agentplane/lab"
)

var built struct {
	once sync.Once
	dir  string
	bin  lab.Binaries
	err  error
}

func TestMain(m *testing.M) {
	if len(os.Args) == 4 && os.Args[1] == fuseArg {
		os.Exit(serveFaults(os.Args[2:]))
	}
	if len(os.Args) > 2 && os.Args[1] == programArg {
		os.Exit(program(os.Args[2:]))
	}
	code := m.Run()
	if built.dir != "" {
		if err := os.RemoveAll(built.dir); err != nil {
			fmt.Fprintln(os.Stderr, "e2e:", err)
		}
	}
	os.Exit(code)
}

// binaries builds the programs once for all tests that need them.
func binaries(t *testing.T) lab.Binaries {
	t.Helper()
	built.once.Do(func() {
		if built.dir, built.err = os.MkdirTemp("", "agentplane-e2e-"); built.err == nil {
			var args []string
			if tags := os.Getenv("AGENTPLANE_E2E_TAGS"); tags != "" {
				fmt.Fprintln(os.Stderr, "e2e: the programs are built with the tags", tags)
				args = []string{"-tags", tags}
			}
			built.bin, built.err = lab.Build(context.Background(), ".", built.dir, args...)
		}
	})
	if built.err != nil {
		t.Fatal(built.err)
	}
	return built.bin
}

// full says that the long forms of the tests were asked for (make e2e).
func full() bool { return os.Getenv("AGENTPLANE_E2E") == "full" }

// newLab returns a lab whose processes end with the test. When the test fails its
// directory is kept, with every log.
func newLab(t *testing.T) *lab.Lab {
	t.Helper()
	return newLabOf(t, binaries(t))
}

// newLabOf is newLab with other programs.
func newLabOf(t *testing.T, bin lab.Binaries) *lab.Lab {
	t.Helper()
	dir, err := os.MkdirTemp("", "agentplane-"+strings.ToLower(strings.ReplaceAll(t.Name(), "/", "-"))+"-")
	if err != nil {
		t.Fatal(err)
	}
	l, err := lab.New(dir, bin)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		l.Close()
		if t.Failed() {
			t.Logf("kept for a look: %s (logs in %s)", dir, filepath.Join(dir, "logs"))
			return
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return l
}

// within is the deadline of one condition.
func within(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// await fails the test when the condition does not hold in time.
func await(t *testing.T, d time.Duration, what string, condition func() error) {
	t.Helper()
	if err := lab.Await(within(t, d), condition); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

package lab

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Binaries are the paths of the three programs.
type Binaries struct{ Agentplane, Agentd, Agentctl string }

var programs = []string{"agentplane", "agentd", "agentctl"}

func in(dir string) Binaries {
	return Binaries{filepath.Join(dir, "agentplane"), filepath.Join(dir, "agentd"), filepath.Join(dir, "agentctl")}
}

// Find looks for all three in a directory.
func Find(dir string) (Binaries, bool) {
	for _, p := range programs {
		if info, err := os.Stat(filepath.Join(dir, p)); err != nil || info.Mode()&0o111 == 0 {
			return Binaries{}, false
		}
	}
	return in(dir), true
}

// Build builds the three programs of the module that holds the directory from into
// the directory to.
func Build(ctx context.Context, from, to string, args ...string) (Binaries, error) {
	cmd := exec.CommandContext(ctx, "go", "env", "GOMOD")
	cmd.Dir = from
	out, err := cmd.Output()
	mod := strings.TrimSpace(string(out))
	if err != nil || mod == "" || mod == os.DevNull {
		return Binaries{}, fmt.Errorf("find the module to build from %q: it has no go.mod; run this in the project's directory, or put the binaries side by side", from)
	}
	list := []string{"build"}
	list = append(list, args...)
	list = append(list, "-o", to+string(filepath.Separator))
	for _, p := range programs {
		list = append(list, "./cmd/"+p)
	}
	cmd = exec.CommandContext(ctx, "go", list...)
	cmd.Dir = filepath.Dir(mod)
	if out, err := cmd.CombinedOutput(); err != nil {
		return Binaries{}, fmt.Errorf("build the programs: %w\n%s", err, out)
	}
	return in(to), nil
}

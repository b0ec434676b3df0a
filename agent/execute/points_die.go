//go:build agentplane_points

package execute

import (
	"os"
	"syscall"
)

// fault kills the process at the point that the file named by POINT holds. Whoever takes
// the file dies: one process, once.
var fault = func(point string) {
	path := os.Getenv("POINT")
	if b, err := os.ReadFile(path); err == nil && string(b) == point && os.Rename(path, path+".taken") == nil {
		_ = syscall.Kill(syscall.Getpid(), syscall.SIGKILL)
		select {} // nothing is done after the point
	}
}

package controlplane

import (
	"fmt"
	"os"
	"runtime"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
)

// process is what this process takes of its machine. What a system does not tell is 0.
func process() *agentplanev1.Process {
	p := &agentplanev1.Process{Goroutines: uint32(runtime.NumGoroutine())}
	if dir, err := os.Open("/proc/self/fd"); err == nil {
		names, _ := dir.Readdirnames(-1)
		p.OpenFiles = uint32(max(len(names)-1, 0)) // without dir itself
		_ = dir.Close()                            // it was only read
	}
	if b, err := os.ReadFile("/proc/self/statm"); err == nil {
		var size, resident uint64
		if _, err := fmt.Sscan(string(b), &size, &resident); err == nil {
			p.ResidentBytes = resident * uint64(os.Getpagesize())
		}
	}
	return p
}

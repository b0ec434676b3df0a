package main

import (
	"runtime/debug"
	"slices"
	"strings"

	"github.com/KimMachineGun/automemlimit/memlimit"
	"github.com/hashicorp/go-hclog"
)

const (
	// nodeGCPercent lets a node's heap grow to three times what lives in it, and not to
	// twice, before it is collected. Rows live long and each collection marks all of
	// them: at twice, a quarter of a follower's time was marking.
	nodeGCPercent = 200
	// nodeMemoryRatio is the part of the machine's memory, or of what the control group
	// allows, above which the heap is collected more often instead. The rest is for the
	// page cache, out of which the log is read and written.
	nodeMemoryRatio = 0.7
)

// tuneMemory sets how the garbage of a node is collected, unless GOGC and GOMEMLIMIT say
// it. automemlimit (MIT) reads the limits of both generations of control groups.
func tuneMemory(environ []string, logger hclog.Logger) {
	if !slices.ContainsFunc(environ, func(v string) bool { return strings.HasPrefix(v, "GOGC=") }) {
		debug.SetGCPercent(nodeGCPercent)
	}
	limit, err := memlimit.Set(memlimit.WithRatio(nodeMemoryRatio), memlimit.WithProvider(memlimit.ApplyFallback(memlimit.FromCgroup, memlimit.FromSystem)))
	if err != nil {
		logger.Warn("the memory of this machine is not known, the heap grows without a limit", "err", err)
		return
	}
	logger.Debug("the heap is kept below a limit", "bytes", limit)
}

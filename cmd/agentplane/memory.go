package main

import (
	"fmt"
	"os"
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
	// nodeMemoryPercent is the part of the memory there is, near which the heap is
	// collected more often instead. The rest is for the page cache, out of which the log
	// is read and written.
	nodeMemoryPercent = 70
)

// availableMemory is what the control group allows or what the machine has, whichever is
// less, in bytes. automemlimit (MIT) reads both generations of control groups.
func availableMemory() (uint64, error) {
	machine, err := memlimit.FromSystem()
	if err != nil {
		return 0, err
	}
	if group, err := memlimit.FromCgroup(); err == nil { // else there is none that limits
		return min(group, machine), nil
	}
	return machine, nil
}

// tuneMemory sets how the garbage of a node is collected, but for what GOGC and
// GOMEMLIMIT say already.
func tuneMemory(environ []string, logger hclog.Logger) {
	if !isSet(environ, "GOGC") {
		debug.SetGCPercent(nodeGCPercent)
	}
	if isSet(environ, "GOMEMLIMIT") {
		return
	}
	there, err := availableMemory()
	if err != nil {
		logger.Warn("how much memory there is is not known, so the heap is collected as if there were enough; GOMEMLIMIT sets a limit", "err", err)
		return
	}
	limit := int64(there / 100 * nodeMemoryPercent)
	debug.SetMemoryLimit(limit)
	logger.Debug("near a limit the heap is collected more often", "limit_bytes", limit)
}

func isSet(environ []string, name string) bool {
	return slices.ContainsFunc(environ, func(v string) bool { return strings.HasPrefix(v, name+"=") })
}

// shareOfMemory is the setting with which each of several nodes on this machine keeps to
// its share.
func shareOfMemory(nodes int) []string {
	there, err := availableMemory()
	if err != nil || isSet(os.Environ(), "GOMEMLIMIT") {
		return nil
	}
	return []string{fmt.Sprintf("GOMEMLIMIT=%d", there/100*nodeMemoryPercent/uint64(nodes))}
}

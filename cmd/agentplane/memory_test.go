package main

import (
	"math"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"
)

func TestTuneMemory(t *testing.T) {
	percent := debug.SetGCPercent(100)
	limit := debug.SetMemoryLimit(math.MaxInt64)
	defer func() {
		debug.SetGCPercent(percent)
		debug.SetMemoryLimit(limit)
	}()
	set := func() (int, int64) {
		p := debug.SetGCPercent(100)
		return p, debug.SetMemoryLimit(math.MaxInt64)
	}

	tuneMemory([]string{"GOGC=50", "GOMEMLIMIT=1GiB"}, hclog.NewNullLogger())
	if p, l := set(); p != 100 || l != math.MaxInt64 {
		t.Errorf("GOGC and GOMEMLIMIT were given, and %d%% and %d were set", p, l)
	}
	there, err := availableMemory()
	if err != nil {
		t.Skipf("SKIPPED: neither /proc nor a control group says how much memory there is: %v", err)
	}
	tuneMemory(nil, hclog.NewNullLogger())
	if p, l := set(); p != nodeGCPercent || l <= 0 || uint64(l) >= there {
		t.Errorf("of %d bytes, %d%% and the limit %d were set", there, p, l)
	}

	t.Setenv("GOMEMLIMIT", "1GiB")
	if env := shareOfMemory(3); env != nil {
		t.Errorf("GOMEMLIMIT was given, and nodes get %v", env)
	}
}

func TestShareOfMemory(t *testing.T) {
	there, err := availableMemory()
	if err != nil {
		t.Skipf("SKIPPED: neither /proc nor a control group says how much memory there is: %v", err)
	}
	t.Setenv("GOMEMLIMIT", "") // has it put back
	if err := os.Unsetenv("GOMEMLIMIT"); err != nil {
		t.Fatal(err)
	}
	env := shareOfMemory(3)
	if len(env) != 1 {
		t.Fatalf("nodes get %v", env)
	}
	share, err := strconv.ParseUint(strings.TrimPrefix(env[0], "GOMEMLIMIT="), 10, 64)
	if err != nil || share == 0 || 3*share >= there {
		t.Errorf("of %d bytes each of three nodes gets %v", there, env)
	}
}

package collect

import (
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// limits adds what the control group allows this process, as far as it allows less than
// everything: mem_limit_bytes, and cpu_limit in CPUs. root is where control groups are
// mounted; inside a container that is the container's own group. gopsutil reads neither.
func limits(root string, facts map[string]string) {
	read := func(name string) string {
		b, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			return ""
		}
		return strings.TrimSpace(string(b))
	}
	memory := read("memory.max") // v2
	if memory == "" {
		memory = read("memory/memory.limit_in_bytes") // v1
	}
	// v1 says "no limit" by a number near the largest.
	if n, err := strconv.ParseUint(memory, 10, 64); err == nil && n < math.MaxInt64/2 {
		facts["mem_limit_bytes"] = memory
	}
	quota, period, _ := strings.Cut(read("cpu.max"), " ")
	if quota == "" {
		quota, period = read("cpu/cpu.cfs_quota_us"), read("cpu/cpu.cfs_period_us")
	}
	q, err1 := strconv.ParseFloat(quota, 64)
	p, err2 := strconv.ParseFloat(period, 64)
	if err1 == nil && err2 == nil && q > 0 && p > 0 {
		facts["cpu_limit"] = strconv.FormatFloat(q/p, 'f', 2, 64)
	}
}

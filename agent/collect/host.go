package collect

import (
	"context"
	"os"
	"runtime"
	"strconv"
	"time"

	"github.com/shirou/gopsutil/v3/cpu"
	"github.com/shirou/gopsutil/v3/host"
	"github.com/shirou/gopsutil/v3/mem"
)

// Host reads the facts of this host. What cannot be read is left out: a fact is never
// guessed.
func Host(ctx context.Context) map[string]string {
	facts := map[string]string{"os": runtime.GOOS, "arch": runtime.GOARCH}
	if v, err := os.Hostname(); err == nil {
		facts["hostname"] = v
	}
	if platform, family, version, err := host.PlatformInformationWithContext(ctx); err == nil {
		facts["platform"], facts["platform_family"], facts["platform_version"] = platform, family, version
	}
	if v, err := host.KernelVersionWithContext(ctx); err == nil {
		facts["kernel"] = v
	}
	if v, err := host.KernelArch(); err == nil {
		facts["machine"] = v
	}
	if system, role, err := host.VirtualizationWithContext(ctx); err == nil && role == "guest" {
		facts["virtualization"] = system
	}
	if v, err := host.BootTimeWithContext(ctx); err == nil && v > 0 {
		facts[bootTime] = time.Unix(int64(v), 0).UTC().Format(time.RFC3339)
	}
	if n, err := cpu.CountsWithContext(ctx, true); err == nil && n > 0 {
		facts["cpu_count"] = strconv.Itoa(n)
	}
	if v, err := mem.VirtualMemoryWithContext(ctx); err == nil && v.Total > 0 {
		facts["mem_total_bytes"] = strconv.FormatUint(v.Total, 10)
	}
	limits("/sys/fs/cgroup", facts)
	return facts
}

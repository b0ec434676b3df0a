package main

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// clockTick is the unit of the kernel's processor times in /proc: 100 a second on
// every architecture that Go knows (USER_HZ).
const clockTick = 10 * time.Millisecond

// processorTime is what this process and the others have used of the processors since
// they began. Throughput on a machine that others use too says little; processor time
// for each call says more.
func processorTime(others []int) (time.Duration, error) {
	var own syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &own); err != nil {
		return 0, fmt.Errorf("read the processor time: %w", err)
	}
	sum := time.Duration(own.Utime.Nano() + own.Stime.Nano())
	for _, pid := range others {
		if pid == 0 {
			return 0, errors.New("a process has ended by itself; the end of its log says why")
		}
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			return 0, fmt.Errorf("read the processor time: %w", err)
		}
		used, err := statTime(string(stat))
		if err != nil {
			return 0, fmt.Errorf("read the processor time of process %d: %w", pid, err)
		}
		sum += used
	}
	return sum, nil
}

// statTime reads user and system time, fields 14 and 15, from a line of
// /proc/PID/stat (proc_pid_stat(5)). The name in brackets, field 2, may hold anything.
func statTime(stat string) (time.Duration, error) {
	const user, system = 14 - 3, 15 - 3 // behind the name
	fields := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
	if len(fields) <= system {
		return 0, fmt.Errorf("%.100q has %d fields behind the name", stat, len(fields))
	}
	ticks := int64(0)
	for _, f := range []string{fields[user], fields[system]} {
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("%.100q: %w", stat, err)
		}
		ticks += n
	}
	return time.Duration(ticks) * clockTick, nil
}

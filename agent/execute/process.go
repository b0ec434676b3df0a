package execute

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// BootID is the kernel's name for the time since it was started.
func BootID() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("read boot id: %w", err)
	}
	return string(bytes.TrimSpace(b)), nil
}

// process is what /proc/PID/stat says about one.
type process struct {
	pid     int
	state   byte
	group   int
	session int
	threads int
	ticks   uint64 // when it was started, since boot
}

// alive says that the process can still do something. The first thread of one that has
// others may be a zombie: for good, when it has ended alone, or for a moment, while
// another thread (of the gate, say) is in exec.
func (p process) alive() bool { return p.state != 'Z' && p.state != 'X' || p.threads > 1 }

func readProcess(pid int) (process, error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return process{}, err
	}
	return parseStat(b)
}

// parseStat reads a line of /proc/PID/stat. The name in parentheses is the program's
// own choice and may hold anything, so fields are counted from the last parenthesis.
func parseStat(b []byte) (process, error) {
	open, end := bytes.IndexByte(b, '('), bytes.LastIndexByte(b, ')')
	if open < 2 || end < open {
		return process{}, fmt.Errorf("process status %.60q has no name", b)
	}
	fields := strings.Fields(string(b[end+1:])) // fields[0] is field 3 of proc(5)
	if len(fields) < 20 || len(fields[0]) != 1 {
		return process{}, fmt.Errorf("process status %.60q is not as proc(5) says", b)
	}
	pid, err1 := strconv.Atoi(string(bytes.TrimSpace(b[:open])))
	group, err2 := strconv.Atoi(fields[2])
	session, err3 := strconv.Atoi(fields[3])
	threads, err4 := strconv.Atoi(fields[17])
	ticks, err5 := strconv.ParseUint(fields[19], 10, 64)
	if err := errors.Join(err1, err2, err3, err4, err5); err != nil {
		return process{}, fmt.Errorf("process status %.60q: %w", b, err)
	}
	return process{pid: pid, state: fields[0][0], group: group, session: session, threads: threads, ticks: ticks}, nil
}

// members gives the living processes for which want is true.
func members(want func(process) bool) ([]process, error) {
	proc, err := os.Open("/proc")
	if err != nil {
		return nil, err
	}
	names, err := proc.Readdirnames(-1)
	if err := errors.Join(err, proc.Close()); err != nil {
		return nil, err
	}
	var found []process
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		if p, err := readProcess(pid); err == nil && p.alive() && want(p) {
			found = append(found, p)
		}
	}
	return found, nil
}

// signal sends sig to p if the pid still is that process, without a moment in which it
// could become another's.
func (p process) signal(sig unix.Signal) error {
	fd, err := unix.PidfdOpen(p.pid, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	// The descriptor is bound to a process now; is it the one that was seen?
	if now, err := readProcess(p.pid); err != nil || now.ticks != p.ticks {
		return unix.ESRCH
	}
	return unix.PidfdSendSignal(fd, sig, nil, 0)
}

const (
	killWait  = 5 * time.Second       // for KILL to take effect
	pollEvery = 10 * time.Millisecond // while waiting for processes that are not our children
)

// killAll sends KILL to all that match until none is left or killWait has passed. It
// gives how many were hit and how many are left (in the kernel, uninterruptibly).
func killAll(want func(process) bool) (hit, left int) {
	type identity struct {
		pid   int
		ticks uint64
	}
	seen := map[identity]bool{}
	for end := time.Now().Add(killWait); ; time.Sleep(pollEvery) {
		found, err := members(want)
		if err != nil {
			return len(seen), 0
		}
		for _, p := range found {
			if p.signal(unix.SIGKILL) == nil {
				seen[identity{p.pid, p.ticks}] = true
			}
		}
		if len(found) == 0 || time.Now().After(end) {
			return len(seen), len(found)
		}
	}
}

// killLeftover ends what a dead supervisor has left of the attempt, and nothing else.
func killLeftover(a Attempt, st started, boot string) (hit, left int) {
	if boot != st.BootID {
		return 0, 0
	}
	// While the program's main process is there, its session is the attempt's, for a
	// group's leader cannot leave its session. When it is gone, the number may have been
	// given to another session.
	main, err := readProcess(st.PID)
	sure := err == nil && main.ticks == st.StartTicks && main.session == st.Session
	return killAll(func(p process) bool {
		return p.session == st.Session && p.ticks >= st.StartTicks && (sure || p.carries(a.marks()))
	})
}

// carries says whether all marks stand in the environment that p was started with.
func (p process) carries(marks []string) bool {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(p.pid) + "/environ")
	if err != nil {
		return false
	}
	env := strings.Split(string(b), "\x00")
	for _, m := range marks {
		if !slices.Contains(env, m) {
			return false
		}
	}
	return true
}

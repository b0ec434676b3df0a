package lab

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// running is a process of this machine as /proc shows it.
type running struct {
	pid, session int
	argv         []string
	cwd          string // empty when it may not be read
}

// processes lists all of them but this one.
func processes() []running {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var all []running
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		args, err := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		if err != nil {
			continue
		}
		p := running{pid: pid, argv: strings.Split(string(bytes.TrimRight(args, "\x00")), "\x00")}
		p.cwd, _ = os.Readlink(filepath.Join("/proc", e.Name(), "cwd"))
		if stat, err := os.ReadFile(filepath.Join("/proc", e.Name(), "stat")); err == nil {
			p.session = sessionOf(string(stat))
		}
		all = append(all, p)
	}
	return all
}

// sessionOf reads the session from a line of /proc/PID/stat, in which the name of
// the program stands in parentheses and may hold anything.
func sessionOf(stat string) int {
	fields := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
	if len(fields) < 4 { // state, parent, group, session
		return 0
	}
	session, _ := strconv.Atoi(fields[3])
	return session
}

// supervises says whether the process is a supervisor of an attempt below the
// directory. A supervisor's gate, before it becomes the program, is one too.
func (p running) supervises(dir string) bool {
	return len(p.argv) >= 3 && p.argv[0] == "agentd" && p.argv[1] == "supervise" &&
		strings.HasPrefix(p.argv[len(p.argv)-1], dir+"/")
}

// Supervisors are the ids of the agent's supervisors. They outlive agentd, and each
// leads the session in which its program runs.
func (a *Agent) Supervisors() []int {
	var pids []int
	for _, p := range processes() {
		if p.supervises(a.DataDir) && p.session == p.pid {
			pids = append(pids, p.pid)
		}
	}
	return pids
}

// leftovers are processes of this user that the lab has brought about and does not
// hold: supervisors, the programs in their sessions, and whatever works in the lab's
// directory.
func (l *Lab) leftovers() []int {
	all := processes()
	sessions := make(map[int]bool)
	for _, p := range all {
		if p.supervises(l.Dir) {
			sessions[p.session] = true
		}
	}
	var pids []int
	for _, p := range all {
		if p.session != 0 && sessions[p.session] || strings.HasPrefix(p.cwd, l.Dir+"/") ||
			p.argv[0] == l.Bin.Agentd && strings.Contains(strings.Join(p.argv, "\x00"), l.Dir+"/") {
			pids = append(pids, p.pid)
		}
	}
	return pids
}

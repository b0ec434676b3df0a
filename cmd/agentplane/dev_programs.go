package main

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/agentplane/agentplane/agent/execute"
)

// endPrograms ends what agents below dir have started, with TERM and after the
// patience with KILL, and waits until their supervisors have written down how it
// ended. The agents have ended before: nothing new begins. It says how many were
// running, and how many supervisors did not end in time and were killed too.
//
// What a program has put into a session of its own, by setsid or a service manager,
// is left alone, as agentd does.
func endPrograms(dir string, patience time.Duration) (running, stuck int) {
	kill := time.Now().Add(patience)
	end := kill.Add(3 * time.Second)
	told := make(map[int]bool)
	for pause := 10 * time.Millisecond; ; pause = min(2*pause, 100*time.Millisecond) {
		supervisors := supervisorsBelow(dir)
		if len(supervisors) == 0 {
			return running, stuck
		}
		running = max(running, len(supervisors))
		now := time.Now()
		for pid, session := range processes() {
			switch {
			case !supervisors[session]:
			case pid == session && now.After(end):
				stuck++
				signalIn(pid, session, syscall.SIGKILL)
			case pid == session: // it ends by itself
			case now.After(kill):
				signalIn(pid, session, syscall.SIGKILL)
			case !told[pid]:
				told[pid] = true
				signalIn(pid, session, syscall.SIGTERM)
				signalIn(pid, session, syscall.SIGCONT)
			}
		}
		if stuck > 0 {
			return running, stuck
		}
		time.Sleep(pause)
	}
}

// signalIn signals the process if it still is in the session: a pid may have become
// another's, a handle may not.
func signalIn(pid, session int, s syscall.Signal) {
	p, err := os.FindProcess(pid)
	if err != nil {
		return
	}
	defer func() { _ = p.Release() }()
	if now, err := unix.Getsid(pid); err == nil && now == session {
		_ = p.Signal(s)
	}
}

// supervisorsBelow gives the living supervisors of attempts below dir. Each leads a
// session of its own.
func supervisorsBelow(dir string) map[int]bool {
	found := make(map[int]bool)
	for pid, session := range processes() {
		if pid != session {
			continue
		}
		line, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cmdline")) // empty for the dead
		if err != nil {
			continue
		}
		args := strings.Split(strings.TrimSuffix(string(line), "\x00"), "\x00")
		if len(args) == 3 && args[1] == execute.SuperviseCommand && strings.HasPrefix(args[2], dir+string(filepath.Separator)) {
			found[pid] = true
		}
	}
	return found
}

// processes gives the session of each process.
func processes() map[int]int {
	all := make(map[int]int)
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if session, err := unix.Getsid(pid); err == nil {
			all[pid] = session
		}
	}
	return all
}

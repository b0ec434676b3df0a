package e2e

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// tcpSocket is an established connection's end as the kernel shows it. All of these
// tests is on loopback, where ports tell the ends apart.
type tcpSocket struct {
	local, remote int // ports
	unread        int // bytes that wait for the process
	inode         string
}

// tcpSockets lists the established connections of this machine.
func tcpSockets() ([]tcpSocket, error) {
	f, err := os.Open("/proc/net/tcp")
	if err != nil {
		return nil, err
	}
	var all []tcpSocket
	lines := bufio.NewScanner(f)
	lines.Scan() // the heading
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 10 || fields[3] != "01" {
			continue
		}
		s := tcpSocket{inode: fields[9]}
		var address, sending string
		for _, c := range []struct {
			field string
			into  *int
		}{{fields[1], &s.local}, {fields[2], &s.remote}} {
			if _, err := fmt.Sscanf(c.field, "%8s:%X", &address, c.into); err != nil {
				return nil, errors.Join(fmt.Errorf("read %q: %w", lines.Text(), err), f.Close())
			}
		}
		if _, err := fmt.Sscanf(fields[4], "%8s:%X", &sending, &s.unread); err != nil {
			return nil, errors.Join(fmt.Errorf("read %q: %w", lines.Text(), err), f.Close())
		}
		all = append(all, s)
	}
	return all, errors.Join(lines.Err(), f.Close())
}

// socketsOf are the inodes of the process's sockets.
func socketsOf(pid int) (map[string]bool, error) {
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	inodes := make(map[string]bool)
	for _, e := range entries {
		// A descriptor may have been closed meanwhile.
		to, _ := os.Readlink(filepath.Join(dir, e.Name()))
		if inode, ok := strings.CutPrefix(to, "socket:["); ok {
			inodes[strings.TrimSuffix(inode, "]")] = true
		}
	}
	return inodes, nil
}

// stopped says whether every thread of the process has stopped.
func stopped(pid int) error {
	stats, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	if err != nil || len(stats) == 0 {
		return fmt.Errorf("process %d is not there (%w)", pid, err)
	}
	for _, stat := range stats {
		b, err := os.ReadFile(stat)
		if err != nil {
			return err
		}
		if _, state, _ := strings.Cut(string(b), ") "); !strings.HasPrefix(state, "T") {
			return fmt.Errorf("thread %s: state %.1s", stat, state)
		}
	}
	return nil
}

// TestWhatWaitsInASocketIsSeen: the stale read test stands on these.
func TestWhatWaitsInASocketIsSeen(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	sender, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer sender.Close()
	receiver, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer receiver.Close()
	if _, err := sender.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	await(t, 5*time.Second, "five bytes wait in a socket of this process", func() error {
		all, err := tcpSockets()
		if err != nil {
			return err
		}
		own, err := socketsOf(os.Getpid())
		if err != nil {
			return err
		}
		for _, s := range all {
			if s.local == portOf(ln.Addr().String()) && s.remote == portOf(sender.LocalAddr().String()) && s.unread == 5 && own[s.inode] {
				return nil
			}
		}
		return fmt.Errorf("none among %d sockets", len(all))
	})
	if err := stopped(os.Getpid()); err == nil {
		t.Error("this process is called stopped")
	}
}

// portOf is the port of an address; 0 when it has none.
func portOf(address string) int {
	_, port, _ := net.SplitHostPort(address)
	n, _ := strconv.Atoi(port)
	return n
}

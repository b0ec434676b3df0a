package e2e

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// smallDisk mounts an ext4 of 64 MiB, or skips where that is not possible.
func smallDisk(t *testing.T, at string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: mounting a small file system takes root")
	}
	image := at + ".img"
	if err := errors.Join(os.Mkdir(at, 0o700), os.WriteFile(image, nil, 0o600), os.Truncate(image, 64<<20)); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"mkfs.ext4", "-q", "-m", "0", image}, {"mount", "-o", "loop", image, at}} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Skipf("SKIPPED: %s: %v: %s", strings.Join(args, " "), err, out)
		}
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(at, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
}

// TestBadDayNodeDiskSmall begins a cluster, and joins one, on a disk that has no room for
// a node: nothing begins, and the node lives on.
func TestBadDayNodeDiskSmall(t *testing.T) {
	l := newLab(t)
	smallDisk(t, filepath.Join(l.Dir, "small"))
	n := l.Node("small/n1", "--name", "n1")
	n.Log = filepath.Join(l.Dir, "logs", "n1.log")
	if err := n.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.Kill() }) // before the disk goes
	if _, err := n.Address(within(t, 10*time.Second)); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		badDay{code: 1, says: []string{"MiB of free space in " + n.DataDir, "needs 256 MiB"}, hint: "--data-dir"}.judge(t,
			l.Ctl(within(t, 20*time.Second), "cluster", "init", "--data-dir", n.DataDir))
	}
	if !n.Running() {
		t.Error("the node has ended")
	}
	for _, name := range []string{"boot.state", "founding", "raft"} {
		if _, err := os.Stat(filepath.Join(n.DataDir, name)); err == nil {
			t.Errorf("%s was begun", name)
		}
	}
}

// TestBadDayJournalDiskFull fills the disk of an agent. What cannot be journalled is
// not started, and said to be refused; with space again the agent works.
func TestBadDayJournalDiskFull(t *testing.T) {
	f := newFleet(t, 1, nil, nil)
	mount := filepath.Join(f.Dir, "small")
	smallDisk(t, mount)
	a := f.Lab.Agent(filepath.Join("small", "a2"), strings.Join(f.addresses, ","), mustToken(t, f.Lab, "agent"), "--name", "a2")
	a.Log = filepath.Join(f.Dir, "logs", "a2.log")
	if err := a.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Kill() }) // before the disk goes
	f.awaitHealth(t, "a2", "ONLINE")
	before, o := f.run(t, "a2", nil, f.argv())
	if o.Code != 0 {
		t.Fatalf("%+v", o)
	}

	filler := filepath.Join(mount, "filler")
	w, err := os.Create(filler)
	if err != nil {
		t.Fatal(err)
	}
	for size := 1 << 20; size > 0; {
		if _, err := w.Write(make([]byte, size)); err == nil {
			continue
		} else if !errors.Is(err, syscall.ENOSPC) {
			t.Fatal(err)
		}
		size /= 2
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	// Small records may still fit into a block that is there; soon one does not.
	var refused string
	await(t, 30*time.Second, "the agent refuses", func() error {
		id, o := f.run(t, "a2", []string{"--timeout", "5s", "--ttl", "10s"}, f.argv())
		i, err := f.one(t.Context(), id)
		if err != nil {
			return err
		}
		if i.State == "SUCCEEDED" {
			f.expect(t, id, "SUCCEEDED", 1)
			return printedError("it still fits")
		}
		if o.Code != 7 || i.State != "REJECTED" || i.Reason != "no_journal" {
			t.Errorf("%+v, %+v, want REJECTED(no_journal)", o, i)
		}
		refused = id
		return nil
	})
	if n := f.starts(t, f.awaitState(t, refused, "REJECTED").ID); n != 0 {
		t.Errorf("started %d times without a journal", n)
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	if !a.Running() {
		if err := a.Start(); err != nil {
			t.Fatal(err)
		}
	}
	await(t, 30*time.Second, "the agent works again", func() error {
		id, o := f.run(t, "a2", []string{"--ttl", "5s"}, f.argv())
		if o.Code == 0 {
			f.expect(t, id, "SUCCEEDED", 1)
		}
		return o.Err()
	})
	f.expect(t, before, "SUCCEEDED", 1)
	f.expect(t, refused, "REJECTED", 0)
}

package e2e

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// faultyFile is a file on a disk of a file system with faults.
func faultyFile(t *testing.T) (*faultFS, *os.File) {
	t.Helper()
	if why := missingMeans()[needFuse]; why != "" {
		t.Skipf("SKIPPED: %s: %s", needFuse, why)
	}
	fsys, err := newFaultFS(t.TempDir())
	if err != nil {
		t.Skipf("SKIPPED: no file system in user space can be mounted: %v", err)
	}
	t.Cleanup(func() {
		if err := fsys.close(); err != nil {
			t.Error(err)
		}
	})
	if err := os.Mkdir(filepath.Join(fsys.at, "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(filepath.Join(fsys.at, "x", "file"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if _, err := f.Write(bytes.Repeat([]byte("a"), 1<<13)); err != nil {
		t.Fatal(err)
	}
	return fsys, f
}

func TestFaultsOfTheFileSystemAreSwitched(t *testing.T) {
	fsys, f := faultyFile(t)
	dir := filepath.Dir(f.Name())
	write := func(at int64) func() error {
		return func() error { _, err := f.WriteAt([]byte("bbbb"), at); return err }
	}
	read := func() error { _, err := f.ReadAt(make([]byte, 8), 4096); return err }
	makeOne := func() error { return os.WriteFile(filepath.Join(dir, "new"), nil, 0o600) }
	syncDir := func() error {
		d, err := os.Open(dir)
		if err != nil {
			return err
		}
		return errors.Join(d.Sync(), d.Close())
	}
	for name, c := range map[string]struct {
		kind string
		do   func() error
		want error
	}{
		"a read, though the kernel knows the content": {faultRead, read, syscall.EIO},
		"a write":                         {faultWrite, write(0), syscall.EIO},
		"a write past the end":            {faultWrite, write(1 << 20), syscall.EIO},
		"a torn write":                    {faultTorn, write(0), syscall.EIO},
		"an fsync":                        {faultSync, f.Sync, syscall.EIO},
		"an fsync of a directory":         {faultSync, syncDir, syscall.EIO},
		"a file that grows without space": {faultFull, write(1 << 21), syscall.ENOSPC},
		"a new file without space":        {faultFull, makeOne, syscall.ENOSPC},
	} {
		t.Run(name, func(t *testing.T) {
			if err := fsys.fail("x", &diskFault{Kind: c.kind}); err != nil {
				t.Fatal(err)
			}
			if err := c.do(); !errors.Is(err, c.want) {
				t.Errorf("%v, want %v", err, c.want)
			}
			if met, err := fsys.met("x"); err != nil || met == 0 {
				t.Errorf("%d requests met it (%v)", met, err)
			}
			if err := errors.Join(fsys.fail("y", &diskFault{Kind: c.kind}), fsys.mend("x")); err != nil {
				t.Fatal(err)
			}
			if err := c.do(); err != nil {
				t.Errorf("when it is mended, and another disk fails: %v", err)
			}
		})
	}
	if err := fsys.fail("x", &diskFault{Kind: faultFull}); err != nil {
		t.Fatal(err)
	}
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil || st.Bavail != 0 {
		t.Errorf("%d blocks are free (%v), want none", st.Bavail, err)
	}
	if err := write(0)(); err != nil {
		t.Errorf("what has its blocks cannot be written: %v", err)
	}
	if err := fsys.fail("x", &diskFault{Kind: "none such"}); err == nil {
		t.Error("a fault that does not exist was begun")
	}
}

func TestATornWriteLeavesAPartOfItself(t *testing.T) {
	fsys, f := faultyFile(t)
	page, err := syscall.Mmap(int(f.Fd()), 0, 1<<13, syscall.PROT_READ, syscall.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := syscall.Munmap(page); err != nil {
			t.Error(err)
		}
	}()
	if page[0] != 'a' || page[1<<13-1] != 'a' {
		t.Fatal("the mapping does not show the file")
	}
	if err := fsys.fail("x", &diskFault{Kind: faultTorn, Times: 1}); err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt(bytes.Repeat([]byte("b"), 1<<13), 0); !errors.Is(err, syscall.EIO) {
		t.Fatalf("a torn write: %v, want EIO", err)
	}
	now, err := os.ReadFile(f.Name())
	if err != nil {
		t.Fatal(err)
	}
	torn := bytes.Count(now, []byte("b"))
	if torn == len(now) || !bytes.Equal(now, append(bytes.Repeat([]byte("b"), torn), bytes.Repeat([]byte("a"), len(now)-torn)...)) {
		t.Errorf("%d of %d bytes are new, want a part that comes first", torn, len(now))
	}
	if !bytes.Equal(page, now) {
		t.Error("the mapping shows something else than the file")
	}
	// It was torn once, and a mapping sees what is written.
	if _, err := f.WriteAt([]byte("c"), 5000); err != nil || page[5000] != 'c' {
		t.Errorf("the next write: %v; the mapping has %q there", err, page[5000])
	}
}

func TestAHeldRequestIsAnsweredWhenItIsMended(t *testing.T) {
	fsys, f := faultyFile(t)
	if err := fsys.fail("x", &diskFault{Kind: faultHeld}); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		_, err := f.WriteAt([]byte("b"), 0)
		done <- err
	}()
	if err := patiently(func() error {
		met, err := fsys.met("x")
		if err == nil && met == 0 {
			err = errors.New("nothing is held")
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-done:
		t.Fatalf("what is held was answered: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	if err := fsys.mend("x"); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-done:
		if err != nil {
			t.Errorf("what was held came to %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("what was held is not answered")
	}
}

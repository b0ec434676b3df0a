package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/agentplane/agentplane/cmd/agentplane/lab"
)

// powerCopy has a node go on with a copy of its disk, which was taken while the disk was mounted,
// as a snapshot of a virtual machine's disk is. Its effect is that a file which was written
// before, and not synced, is not whole on the copy, and that the node was alive.
//
// The copy is what a power cut leaves when it is of one moment. The node is stopped first, so
// that it acknowledges nothing later than the copy. The kernel still writes: it ends an fsync
// that was under way, commits the journal of ext4, and writes back what is old. A write between
// the reading of two blocks would make an image that never was: the second of two writes
// without the first, which a flush stood between. Freezing the file system would hold these
// writes back, and sync all first. So the loop device is asked for what it has written: a copy during
// which no request ended, and none was under way before and after it, is of one moment, and
// any other is thrown away. What the page cache of the image holds is what the disk has answered for, as all
// writes of the device go through it.
func powerCopy(ctx context.Context, w *world) (*strike, error) {
	ps := anyNode(ctx, w)
	if ps == nil {
		return nil, nil
	}
	p := ps[0]
	d := w.diskOf(p, "its disk was put back")
	canary := filepath.Join(d.at, "unsynced")
	w.keeper.hold(p.Name)
	if err := os.WriteFile(canary, make([]byte, 1<<20), 0o600); err != nil {
		return nil, err
	}
	live := p.Signal(syscall.SIGSTOP)
	tries := 0
	err := patiently(func() error { return allStopped(p) })
	if err == nil {
		err = patiently(func() error {
			tries++
			return d.copyOnce()
		})
	}
	p.Signal(syscall.SIGKILL)
	p.Kill() // waits for its end
	if err != nil {
		return nil, err
	}
	if err := errors.Join(d.unmount(), os.Rename(d.copied(), d.image), d.mount()); err != nil {
		return nil, err
	}
	info, err := os.Stat(canary)
	lost := err != nil || info.Size() < 1<<20
	return &strike{
		target: fmt.Sprintf("%s (copy %d)", p.Name, tries),
		seen: func() error {
			if !live {
				return errors.New("it did not run")
			}
			if !lost {
				return errors.New("what was not synced is there")
			}
			return nil
		},
		mend: func() error {
			_ = os.Remove(canary) // it is gone, or of no use
			defer w.keeper.release(p.Name)
			return p.Start()
		},
	}, nil
}

// allStopped says which thread of a process still runs. One that waits for its disk when the signal
// comes stops as it is answered.
func allStopped(p *lab.Process) error {
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", p.PID()))
	if err != nil {
		return err
	}
	for _, thread := range threads {
		b, err := os.ReadFile(thread)
		if err != nil {
			continue // it has ended
		}
		if !strings.Contains(string(b), ") T ") {
			return fmt.Errorf("a thread of %s is not stopped: %s", p.Name, b)
		}
	}
	return nil
}

func (d *disk) copied() string { return d.image + ".copy" }

// errWritten says that something was written to the disk during the copy.
var errWritten = errors.New("the disk was written to while it was copied")

// copyOnce copies the image of a disk that is mounted.
func (d *disk) copyOnce() error {
	before, err := d.requests()
	if err != nil {
		return err
	}
	if err := copySparse(d.image, d.copied()); err != nil {
		return err
	}
	after, err := d.requests()
	if err == nil && before != after {
		err = errWritten
	}
	return err
}

// requests is how many requests for writing, discarding and flushing the device of the disk has
// answered. That one is under way is an error.
func (d *disk) requests() (sum uint64, err error) {
	var st syscall.Stat_t
	if err := syscall.Stat(d.at, &st); err != nil {
		return 0, err
	}
	b, err := os.ReadFile(fmt.Sprintf("/sys/dev/block/%d:%d/stat", st.Dev>>8&0xfff, st.Dev&0xff))
	if err != nil {
		return 0, err
	}
	// Reads, writes, under way, discards, flushes: Documentation/block/stat.rst.
	fields := strings.Fields(string(b))
	if len(fields) < 17 {
		return 0, fmt.Errorf("the kernel counts no flushes of a disk: %q", b)
	}
	numbers := make([]uint64, len(fields))
	for i, f := range fields {
		if _, err := fmt.Sscan(f, &numbers[i]); err != nil {
			return 0, err
		}
	}
	if numbers[8] != 0 {
		return 0, fmt.Errorf("%d requests to the disk are under way", numbers[8])
	}
	return numbers[4] + numbers[11] + numbers[15], nil
}

// copySparse copies what a file holds, and leaves its holes.
func copySparse(from, to string) (err error) {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return err
	}
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	if err := out.Truncate(info.Size()); err != nil {
		return err
	}
	const seekData, seekHole = 3, 4
	for at := int64(0); ; {
		data, err := syscall.Seek(int(in.Fd()), at, seekData)
		if errors.Is(err, syscall.ENXIO) {
			return nil // nothing but a hole is left
		}
		if err != nil {
			return err
		}
		if at, err = syscall.Seek(int(in.Fd()), data, seekHole); err != nil {
			return err
		}
		if _, err := io.Copy(io.NewOffsetWriter(out, data), io.NewSectionReader(in, data, at-data)); err != nil {
			return err
		}
	}
}

func TestACopyHasTheHolesOfItsFile(t *testing.T) {
	dir := t.TempDir()
	from, to := filepath.Join(dir, "from"), filepath.Join(dir, "to")
	f, err := os.Create(from)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	const size = 1 << 26
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	for _, at := range []int64{0, size / 2, size - 3} {
		if _, err := f.WriteAt([]byte("abc"), at); err != nil {
			t.Fatal(err)
		}
	}
	if err := copySparse(from, to); err != nil {
		t.Fatal(err)
	}
	a, errA := os.ReadFile(from)
	b, errB := os.ReadFile(to)
	if err := errors.Join(errA, errB); err != nil {
		t.Fatal(err)
	}
	if string(a) != string(b) {
		t.Error("the copy has other bytes")
	}
	var st syscall.Stat_t
	if err := syscall.Stat(to, &st); err != nil {
		t.Fatal(err)
	}
	if st.Blocks*512 > size/2 {
		t.Errorf("the copy takes %d bytes, though the file has holes", st.Blocks*512)
	}
}

func TestRequestsToADiskAreCounted(t *testing.T) {
	if why := missingMeans()[needDisk]; why != "" {
		t.Skipf("SKIPPED: %s: %s", needDisk, why)
	}
	d, err := newDisk(filepath.Join(t.TempDir(), "disk"))
	if err != nil {
		t.Skipf("SKIPPED: no file system can be mounted over a loop device: %v", err)
	}
	defer func() {
		if err := d.close(); err != nil {
			t.Error(err)
		}
	}()
	count := func() (n uint64) {
		t.Helper()
		if err := patiently(func() (err error) { n, err = d.requests(); return err }); err != nil {
			t.Fatal(err)
		}
		return n
	}
	before := count()
	f, err := os.Create(filepath.Join(d.at, "file"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Write([]byte("a")); err != nil {
		t.Fatal(err)
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	if after := count(); after <= before {
		t.Errorf("%d requests after an fsync, and %d before it", after, before)
	}
}

package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
)

// faultFS is a file system in user space below which each directory has a disk of its own, whose
// faults can be switched. It shows a directory beside it.
//
// A process of its own serves it. In the process of the test it could wait for itself: a
// system call of that process on the mount keeps a thread, a page of it that is missing
// keeps one of which Go's runtime does not know that it waits, and a fork keeps a lock of
// the runtime; and a test that judges a history would have all disks wait. When the test ends,
// however it does, the pipe of orders ends too, and with it the server and the mount; the kernel
// answers then whoever waits. A process that is killed while its request is held stays until that is
// answered, as it would with a disk: so nothing is held for longer than freezeFor.
type faultFS struct {
	at     string
	server *exec.Cmd
	said   bytes.Buffer // what the server printed as errors, when it has ended

	mu      sync.Mutex // an order and its answer at a time
	orders  *json.Encoder
	answers *json.Decoder
}

func newFaultFS(dir string) (*faultFS, error) {
	f := &faultFS{at: filepath.Join(dir, "fuse")}
	behind := filepath.Join(dir, "behind-fuse")
	self, err := os.Executable()
	if err = errors.Join(err, os.Mkdir(f.at, 0o700), os.Mkdir(behind, 0o700)); err != nil {
		return nil, err
	}
	f.server = exec.Command(self, fuseArg, behind, f.at)
	f.server.Stderr = &f.said
	in, err := f.server.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := f.server.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := f.server.Start(); err != nil {
		return nil, err
	}
	f.orders, f.answers = json.NewEncoder(in), json.NewDecoder(out)
	if err := f.answers.Decode(&faultAnswer{}); err != nil {
		return nil, errors.Join(fmt.Errorf("the file system was not mounted: %w", err), f.server.Wait(), errors.New(f.said.String()))
	}
	return f, nil
}

// order has the server do something, and answers how many requests met the fault that there was.
func (f *faultFS) order(o faultOrder) (met int64, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var a faultAnswer
	if err := errors.Join(f.orders.Encode(o), f.answers.Decode(&a)); err != nil {
		return 0, fmt.Errorf("order of the file system: %w", err)
	}
	if a.Error != "" {
		return 0, errors.New(a.Error)
	}
	return a.Met, nil
}

// fail begins a fault of a disk, in place of the one that it has.
func (f *faultFS) fail(disk string, fault *diskFault) error {
	_, err := f.order(faultOrder{Disk: disk, Fault: fault})
	return err
}

// mend ends the fault of a disk.
func (f *faultFS) mend(disk string) error { return f.fail(disk, nil) }

// met is how many requests have met the fault of a disk.
func (f *faultFS) met(disk string) (int64, error) { return f.order(faultOrder{Disk: disk, Ask: true}) }

func (f *faultFS) close() error {
	err := patiently(func() error { return syscall.Unmount(f.at, 0) })
	if err != nil {
		_ = f.server.Process.Kill() // the mount goes with it
		_ = syscall.Unmount(f.at, syscall.MNT_DETACH)
	}
	return errors.Join(err, f.server.Wait())
}

package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"github.com/agentplane/agentplane/cmd/agentplane/lab"
)

// disk is an ext4 in a file of its own, mounted over a loop device.
type disk struct{ at, image string }

// diskBytes leaves a node more than it keeps free before it takes output and files, 1 GiB. Of
// the image only what is written takes space.
const diskBytes = 2 << 30

func newDisk(at string) (*disk, error) {
	d := &disk{at: at, image: at + ".img"}
	if err := errors.Join(os.Mkdir(at, 0o700), os.WriteFile(d.image, nil, 0o600), os.Truncate(d.image, diskBytes)); err != nil {
		return nil, err
	}
	if _, err := command("mkfs.ext4", "-q", "-m", "0", d.image); err != nil {
		return nil, err
	}
	return d, d.mount()
}

func (d *disk) mount() error {
	_, err := command("mount", "-o", "loop", d.image, d.at)
	return err
}

func (d *disk) unmount() error {
	return patiently(func() error { return syscall.Unmount(d.at, 0) })
}

func (d *disk) close() error { return d.unmount() }

// shutdown takes the disk away as a power cut does: from now on nothing is written, and
// what only the kernel's memory holds is gone with the mount.
func (d *disk) shutdown() error {
	f, err := os.Open(d.at)
	if err != nil {
		return err
	}
	defer f.Close()
	const goingDown = 0x8004587d // EXT4_IOC_SHUTDOWN, of XFS: _IOR('X', 125, __u32)
	flag := uint32(2)            // the journal is not written either
	if _, _, e := syscall.Syscall(syscall.SYS_IOCTL, f.Fd(), goingDown, uintptr(unsafe.Pointer(&flag))); e != 0 {
		return fmt.Errorf("shut down the file system at %s: %w", d.at, e)
	}
	return nil
}

// diskOf is that of a node, which may end by itself from now on: its disk fails.
func (w *world) diskOf(p *lab.Process, why string) *disk {
	w.keeper.excuse(p.Name, why)
	return w.disks[p.Name]
}

// fillDisk leaves no space on the disk of a node. Its effect is that nothing more can be
// written there, and that the node notices: it does not want to lead, or has ended.
func fillDisk(ctx context.Context, w *world) (*strike, error) {
	ps := leadingOrNot(ctx, w)
	if ps == nil {
		return nil, nil
	}
	p, ended := ps[0], w.endedOf(ps[0])
	d := w.diskOf(p, "its disk was full")
	said := bytesOf(p.Log)
	filler := filepath.Join(d.at, "filler")
	f, err := os.Create(filler)
	if err != nil {
		return nil, err
	}
	for size := int64(diskBytes); size > 0 && err == nil; {
		var at int64
		if at, err = f.Seek(0, 2); err != nil {
			break
		}
		switch e := syscall.Fallocate(int(f.Fd()), 0, at, size); {
		case e == nil:
			_, err = f.Seek(at+size, 0)
		case errors.Is(e, syscall.ENOSPC):
			size /= 2
		default:
			err = e
		}
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return nil, err
	}
	return &strike{
		target: p.Name,
		seen: func() error {
			canary := filepath.Join(d.at, "canary")
			if err := os.WriteFile(canary, make([]byte, 1<<20), 0o600); !errors.Is(err, syscall.ENOSPC) {
				return fmt.Errorf("a file of 1 MiB can be written at %s (%v)", d.at, err)
			}
			if now := said.since(p.Log); !strings.Contains(now, "bytes free, below the floor") && !strings.Contains(now, "no space left") && w.endedOf(p) == ended {
				return fmt.Errorf("%s has not noticed", p.Name)
			}
			return nil
		},
		mend: func() error {
			_ = os.Remove(filepath.Join(d.at, "canary")) // it may not be there
			return os.Remove(filler)
		},
	}, nil
}

// size is how long a log was.
type size int64

func bytesOf(log string) size {
	info, err := os.Stat(log)
	if err != nil {
		return 0
	}
	return size(info.Size())
}

// since is what was logged after that.
func (s size) since(log string) string {
	b, err := os.ReadFile(log)
	if err != nil || int64(len(b)) < int64(s) {
		return ""
	}
	return string(b[s:])
}

// lastLine is what a process said last.
func lastLine(log string) string {
	b, err := os.ReadFile(log)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	return lines[len(lines)-1]
}

// freezeFor bounds how long a disk hangs, so that nothing waits for the mending for ever.
const freezeFor = 20 * time.Second

// freezeDisk hangs every write to the disk of a node. Its effect is that a thread of the
// node waits in the kernel, or that the node has ended.
func freezeDisk(ctx context.Context, w *world) (*strike, error) {
	ps := leadingOrNot(ctx, w)
	if ps == nil {
		return nil, nil
	}
	p, ended := ps[0], w.endedOf(ps[0])
	d := w.diskOf(p, "its disk hung")
	if _, err := command("fsfreeze", "-f", d.at); err != nil {
		return nil, err
	}
	thaw := sync.OnceValue(func() error {
		_, err := command("fsfreeze", "-u", d.at)
		return err
	})
	timer := time.AfterFunc(freezeFor, func() { _ = thaw() }) // the mending asks again
	return &strike{
		target: p.Name,
		seen: func() error {
			if w.endedOf(p) > ended {
				return nil
			}
			if !waits(p) {
				return fmt.Errorf("no thread of %s waits", p.Name)
			}
			return nil
		},
		mend: func() error {
			timer.Stop()
			return thaw()
		},
	}, nil
}

// inject has system calls of a node fail or wait. Its effect is that the tracer says so.
func inject(calls, what, mark string) func(context.Context, *world) (*strike, error) {
	return func(ctx context.Context, w *world) (*strike, error) {
		return w.inject(ctx, calls, what, mark)
	}
}

func (w *world) inject(ctx context.Context, calls, what, mark string) (*strike, error) {
	ps := leadingOrNot(ctx, w)
	if ps == nil {
		return nil, nil
	}
	p := ps[0]
	w.keeper.excuse(p.Name, "its disk failed: "+what)
	log := filepath.Join(w.Dir, "logs", fmt.Sprintf("strace-%s-%d", p.Name, w.struck))
	tracer := exec.Command("strace", "-f", "-q", "-o", log, "-e", "trace="+calls, "-e", "signal=none",
		"-e", "inject="+calls+":"+what, "-p", fmt.Sprint(p.PID()))
	var said bytes.Buffer
	tracer.Stderr = &said
	if err := tracer.Start(); err != nil {
		return nil, err
	}
	return &strike{
		target: p.Name,
		seen: func() error {
			b, err := os.ReadFile(log)
			if err != nil {
				return err
			}
			if !bytes.Contains(b, []byte(mark)) {
				return fmt.Errorf("no %s of %s was met yet", calls, p.Name)
			}
			return nil
		},
		mend: func() error {
			_ = tracer.Process.Signal(syscall.SIGTERM) // it lets go of the node, unless that has ended
			_ = tracer.Wait()                          // by the signal
			return nil
		},
	}, nil
}

// slowDisk has each fsync of a node last up to half a second longer.
func slowDisk(ctx context.Context, w *world) (*strike, error) {
	delay := time.Duration(30+w.rng.IntN(500)) * time.Millisecond
	st, err := w.inject(ctx, "fsync,fdatasync", fmt.Sprintf("delay_exit=%d", delay.Microseconds()), "(DELAYED)")
	if st != nil {
		st.target += " by " + delay.String()
	}
	return st, err
}

// powerCut takes the disks of nodes away with what was not yet on them, and kills the
// nodes. Its effect is that a file which was written before, and not synced, is gone
// when the disk is there again, and that the node was alive to lose its power.
func powerCut(who chooser) func(context.Context, *world) (*strike, error) {
	return func(ctx context.Context, w *world) (*strike, error) {
		ps := who(ctx, w)
		if ps == nil {
			return nil, nil
		}
		return w.cutPower(ps)
	}
}

func (w *world) cutPower(ps []*lab.Process) (*strike, error) {
	canary := func(p *lab.Process) string { return filepath.Join(w.disks[p.Name].at, "unsynced") }
	var err error
	live, lost := true, true
	for _, p := range ps {
		live = live && p.Running() // it may end by itself before the signal comes
		w.diskOf(p, "it lost its power")
		w.keeper.hold(p.Name)
		err = errors.Join(err, os.WriteFile(canary(p), make([]byte, 1<<20), 0o600))
	}
	for _, p := range ps {
		err = errors.Join(err, w.disks[p.Name].shutdown())
	}
	for _, p := range ps {
		p.Signal(syscall.SIGKILL)
	}
	for _, p := range ps {
		p.Kill() // waits for its end
		err = errors.Join(err, w.disks[p.Name].unmount(), w.disks[p.Name].mount())
		info, e := os.Stat(canary(p))
		lost = lost && (e != nil || info.Size() < 1<<20)
	}
	if err != nil {
		return nil, err
	}
	return &strike{
		target: namesOf(ps),
		seen: func() error {
			if !live {
				return errors.New("not all ran")
			}
			if !lost {
				return errors.New("what was not synced is there")
			}
			return nil
		},
		mend: func() (err error) {
			for _, p := range ps {
				_ = os.Remove(canary(p)) // it is gone, or of no use
				err = errors.Join(err, p.Start())
				w.keeper.release(p.Name)
			}
			return err
		},
	}, nil
}

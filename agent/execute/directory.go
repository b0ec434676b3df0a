package execute

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/agentplane/agentplane/proto/frame"
)

// directory is the path of one attempt's directory.
type directory string

const (
	fileLock    = "lock"
	fileSpec    = "spec"
	fileScript  = "script"
	fileSecrets = "secrets"
	fileBegun   = "begun"
	fileStarted = "started"
	fileCancel  = "cancel"
	fileControl = "control"
	fileAlive   = "alive"
	fileExit    = "exit"
	fileLog     = "supervisor.log"
	fileKept    = "kept"
	fileReboot  = "reboot"
	filePlan    = "plan"
	fileLater   = "later"
	fileUndo    = "undo"
	fileStdin   = "stdin"
	filePlacing = "placing"
	fileContent = "file."   // and a number
	fileOutput  = "output." // and a number
)

// Frame types of spec, started and exit. Output frames have their stream's number.
const (
	typeSpec    = 0x11
	typeStarted = 0x12
	typeExit    = 0x13
	typeSecrets = 0x14
	typePlan    = 0x15
)

// started is the STARTED record: which process the program is.
type started struct {
	PID        int
	StartTicks uint64 // since boot, as /proc/PID/stat says
	Session    int    // the supervisor's pid
	BootID     string
	At         time.Time
}

func (d directory) path(name string) string { return filepath.Join(string(d), name) }

// fault is the point in the life of the step whose directory this is.
func (d directory) fault(point string) {
	_, step, _ := parseDirName(filepath.Base(string(d)))
	fault(point + stepSuffix(step))
}

// prepare fills the new directory and returns the lock file, locked.
func (d directory) prepare(s Spec, boot string) (lock *os.File, err error) {
	lock, err = os.OpenFile(d.path(fileLock), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	if err := d.fill(s, boot, lock); err != nil {
		_ = lock.Close()
		return nil, err
	}
	return lock, nil
}

func (d directory) fill(s Spec, boot string, lock *os.File) error {
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return fmt.Errorf("lock %q: %w", lock.Name(), err)
	}
	for _, name := range []string{fileControl, fileAlive} {
		if err := unix.Mkfifo(d.path(name), 0o600); err != nil {
			return fmt.Errorf("make fifo %q: %w", d.path(name), err)
		}
	}
	if len(s.Script) > 0 {
		if err := os.WriteFile(d.path(fileScript), s.Script, 0o700); err != nil {
			return err
		}
	}
	if len(s.Secrets) > 0 {
		if err := d.write(fileSecrets, typeSecrets, toBytes(s.Secrets), false); err != nil {
			return err
		}
	}
	if err := d.bring(s); err != nil {
		return err
	}
	// After a power cut there is no supervisor to read it; but what it was writing beside the
	// places of files is found by it alone.
	return d.write(fileSpec, typeSpec, s.file(boot, d), len(s.Files) > 0)
}

// tryLock takes the lock. held says that somebody else has it; a nil lock without held
// means that there is no lock file, and so never was a supervisor.
func (d directory) tryLock() (lock *os.File, held bool, err error) {
	f, err := os.OpenFile(d.path(fileLock), os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	switch err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); {
	case errors.Is(err, unix.EWOULDBLOCK):
		_ = f.Close()
		return nil, true, nil
	case err != nil:
		_ = f.Close()
		return nil, false, fmt.Errorf("lock %q: %w", f.Name(), err)
	}
	return f, false, nil
}

// forget removes the secrets, which only the gate has a use for, and what the command
// brought along.
func (d directory) forget() {
	_ = os.Remove(d.path(fileSecrets)) // where there are none, all is well
	d.forgetBrought()
}

func (d directory) has(name string) bool {
	_, err := os.Lstat(d.path(name))
	return err == nil
}

// mark makes an empty file, durably.
func (d directory) mark(name string) error {
	f, err := os.OpenFile(d.path(name), os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(f.Close(), syncDir(string(d)))
}

// write makes the named record appear whole, and durably when asked, or not at all.
func (d directory) write(name string, typ byte, v any, durable bool) error {
	payload, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode %s: %w", name, err)
	}
	temp := d.path(name + ".tmp")
	f, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(frame.Append(nil, typ, payload))
	if err == nil && durable {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(err, os.Remove(temp))
	}
	if err := os.Rename(temp, d.path(name)); err != nil {
		return err
	}
	if !durable {
		return nil
	}
	return syncDir(string(d))
}

// emptied says that a record was there and is no more: it gets its name when it is whole, so
// that only the host can have lost what is in it, as it lost its power before that was synced.
func (d directory) emptied(name string) bool {
	info, err := os.Stat(d.path(name))
	return err == nil && info.Size() == 0
}

// read reads a record. fs.ErrNotExist says that it is not there.
func (d directory) read(name string, want byte, v any) error {
	b, err := os.ReadFile(d.path(name))
	if err != nil {
		return err
	}
	typ, payload, rest, err := frame.Parse(b)
	switch {
	case err != nil:
		return fmt.Errorf("read %q: %w", d.path(name), err)
	case typ != want || len(rest) != 0:
		return fmt.Errorf("read %q: it is frame type %d with %d bytes behind, want type %d alone", d.path(name), typ, len(rest), want)
	}
	if err := json.Unmarshal(payload, v); err != nil {
		return fmt.Errorf("read %q: %w", d.path(name), err)
	}
	return nil
}

// cancel leaves the mark and wakes the supervisor. A supervisor that has not opened
// the fifo yet looks for the mark after it has; one that is gone needs no waking.
func (d directory) cancel() error {
	f, err := os.OpenFile(d.path(fileCancel), os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("cancel: %w", err)
	}
	if err := f.Close(); err != nil {
		return fmt.Errorf("cancel: %w", err)
	}
	fd, err := unix.Open(d.path(fileControl), unix.O_WRONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		if errors.Is(err, unix.ENXIO) || errors.Is(err, unix.ENOENT) {
			return nil
		}
		return fmt.Errorf("cancel: open %q: %w", d.path(fileControl), err)
	}
	defer unix.Close(fd)
	// A full fifo has woken the supervisor already.
	if _, err := unix.Write(fd, []byte{1}); err != nil && !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EPIPE) {
		return fmt.Errorf("cancel: write %q: %w", d.path(fileControl), err)
	}
	return nil
}

// syncDir makes durable which names a directory holds. Tests let it fail.
var syncDir = func(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/agentplane/agentplane/proto/identity"
)

// Names in the data directory.
const (
	lockFile        = "lock"
	recordFile      = "agent.json"
	keyFile         = "agent.key"
	nextKeyFile     = "agent.key.next"
	certificateFile = "agent.crt"
	trustFile       = "trust.json"
	journalDir      = "journal"
	attemptsDir     = "attempts"
	blobsDir        = "blobs"
)

// ErrInUse says that another agentd has the data directory.
var ErrInUse = errors.New("data directory is in use")

// ErrOfNode says that the data directory belongs to a node of the control plane.
var ErrOfNode = errors.New("data directory of a node")

// ErrDamaged says that a file of the data directory holds what agentd has never written.
var ErrDamaged = errors.New("damaged file")

// damaged says which file it is.
func damaged(path string, err error) error {
	return fmt.Errorf("%w %q: %w", ErrDamaged, path, err)
}

// nodeFiles are names that only a node gives.
var nodeFiles = []string{"node", "boot.state"}

// directory is an open data directory. Closing it releases the lock.
type directory struct {
	path string
	lock *os.File
}

// openDirectory makes the directory when it is missing and takes its lock.
func openDirectory(path string) (_ *directory, err error) {
	if path, err = filepath.Abs(path); err != nil {
		return nil, fmt.Errorf("open data directory: %w", err)
	}
	d := &directory{path: path}
	if err := d.open(); err != nil {
		return nil, fmt.Errorf("open data directory %q: %w", path, err)
	}
	return d, nil
}

func (d *directory) open() error {
	if err := identity.MakeDir(d.path); err != nil {
		return err
	}
	st, err := os.Stat(d.path)
	if err != nil {
		return err
	}
	if mode := st.Mode().Perm(); mode&0o077 != 0 {
		return fmt.Errorf("mode %#o lets others access it; run: chmod 700 %s", mode, d.path)
	}
	f, err := os.OpenFile(d.file(lockFile), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	if err := takeLock(f); err != nil {
		defer f.Close()
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return fmt.Errorf("lock it: %w", err)
		}
		return fmt.Errorf("%w by process %s; stop it first, or give this agent a directory of its own", ErrInUse, holder(f))
	}
	d.lock = f
	for _, name := range nodeFiles {
		if _, err := os.Lstat(d.file(name)); err == nil {
			return errors.Join(fmt.Errorf("%w: %s lies in it; give this agent a directory of its own", ErrOfNode, name), f.Close())
		}
	}
	// The number helps people only; the lock is what counts.
	_ = f.Truncate(0)
	_, _ = f.WriteAt([]byte(strconv.Itoa(os.Getpid())), 0)
	return d.sweep()
}

// lockPatience is how long the lock of a dead process is waited for. A child that it had
// forked and that has not become another program yet holds it for a moment longer.
const lockPatience = 2 * time.Second

// takeLock locks the file. EWOULDBLOCK says that a process that lives has it, or
// somebody for longer than lockPatience.
func takeLock(f *os.File) error {
	for end := time.Now().Add(lockPatience); ; time.Sleep(10 * time.Millisecond) {
		err := flock(f)
		if !errors.Is(err, syscall.EWOULDBLOCK) || time.Now().After(end) {
			return err
		}
		if pid, perr := strconv.Atoi(holder(f)); perr == nil && !errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
			return err
		}
	}
}

// holder is the number that the process which has the lock wrote, for people.
func holder(f *os.File) string {
	number := make([]byte, 20)
	n, _ := f.ReadAt(number, 0)
	return strings.TrimSpace(string(number[:n]))
}

func flock(f *os.File) error {
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if !errors.Is(err, syscall.EINTR) {
			return err
		}
	}
}

// sweep removes files that a killed process was about to put in place.
func (d *directory) sweep() error {
	entries, err := os.ReadDir(d.path)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Type().IsRegular() && identity.IsTemp(e.Name()) {
			if err := os.Remove(d.file(e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

// lacks says that one of the files is missing.
func (d *directory) lacks(names ...string) bool {
	return slices.ContainsFunc(names, func(name string) bool {
		_, err := os.Lstat(d.file(name))
		return errors.Is(err, fs.ErrNotExist)
	})
}

func (d *directory) file(name string) string { return filepath.Join(d.path, name) }

// close gives the lock back. A child that this process is just forking has a copy of the
// open file until it is another program: to close ours alone would leave it locked.
func (d *directory) close() error {
	return errors.Join(syscall.Flock(int(d.lock.Fd()), syscall.LOCK_UN), d.lock.Close())
}

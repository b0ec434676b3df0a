package journal

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// fsys is all that the journal asks of a disk, so that tests can fill it, break it
// and cut its power. Names are relative to the journal's directory.
type fsys interface {
	// Lock makes the directory if need be and holds it for this process.
	Lock() (io.Closer, error)
	Names() ([]string, error)
	Open(name string) (file, error)
	Create(name string) (file, error) // empty, for reading and writing
	Mkdir(name string) error
	Rename(from, to string) error
	Remove(name string) error // with what is in it
	SyncDir(name string) error
	FreeBytes() (uint64, error)
}

type file interface {
	io.ReaderAt
	io.Writer
	Size() (int64, error)
	Sync() error
	Close() error
}

// osDir is the fsys of a real directory.
type osDir string

func (d osDir) path(name string) string { return filepath.Join(string(d), name) }

func (d osDir) Lock() (io.Closer, error) {
	if err := d.make(); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(d.path("lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := flock(f); err != nil {
		_ = f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("%w: %q; stop the other agentd first", ErrLocked, string(d))
		}
		return nil, fmt.Errorf("lock %q: %w", f.Name(), err)
	}
	return f, nil
}

// lockPatience is how long a lock may still be held by nobody: when an agentd is killed
// while it forks, the child has its files until it execs.
const lockPatience = time.Second

func flock(f *os.File) error {
	for end := time.Now().Add(lockPatience); ; time.Sleep(lockPatience / 50) {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if !errors.Is(err, unix.EWOULDBLOCK) || time.Now().After(end) {
			return err
		}
	}
}

func (d osDir) make() error {
	switch err := os.Mkdir(string(d), 0o700); {
	case err == nil:
		return syncDir(filepath.Dir(string(d)))
	case !errors.Is(err, fs.ErrExist):
		return err
	}
	st, err := os.Stat(string(d))
	if err != nil {
		return err
	}
	if perm := st.Mode().Perm(); perm&0o077 != 0 {
		return fmt.Errorf("directory %q has mode %#o, others must have no access: chmod 700 it", string(d), perm)
	}
	return nil
}

func (d osDir) Names() ([]string, error) {
	entries, err := os.ReadDir(string(d))
	if err != nil {
		return nil, err
	}
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = e.Name()
	}
	return names, nil
}

func (d osDir) Open(name string) (file, error) {
	f, err := os.Open(d.path(name))
	if err != nil {
		return nil, err
	}
	return osFile{f}, nil
}

func (d osDir) Create(name string) (file, error) {
	f, err := os.OpenFile(d.path(name), os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	return osFile{f}, nil
}

func (d osDir) Mkdir(name string) error      { return os.Mkdir(d.path(name), 0o700) }
func (d osDir) Rename(from, to string) error { return os.Rename(d.path(from), d.path(to)) }
func (d osDir) Remove(name string) error     { return os.RemoveAll(d.path(name)) }
func (d osDir) SyncDir(name string) error    { return syncDir(d.path(name)) }

func (d osDir) FreeBytes() (uint64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(string(d), &st); err != nil {
		return 0, err
	}
	return st.Bavail * uint64(st.Bsize), nil
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	err = d.Sync()
	if cerr := d.Close(); err == nil {
		err = cerr
	}
	return err
}

type osFile struct{ *os.File }

func (f osFile) Size() (int64, error) {
	st, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return st.Size(), nil
}

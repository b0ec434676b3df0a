package identity

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// tempMark stands in the names of files that ReplaceFile has not renamed yet.
const tempMark = ".new-"

// ReplaceFile makes data the content of the file, with mode 0600. When it
// returns nil, the content survives a power cut; when it fails or the machine
// dies meanwhile, the file holds either the old or the new content, whole. After
// a failed fsync nothing is known about the disk any more: do not go on.
func ReplaceFile(path string, data []byte) (err error) {
	dir, name := filepath.Split(path)
	if dir == "" {
		dir = "."
	}
	f, err := os.CreateTemp(dir, "."+name+tempMark+"*") // with mode 0600
	if err != nil {
		return fmt.Errorf("replace file %q: %w", path, err)
	}
	defer func() {
		if err != nil {
			_ = f.Close() // a second close does no harm
			_ = os.Remove(f.Name())
			err = fmt.Errorf("replace file %q: %w", path, err)
		}
	}()
	if _, err := f.Write(data); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return SyncDir(dir)
}

// SyncDir makes the names in the directory durable.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("sync directory: %w", err)
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("sync directory %q: %w", dir, err)
	}
	return nil
}

// ErrNotDirectory says that there is no directory at a path and that none can be made.
var ErrNotDirectory = errors.New("not a usable directory")

// MakeDir makes the directory and its missing parents, all of mode 0700 and durable. One
// that exists is left as it is.
//
// Mkdir answers ENOENT not only for a missing parent: a link to nothing in the path and a
// kernel's own file system do so too, for ever. So each element is asked for at most twice.
func MakeDir(path string) error {
	err := os.Mkdir(path, 0o700)
	if parent := filepath.Dir(path); errors.Is(err, fs.ErrNotExist) && parent != path {
		if err := MakeDir(parent); err != nil {
			return err
		}
		if err = os.Mkdir(path, 0o700); errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%w: %q exists, but no directory can be made in it", ErrNotDirectory, parent)
		}
	}
	switch {
	case err == nil:
		return SyncDir(filepath.Dir(path))
	case errors.Is(err, fs.ErrExist):
		return checkDir(path)
	default:
		return err
	}
}

// checkDir says what is wrong with a path that exists and is no directory.
func checkDir(path string) error {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if target, lerr := os.Readlink(path); lerr == nil {
			return fmt.Errorf("%w: %q is a link to %q, which does not exist", ErrNotDirectory, path, target)
		}
		return err
	case err != nil:
		return err
	case !info.IsDir():
		return fmt.Errorf("%w: %q is a file", ErrNotDirectory, path)
	}
	return nil
}

// IsTemp says whether a file of that name is what a ReplaceFile that died left
// behind. The owner of a directory removes such files when nobody writes there.
func IsTemp(name string) bool {
	return strings.HasPrefix(name, ".") && strings.Contains(name, tempMark)
}

// ReadSecretFile reads a regular file of at most max bytes that nobody but its
// owner may access. A missing file answers fs.ErrNotExist.
func ReadSecretFile(path string, max int) ([]byte, error) {
	// Without O_NONBLOCK a pipe in the place of the file would block for ever.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("read file: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("read file: %w", err)
	}
	switch mode := info.Mode(); {
	case !mode.IsRegular():
		return nil, fmt.Errorf("read file %q: not a regular file", path)
	case mode.Perm()&0o077 != 0:
		return nil, fmt.Errorf("read file %q: mode %#o lets others access a secret; run: chmod 600 %s", path, mode.Perm(), path)
	}
	data, err := io.ReadAll(io.LimitReader(f, int64(max)+1))
	if err != nil {
		return nil, fmt.Errorf("read file %q: %w", path, err)
	}
	if len(data) > max {
		return nil, fmt.Errorf("read file %q: it is longer than the maximum %d bytes", path, max)
	}
	return data, nil
}

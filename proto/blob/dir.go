package blob

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/agentplane/agentplane/proto/identity"
)

// tempPrefix begins the names of files that are not whole yet.
const tempPrefix = ".new-"

// Dir is a directory of blobs. Its methods may be called at once; one process uses it.
type Dir struct{ path string }

// Stored is a blob that a directory has.
type Stored struct {
	Ref
	Used time.Time // when it was put or touched last
}

// OpenDir makes the directory with mode 0700 when it is missing, removes what a crash has
// left of blobs that were being put, and lists the others, in no order.
func OpenDir(path string) (*Dir, []Stored, error) {
	d := &Dir{path: path}
	all, err := d.open()
	if err != nil {
		return nil, nil, fmt.Errorf("open blobs in %q: %w", path, err)
	}
	return d, all, nil
}

func (d *Dir) open() ([]Stored, error) {
	if err := identity.MakeDir(d.path); err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(d.path)
	if err != nil {
		return nil, err
	}
	var all []Stored
	for _, e := range entries {
		switch {
		case strings.HasPrefix(e.Name(), tempPrefix):
			if err := os.Remove(filepath.Join(d.path, e.Name())); err != nil {
				return nil, err
			}
		case isSum(e.Name()) && e.Type().IsRegular():
			st, err := e.Info()
			if err != nil {
				return nil, err
			}
			all = append(all, Stored{Ref{e.Name(), st.Size()}, st.ModTime()})
		}
	}
	return all, nil
}

// Path is where a blob lies, or would lie.
func (d *Dir) Path(r Ref) string { return filepath.Join(d.path, r.Sum) }

// Put keeps a content. next gives its bytes and at its end io.EOF; what it gives is not
// kept. When Put returns nil the blob outlives a power cut; otherwise it is not there, unless
// it was before. An error that wraps ErrMismatch says that another content came.
func (d *Dir) Put(r Ref, next func() ([]byte, error)) error {
	if err := d.put(r, next); err != nil {
		return fmt.Errorf("put blob %s: %w", r, err)
	}
	return nil
}

func (d *Dir) put(r Ref, next func() ([]byte, error)) (err error) {
	if !isSum(r.Sum) || r.Size < 0 || r.Size > MaxBytes {
		return ErrInvalid
	}
	f, err := os.CreateTemp(d.path, tempPrefix+"*") // with mode 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = f.Close() // a second close does no harm
			_ = os.Remove(f.Name())
		}
	}()
	for check := NewCheck(r); ; {
		b, err := next()
		if errors.Is(err, io.EOF) {
			if err := check.Done(); err != nil {
				return err
			}
			break
		}
		if err != nil {
			return err
		}
		if err := check.Add(b); err != nil {
			return err
		}
		if _, err := f.Write(b); err != nil {
			return err
		}
	}
	fault("written")
	if err := f.Sync(); err != nil {
		return err
	}
	fault("synced")
	if err := f.Close(); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), d.Path(r)); err != nil {
		return err
	}
	fault("renamed")
	return identity.SyncDir(d.path)
}

// fault is called at named points; tests let Put end there as if the process had died.
var fault = func(point string) {}

// Send gives a blob, in parts that are only good until send returns. What turns out to be
// spoilt when its end is reached wraps ErrMismatch; whoever got the parts finds so himself.
// fs.ErrNotExist says that it is not there.
func (d *Dir) Send(r Ref, send func([]byte) error) error {
	f, err := os.Open(d.Path(r))
	if err != nil {
		return err
	}
	defer f.Close()
	check, b := NewCheck(r), make([]byte, min(max(r.Size, 1), ChunkBytes))
	for {
		n, err := io.ReadFull(f, b)
		if n > 0 {
			if err := check.Add(b[:n]); err != nil {
				return err
			}
			if err := send(b[:n]); err != nil {
				return err
			}
		}
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return check.Done()
		case err != nil:
			return err
		}
	}
}

// Verify says whether a blob is there and is what its name says: fs.ErrNotExist,
// ErrMismatch, or what reading it gave.
func (d *Dir) Verify(r Ref) error { return d.Send(r, func([]byte) error { return nil }) }

// Touch notes that a blob was used now.
func (d *Dir) Touch(r Ref) error { return os.Chtimes(d.Path(r), time.Time{}, time.Now()) }

// Remove removes a blob; one that is not there is no error.
func (d *Dir) Remove(r Ref) error {
	if err := os.Remove(d.Path(r)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

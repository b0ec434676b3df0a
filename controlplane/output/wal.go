package output

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/agentplane/agentplane/proto/frame"
	"github.com/agentplane/agentplane/proto/identity"
)

const walPrefix = "wal-"

// wal is the log of what was appended lately. It belongs to the appender.
type wal struct {
	dir    string
	number int
	f      *os.File
	size   int64
	dirty  map[Key]bool // files that were written and not fsynced since the last checkpoint
}

// openWal replays the wals of the directory into the files, makes all of it durable, and
// begins a new one.
func openWal(dir string, path func(Key) string) (*wal, error) {
	numbers, err := wals(dir)
	if err != nil {
		return nil, err
	}
	w := &wal{dir: dir, dirty: make(map[Key]bool)}
	for i, n := range numbers {
		if err := w.replay(w.name(n), path, i == len(numbers)-1); err != nil {
			return nil, fmt.Errorf("replay %q: %w", w.name(n), err)
		}
		w.number = n
	}
	if err := syncFiles(dir, w.dirty, path); err != nil {
		return nil, err
	}
	clear(w.dirty)
	for _, n := range numbers {
		if err := os.Remove(w.name(n)); err != nil {
			return nil, err
		}
	}
	return w, w.begin()
}

// wals lists the numbers of the wals, ascending.
func wals(dir string) ([]int, error) {
	files, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var numbers []int
	for _, f := range files {
		if digits, ok := strings.CutPrefix(f.Name(), walPrefix); ok {
			if n, err := strconv.Atoi(digits); err == nil {
				numbers = append(numbers, n)
			}
		}
	}
	slices.Sort(numbers)
	return numbers, nil
}

func (w *wal) name(n int) string { return filepath.Join(w.dir, walPrefix+strconv.Itoa(n)) }

// begin makes the next wal.
func (w *wal) begin() error {
	f, err := os.OpenFile(w.name(w.number+1), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	if err := identity.SyncDir(w.dir); err != nil {
		return errors.Join(err, f.Close())
	}
	w.f, w.size = f, 0
	w.number++
	return nil
}

// replay does again what a wal says. The newest one may end within a record: what is
// behind was never acknowledged.
func (w *wal) replay(name string, path func(Key) string, newest bool) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	r := frame.NewReader(f, 2*maxFrameBytes)
	for {
		typ, payload, err := r.Next()
		var corrupt *frame.CorruptError
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case newest && (errors.Is(err, frame.ErrTorn) || errors.As(err, &corrupt)):
			return nil
		case err != nil:
			return err
		}
		rec, removed, err := parseRecord(typ, payload)
		if err != nil {
			return err
		}
		if removed {
			delete(w.dirty, rec.key)
			err = removeFile(path(rec.key))
		} else {
			w.dirty[rec.key] = true
			err = rec.write(path(rec.key))
		}
		if err != nil {
			return err
		}
	}
}

// write puts the record's bytes at their place, and cuts what was behind them.
func (r walAppend) write(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(r.frames, r.at)
	if err == nil {
		err = f.Truncate(r.at + int64(len(r.frames)))
	}
	return errors.Join(err, f.Close())
}

// syncFiles makes durable what was written to the files, and their names.
func syncFiles(dir string, keys map[Key]bool, path func(Key) string) error {
	for k := range keys {
		f, err := os.OpenFile(path(k), os.O_WRONLY, 0)
		if errors.Is(err, os.ErrNotExist) {
			continue // removed meanwhile
		}
		if err != nil {
			return err
		}
		if err := errors.Join(f.Sync(), f.Close()); err != nil {
			return err
		}
	}
	return identity.SyncDir(filepath.Join(dir, attemptsDir))
}

package journal

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
)

var (
	errPower = errors.New("power is off")
	errIO    = errors.New("input/output error")
	errSpace = errors.New("no space left on device")
)

// disk is an fsys in memory that forgets, when its power is cut, what was not fsynced.
type disk struct {
	mu      sync.Mutex
	names   map[string]*inode   // as programs see them
	durable map[string]*inode   // as of the last SyncDir
	steps   []map[string]*inode // each change since then, in order
	locked  bool

	ops      int // that may fail, counted
	cutAt    int // power goes at this op; 0 is never
	failAt   int // this op fails with errIO; 0 is never
	capacity int // of all files together; 0 is unbounded
	off      bool
	free     uint64
}

type inode struct {
	data   []byte
	synced int // so many bytes are on the platter
}

func newDisk() *disk {
	return &disk{names: map[string]*inode{}, durable: map[string]*inode{}, free: 1 << 40}
}

// step counts an operation and says how it goes wrong, if it does.
func (d *disk) step() error {
	if d.off {
		return errPower
	}
	d.ops++
	switch d.ops {
	case d.cutAt:
		d.off = true
		return errPower
	case d.failAt:
		return errIO
	}
	return nil
}

// afterCrash is the disk as it may be found after the power cut: names as after any of
// the changes since the last SyncDir, files with any part of what was not fsynced,
// the last of which may be garbage.
func (d *disk) afterCrash(r *rand.Rand) *disk {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := newDisk()
	states := append([]map[string]*inode{d.durable}, d.steps...)
	for name, old := range states[r.IntN(len(states))] {
		f := &inode{data: slices.Clone(old.data[:old.synced])}
		if loose := old.data[old.synced:]; len(loose) > 0 {
			f.data = append(f.data, loose[:r.IntN(len(loose)+1)]...)
			if len(f.data) > old.synced && r.IntN(2) == 0 {
				from := old.synced + r.IntN(len(f.data)-old.synced)
				clear(f.data[from:])
			}
		}
		f.synced = len(f.data)
		n.names[name], n.durable[name] = f, f
	}
	return n
}

func (d *disk) Lock() (io.Closer, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.locked {
		return nil, ErrLocked
	}
	d.locked = true
	return closer(func() { d.mu.Lock(); d.locked = false; d.mu.Unlock() }), nil
}

type closer func()

func (c closer) Close() error { c(); return nil }

func (d *disk) Names() ([]string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	seen := map[string]bool{}
	for name := range d.names {
		first, _, _ := strings.Cut(name, "/")
		seen[first] = true
	}
	return slices.Sorted(maps.Keys(seen)), nil
}

func (d *disk) change(f func() error) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.step(); err != nil {
		return err
	}
	if err := f(); err != nil {
		return err
	}
	d.steps = append(d.steps, maps.Clone(d.names))
	return nil
}

func (d *disk) Open(name string) (file, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f, ok := d.names[name]
	if !ok {
		return nil, fmt.Errorf("open %q: %w", name, fs.ErrNotExist)
	}
	return &handle{d: d, f: f}, nil
}

func (d *disk) Create(name string) (file, error) {
	f := &inode{}
	err := d.change(func() error { d.names[name] = f; return nil })
	return &handle{d: d, f: f}, err
}

func (d *disk) Mkdir(name string) error {
	return d.change(func() error { d.names[name+"/."] = &inode{}; return nil })
}

func (d *disk) Rename(from, to string) error {
	return d.change(func() error {
		f, ok := d.names[from]
		if !ok {
			return fs.ErrNotExist
		}
		d.names[to] = f
		delete(d.names, from)
		return nil
	})
}

func (d *disk) Remove(name string) error {
	return d.change(func() error {
		for n := range d.names {
			if n == name || strings.HasPrefix(n, name+"/") {
				delete(d.names, n)
			}
		}
		return nil
	})
}

func (d *disk) SyncDir(string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.step(); err != nil {
		return err
	}
	d.durable, d.steps = maps.Clone(d.names), nil
	return nil
}

func (d *disk) FreeBytes() (uint64, error) { return d.free, nil }

// journalFile is the one journal file of the disk.
func (d *disk) journalFile() (name string, f *inode) {
	for n, i := range d.names {
		if strings.HasPrefix(n, filePrefix) && n > name {
			name, f = n, i
		}
	}
	return name, f
}

type handle struct {
	d *disk
	f *inode
}

func (h *handle) ReadAt(b []byte, off int64) (int, error) {
	h.d.mu.Lock()
	defer h.d.mu.Unlock()
	if off >= int64(len(h.f.data)) {
		if len(b) == 0 {
			return 0, nil
		}
		return 0, io.EOF
	}
	n := copy(b, h.f.data[off:])
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}

func (h *handle) Write(b []byte) (int, error) {
	h.d.mu.Lock()
	defer h.d.mu.Unlock()
	err := h.d.step()
	n := len(b)
	if err != nil {
		n /= 2
	}
	if h.d.capacity > 0 {
		used := 0
		for _, f := range h.d.names {
			used += len(f.data)
		}
		if used+n > h.d.capacity {
			n, err = max(0, h.d.capacity-used), errSpace
		}
	}
	h.f.data = append(h.f.data, b[:n]...)
	return n, err
}

func (h *handle) Size() (int64, error) {
	h.d.mu.Lock()
	defer h.d.mu.Unlock()
	return int64(len(h.f.data)), nil
}

func (h *handle) Sync() error {
	h.d.mu.Lock()
	defer h.d.mu.Unlock()
	if err := h.d.step(); err != nil {
		return err
	}
	h.f.synced = len(h.f.data)
	return nil
}

func (h *handle) Close() error { return nil }

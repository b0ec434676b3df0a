package consensus

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/hashicorp/raft"
	"github.com/hashicorp/raft-wal/types"
)

var errDisk = &fs.PathError{Op: "read", Path: "disk", Err: syscall.EIO}

// pagesLost opens the stores of a node and takes the pages of one of its files away, as a disk
// does that cannot be read.
func pagesLost(t *testing.T, log, file string) *Disk {
	t.Helper()
	dir := t.TempDir()
	d, err := OpenDisk(dir, log, 2, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // all but the store that waits for itself
		for i, store := range []string{"stable.db", "log.db", "log.mark"} {
			if store != file && i < len(d.close) {
				if err := d.close[i](); err != nil {
					t.Error(err)
				}
			}
		}
	})
	if err := os.Truncate(filepath.Join(dir, file), 0); err != nil {
		t.Fatal(err)
	}
	return d
}

func TestAPageThatCannotBeReadEndsTheNode(t *testing.T) {
	for name, call := range map[string]func(raft.StableStore) error{
		"a read":  func(s raft.StableStore) error { _, err := s.GetUint64(keyCurrentTerm); return err },
		"a write": func(s raft.StableStore) error { return s.Set([]byte("key"), []byte("value")) },
	} {
		t.Run(name, func(t *testing.T) {
			d := pagesLost(t, "bolt", "stable.db")
			err := givenUp(t, func(w *watch) {
				if err := call(newVoteStore(d.Stable, w)); !errors.Is(err, errPage) {
					t.Errorf("it came to %v, want %v", err, errPage)
				}
			})
			if !errors.Is(err, errPage) {
				t.Errorf("given up: %v, want %v", err, errPage)
			}
		})
	}
}

func TestAPageThatCannotBeReadRefusesTheStart(t *testing.T) {
	d := pagesLost(t, "bolt", "log.db")
	if _, err := Guard(d, func(err error) { t.Errorf("fatal: %v", err) }); !errors.Is(err, errPage) || errors.Is(err, ErrDamaged) {
		t.Errorf("Guard = %v, want %v, and no word of damage", err, errPage)
	}
	if err := d.Close(); err != nil { // and does not wait
		t.Error(err)
	}
}

func TestOnlyFaultsOfPagesAreMadeErrors(t *testing.T) {
	if err := mapped(func() error { return errDisk }); !errors.Is(err, syscall.EIO) {
		t.Errorf("%v, want the error of the function", err)
	}
	defer func() {
		if r := recover(); r != "mine" {
			t.Errorf("recovered %v, want the panic of the function", r)
		}
	}()
	_ = mapped(func() error { panic("mine") })
}

// failing is a store of which nothing can be read.
type failing struct {
	raft.LogStore
	raft.StableStore
	err error
}

func (f failing) GetLog(uint64, *raft.Log) error { return f.err }
func (f failing) Get([]byte) ([]byte, error)     { return nil, f.err }

// givenUp runs a call and says with what the node was given up in it; nil when the call returned
// without that.
func givenUp(t *testing.T, call func(*watch)) error {
	t.Helper()
	fatal := make(chan error, 1)
	w := newWatch(0, func(err error) { fatal <- err })
	returned := make(chan struct{})
	go func() {
		defer close(returned)
		call(w)
	}()
	select {
	case err := <-fatal:
		select {
		case <-returned:
			t.Error("the call was answered although the node was given up")
		default:
		}
		w.release()
		<-returned
		return err
	case <-returned:
		return nil
	}
}

func TestALogThatCannotBeReadEndsTheNode(t *testing.T) {
	for name, c := range map[string]struct {
		err   error
		fatal bool
	}{
		"the disk fails":           {errDisk, true},
		"a page is missing":        {errPage, true},
		"an entry is compacted":    {raft.ErrLogNotFound, false},
		"the store is closed":      {errors.New("closed"), false},
		"the frame is not a frame": {types.ErrCorrupt, true},
	} {
		t.Run(name, func(t *testing.T) {
			err := givenUp(t, func(w *watch) {
				var l raft.Log
				if err := newGuardedLog(failing{err: c.err}, nil, w, nil).GetLog(5, &l); !errors.Is(err, c.err) {
					t.Errorf("GetLog = %v, want %v", err, c.err)
				}
			})
			if (err != nil) != c.fatal {
				t.Errorf("given up: %v, want that: %v", err, c.fatal)
			}
		})
	}
}

// A term that is taken for written and is not would be forgotten, with a vote in it.
func TestATermBesideAVoteThatCannotBeReadEndsTheNode(t *testing.T) {
	err := givenUp(t, func(w *watch) { _ = newVoteStore(failing{err: errDisk}, w).SetUint64(keyCurrentTerm, 7) })
	if !errors.Is(err, syscall.EIO) || !strings.HasPrefix(err.Error(), "write term: ") {
		t.Errorf("given up: %v, want %v", err, syscall.EIO)
	}
}

// A directory in place of a file cannot be read, whoever tries.
func TestADiskThatCannotBeReadIsNotCalledDamaged(t *testing.T) {
	for _, file := range []string{"stable.db", "wal/wal-meta.db", "log.mark"} {
		t.Run(file, func(t *testing.T) {
			dir := t.TempDir()
			d, err := OpenDisk(dir, "wal", 2, nil)
			if err != nil {
				t.Fatal(err)
			}
			if err := d.Close(); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(dir, file)
			if err := errors.Join(os.Remove(path), os.Mkdir(path, 0o700)); err != nil {
				t.Fatal(err)
			}
			d, err = OpenDisk(dir, "wal", 2, nil)
			if err == nil {
				t.Fatal(d.Close())
			}
			if errors.Is(err, ErrDamaged) || strings.Contains(err.Error(), "rejoin") || !unread(err) {
				t.Errorf("%v, want that it cannot be read, and no word of damage", err)
			}
		})
	}
}

// flaky are snapshots of which the disk does not give the newest for a moment.
type flaky struct {
	raft.SnapshotStore
	listed []*raft.SnapshotMeta
	err    error
}

func (f flaky) List() ([]*raft.SnapshotMeta, error) { return f.listed, nil }
func (f flaky) Open(string) (*raft.SnapshotMeta, io.ReadCloser, error) {
	return nil, nil, f.err
}

// raft takes the first snapshot that it is told of and can open. It begins with the one with
// which the log was verified, or not at all.
func TestRaftBeginsWithTheSnapshotThatWasVerified(t *testing.T) {
	whole, older := &raft.SnapshotMeta{ID: "whole", Index: 9}, &raft.SnapshotMeta{ID: "older", Index: 4}
	for name, c := range map[string]struct{ verified, wants []*raft.SnapshotMeta }{
		"there is one":  {[]*raft.SnapshotMeta{whole}, []*raft.SnapshotMeta{whole}},
		"there is none": {[]*raft.SnapshotMeta{nil}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			d := &Disk{Snapshots: flaky{listed: []*raft.SnapshotMeta{older}, err: errDisk}, whole: c.verified[0]}
			in := newInstalls(d, nil, nil, &compaction{})
			if all, err := in.List(); err != nil || !slices.Equal(all, c.wants) {
				t.Errorf("as raft begins there are %v, %v, want %v", all, err, c.wants)
			}
			if _, _, err := in.Open("whole"); !errors.Is(err, syscall.EIO) {
				t.Errorf("Open = %v", err)
			}
			if err := in.begins(errors.New("failed to load any existing snapshots")); !errors.Is(err, syscall.EIO) {
				t.Errorf("raft did not begin: %v, want what the disk said", err)
			}
			if err := in.begins(nil); err != nil {
				t.Error(err)
			}
			if all, err := in.List(); err != nil || !slices.Equal(all, []*raft.SnapshotMeta{older}) {
				t.Errorf("once raft has begun there are %v, %v", all, err)
			}
		})
	}
}

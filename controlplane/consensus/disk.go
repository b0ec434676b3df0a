package consensus

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	wal "github.com/hashicorp/raft-wal"
	"github.com/hashicorp/raft-wal/metadb"
	"go.etcd.io/bbolt"
)

// Disk is where raft keeps what must survive. It belongs to one Host or one offline
// tool at a time.
type Disk struct {
	Log       raft.LogStore
	Stable    raft.StableStore
	Snapshots raft.SnapshotStore
	Mark      MarkFile
	whole     *raft.SnapshotMeta // the newest that is; set by guard, nil when there is none
	votes     *voteStore         // what Stable is; set by guard
	close     []func() error
	bolts     []*raftboltdb.BoltStore
}

// FreePages is how many pages of the bbolt files are free: they never shrink.
func (d *Disk) FreePages() (n int) {
	for _, b := range d.bolts {
		n += b.Stats().FreePageN
	}
	return n
}

// OnClose adds f to what Close runs, last added first.
func (d *Disk) OnClose(f func() error) { d.close = append(d.close, f) }

// Close closes everything and returns all errors.
func (d *Disk) Close() error {
	var errs []error
	for i := len(d.close) - 1; i >= 0; i-- {
		errs = append(errs, d.close[i]())
	}
	d.close = nil
	return errors.Join(errs...)
}

// OpenDisk opens or makes the stores in dir as they are, without guards. log is
// "wal" or "bolt". Both keep term and vote in bbolt, and both fsync before they
// answer.
func OpenDisk(dir, log string, retain int, logger hclog.Logger) (_ *Disk, err error) {
	d := &Disk{}
	defer func() {
		if err != nil {
			_ = d.Close()
		}
	}()
	if logger == nil {
		logger = hclog.NewNullLogger()
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open raft directory: %w", err)
	}
	stable, err := openBolt(filepath.Join(dir, "stable.db"))
	if err != nil {
		return nil, err
	}
	d.OnClose(stable.Close)
	d.Stable = stable
	d.bolts = append(d.bolts, stable)
	switch log {
	case "wal":
		walDir := filepath.Join(dir, "wal")
		if err := os.MkdirAll(walDir, 0o700); err != nil {
			return nil, fmt.Errorf("open raft log: %w", err)
		}
		if err := verifyWAL(walDir); err != nil {
			return nil, refusal(err)
		}
		w, err := wal.Open(walDir, wal.WithLogger(logger.Named("wal")), wal.WithMetaStore(mappedMeta{&metadb.BoltMetaDB{}}))
		if err != nil {
			return nil, fmt.Errorf("open raft log %q: %w", walDir, err)
		}
		d.OnClose(w.Close)
		d.Log = w
	case "bolt":
		b, err := openBolt(filepath.Join(dir, "log.db"))
		if err != nil {
			return nil, err
		}
		d.OnClose(b.Close)
		d.Log = b
		d.bolts = append(d.bolts, b)
	default:
		return nil, fmt.Errorf("open raft directory %q: log store %q is not known: use wal or bolt", dir, log)
	}
	if d.Snapshots, err = openSnapshots(dir, retain, logger.Named("snapshots")); err != nil {
		return nil, err
	}
	mark, err := openMarkFile(filepath.Join(dir, "log.mark"))
	if err != nil {
		return nil, err
	}
	d.OnClose(mark.Close)
	d.Mark = mark
	return d, nil
}

// openBolt opens a bbolt store that fsyncs each commit and does not write its
// freelist with it: the list of a log that was compacted grows to megabytes.
func openBolt(path string) (*raftboltdb.BoltStore, error) {
	if err := verifyBolt(path); err != nil {
		return nil, refusal(err)
	}
	var s *raftboltdb.BoltStore
	err := mapped(func() (err error) {
		s, err = raftboltdb.New(raftboltdb.Options{
			Path: path,
			BoltOptions: &bbolt.Options{
				Timeout:        time.Second,
				NoFreelistSync: true,
				FreelistType:   bbolt.FreelistMapType,
			},
			MsgpackUseNewTimeFormat: true,
		})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open store %q: %w", path, err)
	}
	return s, nil
}

func openMarkFile(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open log mark: %w", err)
	}
	dir, err := os.Open(filepath.Dir(path))
	if err == nil {
		err = errors.Join(f.Sync(), dir.Sync(), dir.Close())
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open log mark %q: %w", path, err), f.Close())
	}
	return f, nil
}

// Guard returns d behind the guards under which a host runs: offline tools use it
// too, so that what they write is what a host accepts. It verifies that the log
// reaches its mark, that every entry past the newest snapshot is whole, and that the
// term is not behind the log, and refuses d otherwise: with [ErrDamaged], unless it
// cannot be read. A log that ends before the newest snapshot it empties. A later failure
// calls fatal; the call that failed then waits until the returned disk is closed.
func Guard(d *Disk, fatal func(error)) (*Disk, error) {
	return guard(d, newWatch(0, fatal), func([]*raft.Log) {})
}

func guard(d *Disk, w *watch, appended func([]*raft.Log)) (*Disk, error) {
	mark, err := openLogMark(d.Mark)
	if err != nil {
		return nil, refusal(err)
	}
	stable := newVoteStore(d.Stable, w)
	var whole *raft.SnapshotMeta
	err = mapped(func() (err error) {
		if whole, err = verifyLog(d, mark, appended); err != nil {
			return err
		}
		if err := verifyStable(d, stable, mark); err != nil {
			return err
		}
		return dropCovered(d.Log, mark, whole)
	})
	if errors.Is(err, errPage) {
		d.close = nil // it would wait for what the store has locked
	}
	if err != nil {
		return nil, refusal(err)
	}
	if mark.fresh {
		// From now on a log without a mark is a log that has lost it.
		if err := errors.Join(mark.set(0, 0), mark.file.Sync()); err != nil {
			return nil, fmt.Errorf("begin log mark: %w", err)
		}
	}
	g := &Disk{
		Log:       newGuardedLog(d.Log, mark, w, appended),
		Stable:    stable,
		votes:     stable,
		Snapshots: d.Snapshots,
		Mark:      d.Mark,
		whole:     whole,
		bolts:     d.bolts,
	}
	g.OnClose(d.Close)
	g.OnClose(func() error { w.release(); return nil })
	return g, nil
}

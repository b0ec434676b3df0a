package datadir

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"syscall"

	"github.com/agentplane/agentplane/proto/identity"
)

// The names of the files that this package owns, of the one whose presence says that
// the node has joined a cluster, and of the directory that only a member has.
const (
	lockFile      = "lock"
	nodeFile      = "node"
	addressesFile = "addresses.json"
	bootFile      = "boot.state"
	raftDir       = "raft"
)

// agentFiles are names that only an agent gives.
var agentFiles = []string{"agent.json", "agent.key"}

var (
	// ErrInUse says that a process, this one included, has the directory open.
	ErrInUse = errors.New("data directory is in use")
	// ErrPutBack says that the directory is that of an earlier time: see [Dir.PutBack].
	ErrPutBack = errors.New("this node's data directory is older than what the cluster has seen of it: a disk image was put back; join again with an empty data directory")
	// ErrOtherCluster says that the directory is bound to another cluster.
	ErrOtherCluster = errors.New("data directory of another cluster")
	// ErrOfAgent says that the directory belongs to an agent.
	ErrOfAgent = errors.New("data directory of an agent")
)

// Dir is an open data directory. Close it last: the lock ends with it.
type Dir struct {
	path string
	root *os.File // the directory itself
	lock *os.File // closing it releases the lock

	made []string // the directories that Open has made, the innermost first

	mu     sync.Mutex // guards record and the files of this package
	record nodeRecord
	closed bool
}

// Open makes the directory when it is missing, takes its lock and counts a
// start. When it fails, nothing stays open.
func Open(path string) (_ *Dir, err error) {
	if path, err = filepath.Abs(path); err != nil {
		return nil, fmt.Errorf("open data directory: %w", err)
	}
	d := &Dir{path: path}
	defer func() {
		if err != nil {
			d.release()
			err = fmt.Errorf("open data directory %q: %w", path, err)
		}
	}()
	missing := missingDirs(path)
	if err := identity.MakeDir(path); err != nil {
		return nil, err
	}
	d.made = missing
	if d.root, err = openPrivate(path); err != nil {
		return nil, err
	}
	if d.lock, err = takeLock(filepath.Join(path, lockFile)); err != nil {
		return nil, err
	}
	// From here on nobody else writes here.
	if err := d.sweep(); err != nil {
		return nil, err
	}
	if err := d.refuseAgent(); err != nil {
		return nil, err
	}
	if d.record, err = d.countStart(); err != nil {
		return nil, err
	}
	if err := d.refuseForgotten(); err != nil {
		return nil, err
	}
	return d, nil
}

// missingDirs are the path and its parents, as far as they are not there.
func missingDirs(path string) (missing []string) {
	for ; ; path = filepath.Dir(path) {
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			return missing
		}
		missing = append(missing, path)
	}
}

// refuseAgent refuses the data directory of an agent, where a node would leave its
// own files among those of somebody else.
func (d *Dir) refuseAgent() error {
	for _, name := range agentFiles {
		if _, err := os.Lstat(filepath.Join(d.path, name)); err == nil {
			return fmt.Errorf("%w: %s lies in it; give this node a directory of its own", ErrOfAgent, name)
		} else if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// refuseForgotten refuses a member's directory that has lost its boot.state. Without
// it the node would wait to be set up and, when it is, begin a cluster on the log of
// another. A node that died while it joined has no log yet.
func (d *Dir) refuseForgotten() error {
	if _, err := os.Lstat(filepath.Join(d.path, bootFile)); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if _, err := os.Lstat(filepath.Join(d.path, raftDir)); errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	return fmt.Errorf("file %q is missing beside the log of a cluster; bring it back, or remove the node with \"agentctl cluster remove\" elsewhere, move the directory away and join again as a new node",
		filepath.Join(d.path, bootFile))
}

// openPrivate opens the directory if nobody but its owner may access it.
func openPrivate(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		_ = f.Close()
		return nil, fmt.Errorf("mode %#o lets others access it; run: chmod 700 %s", mode, path)
	}
	return f, nil
}

func takeLock(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := flock(f); err != nil {
		defer f.Close()
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("lock %q: %w", path, err)
		}
		holder := make([]byte, 20)
		n, _ := f.ReadAt(holder, 0)
		if pid, err := strconv.Atoi(string(holder[:n])); err == nil {
			return nil, fmt.Errorf("%w by process %d; stop it first, or give this node a directory of its own", ErrInUse, pid)
		}
		return nil, fmt.Errorf("%w by a process that is just starting; stop it first, or give this node a directory of its own", ErrInUse)
	}
	if !sameFile(f, path) {
		_ = f.Close()
		return nil, fmt.Errorf("%w by a process that has just given it up; try again", ErrInUse)
	}
	// The text helps people only; the lock is what counts. Hence no fsync.
	if err := errors.Join(f.Truncate(0), writeAt(f, strconv.Itoa(os.Getpid()))); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("write %q: %w", path, err)
	}
	return f, nil
}

// sameFile says that the open file still has the path.
func sameFile(f *os.File, path string) bool {
	have, err := f.Stat()
	if err != nil {
		return false
	}
	there, err := os.Lstat(path)
	return err == nil && os.SameFile(have, there)
}

func flock(f *os.File) error {
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if !errors.Is(err, syscall.EINTR) {
			return err
		}
	}
}

func writeAt(f *os.File, text string) error {
	_, err := f.WriteAt([]byte(text), 0)
	return err
}

// sweep removes what an earlier process left that is of no use any more.
func (d *Dir) sweep() error {
	entries, err := os.ReadDir(d.path)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Name() == addressesFile || e.Type().IsRegular() && identity.IsTemp(e.Name()) {
			if err := os.Remove(filepath.Join(d.path, e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

// Path returns the path of something in the directory.
func (d *Dir) Path(elem ...string) string {
	return filepath.Join(append([]string{d.path}, elem...)...)
}

// NodeID returns the node's random id, a UUID.
func (d *Dir) NodeID() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.record.NodeID
}

// Starts returns the number of starts, this one included.
func (d *Dir) Starts() uint64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.record.Starts
}

// StartIDs returns the ids of the last starts, this one first, at most 64. They are not to be
// changed.
func (d *Dir) StartIDs() [][]byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.record.StartIDs
}

// ClusterID returns the cluster that the directory is bound to, or "".
func (d *Dir) ClusterID() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.record.ClusterID
}

// PutBack notes, durably, that others know more of this node than lies here: it must never be
// used again, and Open refuses it. Otherwise a node that is refused and started again and again
// would count starts until nobody knows any more which one they have seen.
func (d *Dir) PutBack() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.changeLocked(func(r *nodeRecord) { r.PutBack = true }); err != nil {
		return fmt.Errorf("note in data directory %q that it was put back: %w", d.path, err)
	}
	return nil
}

// BindCluster binds the directory to the cluster, durably. A repeat does
// nothing; another cluster answers ErrOtherCluster.
func (d *Dir) BindCluster(clusterID string) error {
	if err := identity.ValidateCluster(clusterID); err != nil {
		return fmt.Errorf("bind data directory %q: %w", d.path, err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case d.closed:
		return fmt.Errorf("bind data directory %q: %w", d.path, fs.ErrClosed)
	case d.record.ClusterID == clusterID:
		return nil
	case d.record.ClusterID != "":
		return fmt.Errorf("bind data directory %q: %w: it belongs to %q, not to %q; use another directory for this cluster",
			d.path, ErrOtherCluster, d.record.ClusterID, clusterID)
	}
	if err := d.changeLocked(func(r *nodeRecord) { r.ClusterID = clusterID }); err != nil {
		return fmt.Errorf("bind data directory %q: %w", d.path, err)
	}
	return nil
}

// changeLocked replaces the record, durably.
func (d *Dir) changeLocked(change func(*nodeRecord)) error {
	if d.closed {
		return fs.ErrClosed
	}
	next := d.record
	change(&next)
	if err := d.writeRecord(next); err != nil {
		return err
	}
	d.record = next
	return nil
}

// Subdir makes a directory of mode 0700 in the data directory, durably, and
// returns its path. One that exists has to be private too.
func (d *Dir) Subdir(name string) (string, error) {
	path := d.Path(name)
	if err := os.Mkdir(path, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", fmt.Errorf("make directory: %w", err)
	}
	f, err := openPrivate(path)
	if err != nil {
		return "", fmt.Errorf("open directory %q: %w", path, err)
	}
	_ = f.Close()
	if err := identity.SyncDir(d.path); err != nil {
		return "", err
	}
	return path, nil
}

// Replace makes data the content of a file in the directory: mode 0600,
// atomically and durably.
func (d *Dir) Replace(name string, data []byte) error {
	return identity.ReplaceFile(d.Path(name), data)
}

// SocketPath returns a path for binding a socket in the directory, short enough
// however long the directory's own path is. It is good until Close and in this
// process only; others reach the socket under Path.
func (d *Dir) SocketPath(name string) string {
	return fmt.Sprintf("/proc/self/fd/%d/%s", d.root.Fd(), name)
}

// Close takes the addresses away and releases the lock. It may be called again.
func (d *Dir) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil
	}
	d.closed = true
	err := os.Remove(d.Path(addressesFile))
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	d.release()
	if err != nil {
		return fmt.Errorf("close data directory %q: %w", d.path, err)
	}
	return nil
}

// Discard is Close for a start that has come to nothing. A directory that Open has made,
// in which nothing lies but what it put there, is removed; nobody would miss it.
func (d *Dir) Discard() error {
	if !d.untouched() {
		return d.Close()
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	// The lock is held until nothing is left: whoever comes meanwhile is refused.
	for _, name := range []string{addressesFile, nodeFile, lockFile} {
		_ = os.Remove(d.Path(name))
	}
	for _, dir := range d.made {
		if os.Remove(dir) != nil {
			break // somebody else uses it
		}
	}
	d.closed = true
	d.release()
	return nil
}

// untouched says that the directory was made by this process, and holds nothing of worth.
func (d *Dir) untouched() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed || len(d.made) == 0 || d.record.ClusterID != "" {
		return false
	}
	entries, err := os.ReadDir(d.path)
	return err == nil && !slices.ContainsFunc(entries, func(e os.DirEntry) bool {
		return e.Name() != addressesFile && e.Name() != nodeFile && e.Name() != lockFile
	})
}

func (d *Dir) release() {
	if d.lock != nil {
		// A child that this process is just forking has a copy of the open file for a moment.
		_ = syscall.Flock(int(d.lock.Fd()), syscall.LOCK_UN)
		_ = d.lock.Close()
	}
	if d.root != nil {
		_ = d.root.Close()
	}
}

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"github.com/agentplane/agentplane/proto/client"
)

// devDir is the directory of a dev cluster:
//
//	node-1 …        data directories of the nodes; node-1 holds the lock for all
//	agent-1 …       data directories of the agents
//	logs/NAME.log   what each of them logs
//	agentctl.yaml   the operator's context, as the user's own file has it
type devDir struct {
	path      string
	temporary bool
}

// openDevDir makes the directory when it is missing. One that holds something else
// is refused: a dev cluster would be scattered among it.
func openDevDir(path string) (*devDir, error) {
	if path == "" {
		tmp, err := os.MkdirTemp("", "agentplane-dev-")
		if err != nil {
			return nil, hinted{fmt.Errorf("make a temporary directory: %w", err), "set TMPDIR to a directory that you may write to, or give --data-dir"}
		}
		return &devDir{path: tmp, temporary: true}, nil
	}
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("data directory: %w", err)
	}
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, hinted{fmt.Errorf("make data directory: %w", err), "give a --data-dir that you may write to"}
	}
	// One name for one directory: programs of an earlier life are found by it.
	if path, err = filepath.EvalSymlinks(path); err != nil {
		return nil, fmt.Errorf("data directory: %w", err)
	}
	d := &devDir{path: path}
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("data directory: %w", err)
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return nil, hinted{fmt.Errorf("data directory %q: mode %#o lets others access it", path, mode), "run: chmod 700 " + path}
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return nil, fmt.Errorf("data directory: %w", err)
	}
	if len(entries) > 0 && d.existing("node") == 0 {
		return nil, hinted{
			fmt.Errorf("data directory %q holds %q and no dev cluster", path, entries[0].Name()),
			"give an empty --data-dir, or that of an earlier dev",
		}
	}
	return d, nil
}

// existing is how many of a kind the directory holds, which are numbered from 1.
func (d *devDir) existing(kind string) int {
	n := 0
	for {
		info, err := os.Stat(d.join(fmt.Sprintf("%s-%d", kind, n+1)))
		if err != nil || !info.IsDir() {
			return n
		}
		n++
	}
}

func (d *devDir) join(name string) string { return filepath.Join(d.path, name) }

func (d *devDir) logs() string { return d.join("logs") }

// contexts is the file that keeps the operator's key beside its cluster.
func (d *devDir) contexts() *client.Contexts { return client.OpenContexts(d.join("agentctl.yaml")) }

// log is what one of the cluster logs to.
func (d *devDir) log(name string) *logFile {
	return &logFile{path: filepath.Join(d.logs(), name+".log")}
}

// maxLogBytes is the size beyond which a log begins anew at the next start.
const maxLogBytes = 16 << 20

// logFile is opened by the first line: whoever finds that another process has the
// directory leaves its files alone.
type logFile struct {
	path string

	mu   sync.Mutex // guards file
	file *os.File
}

// Write is io.Writer's.
func (l *logFile) Write(line []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file == nil {
		if err := l.openLocked(); err != nil {
			return 0, err
		}
	}
	return l.file.Write(line)
}

func (l *logFile) openLocked() error {
	if err := os.Mkdir(filepath.Dir(l.path), 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	f, err := os.OpenFile(l.path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	if info, err := f.Stat(); err == nil && info.Size() > maxLogBytes {
		_ = f.Truncate(0)
	}
	l.file = f
	return nil
}

// Close ends the log; a later line begins it again.
func (l *logFile) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file == nil {
		return nil
	}
	f := l.file
	l.file = nil
	return f.Close()
}

package configs

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// lines is a log that many may write and one reads.
type lines struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// run starts a Watcher for path and ends it with the test.
func run(t *testing.T, path string, poll time.Duration) (*Watcher, *lines) {
	return runPatient(t, path, poll, 10*time.Millisecond)
}

func runPatient(t *testing.T, path string, poll, debounce time.Duration) (*Watcher, *lines) {
	t.Helper()
	return runAs(t, ProgramNode, path, poll, debounce)
}

func runAs(t *testing.T, p Program, path string, poll, debounce time.Duration) (*Watcher, *lines) {
	t.Helper()
	log := &lines{}
	w, err := NewWatcher(WatcherOptions{
		Sources:  Sources{Program: p, File: path},
		Logger:   slog.New(slog.NewTextHandler(log, nil)),
		Debounce: debounce,
		Poll:     poll,
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Errorf("Run = %v", err)
		}
	})
	return w, log
}

func replace(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

// eventually waits for a condition that the watcher brings about.
func eventually(t *testing.T, w *Watcher, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !condition(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s does not happen; status is %+v", what, w.Status())
		}
	}
}

func await(t *testing.T, w *Watcher, changed <-chan struct{}) *Config {
	t.Helper()
	select {
	case <-changed:
	case <-time.After(10 * time.Second):
		t.Fatalf("the change was not noticed; status is %+v", w.Status())
	}
	return w.Current()
}

func TestWatcherFollowsTheFile(t *testing.T) {
	never := time.Hour // what is noticed is noticed by events
	path := writeFile(t, "log: {level: info}")
	w, log := run(t, path, never)

	_, changed := w.Watch()
	replace(t, path, "log: {level: debug}")
	if c := await(t, w, changed); c.Node().Log.Level != "debug" {
		t.Errorf("after a rename the level is %s", c.Node().Log.Level)
	}

	_, changed = w.Watch()
	if err := os.WriteFile(path, []byte("log: {level: warn}"), 0o600); err != nil {
		t.Fatal(err)
	}
	if c := await(t, w, changed); c.Node().Log.Level != "warn" {
		t.Errorf("after a write in place the level is %s", c.Node().Log.Level)
	}
	eventually(t, w, "a line in the log", func() bool {
		return strings.Count(log.String(), `msg="configuration reloaded"`) == 2
	})
	if !strings.Contains(log.String(), "changed=[log.level] restart_needed=[]") {
		t.Errorf("the log is\n%s", log)
	}
}

func TestWatcherKeepsTheLastGoodOne(t *testing.T) {
	path := writeFile(t, "log: {level: debug}")
	w, log := run(t, path, time.Hour)
	good, changed := w.Watch()

	for i, bad := range []string{"log: {level: loud}", "log: [", "voters: 4\nlog: {level: warn}"} {
		replace(t, path, bad)
		eventually(t, w, "a refusal", func() bool { return w.Status().Refusals == i+1 })
		if w.Current() != good || w.Status().Err == nil {
			t.Errorf("%q: status is %+v", bad, w.Status())
		}
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	eventually(t, w, "a refusal", func() bool { return w.Status().Refusals == 4 })
	select {
	case <-changed:
		t.Error("a refused file counted as a change")
	default:
	}
	eventually(t, w, "a line in the log for each refusal", func() bool {
		return strings.Count(log.String(), "the last good one stays in force") == 4
	})

	replace(t, path, "log: {level: error}")
	if c := await(t, w, changed); c.Node().Log.Level != "error" || w.Status().Err != nil {
		t.Errorf("after the repair the level is %s, the status %+v", c.Node().Log.Level, w.Status())
	}
}

// A mode that makes a file untrustworthy is noticed, and so is its repair,
// although the content stays.
func TestWatcherNoticesModes(t *testing.T) {
	path := writeFile(t, "log: {level: debug}")
	w, _ := run(t, path, time.Hour)
	if err := os.Chmod(path, 0o666); err != nil {
		t.Fatal(err)
	}
	eventually(t, w, "a refusal", func() bool { return w.Status().Err != nil })
	if err := os.Chmod(path, 0o600); err != nil {
		t.Fatal(err)
	}
	eventually(t, w, "the repair", func() bool { return w.Status().Err == nil })
}

func TestWatcherLeavesForARestartWhatCannotChange(t *testing.T) {
	path := writeFile(t, "voters: 3\nlog: {level: info}")
	w, log := run(t, path, time.Hour)
	_, changed := w.Watch()
	replace(t, path, "listen: :1\nvoters: 5\nlog: {level: debug}")
	n := await(t, w, changed).Node()
	if n.Voters != 3 || n.Listen != ":7460" || n.Log.Level != "debug" {
		t.Errorf("values are voters %d, listen %s, level %s", n.Voters, n.Listen, n.Log.Level)
	}
	if diff := cmp.Diff([]string{"listen", "voters"}, w.Status().Restart); diff != "" {
		t.Errorf("keys that wait for a restart (-want +got):\n%s", diff)
	}
	eventually(t, w, "a line in the log", func() bool { return strings.Contains(log.String(), `restart_needed="[listen voters]"`) })

	_, changed = w.Watch()
	replace(t, path, "voters: 3\nlog: {level: warn}")
	if await(t, w, changed); len(w.Status().Restart) != 0 {
		t.Errorf("taken back, but %q still wait for a restart", w.Status().Restart)
	}
}

// Containers give a directory of files through a link that is swapped.
func TestWatcherFollowsSwappedDirectories(t *testing.T) {
	dir := t.TempDir()
	version := func(name, text string) {
		if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name, "a.yaml"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	link := func(target, name string) {
		tmp := filepath.Join(dir, "..tmp")
		if err := os.Symlink(target, tmp); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(tmp, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	version("..1", "log: {level: info}")
	link("..1", "..data")
	link("..data/a.yaml", "a.yaml")
	w, _ := run(t, filepath.Join(dir, "a.yaml"), time.Hour)

	for i, level := range []string{"debug", "warn", "error"} {
		_, changed := w.Watch()
		name := fmt.Sprintf("..%d", i+2)
		version(name, "log: {level: "+level+"}")
		link(name, "..data")
		if c := await(t, w, changed); c.Node().Log.Level != level {
			t.Errorf("after the swap the level is %s, want %s", c.Node().Log.Level, level)
		}
	}
}

func TestWatcherFollowsALinkIntoAnotherDirectory(t *testing.T) {
	target := writeFile(t, "log: {level: info}")
	path := filepath.Join(t.TempDir(), "link.yaml")
	if err := os.Symlink(target, path); err != nil {
		t.Fatal(err)
	}
	w, _ := run(t, path, time.Hour)
	for _, level := range []string{"debug", "warn", "error"} { // the first may be seen when Run begins
		_, changed := w.Watch()
		replace(t, target, "log: {level: "+level+"}")
		if c := await(t, w, changed); c.Node().Log.Level != level {
			t.Errorf("the level is %s, want %s", c.Node().Log.Level, level)
		}
	}
}

func TestWatcherReadsAFileThatNeverRests(t *testing.T) {
	path := writeFile(t, "log: {level: info}")
	// Far longer than the pauses between two writes.
	w, _ := runPatient(t, path, time.Hour, 100*time.Millisecond)
	_, changed := w.Watch()
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
		replace(t, path, "log: {level: debug}")
		select {
		case <-changed:
			return
		default:
		}
		if time.Now().After(deadline) {
			t.Fatal("a file that is written all the time is never read")
		}
	}
}

// Without events, as on a network file system, the poll finds the change.
func TestWatcherPolls(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "gone")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "a.yaml")
	replace(t, path, "log: {level: info}")
	w, _ := run(t, path, 20*time.Millisecond)
	// Whoever watches the old directory hears nothing of the new one.
	if err := os.Rename(dir, dir+".old"); err != nil {
		t.Fatal(err)
	}
	eventually(t, w, "a refusal", func() bool { return w.Status().Err != nil })
	_, changed := w.Watch()
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	replace(t, path, "log: {level: debug}")
	if c := await(t, w, changed); c.Node().Log.Level != "debug" {
		t.Errorf("the level is %s", c.Node().Log.Level)
	}
}

func TestReloadAtOnce(t *testing.T) {
	path := writeFile(t, "log: {level: info}")
	w, err := NewWatcher(WatcherOptions{Sources: Sources{Program: ProgramNode, File: path}})
	if err != nil {
		t.Fatal(err)
	}
	before := w.Current()
	if err := w.Reload(); err != nil || w.Status().Reloads != 0 || w.Current().Hash() != before.Hash() {
		t.Errorf("without a change Reload = %v, status %+v", err, w.Status())
	}
	replace(t, path, "log: {level: debug}")
	if err := w.Reload(); err != nil || w.Status().Reloads != 1 || w.Current().Node().Log.Level != "debug" {
		t.Errorf("Reload = %v, status %+v", err, w.Status())
	}
	replace(t, path, "log: {level: loud}")
	if err := w.Reload(); err == nil || w.Current().Node().Log.Level != "debug" {
		t.Errorf("Reload of a bad file = %v", err)
	}
}

func TestWatcherNeedsAValidBeginning(t *testing.T) {
	path := writeFile(t, "voters: 4")
	if w, err := NewWatcher(WatcherOptions{Sources: Sources{Program: ProgramNode, File: path}}); err == nil {
		t.Errorf("NewWatcher = %v", w)
	}
}

func TestWatcherWithoutAFileOnlyWaits(t *testing.T) {
	w, err := NewWatcher(WatcherOptions{Sources: Sources{Program: ProgramAgent}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	stop()
	if err := <-done; err != nil {
		t.Errorf("Run = %v", err)
	}
}

// Readers, reloads and the life of the watcher at once: what is read is always one
// of the files, whole.
func TestWatcherIsWholeUnderConcurrency(t *testing.T) {
	text := func(i int) string {
		return fmt.Sprintf("run: {timeout_default: %ds, kill_grace: %ds}\nfacts: {interval: %ds}", i, i, i)
	}
	path := writeFile(t, text(1))
	w, _ := runAs(t, ProgramAgent, path, time.Millisecond, 10*time.Millisecond)
	stop := make(chan struct{})
	var group sync.WaitGroup
	for range 3 {
		group.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if a := w.Current().Agent(); a.Run.TimeoutDefault != a.Run.KillGrace || a.Run.KillGrace != a.Facts.Interval {
					t.Errorf("a mixture was seen: %+v", a)
					return
				}
			}
		})
	}
	for i := range 50 {
		replace(t, path, text(i+2))
		if err := w.Reload(); err != nil {
			t.Error(err)
		}
	}
	close(stop)
	group.Wait()
	if got := w.Current().Agent().Facts.Interval; got != 51*time.Second {
		t.Errorf("the last value is %v, want 51s", got)
	}
}

package configs

import (
	"context"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/fsnotify/fsnotify"
)

// WatcherOptions say what a Watcher watches.
type WatcherOptions struct {
	// Sources are loaded at once and again whenever File changes.
	Sources Sources
	// Logger is told about each reload; nil logs nothing.
	Logger *slog.Logger
	// Debounce is how long the file must rest before it is read; 0 is 250 ms.
	Debounce time.Duration
	// Poll is how often the file is looked at although nothing was heard, since
	// network file systems tell nothing and the kernel's queue may overflow; 0 is
	// 30 s.
	Poll time.Duration
}

// A Watcher keeps a configuration that follows its file. The configuration in
// force is always whole and valid: a file that is not is reported and changes
// nothing. All methods may be called at once.
type Watcher struct {
	sources  Sources
	logger   *slog.Logger
	debounce time.Duration
	poll     time.Duration

	reloading sync.Mutex // held through a whole reload, so that two never mix; before mu
	seen      string     // fingerprint of the file as it was last read; under reloading

	mu      sync.Mutex // guards what follows; never held while a file is read
	config  *Config
	changed chan struct{} // closed, by take, when config is replaced
	status  Status
}

// Status says how the configuration in force stands to its sources.
type Status struct {
	// Err is why the file as it stands now is not in force; nil when it is.
	Err error
	// Restart lists the keys whose new values wait for a restart, sorted.
	Restart []string
	// Reloads counts how often a new configuration came into force.
	Reloads int
	// Refusals counts how often one was refused.
	Refusals int
}

// NewWatcher loads the configuration. Without a valid one there is no Watcher.
func NewWatcher(o WatcherOptions) (*Watcher, error) {
	w := &Watcher{
		sources: o.Sources, logger: o.Logger, debounce: o.Debounce, poll: o.Poll,
		changed: make(chan struct{}),
	}
	if w.logger == nil {
		w.logger = slog.New(slog.DiscardHandler)
	}
	if w.debounce <= 0 {
		w.debounce = 250 * time.Millisecond
	}
	if w.poll <= 0 {
		w.poll = 30 * time.Second
	}
	w.seen = fingerprint(o.Sources.File)
	config, err := Load(o.Sources)
	if err != nil {
		return nil, err
	}
	w.config = config
	return w, nil
}

// Current returns the configuration in force.
func (w *Watcher) Current() *Config {
	config, _ := w.Watch()
	return config
}

// Watch returns the configuration in force and a channel that is closed when
// another one takes its place. No change falls between the two.
func (w *Watcher) Watch() (*Config, <-chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.config, w.changed
}

// Status returns how the configuration in force stands to its sources.
func (w *Watcher) Status() Status {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.status
}

// Reload reads the sources again, whether or not something changed. The error
// says why the last good configuration stays in force.
func (w *Watcher) Reload() error {
	w.reloading.Lock()
	defer w.reloading.Unlock()
	return w.reload(fingerprint(w.sources.File))
}

// reloadChanged reloads when the file is not as it was last read. A file that is
// refused is so reported once, not at every look.
func (w *Watcher) reloadChanged() {
	w.reloading.Lock()
	defer w.reloading.Unlock()
	if now := fingerprint(w.sources.File); now != w.seen {
		_ = w.reload(now) // logged there, and kept in Status
	}
}

// reload loads what has the fingerprint seen, takes or refuses it, and says so.
func (w *Watcher) reload(seen string) error {
	w.seen = seen // taken before Load: what changes between is read again
	before := w.Current()
	next, restart, err := w.next(before)
	if err != nil {
		w.mu.Lock()
		w.status.Err = err
		w.status.Refusals++
		w.mu.Unlock()
		w.logger.Error("configuration refused, the last good one stays in force", "file", w.sources.File, "err", err)
		return err
	}
	changes := Changes(before, next)
	w.take(next, restart, len(changes) > 0)
	if len(changes) > 0 || len(restart) > 0 {
		w.logger.Info("configuration reloaded", "file", w.sources.File, "changed", changes, "restart_needed", restart)
	}
	return nil
}

// next loads the configuration that follows the one in force. Options that a
// running program cannot change keep their values; when that mixture is not valid
// nothing is taken.
func (w *Watcher) next(before *Config) (next *Config, restart []string, err error) {
	next, err = Load(w.sources)
	if err != nil {
		return nil, nil, err
	}
	for _, key := range Changes(before, next) {
		if !next.settings[key].option.Reload {
			restart = append(restart, key)
			next.settings[key] = before.settings[key]
		}
	}
	if wrong := join(next.checkRules()); wrong != nil {
		return nil, nil, fmt.Errorf("%w (before a restart changes %s)", wrong, strings.Join(restart, ", "))
	}
	return next, restart, nil
}

// take puts next in force and wakes those who watch when values changed. Without a
// change it is taken too, since lines of the file may have moved.
func (w *Watcher) take(next *Config, restart []string, changed bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.config = next
	w.status.Err = nil
	w.status.Restart = restart
	if changed {
		w.status.Reloads++
		close(w.changed)
		w.changed = make(chan struct{})
	}
}

// Run follows the file until ctx ends, and then returns nil. Where the file system
// cannot be watched Run says so and goes on by polling. It starts no goroutine
// that outlives it.
func (w *Watcher) Run(ctx context.Context) error {
	if w.sources.File == "" {
		<-ctx.Done()
		return nil
	}
	var events chan fsnotify.Event // nil when there is nothing to hear: then only the poll speaks
	var errs chan error
	notify, err := fsnotify.NewWatcher()
	if err == nil {
		defer notify.Close() // nothing to lose
		err = notify.Add(filepath.Dir(w.sources.File))
		events, errs = notify.Events, notify.Errors
	}
	if err != nil {
		w.logger.Warn("configuration file cannot be watched, it is polled", "file", w.sources.File, "every", w.poll, "err", err)
	}
	follow := newLinkFollower(notify, w.sources.File)

	poll := time.NewTicker(w.poll)
	defer poll.Stop()
	rest := time.NewTimer(w.debounce) // once at the beginning: the file may have changed since it was loaded
	defer rest.Stop()
	var first time.Time // of the events that the timer waits for
	for {
		select {
		case <-ctx.Done():
			return nil
		case event, ok := <-events:
			switch {
			case !ok:
				events = nil
			case follow.concerns(event.Name):
				if first.IsZero() {
					first = time.Now()
				}
				// A file that never rests is read all the same, now and then.
				rest.Reset(max(0, min(w.debounce, 10*w.debounce-time.Since(first))))
			}
		case err, ok := <-errs:
			if !ok {
				errs = nil
				continue
			}
			w.logger.Warn("configuration file: events were lost, it is read again", "file", w.sources.File, "err", err)
			rest.Reset(w.debounce)
		case <-rest.C:
			first = time.Time{}
			follow.update()
			w.reloadChanged()
		case <-poll.C:
			follow.update()
			w.reloadChanged()
		}
	}
}

// fingerprint tells states of a file apart: its content, its mode, or why it
// cannot be read.
func fingerprint(path string) string {
	if path == "" {
		return ""
	}
	content, mode, err := readFile(path)
	return fmt.Sprintf("%x %o %v", sha256.Sum256(content), mode, err)
}

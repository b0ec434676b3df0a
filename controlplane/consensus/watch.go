package consensus

import (
	"errors"
	"fmt"
	"sync"
	"time"
)

// watch measures the calls of the stores and ends the node when one fails or hangs.
//
// A node whose disk hangs keeps its leadership (raft#503: heartbeats do not need the
// disk), and one whose disk fails wins elections again and again (raft#614). After a
// failed fsync the kernel may have dropped the pages, so trying again lies. So:
// crash only.
type watch struct {
	limit time.Duration
	fatal func(error)
	// released is closed when the host closes; until then a call that failed
	// waits, so that nothing is built on it.
	released chan struct{}

	mu      sync.Mutex // guards what follows; never held across a call
	flights map[uint64]flight
	next    uint64
	failed  error
	done    bool
	calls   uint64
	longest time.Duration
}

type flight struct {
	name  string
	start time.Time
}

func newWatch(limit time.Duration, fatal func(error)) *watch {
	return &watch{limit: limit, fatal: fatal, released: make(chan struct{}), flights: make(map[uint64]flight)}
}

func (w *watch) begin(name string) uint64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.next++
	w.flights[w.next] = flight{name, time.Now()}
	return w.next
}

func (w *watch) end(id uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.calls++
	w.longest = max(w.longest, time.Since(w.flights[id].start))
	delete(w.flights, id)
}

// write runs one call that changes the disk. After the first failure no further
// call reaches the disk.
func (w *watch) write(name string, f func() error) error {
	if err := w.failure(); err != nil {
		return w.held(err)
	}
	id := w.begin(name)
	err := mapped(f)
	w.end(id)
	if err != nil {
		err = fmt.Errorf("%s: %w", name, err)
		w.fail(err)
		return w.held(err)
	}
	// It may have hung for so long that the node was given up meanwhile.
	if err := w.failure(); err != nil {
		return w.held(err)
	}
	return nil
}

// read runs one call that does not change the disk. One that fails is told to who asked, but for a
// page that cannot be read: then the store cannot even be closed.
func (w *watch) read(name string, f func() error) error {
	id := w.begin(name)
	err := mapped(f)
	w.end(id)
	if errors.Is(err, errPage) {
		err = fmt.Errorf("%s: %w", name, err)
		w.fail(err)
		return w.held(err)
	}
	return err
}

func (w *watch) failure() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.failed
}

func (w *watch) held(err error) error {
	<-w.released
	return err
}

// fail gives the node up. Only the first failure is told.
func (w *watch) fail(err error) {
	w.mu.Lock()
	first := w.failed == nil
	if first {
		w.failed = err
	}
	w.mu.Unlock()
	if first {
		w.fatal(err)
	}
}

// check fails the node when a call has been in flight for too long.
func (w *watch) check() {
	w.mu.Lock()
	var stuck flight
	for _, f := range w.flights {
		if time.Since(f.start) > w.limit && (stuck.name == "" || f.start.Before(stuck.start)) {
			stuck = f
		}
	}
	w.mu.Unlock()
	if stuck.name != "" {
		w.fail(fmt.Errorf("%s has not returned for %s (at most %s is allowed): the disk hangs", stuck.name, time.Since(stuck.start), w.limit))
	}
}

func (w *watch) release() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.done {
		w.done = true
		close(w.released)
	}
}

func (w *watch) stats() (calls uint64, longest time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.calls, w.longest
}

package consensus

import "sync"

// tasks owns goroutines that outlive the call that began them. After Close none
// begins.
type tasks struct {
	mu     sync.Mutex // guards closed and the start of goroutines
	closed bool
	wg     sync.WaitGroup
}

// Go runs f on a goroutine, or answers false when the tasks are closed.
func (t *tasks) Go(f func()) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return false
	}
	t.wg.Go(f)
	return true
}

// Close lets no further goroutine begin. The channel is closed once all have ended.
func (t *tasks) Close() <-chan struct{} {
	t.mu.Lock()
	t.closed = true
	t.mu.Unlock()
	ended := make(chan struct{})
	go func() {
		t.wg.Wait()
		close(ended)
	}()
	return ended
}

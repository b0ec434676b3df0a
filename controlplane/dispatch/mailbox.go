package dispatch

import "sync"

// mark is a level: something is so, however often it was said.
type mark uint8

const (
	markChanged  mark = 1 << iota // a row about the agent changed
	markTrust                     // the bundle is newer
	markNoLeader                  // the node has lost its leader
	markDrain                     // the agent shall go elsewhere
)

// mailbox is where others leave something for the goroutine that owns a session. It
// never waits. What is posted is bounded by what the session has proposed.
type mailbox struct {
	wake chan struct{} // has a value when there may be something

	mu    sync.Mutex
	marks mark
	posts []func()
}

func (b *mailbox) mark(m mark) {
	b.mu.Lock()
	b.marks |= m
	b.mu.Unlock()
	b.poke()
}

// post leaves f to be called by the owner.
func (b *mailbox) post(f func()) {
	b.mu.Lock()
	b.posts = append(b.posts, f)
	b.mu.Unlock()
	b.poke()
}

func (b *mailbox) poke() {
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

func (b *mailbox) take() (mark, []func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	m, posts := b.marks, b.posts
	b.marks, b.posts = 0, nil
	return m, posts
}

package output

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
)

// errDropped says that a subscription does not hold the key any more.
var errDropped = errors.New("the attempt was dropped")

// sendBytes is about how much goes into one batch of a subscription, and one message.
const sendBytes = 128 << 10

// subscription reads the output of any number of attempts as it grows, from the store of
// this node. One goroutine calls next; the other methods may be called at once.
type subscription struct {
	s    *Store
	wake chan struct{} // holds one; the store and add send, next receives

	mu      sync.Mutex // guards what follows
	cursors map[Key]*cursor
	ready   []Key // to be looked at, in turn
}

// cursor is how far one attempt was read.
type cursor struct {
	pos    int64 // in its file
	have   Ends  // the reader has
	queued bool
	era    int // grows when it is placed anew
}

// Batch is what a subscription gives of one attempt.
type Batch struct {
	Key    Key
	Chunks []*agentplanev1.OutputChunk
	// Have is what the reader has with these.
	Have Ends
	// CaughtUp says that there is nothing more now; Absent that there is nothing at all.
	CaughtUp, Absent bool
	// Totals is there when the output has ended.
	Totals *agentplanev1.OutputTotals
}

func (s *Store) subscribe() *subscription {
	return &subscription{s: s, wake: make(chan struct{}, 1), cursors: make(map[Key]*cursor)}
}

// add reads an attempt from a place on; an attempt that is there already is placed anew.
func (b *subscription) add(k Key, have Ends) {
	b.s.mu.Lock()
	if b.s.subs[k] == nil {
		b.s.subs[k] = make(map[*subscription]bool)
	}
	b.s.subs[k][b] = true
	b.s.mu.Unlock()
	b.mu.Lock()
	c := b.cursors[k]
	if c == nil {
		c = &cursor{}
		b.cursors[k] = c
	}
	c.pos, c.have = 0, have
	c.era++
	b.markLocked(k)
	b.mu.Unlock()
}

// drop reads an attempt no more.
func (b *subscription) drop(k Key) {
	b.s.mu.Lock()
	delete(b.s.subs[k], b)
	if len(b.s.subs[k]) == 0 {
		delete(b.s.subs, k)
	}
	b.s.mu.Unlock()
	b.mu.Lock()
	delete(b.cursors, k)
	b.mu.Unlock()
}

// close drops everything.
func (b *subscription) close() {
	b.mu.Lock()
	var keys []Key
	for k := range b.cursors {
		keys = append(keys, k)
	}
	b.mu.Unlock()
	for _, k := range keys {
		b.drop(k)
	}
}

// mark says that there is news of a key.
func (b *subscription) mark(k Key) {
	b.mu.Lock()
	b.markLocked(k)
	b.mu.Unlock()
}

func (b *subscription) markLocked(k Key) {
	c := b.cursors[k]
	if c == nil || c.queued {
		return
	}
	c.queued = true
	b.ready = append(b.ready, k)
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

// take gives the next key to look at, and from where.
func (b *subscription) take() (Key, cursor, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for len(b.ready) > 0 {
		k := b.ready[0]
		b.ready = b.ready[1:]
		if c := b.cursors[k]; c != nil {
			c.queued = false
			return k, *c, true
		}
	}
	b.ready = nil
	return Key{}, cursor{}, false
}

// next waits for news of any attempt. An error that is not ctx's is of the attempt that
// the batch names, which was dropped.
func (b *subscription) next(ctx context.Context) (Batch, error) {
	for {
		k, c, ok := b.take()
		if !ok {
			select {
			case <-b.wake:
				continue
			case <-ctx.Done():
				return Batch{}, ctx.Err()
			}
		}
		batch, err := b.read(k, c)
		switch {
		case errors.Is(err, errDropped):
			continue
		case err != nil:
			b.drop(k)
		case len(batch.Chunks) == 0 && !batch.CaughtUp && !batch.Absent && batch.Totals == nil:
			continue // all of it was known
		}
		return batch, err
	}
}

func (b *subscription) read(k Key, c cursor) (Batch, error) {
	chunks, pos, ended, found, err := b.s.read(k, c.pos, sendBytes)
	batch := Batch{Key: k, Have: c.have, Absent: !found}
	if err != nil {
		return batch, err
	}
	for _, chunk := range chunks {
		part, err := batch.Have.take(chunk)
		if err != nil {
			return batch, err
		}
		if part != nil {
			batch.Chunks = append(batch.Chunks, part)
		}
	}
	if ended {
		if batch.Totals, err = b.s.sealedTotals(k); err != nil {
			return batch, err
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.cursors[k]
	if now == nil || now.era != c.era {
		return batch, errDropped
	}
	now.pos, now.have = pos, batch.Have
	if !found {
		now.pos = 0
	}
	b.s.mu.Lock()
	e := b.s.entries[k]
	more := e != nil && found && !ended && pos < e.size
	b.s.mu.Unlock()
	if more {
		b.markLocked(k)
	}
	batch.CaughtUp = found && !more && !ended
	return batch, nil
}

// sealedTotals are those of output that has ended. A file that was sealed in an earlier
// life is read for them, by whoever asks first, so that appending goes on meanwhile.
func (s *Store) sealedTotals(k Key) (*agentplanev1.OutputTotals, error) {
	s.mu.Lock()
	e := s.entries[k]
	var size int64
	if e != nil {
		if totals := e.totals; totals != nil {
			s.mu.Unlock()
			return totals, nil
		}
		size = e.size
	}
	s.mu.Unlock()
	if e == nil {
		return nil, errDropped // removed meanwhile, which marks it again
	}
	st, _, damage, err := scan(s.path(k), size)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil, errDropped
	case err != nil || damage != nil || !st.sealed:
		return nil, fmt.Errorf("the output of %s cannot be read to its end: %w", k, errors.Join(damage, err))
	}
	totals := st.totals()
	s.mu.Lock()
	if s.entries[k] == e {
		e.totals = totals
	}
	s.mu.Unlock()
	return totals, nil
}

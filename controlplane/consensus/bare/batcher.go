package bare

import (
	"context"
	"encoding/binary"
	"errors"
	"time"

	"github.com/hashicorp/raft"
)

// The bounds of a node's batcher.
const (
	maxBatch      = 256
	maxBatchBytes = 512 << 10
	maxQueue      = 16384
	inFlight      = 2
)

// errStopped is answered to calls that a stopping process did not get to.
var errStopped = errors.New("the process stops")

// batcher puts payloads that queued while earlier entries were on their way into one
// entry.
type batcher struct {
	raft  *raft.Raft
	queue chan *call
	turn  chan struct{} // held by the worker that takes a batch, so that order is kept
}

// call is one payload. done has room for the one answer.
type call struct {
	payload []byte
	done    chan error
}

func newBatcher(r *raft.Raft) *batcher {
	return &batcher{raft: r, queue: make(chan *call, maxQueue), turn: make(chan struct{}, 1)}
}

// apply returns when the payload is committed and applied. When ctx ends before, it
// may still be.
func (b *batcher) apply(ctx context.Context, payload []byte) error {
	c := &call{payload: payload, done: make(chan error, 1)}
	select {
	case b.queue <- c:
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-c.done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// work is one of inFlight workers; it ends with ctx.
func (b *batcher) work(ctx context.Context) {
	for {
		select {
		case b.turn <- struct{}{}:
		case <-ctx.Done():
			return
		}
		batch := b.take(ctx)
		if len(batch) == 0 {
			return
		}
		future := b.raft.Apply(entryOf(batch), 5*time.Second)
		<-b.turn
		err := future.Error()
		for _, c := range batch {
			c.done <- err
		}
	}
}

// take waits for the first call and adds what is there.
func (b *batcher) take(ctx context.Context) []*call {
	var batch []*call
	select {
	case c := <-b.queue:
		batch = append(batch, c)
	case <-ctx.Done():
		return nil
	}
	for size := len(batch[0].payload); len(batch) < maxBatch && size < maxBatchBytes; {
		select {
		case c := <-b.queue:
			batch = append(batch, c)
			size += len(c.payload)
		default:
			return batch
		}
	}
	return batch
}

// drain answers what nobody works on any more.
func (b *batcher) drain() {
	for {
		select {
		case c := <-b.queue:
			c.done <- errStopped
		default:
			return
		}
	}
}

// entryOf writes the payloads one after the other, each behind its length.
func entryOf(batch []*call) []byte {
	size := 0
	for _, c := range batch {
		size += len(c.payload) + binary.MaxVarintLen32
	}
	entry := make([]byte, 0, size)
	for _, c := range batch {
		entry = binary.AppendUvarint(entry, uint64(len(c.payload)))
		entry = append(entry, c.payload...)
	}
	return entry
}

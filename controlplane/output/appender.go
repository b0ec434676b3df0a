package output

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/frame"
)

// appender is the one goroutine that writes. It is made by Run.
type appender struct {
	*Store
	checkpoint chan error // from the checkpoint that goes on; nil when none does
	old        []string   // the wals that it will remove
	broken     error      // why nothing can be appended in this life

	looked time.Time // when the free space was looked at
	space  bool      // there was enough
}

// batch is what shares an fsync.
type batch struct {
	ops    []*op
	log    []byte      // for the wal
	writes []walAppend // for the files
	gone   []Key       // files to be removed
	grown  map[Key]*entry
	// fresh is what the batch adds to what entries cost.
	fresh int64
}

// Run appends until ctx ends; then whoever waits is told ErrClosed. It may be called once.
func (s *Store) Run(ctx context.Context) error {
	a := &appender{Store: s}
	defer close(s.closed)
	defer a.close()
	for {
		select {
		case <-ctx.Done():
			return nil
		case o := <-s.queue:
			a.commit(a.gather(o))
		}
	}
}

// close leaves the wal to the next start.
func (a *appender) close() {
	a.awaitCheckpoint()
	_ = a.wal.f.Close()
}

// gather takes what waits, up to a bound.
func (a *appender) gather(first *op) []*op {
	ops := []*op{first}
	for size := first.weight; size < batchBytes; {
		select {
		case o := <-a.queue:
			ops, size = append(ops, o), size+o.weight
		default:
			return ops
		}
	}
	return ops
}

func (a *appender) commit(ops []*op) {
	b := &batch{ops: ops, grown: make(map[Key]*entry)}
	for _, o := range ops {
		if o.remove {
			a.discard(b, o.key)
		} else {
			a.stage(b, o)
		}
	}
	err := a.write(b)
	if err != nil {
		a.undo(b, err)
	}
	a.publish(b)
	for _, o := range ops {
		a.room.Release(o.weight)
		close(o.done)
	}
}

// stage decides what becomes of an append, and puts its bytes into the batch.
func (a *appender) stage(b *batch, o *op) {
	e, err := a.entry(o.key, len(o.chunks) > 0 || o.last)
	if err != nil || e == nil {
		o.err = err
		return
	}
	defer func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		o.held = Held{Ends: e.state.ends, Totals: e.totals, Refused: e.capped}
	}()
	if e.state.sealed {
		return // totals were set when it was sealed, or read
	}
	var frames []byte
	for n, c := range o.chunks {
		ends := e.state.ends
		part, err := ends.take(c)
		if err != nil {
			o.err = err
			break
		}
		if part == nil {
			continue
		}
		if len(part.GetGapReason()) > maxReasonBytes {
			part.GapReason = part.GetGapReason()[:maxReasonBytes]
		}
		if size := len(part.GetData()); size > 0 {
			if why := a.refuses(b, o, e, int64(len(frames)+size)); why != "" {
				a.mu.Lock()
				e.capped = why
				a.mu.Unlock()
				o.lost = dataBytes(o.chunks[n:])
				break
			}
		}
		frames = appendChunk(frames, part)
		e.state.ends = ends
		e.state.count(part)
	}
	if o.last && o.err == nil && o.lost == 0 && (o.ends == nil || *o.ends == e.state.ends) {
		frames = appendEnd(frames)
		e.state.sealed = true
	}
	if len(frames) == 0 {
		return
	}
	rec := walAppend{key: o.key, at: e.next, frames: frames}
	b.log = rec.append(b.log)
	b.writes = append(b.writes, rec)
	b.fresh += cost(e.next+int64(len(frames))) - cost(e.next)
	e.next += int64(len(frames))
	b.grown[o.key] = e
}

func dataBytes(chunks []*agentplanev1.OutputChunk) (n uint64) {
	for _, c := range chunks {
		n += uint64(len(c.GetData()))
	}
	return n
}

// entry gives what the store knows of a key, with its file read. Where there is none it
// is made, if that is wanted.
func (a *appender) entry(k Key, create bool) (*entry, error) {
	a.mu.Lock()
	e := a.entries[k]
	if e == nil && create {
		e = &entry{loaded: true, state: newState()}
		a.entries[k] = e
	}
	a.mu.Unlock()
	if e == nil || e.loaded {
		return e, nil
	}
	st, good, damage, err := scan(a.path(k), e.size)
	if err != nil {
		return nil, fmt.Errorf("read the output of %s: %w", k, err)
	}
	if damage != nil {
		// What is good goes on; the rest comes again if anybody still has it.
		a.o.Logger.Error("the output of an attempt is damaged and was cut", "attempt", k.String(), "bytes", e.size, "good", good, "err", damage)
		if err := os.Truncate(a.path(k), good); err != nil {
			return nil, err
		}
	}
	a.mu.Lock()
	a.total += cost(good) - cost(e.size)
	e.size, e.next, e.state, e.loaded = good, good, st, true
	if e.state.sealed {
		e.totals = e.state.totals()
	} else {
		e.totals = nil
	}
	a.mu.Unlock()
	return e, nil
}

// refuses says why n more bytes of data are not kept; empty when they are.
func (a *appender) refuses(b *batch, o *op, e *entry, n int64) string {
	limit := a.o.MaxAttemptBytes
	if !o.full {
		limit -= a.TailBytes()
	}
	switch {
	case e.capped != "" && (!o.full || e.capped != ReasonQuota):
		return e.capped
	case a.broken != nil || !a.hasSpace():
		return ReasonDiskFull
	case e.next+n > limit:
		return ReasonQuota
	case !a.makeRoom(b, o.key, e, n):
		return ReasonQuota
	}
	return ""
}

// hasSpace looks at the disk, at most once a second.
func (a *appender) hasSpace() bool {
	if time.Since(a.looked) < time.Second {
		return a.space
	}
	free, err := a.o.FreeBytes()
	space := err == nil && (a.o.ReserveBytes < 0 || free >= uint64(a.o.ReserveBytes))
	if !space && (a.space || a.looked.IsZero()) {
		a.o.Logger.Warn("output is not kept: the disk has too little space", "free_bytes", free, "reserve_bytes", a.o.ReserveBytes, "err", err)
	}
	a.looked, a.space = time.Now(), space
	return space
}

// makeRoom throws away old output when the store is full, the oldest first. Commands are
// named by the time at which they were made.
func (a *appender) makeRoom(b *batch, k Key, e *entry, n int64) bool {
	a.mu.Lock()
	full := a.total+b.fresh+cost(n) > a.o.MaxBytes || e.next == 0 && len(a.entries) > a.o.MaxAttempts
	if !full {
		a.mu.Unlock()
		return true
	}
	var old []Key
	for other, x := range a.entries {
		if other != k && b.grown[other] == nil && (x.totals != nil || time.Since(x.touched) > activeFor) {
			old = append(old, other)
		}
	}
	a.mu.Unlock()
	slices.SortFunc(old, func(a, b Key) int {
		switch {
		case a.Invocation < b.Invocation:
			return -1
		case a.Invocation > b.Invocation:
			return 1
		}
		return int(a.Attempt) - int(b.Attempt)
	})
	thrown := 0
	for _, other := range old {
		a.mu.Lock()
		room := a.total+b.fresh+cost(n) <= a.o.MaxBytes-a.o.MaxBytes/50 && len(a.entries) <= a.o.MaxAttempts
		a.mu.Unlock()
		if room {
			break
		}
		a.discard(b, other)
		thrown++
	}
	if thrown > 0 {
		a.o.Logger.Warn("the output store is full: old output was thrown away", "attempts", thrown, "max_bytes", a.o.MaxBytes)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.total+b.fresh+cost(n) <= a.o.MaxBytes && len(a.entries) <= a.o.MaxAttempts
}

// discard takes a key out; its file goes once that is durable.
func (a *appender) discard(b *batch, k Key) {
	a.mu.Lock()
	e := a.entries[k]
	delete(a.entries, k)
	if e != nil {
		a.total -= cost(e.size)
	}
	a.mu.Unlock()
	if e == nil {
		return
	}
	if grown := b.grown[k]; grown != nil {
		delete(b.grown, k)
		b.writes = slices.DeleteFunc(b.writes, func(r walAppend) bool { return r.key == k })
	}
	b.log = appendRemove(b.log, k)
	b.gone = append(b.gone, k)
}

// write makes the batch durable. After an error nothing of it counts.
func (a *appender) write(b *batch) error {
	if len(b.log) == 0 {
		return nil
	}
	if a.broken != nil {
		return a.broken
	}
	if a.wal.size > a.o.WalBytes {
		if err := a.rotate(); err != nil {
			return err
		}
	}
	n, err := a.wal.f.Write(b.log)
	if err != nil {
		// A full disk is no damage: take back what was written of it.
		if terr := a.wal.f.Truncate(a.wal.size); terr != nil {
			a.broken = errors.Join(err, terr)
		} else if _, serr := a.wal.f.Seek(a.wal.size, 0); serr != nil {
			a.broken = errors.Join(err, serr)
		}
		return fmt.Errorf("write %q: %w", a.wal.f.Name(), err)
	}
	if err := a.wal.f.Sync(); err != nil {
		a.broken = fmt.Errorf("fsync %q: %w", a.wal.f.Name(), err)
		a.o.Logger.Error("no more output is kept until this node is started again", "err", a.broken)
		return a.broken
	}
	a.wal.size += int64(n)
	for _, k := range b.gone {
		delete(a.wal.dirty, k)
		if err := removeFile(a.path(k)); err != nil {
			a.o.Logger.Warn("output not removed", "attempt", k.String(), "err", err)
		}
	}
	for _, r := range b.writes {
		a.wal.dirty[r.key] = true
		if err := r.write(a.path(r.key)); err != nil {
			// It is in the wal: the next start writes it.
			a.broken = err
			a.o.Logger.Error("no more output is kept until this node is started again", "err", err)
			return err
		}
	}
	return nil
}

// undo forgets what a batch has changed in memory: the files are read again.
func (a *appender) undo(b *batch, err error) {
	a.mu.Lock()
	for k, e := range b.grown {
		e.next, e.loaded = e.size, false
		if e.size == 0 {
			delete(a.entries, k)
		}
	}
	a.mu.Unlock()
	for _, o := range b.ops {
		if o.err == nil && b.grown[o.key] != nil {
			o.held, o.err, o.lost = Held{Refused: ReasonDiskFull}, nil, dataBytes(o.chunks)
		} else if o.remove {
			o.err = err
		}
	}
	a.o.Logger.Warn("output is not kept", "appends", len(b.ops), "err", err)
	b.grown = nil
}

// publish shows what is durable now, and wakes whoever waits for it.
func (a *appender) publish(b *batch) {
	var wake []*subscription
	var keys []Key
	a.mu.Lock()
	for k, e := range b.grown {
		a.total += cost(e.next) - cost(e.size)
		e.size, e.touched = e.next, time.Now()
		if e.state.sealed && e.totals == nil {
			e.totals = e.state.totals()
		}
		for sub := range a.subs[k] {
			wake, keys = append(wake, sub), append(keys, k)
		}
	}
	for _, k := range b.gone {
		for sub := range a.subs[k] {
			wake, keys = append(wake, sub), append(keys, k)
		}
	}
	for _, o := range b.ops {
		if o.lost > 0 {
			a.dropped[o.held.Refused] += o.lost
		}
		if e := a.entries[o.key]; e != nil && o.err == nil && e.totals != nil {
			o.held.Totals, o.held.Refused = e.totals, ""
		}
	}
	// An entry that was made for nothing is none.
	for _, o := range b.ops {
		if e := a.entries[o.key]; e != nil && e.size == 0 && e.next == 0 && e.capped == "" {
			delete(a.entries, o.key)
		}
	}
	a.mu.Unlock()
	for i, sub := range wake {
		sub.mark(keys[i])
	}
}

// rotate begins a new wal and lets the files of the old one become durable meanwhile.
func (a *appender) rotate() error {
	a.awaitCheckpoint()
	if a.broken != nil {
		return a.broken
	}
	old, dirty, name := a.wal.f, a.wal.dirty, a.wal.f.Name()
	if err := a.wal.begin(); err != nil {
		return err
	}
	_ = old.Close()
	a.wal.dirty = make(map[Key]bool)
	a.old = append(a.old, name)
	done := make(chan error, 1)
	a.checkpoint = done
	go func() { done <- syncFiles(a.o.Dir, dirty, a.path) }()
	return nil
}

// awaitCheckpoint waits for the checkpoint that goes on, and removes the wals that it has
// made needless.
func (a *appender) awaitCheckpoint() {
	if a.checkpoint == nil {
		return
	}
	err := <-a.checkpoint
	a.checkpoint = nil
	if err != nil {
		a.broken = fmt.Errorf("checkpoint: %w", err)
		a.o.Logger.Error("no more output is kept until this node is started again", "err", a.broken)
		return
	}
	for _, name := range a.old {
		if err := os.Remove(name); err != nil {
			a.o.Logger.Warn("wal not removed", "name", name, "err", err)
		}
	}
	a.old = nil
}

// read gives chunks of a key's file from pos on, of about most bytes, and where they end.
func (s *Store) read(k Key, pos int64, most int) (chunks []*agentplanev1.OutputChunk, next int64, ended, found bool, err error) {
	s.mu.Lock()
	e := s.entries[k]
	size := int64(0)
	if e != nil {
		size = e.size
	}
	s.mu.Unlock()
	if e == nil || size == 0 {
		return nil, 0, false, false, nil
	}
	if pos >= size {
		return nil, pos, false, true, nil
	}
	f, err := os.Open(s.path(k))
	if err != nil {
		if errors.Is(err, os.ErrNotExist) {
			return nil, 0, false, false, nil
		}
		return nil, pos, false, true, err
	}
	defer f.Close()
	b := make([]byte, min(size-pos, int64(most+2*maxChunkBytes)))
	if _, err := f.ReadAt(b, pos); err != nil {
		return nil, pos, false, true, fmt.Errorf("read the output of %s at %d: %w", k, pos, err)
	}
	for got := 0; got < most; {
		typ, payload, rest, err := frame.Parse(b)
		if errors.Is(err, frame.ErrTorn) {
			if len(chunks) == 0 {
				return nil, pos, false, true, fmt.Errorf("the output of %s ends within a frame at %d", k, pos)
			}
			break
		}
		var c *agentplanev1.OutputChunk
		if err == nil {
			c, ended, err = parseChunk(typ, payload)
		}
		if err != nil {
			return chunks, pos, false, true, fmt.Errorf("the output of %s is damaged at %d: %w", k, pos, err)
		}
		pos += int64(len(b) - len(rest))
		b = rest
		if ended {
			return chunks, pos, true, true, nil
		}
		chunks = append(chunks, c)
		got += len(c.GetData()) + 32
		if len(b) == 0 {
			break
		}
	}
	return chunks, pos, false, true, nil
}

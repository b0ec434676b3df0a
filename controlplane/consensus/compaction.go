package consensus

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
)

// compaction bounds the log by bytes. raft counts entries only: with entries of the
// largest size its trailing 10 240 would be gigabytes.
//
// A snapshot costs what the state is large, however little has changed. So the log may
// grow with it, in bytes and in entries: writing a large state again and again, each
// time that a fixed number has come, was a quarter of a busy node's time.
type compaction struct {
	bytes    atomic.Uint64 // in the log since the node's last snapshot
	entries  atomic.Uint64
	snapshot atomic.Uint64 // the size of the newest one
}

const (
	// logPerSnapshot is how many bytes of log a byte of the newest snapshot, which is
	// compressed, allows; snapshotPerEntry is how many bytes of it allow an entry.
	logPerSnapshot   = 4
	snapshotPerEntry = 1 << 10
	// mostLogBytes and mostLogEntries end the growth: all of it is read at the next
	// start.
	mostLogBytes   = 1 << 30
	mostLogEntries = 1 << 17
)

// bounds are how much log brings the next snapshot, at least what the options say.
func (c *compaction) bounds(bytes, entries uint64) (maxBytes, maxEntries uint64) {
	size := c.snapshot.Load()
	return max(bytes, min(logPerSnapshot*size, mostLogBytes)), max(entries, min(size/snapshotPerEntry, mostLogEntries))
}

// appended is told of what was written to the log.
func (c *compaction) appended(logs []*raft.Log) {
	n := 0
	for _, l := range logs {
		n += len(l.Data)
	}
	c.bytes.Add(uint64(n))
	c.entries.Add(uint64(len(logs)))
}

// reset begins to count anew.
func (c *compaction) reset() {
	c.bytes.Store(0)
	c.entries.Store(0)
}

// trailing is how many entries of the average size fit into keep bytes, at most most
// and at least few enough for a follower that blinks.
func trailing(bytes, entries, keep, most uint64) uint64 {
	if entries == 0 || bytes == 0 {
		return most
	}
	return min(most, max(keep/max(bytes/entries, 1), maxAppendEntries))
}

// compact takes a snapshot when enough bytes were appended since the last one, and
// sizes what raft keeps behind it, until ctx ends.
func (h *Host) compact(ctx context.Context) {
	tick := time.NewTicker(min(h.opts.SnapshotInterval, time.Second))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		bytes, entries := h.compaction.bytes.Load(), h.compaction.entries.Load()
		maxBytes, maxEntries := h.compaction.bounds(h.opts.SnapshotBytes, h.opts.SnapshotThreshold)
		cfg := h.raft.ReloadableConfig()
		if cfg.SnapshotThreshold != maxEntries { // raft itself counts entries
			cfg.SnapshotThreshold = maxEntries
			if err := h.raft.ReloadConfig(cfg); err != nil {
				h.log.Warn("cannot say after how many entries a snapshot is due", "entries", maxEntries, "err", err)
			}
		}
		if bytes < maxBytes {
			continue
		}
		cfg.TrailingLogs = trailing(bytes, entries, h.opts.TrailingBytes, h.opts.TrailingLogs)
		if err := h.raft.ReloadConfig(cfg); err != nil {
			h.log.Warn("cannot size the trailing log", "entries", cfg.TrailingLogs, "err", err)
		}
		done := make(chan error, 1)
		if !h.tasks.Go(func() { done <- h.raft.Snapshot().Error() }) {
			return
		}
		select {
		case err := <-done:
			if err != nil {
				h.log.Warn("cannot take a snapshot", "log_bytes", bytes, "err", err)
			}
		case <-ctx.Done():
			return
		}
	}
}

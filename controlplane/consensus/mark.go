package consensus

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"github.com/hashicorp/raft"

	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

// MarkFile is the file that holds the log mark; *os.File is one.
type MarkFile interface {
	io.ReaderAt
	io.WriterAt
	Sync() error
}

// logMark remembers beside the log how far the log went.
//
// raft-wal shortens its log silently when a frame header is damaged: a byte flipped
// in entry 100 of 2 000 gives no error and LastIndex 99. Such a node has forgotten
// entries that it acknowledged, and with others like it elects a stale leader. So
// index and term of the last entry are written here after each append, without an
// fsync of their own: what reaches the disk lies at most behind the log, never ahead
// of it, because the log is on disk by then. Where the log's end is deleted the mark
// is first lowered and fsynced.
//
// Two slots of 512 bytes are written in turn, so that a torn write leaves the other.
//
//	magic "APLM" | seq uint64 | index uint64 | term uint64 | crc32c of all before
//
// Not safe for concurrent use; guardedLog serialises it.
type logMark struct {
	file        MarkFile
	seq         uint64
	index, term uint64
	fresh       bool // the file holds nothing yet
}

const (
	markSlot  = 512
	markBytes = 4 + 3*8 + 4
)

var (
	markMagic  = []byte("APLM")
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
)

func openLogMark(f MarkFile) (*logMark, error) {
	buf := make([]byte, 2*markSlot)
	n, err := f.ReadAt(buf, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("read log mark: %w", err)
	}
	m := &logMark{file: f, fresh: n == 0}
	for slot := range 2 {
		b := buf[slot*markSlot:][:markBytes]
		sum := binary.LittleEndian.Uint32(b[markBytes-4:])
		if !bytes.HasPrefix(b, markMagic) || crc32.Checksum(b[:markBytes-4], castagnoli) != sum {
			continue
		}
		if seq := binary.LittleEndian.Uint64(b[4:]); seq > m.seq {
			m.seq = seq
			m.index = binary.LittleEndian.Uint64(b[12:])
			m.term = binary.LittleEndian.Uint64(b[20:])
		}
	}
	if !m.fresh && m.seq == 0 {
		return nil, errors.New("the log mark is damaged in both of its slots, so nobody can tell whether the log is whole: the node must rejoin empty")
	}
	return m, nil
}

// set moves the mark. It is on disk for sure only after file.Sync.
func (m *logMark) set(index, term uint64) error {
	m.seq++
	m.index, m.term, m.fresh = index, term, false
	b := make([]byte, 0, markBytes)
	b = append(b, markMagic...)
	b = binary.LittleEndian.AppendUint64(b, m.seq)
	b = binary.LittleEndian.AppendUint64(b, index)
	b = binary.LittleEndian.AppendUint64(b, term)
	b = binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
	if _, err := m.file.WriteAt(b, int64(m.seq%2)*markSlot); err != nil {
		return fmt.Errorf("write log mark: %w", err)
	}
	return nil
}

// lower moves the mark to before min when it lies in [min, max], or before a log that loses
// all it has, and fsyncs it: from then on the log may lose that range.
func (m *logMark) lower(log raft.LogStore, min, max uint64) error {
	var index, term uint64
	first, last, err := endsOf(log)
	if err != nil {
		return fmt.Errorf("lower log mark: %w", err)
	}
	// A mark before the log, which a power cut has left, reaches further than a log without entries.
	if emptied := min <= first && max >= last; m.index > max || m.index < min && (!emptied || m.index == 0) {
		return nil
	}
	if first > 0 && min > first {
		var l raft.Log
		if err := log.GetLog(min-1, &l); err != nil {
			return fmt.Errorf("lower log mark to %d: %w", min-1, err)
		}
		index, term = l.Index, l.Term
	}
	if err := m.set(index, term); err != nil {
		return err
	}
	if err := m.file.Sync(); err != nil {
		return fmt.Errorf("sync log mark: %w", err)
	}
	return nil
}

// endsOf is where a log begins and ends; zero when it holds nothing.
func endsOf(log raft.LogStore) (first, last uint64, err error) {
	if first, err = log.FirstIndex(); err != nil {
		return 0, 0, err
	}
	last, err = log.LastIndex()
	return first, last, err
}

// verifyLog refuses a disk whose log has lost its end, has a hole, or holds an entry
// past the newest snapshot that is not what was written. It answers that snapshot; past
// is told of each entry behind it.
func verifyLog(d *Disk, mark *logMark, past func([]*raft.Log)) (*raft.SnapshotMeta, error) {
	first, last, err := endsOf(d.Log)
	if err != nil {
		return nil, fmt.Errorf("verify log: %w", err)
	}
	if err := verifyMark(d, mark, first, last); err != nil {
		return nil, fmt.Errorf("verify log: %w", err)
	}
	whole, taken, unreadable, err := newestWhole(d.Snapshots)
	if err != nil {
		return nil, fmt.Errorf("verify log: %w", err)
	}
	var snapshot uint64
	if whole != nil {
		snapshot = whole.Index
	}
	reaches := (last <= snapshot || first <= snapshot+1) && max(last, snapshot) >= taken
	switch {
	case !reaches && unreadable != nil: // what seems to be gone may be there
		return nil, fmt.Errorf("verify log: %w", unreadable)
	case last > snapshot && first > snapshot+1:
		return nil, fmt.Errorf("verify log: it begins at %d, but the newest whole snapshot ends at %d: %s", first, snapshot, goneAdvice)
	case max(last, snapshot) < taken:
		return nil, fmt.Errorf("verify log: it ends at %d and the newest whole snapshot at %d, but a snapshot that is damaged reached %d: %s", last, snapshot, taken, goneAdvice)
	}
	var term uint64
	for index := max(first, snapshot+1); index <= last && last > 0; index++ {
		var l raft.Log
		if err := d.Log.GetLog(index, &l); err != nil {
			return nil, fmt.Errorf("verify log: entry %d: %w", index, err)
		}
		if l.Index != index || l.Term < term {
			return nil, fmt.Errorf("verify log: at %d lies entry %d of term %d after term %d: the log is damaged, the node must rejoin empty", index, l.Index, l.Term, term)
		}
		term = l.Term
		if err := checkEntry(&l); err != nil {
			return nil, fmt.Errorf("verify log: %w: the node must rejoin empty", err)
		}
		past([]*raft.Log{&l})
	}
	return whole, nil
}

// dropCovered empties a log that ends before the newest snapshot does, as a node leaves it that has
// installed a leader's snapshot and dies before raft has emptied the log: raft would go on behind
// the snapshot, and stores that have no holes refuse that, at each start anew (our simulation found
// it). What it drops is in the snapshot, or was never committed.
func dropCovered(log raft.LogStore, mark *logMark, snapshot *raft.SnapshotMeta) error {
	first, last, err := endsOf(log)
	if err != nil {
		return fmt.Errorf("empty log: %w", err)
	}
	if last == 0 || snapshot == nil || last >= snapshot.Index {
		return nil
	}
	if err := mark.lower(log, first, last); err != nil {
		return fmt.Errorf("empty log: %w", err)
	}
	if err := log.DeleteRange(first, last); err != nil {
		return fmt.Errorf("empty log, which ends at %d, before the snapshot of %d: %w", last, snapshot.Index, err)
	}
	return nil
}

const goneAdvice = "entries that this node acknowledged are gone: it must rejoin empty"

func verifyMark(d *Disk, mark *logMark, first, last uint64) error {
	switch {
	case mark.fresh && last > 0:
		return fmt.Errorf("it ends at %d but has no log mark, so nobody can tell whether it is whole: the node must rejoin empty", last)
	case mark.index > last:
		return fmt.Errorf("it ends at %d, but the log mark says that it reached %d: %s", last, mark.index, goneAdvice)
	case mark.index >= first && mark.index > 0:
		var l raft.Log
		if err := d.Log.GetLog(mark.index, &l); err != nil {
			return fmt.Errorf("entry %d, where the log mark is: %w", mark.index, err)
		}
		if l.Term != mark.term {
			return fmt.Errorf("entry %d has term %d, but the log mark says %d: %s", mark.index, l.Term, mark.term, goneAdvice)
		}
	}
	return nil
}

// newestWhole is the newest snapshot that is whole, which is the one that raft
// restores, nil when there never was one; taken is where the newest one ends, be it
// damaged. Going on with an older one when the newest is damaged is right as long as the
// log begins before the end of the older one and reaches that of the newest. unreadable says
// why one that is newer than the whole one could not be read, which is no damage.
func newestWhole(s raft.SnapshotStore) (whole *raft.SnapshotMeta, taken uint64, unreadable, err error) {
	list := s.List
	if f, ok := s.(*sealed); ok {
		list = f.finished
	}
	metas, err := list()
	if err != nil {
		return nil, 0, nil, fmt.Errorf("list snapshots: %w", err)
	}
	var damage error
	for _, kept := range metas {
		taken = max(taken, kept.Index)
		if whole != nil {
			continue
		}
		m, r, err := s.Open(kept.ID) // verifies the checksums
		if err == nil {
			err = r.Close()
			whole = m
		}
		switch {
		case unread(err):
			unreadable = cmp.Or(unreadable, fmt.Errorf("snapshot %s cannot be read: %w", kept.ID, err))
		case err != nil:
			damage = cmp.Or(damage, fmt.Errorf("snapshot %s: %w", kept.ID, err))
		}
	}
	switch {
	case whole != nil:
		return whole, taken, unreadable, nil
	case unreadable != nil:
		return nil, 0, nil, fmt.Errorf("none of %d snapshots is whole: %w", len(metas), unreadable)
	case damage != nil:
		return nil, 0, nil, fmt.Errorf("none of %d snapshots is whole: %w: the node must rejoin empty", len(metas), damage)
	}
	return nil, taken, nil, nil
}

// checkEntry verifies the checksum of a command entry.
func checkEntry(l *raft.Log) error {
	if l.Type != raft.LogCommand {
		return nil
	}
	if err := raftlogv1.Check(l.Data); err != nil {
		return fmt.Errorf("entry %d is damaged: %w", l.Index, err)
	}
	return nil
}

package consensustest

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/hashicorp/raft"
)

// The stores of a MemDisk, as raft and the host see them.

type memLog MemDisk

// IsMonotonic refuses holes, as raft-wal does.
func (m *memLog) IsMonotonic() bool { return true }

func (m *memLog) FirstIndex() (uint64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.first, nil
}

func (m *memLog) LastIndex() (uint64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.last, nil
}

func (m *memLog) GetLog(index uint64, l *raft.Log) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	s, ok := m.logs[index]
	if !ok {
		return raft.ErrLogNotFound
	}
	*l = *s
	return nil
}

func (m *memLog) StoreLog(l *raft.Log) error { return m.StoreLogs([]*raft.Log{l}) }

func (m *memLog) StoreLogs(logs []*raft.Log) error {
	d := (*MemDisk)(m)
	m.mu.Lock()
	if m.last != 0 && logs[0].Index != m.last+1 {
		defer m.mu.Unlock()
		return fmt.Errorf("append entry %d after %d: the log has no holes", logs[0].Index, m.last)
	}
	m.storing = append(m.storing, logs)
	m.mu.Unlock()
	return d.write("append", func() error {
		i := slices.IndexFunc(m.storing, func(s []*raft.Log) bool { return &s[0] == &logs[0] })
		m.storing = slices.Delete(m.storing, i, i+1)
		d.storeLocked(logs)
		return nil
	})
}

func (m *memLog) DeleteRange(lo, hi uint64) error {
	return (*MemDisk)(m).write("delete", func() error {
		for i := lo; i <= hi; i++ {
			delete(m.logs, i)
		}
		switch {
		case lo <= m.first && hi >= m.last:
			m.first, m.last = 0, 0
		case lo <= m.first:
			m.first = hi + 1
		default:
			m.last = lo - 1
		}
		return nil
	})
}

type memStable MemDisk

var errNotFound = errors.New("not found")

func (m *memStable) Set(key, val []byte) error {
	return (*MemDisk)(m).write("stable "+string(key), func() error {
		m.stable[string(key)] = bytes.Clone(val)
		return nil
	})
}

func (m *memStable) Get(key []byte) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	v, ok := m.stable[string(key)]
	if !ok {
		return nil, errNotFound
	}
	return bytes.Clone(v), nil
}

func (m *memStable) SetUint64(key []byte, val uint64) error {
	return m.Set(key, binary.BigEndian.AppendUint64(nil, val))
}

func (m *memStable) GetUint64(key []byte) (uint64, error) {
	v, err := m.Get(key)
	if err != nil {
		return 0, err
	}
	return binary.BigEndian.Uint64(v), nil
}

type memMark MemDisk

func (m *memMark) ReadAt(p []byte, off int64) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if off >= int64(len(m.mark)) {
		return 0, io.EOF
	}
	n := copy(p, m.mark[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (m *memMark) WriteAt(p []byte, off int64) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if grow := int(off) + len(p) - len(m.mark); grow > 0 {
		m.mark = append(m.mark, make([]byte, grow)...)
	}
	return copy(m.mark[off:], p), nil
}

func (m *memMark) Sync() error {
	return (*MemDisk)(m).write("sync mark", func() error {
		m.synced = bytes.Clone(m.mark)
		return nil
	})
}

type memSnapshots MemDisk

func (m *memSnapshots) Create(version raft.SnapshotVersion, index, term uint64, cfg raft.Configuration, cfgIndex uint64, _ raft.Transport) (raft.SnapshotSink, error) {
	return &memSink{disk: (*MemDisk)(m), snap: &memSnapshot{meta: raft.SnapshotMeta{
		Version:            version,
		ID:                 fmt.Sprintf("%d-%d-%d", term, index, time.Now().UnixNano()),
		Index:              index,
		Term:               term,
		Configuration:      cfg.Clone(),
		ConfigurationIndex: cfgIndex,
	}}}, nil
}

func (m *memSnapshots) List() ([]*raft.SnapshotMeta, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var metas []*raft.SnapshotMeta
	for _, s := range m.snaps {
		meta := s.meta
		metas = append(metas, &meta)
	}
	return metas, nil
}

func (m *memSnapshots) Open(id string) (*raft.SnapshotMeta, io.ReadCloser, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, s := range m.snaps {
		if s.meta.ID == id {
			meta := s.meta
			return &meta, io.NopCloser(bytes.NewReader(s.data)), nil
		}
	}
	return nil, nil, fmt.Errorf("snapshot %q is not here", id)
}

type memSink struct {
	disk   *MemDisk
	snap   *memSnapshot
	closed bool
}

func (s *memSink) ID() string { return s.snap.meta.ID }

func (s *memSink) Write(p []byte) (int, error) {
	s.snap.data = append(s.snap.data, p...)
	return len(p), nil
}

func (s *memSink) Cancel() error {
	s.closed = true
	return nil
}

// Close makes the snapshot the newest one; two are kept.
func (s *memSink) Close() error {
	if s.closed {
		return nil
	}
	s.closed = true
	return s.disk.write("snapshot", func() error {
		s.snap.meta.Size = int64(len(s.snap.data))
		s.disk.snaps = append([]*memSnapshot{s.snap}, s.disk.snaps...)
		if len(s.disk.snaps) > 2 {
			s.disk.snaps = s.disk.snaps[:2]
		}
		return nil
	})
}

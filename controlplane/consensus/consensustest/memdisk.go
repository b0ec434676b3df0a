package consensustest

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/agentplane/agentplane/controlplane/consensus"
)

// MemDisk is a disk in memory. Appends and stable values are durable when their call
// returns; the log mark only after Sync. It is safe for concurrent use.
type MemDisk struct {
	mu     sync.Mutex // guards what follows; never held across Delay or a hang
	rng    *rand.Rand
	logs   map[uint64]*raft.Log
	first  uint64
	last   uint64
	stable map[string][]byte
	snaps  []*memSnapshot
	mark   []byte // as the running node reads it
	synced []byte // as it lies on the platter for sure
	delay  time.Duration
	fail   error
	hang   chan struct{}
	// storing are appends that wait for the platter; a power cut writes any part.
	storing [][]*raft.Log
	writes  int
	onWrite func(n int, what string)
}

type memSnapshot struct {
	meta raft.SnapshotMeta
	data []byte
}

// NewMemDisk makes an empty disk.
func NewMemDisk(seed uint64) *MemDisk {
	return &MemDisk{
		rng:    rand.New(rand.NewPCG(seed, 0x6469736b)),
		logs:   make(map[uint64]*raft.Log),
		stable: make(map[string][]byte),
	}
}

// Disk is the disk as a host takes it.
func (d *MemDisk) Disk() *consensus.Disk {
	return &consensus.Disk{Log: (*memLog)(d), Stable: (*memStable)(d), Snapshots: (*memSnapshots)(d), Mark: (*memMark)(d)}
}

// SetDelay makes each write take this long.
func (d *MemDisk) SetDelay(delay time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.delay = delay
}

// Fail makes every later write fail with err, or succeed again when err is nil.
func (d *MemDisk) Fail(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fail = err
}

// Hang makes every later write wait until Unhang.
func (d *MemDisk) Hang() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.hang == nil {
		d.hang = make(chan struct{})
	}
}

// Unhang lets the waiting writes go on.
func (d *MemDisk) Unhang() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.hang != nil {
		close(d.hang)
		d.hang = nil
	}
}

// OnWrite has f called after the n-th write, with what was written. f must not use
// the disk but Kill, which is how a crash between two writes is made.
func (d *MemDisk) OnWrite(f func(n int, what string)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.onWrite = f
}

// Image is the disk as a process that starts after a SIGKILL finds it, or, when
// powerCut, after a loss of power: what was not synced is there or not, and an append
// that had not returned is there in part. The old disk goes on without effect.
func (d *MemDisk) Image(powerCut bool) *MemDisk {
	d.mu.Lock()
	defer d.mu.Unlock()
	c := NewMemDisk(d.rng.Uint64())
	c.first, c.last, c.delay = d.first, d.last, d.delay
	for i, l := range d.logs {
		c.logs[i] = l // never changed
	}
	for k, v := range d.stable {
		c.stable[k] = v
	}
	c.snaps = slices.Clone(d.snaps)
	c.mark = bytes.Clone(d.mark)
	if powerCut {
		if d.rng.IntN(2) == 0 {
			c.mark = bytes.Clone(d.synced)
		}
		for _, logs := range d.storing {
			c.storeLocked(logs[:d.rng.IntN(len(logs)+1)])
		}
	}
	c.synced = bytes.Clone(c.mark)
	return c
}

// Damage changes the data of entry index, as a flipped bit would.
func (d *MemDisk) Damage(index uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	l := *d.logs[index]
	l.Data = bytes.Clone(l.Data)
	l.Data[len(l.Data)-1] ^= 1
	d.logs[index] = &l
}

// Truncate loses every entry past last without a word, as raft-wal does with a
// damaged frame header.
func (d *MemDisk) Truncate(last uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for i := last + 1; i <= d.last; i++ {
		delete(d.logs, i)
	}
	d.last = last
}

// write waits as the faults say, then changes the disk under mu.
func (d *MemDisk) write(what string, change func() error) error {
	d.mu.Lock()
	delay, hang := d.delay, d.hang
	d.mu.Unlock()
	if delay > 0 {
		time.Sleep(delay)
	}
	if hang != nil {
		<-hang
	}
	d.mu.Lock()
	err := d.fail
	if err == nil {
		err = change()
	}
	d.writes++
	n, f := d.writes, d.onWrite
	d.mu.Unlock()
	if f != nil {
		f(n, what)
	}
	return err
}

func (d *MemDisk) storeLocked(logs []*raft.Log) {
	for _, l := range logs {
		c := *l
		c.Data = bytes.Clone(l.Data)
		d.logs[l.Index] = &c
		if d.last == 0 {
			d.first = l.Index
		}
		d.last = l.Index
	}
}

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

package consensustest

import (
	"bytes"
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
	stored  func(*raft.Log) // told of every entry; nil is nobody
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
	c.first, c.last, c.delay, c.stored = d.first, d.last, d.delay, d.stored
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
		if d.stored != nil {
			d.stored(&c)
		}
	}
}

// end is where the log ends, be it in a snapshot.
func (d *MemDisk) end() (index, term uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.last > 0 {
		index, term = d.last, d.logs[d.last].Term
	}
	if len(d.snaps) > 0 && d.snaps[0].meta.Index > index {
		index, term = d.snaps[0].meta.Index, d.snaps[0].meta.Term
	}
	return index, term
}

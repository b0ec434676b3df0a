package journal

import (
	"hash/crc32"
	"iter"
)

// Lookup gives the attempt's record with its output. Output that cannot be read any
// more is said by OutputGone, since the rest of the result is worth more.
func (j *Journal) Lookup(k Key) (Record, bool) {
	j.mu.RLock()
	defer j.mu.RUnlock()
	e, ok := j.s.records[k]
	if !ok {
		return Record{}, false
	}
	return j.full(e), true
}

// OpenRecords gives, oldest first, what the cluster still waits for: attempts without a
// result, and results and refusals that are not confirmed.
func (j *Journal) OpenRecords() []Record {
	var open []Record
	for r := range j.Records() {
		if r.Open() {
			open = append(open, r)
		}
	}
	return open
}

// Records gives every record, oldest first, as it stands when its turn comes. The
// journal may be used and changed meanwhile.
func (j *Journal) Records() iter.Seq[Record] {
	return func(yield func(Record) bool) {
		for _, k := range j.keys() {
			if r, ok := j.Lookup(k); ok && !yield(r) {
				return
			}
		}
	}
}

func (j *Journal) keys() []Key {
	j.mu.RLock()
	defer j.mu.RUnlock()
	keys := make([]Key, 0, len(j.s.records))
	for _, e := range j.s.sorted() {
		keys = append(keys, e.Key)
	}
	return keys
}

// full gives e's record with its output. The caller holds mu.
func (j *Journal) full(e *entry) Record {
	r := e.Record
	if e.out.n == 0 {
		return r
	}
	b, ok := j.read(e.out)
	if ok {
		head, tail, err := decodeOutput(b)
		r.Result.Head, r.Result.Tail, ok = head, tail, err == nil
	}
	r.Result.OutputGone = r.Result.OutputGone || !ok
	return r
}

// read gives the bytes at l, if they are still what was written. The caller holds mu.
func (j *Journal) read(l location) ([]byte, bool) {
	if j.f == nil {
		return nil, false
	}
	b := make([]byte, l.n)
	if _, err := j.f.ReadAt(b, l.off); err != nil || crc32.Checksum(b, castagnoli) != l.crc {
		return nil, false
	}
	return b, true
}

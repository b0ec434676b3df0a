package journal

import (
	"cmp"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/agentplane/agentplane/proto/frame"
)

const (
	filePrefix  = "journal-"
	asidePrefix = "aside-"
	tempSuffix  = ".tmp"

	keepAsides = 3
	// keepPastNotAfter is how long past its command's not-after a record stays.
	keepPastNotAfter = 24 * time.Hour
	// minGarbageBytes is what must have gathered before Forget rewrites for size alone.
	minGarbageBytes = 1 << 20
)

func fileName(number uint64) string { return fmt.Sprintf("%s%016d", filePrefix, number) }

// numbered gives n when name is prefix followed by a number and nothing else.
func numbered(name, prefix string) (n uint64, ok bool) {
	digits, ok := strings.CutPrefix(name, prefix)
	if !ok {
		return 0, false
	}
	n, err := strconv.ParseUint(digits, 10, 64)
	return n, err == nil
}

// recover reads the newest file, or puts it aside and begins anew, and rewrites.
func (j *Journal) recover() error {
	files, err := j.list(filePrefix)
	if err != nil {
		return err
	}
	if len(files) > 0 {
		j.number = files[len(files)-1]
		if err := j.readFile(); err != nil {
			var damage *DamageError
			if !errors.As(err, &damage) {
				return err
			}
			if err := j.putAside(files, damage); err != nil {
				return err
			}
		}
	}
	if j.s == nil {
		j.opening.New = true
		j.s = &state{records: make(map[Key]*entry)}
		if _, err := rand.Read(j.s.id[:]); err != nil {
			return fmt.Errorf("make a journal id: %w", err)
		}
	}
	return j.rewrite(j.s)
}

// readFile loads the file that number names into s and f.
func (j *Journal) readFile() error {
	name := fileName(j.number)
	f, err := j.fs.Open(name)
	if err != nil {
		return err
	}
	size, err := f.Size()
	if err == nil {
		j.s, j.opening.CutBytes, err = load(name, f, size)
	}
	if err != nil {
		_ = f.Close()
		return err
	}
	j.f, j.size = f, size
	return nil
}

// list gives the numbers of what is named prefix-N, ascending.
func (j *Journal) list(prefix string) ([]uint64, error) {
	names, err := j.fs.Names()
	if err != nil {
		return nil, err
	}
	var numbers []uint64
	for _, name := range names {
		if n, ok := numbered(name, prefix); ok {
			numbers = append(numbers, n)
		}
	}
	slices.Sort(numbers)
	return numbers, nil
}

// putAside moves files where nobody takes them for the journal, durably, before a new
// journal can be begun. A crash in between leaves a directory without a journal, and
// that begins with a new id too.
func (j *Journal) putAside(files []uint64, damage error) error {
	asides, err := j.list(asidePrefix)
	if err != nil {
		return err
	}
	number := uint64(1)
	if len(asides) > 0 {
		number = asides[len(asides)-1] + 1
	}
	dir := asidePrefix + strconv.FormatUint(number, 10)
	if err := j.fs.Mkdir(dir); err != nil {
		return err
	}
	for _, n := range files {
		if err := j.fs.Rename(fileName(n), dir+"/"+fileName(n)); err != nil {
			return err
		}
	}
	if err := errors.Join(j.fs.SyncDir(dir), j.fs.SyncDir(".")); err != nil {
		return err
	}
	for len(asides) >= keepAsides {
		if err := j.fs.Remove(asidePrefix + strconv.FormatUint(asides[0], 10)); err != nil {
			return err
		}
		asides = asides[1:]
	}
	j.opening.Damage, j.opening.Aside = damage, dir
	return nil
}

// rewrite writes s as a new file, makes that the journal, and removes every other. It
// fails without harm until the file has its name; after that it kills the journal.
// The caller holds appendMu, or nobody else knows j.
func (j *Journal) rewrite(s *state) error {
	entries := s.sorted()
	number := j.number + 1
	name, temp := fileName(number), fileName(number)+tempSuffix
	f, err := j.fs.Create(temp)
	if err != nil {
		return err
	}
	next, size, err := j.writeAll(f, s, entries)
	if err == nil {
		err = f.Sync()
	}
	if err != nil {
		_ = f.Close()
		return errors.Join(fmt.Errorf("rewrite %q: %w", temp, err), j.fs.Remove(temp))
	}
	if err := errors.Join(j.fs.Rename(temp, name), j.fs.SyncDir(".")); err != nil {
		_ = f.Close()
		return j.die("rename "+temp, err)
	}
	j.synced(name, size)
	j.mu.Lock()
	if j.f != nil {
		_ = j.f.Close()
	}
	j.s, j.f, j.size = next, f, size
	j.mu.Unlock()
	j.number, j.base = number, size
	j.sweep(name)
	return nil
}

// writeAll writes header and entries, and gives the state whose locations are those of
// f. It reads output from the old file, which only a rewrite closes.
func (j *Journal) writeAll(f file, s *state, entries []*entry) (next *state, size int64, err error) {
	next = &state{id: s.id, seq: s.seq, hasFloor: s.hasFloor, floor: s.floor, epoch: s.epoch, records: make(map[Key]*entry, len(entries))}
	buf := frame.Append(nil, frameHeader, s.header(len(entries)).encode())
	for _, e := range entries {
		moved := &entry{Record: e.Record}
		output, ok := j.read(e.out)
		if !ok {
			output, moved.Result.OutputGone = nil, true
		}
		payload, outAt := encodeAttempt(s.id, moved.Record, output)
		moved.out = locate(size+int64(len(buf))+frame.HeaderBytes+int64(outAt), output)
		buf = frame.Append(buf, frameAttempt, payload)
		next.records[e.Key] = moved
		if len(buf) >= maxPayloadBytes {
			if _, err := f.Write(buf); err != nil {
				return nil, 0, err
			}
			size += int64(len(buf))
			buf = buf[:0]
		}
	}
	if _, err := f.Write(buf); err != nil {
		return nil, 0, err
	}
	return next, size + int64(len(buf)), nil
}

// sweep removes older files and unfinished rewrites. What it fails to remove does no
// harm, for Open takes the newest, and goes with the next rewrite.
func (j *Journal) sweep(keep string) {
	names, err := j.fs.Names()
	if err != nil {
		return
	}
	for _, name := range names {
		if name != keep && strings.HasPrefix(name, filePrefix) {
			_ = j.fs.Remove(name)
		}
	}
}

// Forget drops, at cluster time now, the records whose time is over, and when the
// journal is nearly full also the oldest that are confirmed and past not-after + 24 h.
// The floor rises past the youngest of them in the same atomic rewrite. It gives the
// dropped keys, whose directories the caller may then remove. To be called now and
// then; when there is little to do it does nothing.
func (j *Journal) Forget(now int64) ([]Key, error) {
	j.appendMu.Lock()
	defer j.appendMu.Unlock()
	next, gone, garbage := j.plan(now)
	if err := j.Err(); err != nil {
		return nil, err
	}
	if len(gone) == 0 && garbage < max(minGarbageBytes, j.base) {
		return nil, nil
	}
	if err := j.rewrite(next); err != nil {
		return nil, fmt.Errorf("forget: %w", err)
	}
	return gone, nil
}

// plan gives the state without what may be forgotten at now, and what an append-only
// file holds in vain.
func (j *Journal) plan(now int64) (next *state, gone []Key, garbage int64) {
	j.mu.RLock()
	defer j.mu.RUnlock()
	entries := j.s.sorted()
	excess := 0
	if len(entries) > j.opts.MaxRecords*3/4 || j.base > j.opts.MaxBytes*3/4 {
		excess = len(entries) / 2
	}
	slices.SortStableFunc(entries, func(a, b *entry) int { return cmp.Compare(a.at(), b.at()) })
	copied := *j.s
	next = &copied
	next.records = make(map[Key]*entry, len(entries))
	for _, e := range entries {
		past := e.Ended() && now >= later(e.NotAfter, keepPastNotAfter)
		if past && (now >= later(e.at(), j.opts.Retention) || len(gone) < excess && e.Confirmed) {
			gone = append(gone, e.Key)
			next.floor = max(next.floor, e.Submitted+1)
			continue
		}
		kept := &entry{Record: e.Record, out: e.out}
		if e.Confirmed && e.out.n > 0 && now >= later(e.at(), j.opts.OutputRetention) {
			kept.out, kept.Result.OutputGone = location{}, true
			garbage += int64(e.out.n)
		}
		next.records[e.Key] = kept
	}
	return next, gone, garbage + j.size - j.base
}

// later is t + d, or the end of time.
func later(t int64, d time.Duration) int64 {
	if t > 0 && t+int64(d) < t {
		return 1<<63 - 1
	}
	return t + int64(d)
}

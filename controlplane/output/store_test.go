package output

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/frame"
)

func key(n int) Key { return Key{Invocation: fmt.Sprintf("c%03d.1", n), Attempt: 1} }

func stdout(offset uint64, text string) *agentplanev1.OutputChunk {
	return &agentplanev1.OutputChunk{Stream: agentplanev1.OutputStream_OUTPUT_STREAM_STDOUT, Offset: offset, Data: []byte(text)}
}

func stderr(offset uint64, text string) *agentplanev1.OutputChunk {
	return &agentplanev1.OutputChunk{Stream: agentplanev1.OutputStream_OUTPUT_STREAM_STDERR, Offset: offset, Data: []byte(text)}
}

func gap(c *agentplanev1.OutputChunk, n uint64, why string) *agentplanev1.OutputChunk {
	c.Data, c.GapBytes, c.GapReason = nil, n, why
	return c
}

func list(chunks ...*agentplanev1.OutputChunk) []*agentplanev1.OutputChunk { return chunks }

// said is what a reader gets of one attempt.
type said struct {
	text   [2]string // gaps as (n reason)
	have   Ends
	totals *agentplanev1.OutputTotals
}

func (s *said) take(t testing.TB, b Batch) {
	t.Helper()
	for _, c := range b.Chunks {
		part, err := s.have.take(c)
		must(t, err)
		if part != c {
			t.Fatalf("bytes at %d of %v came twice", c.GetOffset(), c.GetStream())
		}
		i, _ := indexOf(c.GetStream())
		if c.GetGapBytes() > 0 {
			s.text[i] += fmt.Sprintf("(%d %s)", c.GetGapBytes(), c.GetGapReason())
		}
		s.text[i] += string(c.GetData())
	}
	if b.Totals != nil {
		s.totals = b.Totals
	}
	if s.have != b.Have {
		t.Fatalf("the batch says that the reader has %v, it has %v", b.Have, s.have)
	}
}

// readAll reads what there is of an attempt now.
func readAll(t testing.TB, s *Store, k Key, from Ends) said {
	t.Helper()
	sub := s.subscribe()
	defer sub.close()
	sub.add(k, from)
	all := said{have: from}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for {
		b, err := sub.next(ctx)
		must(t, err)
		all.take(t, b)
		if b.CaughtUp || b.Absent || b.Totals != nil {
			return all
		}
	}
}

func TestAppendKeepsWhatIsNew(t *testing.T) {
	dir := t.TempDir()
	s, stop := open(t, StoreOptions{Dir: dir})
	ctx, k := t.Context(), key(1)
	if _, found, err := s.Held(ctx, k); found || err != nil {
		t.Fatalf("there is output before any came: %v", err)
	}
	h, err := s.Append(ctx, k, list(stdout(0, "hello "), stderr(0, "warn\n"), stdout(6, "world")), false)
	must(t, err)
	if h.Ends != (Ends{11, 5}) || h.Totals != nil || h.Refused != "" {
		t.Fatalf("held %+v", h)
	}
	h, err = s.Append(ctx, k, list(stdout(3, "lo world, again"), stderr(0, "wa")), false)
	must(t, err)
	if h.Ends != (Ends{18, 5}) {
		t.Fatalf("held %+v", h)
	}
	var hole *HoleError
	if h, err = s.Append(ctx, k, list(stdout(20, "x")), false); !errors.As(err, &hole) || h.Ends != (Ends{18, 5}) {
		t.Fatalf("a hole was answered %+v, %v", h, err)
	}
	for _, bad := range []*agentplanev1.OutputChunk{{Offset: 18, Data: []byte("x")}, {Stream: 1, Offset: 1<<64 - 1, Data: []byte("xx")}, {Stream: 1, Offset: 18, Data: []byte("x"), GapBytes: 1}} {
		if _, err := s.Append(ctx, k, list(bad), false); err == nil {
			t.Errorf("%v was taken", bad)
		}
	}
	h, err = s.Append(ctx, k, list(gap(stdout(18, ""), 7, "agent_limit"), stdout(25, "!")), true)
	must(t, err)
	check := func(h Held) {
		t.Helper()
		sum, serr := sha256.Sum256([]byte("hello world, again!")), sha256.Sum256([]byte("warn\n"))
		o, e := h.Totals.GetStdout(), h.Totals.GetStderr()
		if o.GetBytes() != 26 || o.GetMissing() != 7 || !bytes.Equal(o.GetSha256(), sum[:]) || e.GetBytes() != 5 || e.GetMissing() != 0 || !bytes.Equal(e.GetSha256(), serr[:]) {
			t.Fatalf("totals are %v", h.Totals)
		}
	}
	check(h)
	h, err = s.Append(ctx, k, list(stdout(26, "more")), true)
	must(t, err)
	check(h)
	want := said{text: [2]string{"hello world, again(7 agent_limit)!", "warn\n"}}
	for range 2 { // now, and after a restart
		got := readAll(t, s, k, Ends{})
		if got.text != want.text || got.totals == nil {
			t.Errorf("read %q, totals %v", got.text, got.totals)
		}
		if got := readAll(t, s, k, Ends{9, 2}); got.text != [2]string{"ld, again(7 agent_limit)!", "rn\n"} {
			t.Errorf("from the middle on %q", got.text)
		}
		if got := readAll(t, s, k, Ends{20, 5}); got.text != [2]string{"(5 agent_limit)!", ""} {
			t.Errorf("from within the gap on %q", got.text)
		}
		h, found, err := s.Held(ctx, k)
		must(t, err)
		if !found {
			t.Fatal("it is gone")
		}
		check(h)
		stop()
		s, stop = open(t, StoreOptions{Dir: dir})
	}
}

// Whatever a crash leaves of the wal's last record and of files that were not fsynced:
// what was acknowledged is there, and nothing else.
func TestCrashAtAnyByte(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		root, err := os.MkdirTemp(t.TempDir(), "crash")
		must(t, err)
		defer func() { must(t, os.RemoveAll(root)) }()
		dir := filepath.Join(root, "a")
		wal := int64(rapid.SampledFrom([]int{1, 300, 100_000}).Draw(rt, "wal"))
		s, err := OpenStore(StoreOptions{Dir: dir, ReserveBytes: -1, WalBytes: wal})
		must(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		var group sync.WaitGroup
		group.Go(func() { _ = s.Run(ctx) })
		defer func() { cancel(); group.Wait() }()
		random := rand.New(rand.NewPCG(rapid.Uint64().Draw(rt, "seed"), 0))
		text := map[Key][2]string{}
		sealed := map[Key]bool{}
		do := func() (undo func()) {
			k := key(random.IntN(3))
			was, wasSealed := text[k], sealed[k]
			undo = func() {
				if text[k], sealed[k] = was, wasSealed; was == [2]string{} && !wasSealed {
					delete(text, k)
				}
			}
			if random.IntN(8) == 0 {
				must(t, s.Remove(ctx, k))
				delete(text, k)
				delete(sealed, k)
				return undo
			}
			now, last := was, random.IntN(6) == 0
			var chunks []*agentplanev1.OutputChunk
			for range random.IntN(3) {
				i := random.IntN(2)
				data := strings.Repeat(string(rune('a'+random.IntN(26))), 1+random.IntN(200))
				chunks = append(chunks, &agentplanev1.OutputChunk{Stream: streamOf(i), Offset: uint64(len(now[i])), Data: []byte(data)})
				now[i] += data
			}
			if wasSealed || len(chunks) == 0 && !last {
				return undo
			}
			_, err := s.Append(ctx, k, chunks, last)
			must(t, err)
			text[k], sealed[k] = now, last
			return undo
		}
		for range rapid.IntRange(0, 25).Draw(rt, "appends") {
			do()
		}
		// One more, of which the crash may leave less.
		before := walSize(t, dir)
		saved := filepath.Join(root, "saved")
		must(t, os.CopyFS(saved, os.DirFS(filepath.Join(dir, attemptsDir))))
		undo := do()
		after := walSize(t, dir)
		cancel()
		group.Wait()
		numbers, err := wals(dir)
		must(t, err)
		newest := filepath.Join(dir, fmt.Sprint(walPrefix, numbers[len(numbers)-1]))
		if size := fileSize(t, newest); size > 0 && after > before {
			cut := size - int64(rapid.IntRange(0, int(min(after-before, size))).Draw(rt, "cut"))
			if cut < size {
				must(t, os.Truncate(newest, cut))
				undo()
				// Files are written when the wal is on the disk, and not before.
				must(t, os.RemoveAll(filepath.Join(dir, attemptsDir)))
				must(t, os.Rename(saved, filepath.Join(dir, attemptsDir)))
			}
		}
		for k := range dirtyIn(t, dir, numbers) {
			// Not fsynced: any of it may be missing, or be other bytes.
			if f, err := os.OpenFile(s.path(k), os.O_RDWR, 0); err == nil {
				from := lowest(t, dir, numbers, k)
				if size := fileSize(t, s.path(k)); size > from {
					at := from + int64(rapid.IntRange(0, int(size-from)).Draw(rt, "from"))
					_, err := f.WriteAt(make([]byte, size-at), at)
					must(t, err)
					if rapid.Bool().Draw(rt, "shorter") {
						must(t, f.Truncate(at))
					}
				}
				must(t, f.Close())
			}
		}
		s2, err := OpenStore(StoreOptions{Dir: dir, ReserveBytes: -1})
		must(t, err)
		ctx2, cancel2 := context.WithCancel(t.Context())
		group.Go(func() { _ = s2.Run(ctx2) })
		defer cancel2()
		for n := range 3 {
			got := readAll(t, s2, key(n), Ends{})
			if got.text != text[key(n)] || (got.totals != nil) != sealed[key(n)] {
				rt.Fatalf("%s is %.60q sealed %v, want %.60q sealed %v", key(n), got.text, got.totals != nil, text[key(n)], sealed[key(n)])
			}
		}
		if n := len(s2.Keys()); n != len(text) {
			rt.Fatalf("%d attempts, want %d", n, len(text))
		}
	})
}

func fileSize(t testing.TB, path string) int64 {
	st, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return 0
	}
	must(t, err)
	return st.Size()
}

// walSize is how much all wals there ever were hold: numbers first, so that a new one is
// larger.
func walSize(t testing.TB, dir string) int64 {
	numbers, err := wals(dir)
	must(t, err)
	n := numbers[len(numbers)-1]
	return int64(n)<<32 + fileSize(t, filepath.Join(dir, fmt.Sprint(walPrefix, n)))
}

// records gives what the wals say, in order, as far as they are whole.
func records(t testing.TB, dir string, numbers []int) (all []walAppend) {
	for _, n := range numbers {
		b, err := os.ReadFile(filepath.Join(dir, fmt.Sprint(walPrefix, n)))
		must(t, err)
		for len(b) > 0 {
			typ, payload, rest, err := frame.Parse(b)
			if err != nil {
				break
			}
			r, removed, err := parseRecord(typ, payload)
			must(t, err)
			if removed {
				r.at = -1
			}
			all, b = append(all, r), rest
		}
	}
	return all
}

func dirtyIn(t testing.TB, dir string, numbers []int) map[Key]bool {
	keys := map[Key]bool{}
	for _, r := range records(t, dir, numbers) {
		keys[r.key] = true
	}
	return keys
}

// lowest is the place in the key's file from which on the wals hold everything.
func lowest(t testing.TB, dir string, numbers []int, k Key) int64 {
	low := int64(-1)
	for _, r := range records(t, dir, numbers) {
		switch {
		case r.key != k:
		case r.at < 0:
			low = 0
		case low < 0 || r.at < low:
			low = r.at
		}
	}
	return max(low, 0)
}

func TestQuotaOfOneAttempt(t *testing.T) {
	s, _ := open(t, StoreOptions{Dir: t.TempDir(), MaxAttemptBytes: 12_000}) // 3000 of them for the tail
	ctx, k := t.Context(), key(1)
	h, err := s.Append(ctx, k, list(stdout(0, strings.Repeat("x", 9000))), false)
	must(t, err)
	if h.Refused != "" {
		t.Fatal(h.Refused)
	}
	h, err = s.Append(ctx, k, list(stdout(9000, strings.Repeat("y", 2000))), false)
	must(t, err)
	if h.Refused != ReasonQuota || h.Ends != (Ends{9000, 0}) {
		t.Fatalf("held %+v", h)
	}
	h, err = s.Append(ctx, k, list(stderr(0, "z")), false)
	must(t, err)
	if h.Refused != ReasonQuota {
		t.Fatalf("something behind the quota was kept: %+v", h)
	}
	h, err = s.AppendTail(ctx, k, list(gap(stdout(9000, ""), 1000, ReasonQuota), stdout(10_000, strings.Repeat("t", 1000))))
	must(t, err)
	if h.Ends != (Ends{11_000, 0}) {
		t.Fatalf("of the tail %+v was kept", h)
	}
	h, err = s.AppendTail(ctx, k, list(stdout(11_000, strings.Repeat("t", 5000))))
	must(t, err)
	if h.Refused != ReasonQuota || h.Ends != (Ends{11_000, 0}) {
		t.Fatalf("of too long a tail %+v was kept", h)
	}
	h, err = s.Append(ctx, k, list(gap(stdout(11_000, ""), 1000, ReasonQuota), gap(stderr(0, ""), 1, ReasonQuota)), true)
	must(t, err)
	if h.Totals.GetStdout().GetMissing() != 2000 || h.Totals.GetStderr().GetMissing() != 1 {
		t.Fatalf("totals %v", h.Totals)
	}
	if n := s.Stats().Dropped[ReasonQuota]; n != 2000+1+5000 {
		t.Errorf("%d bytes are said to be dropped", n)
	}
}

// A copy of which a part was refused is not taken for one that is as long as what there was,
// whether the end comes with the part or after it; one that has all of it is sealed.
func TestCopyIsSealedAtItsEndOnly(t *testing.T) {
	s, _ := open(t, StoreOptions{Dir: t.TempDir(), MaxAttemptBytes: 12_000})
	ctx := t.Context()
	first, rest := list(stdout(0, strings.Repeat("x", 9000))), list(stdout(9000, strings.Repeat("y", 5000)))
	for n, parts := range [][][]*agentplanev1.OutputChunk{{first, rest}, {append(first, rest...)}, {first, rest, nil}} {
		k := key(n + 1)
		var h Held
		var err error
		for i, part := range parts {
			var ends *Ends
			if i == len(parts)-1 {
				ends = &Ends{14_000, 0}
			}
			h, err = s.AppendCopy(ctx, k, part, ends)
			must(t, err)
		}
		if h.Totals != nil || h.Refused != ReasonQuota || h.Ends != (Ends{9000, 0}) {
			t.Errorf("copy %d: %+v is held, want 9000 bytes, refused and not sealed", n, h)
		}
	}
	k := key(9)
	h, err := s.AppendCopy(ctx, k, list(stdout(0, strings.Repeat("x", 11_000))), &Ends{11_000, 0}) // of its whole quota
	must(t, err)
	if h.Totals.GetStdout().GetBytes() != 11_000 || h.Totals.GetStdout().GetMissing() != 0 {
		t.Errorf("a whole copy is held as %+v", h)
	}
}

// A full store throws away the oldest output that has ended or that nobody writes.
func TestFullStoreKeepsTheNewest(t *testing.T) {
	s, _ := open(t, StoreOptions{Dir: t.TempDir(), MaxBytes: 100_000})
	ctx := t.Context()
	fill := func(n int, last bool) Held {
		h, err := s.Append(ctx, key(n), list(stdout(0, strings.Repeat("x", 15_000))), last)
		must(t, err)
		return h
	}
	fill(0, false) // is written: it stays
	for n := 1; n <= 9; n++ {
		if h := fill(n, true); h.Refused != "" {
			t.Fatalf("the store keeps no new output: %s", h.Refused)
		}
	}
	if st := s.Stats(); st.Bytes > 100_000 {
		t.Errorf("%d bytes are kept", st.Bytes)
	}
	for n, want := range map[int]bool{0: true, 1: false, 2: false, 8: true, 9: true} {
		if found, _ := s.has(key(n)); found != want {
			t.Errorf("output %d is there: %v, want %v", n, found, want)
		}
	}
	for n := 20; n < 26; n++ {
		fill(n, false)
	}
	if h := fill(30, false); h.Refused != ReasonQuota {
		t.Errorf("with nothing to throw away the answer is %+v", h)
	}
}

func TestFullDiskCostsOutput(t *testing.T) {
	free := uint64(10 << 30)
	var mu sync.Mutex
	s, _ := open(t, StoreOptions{Dir: t.TempDir(), ReserveBytes: 1 << 30, FreeBytes: func() (uint64, error) {
		mu.Lock()
		defer mu.Unlock()
		return free, nil
	}})
	h, err := s.Append(t.Context(), key(1), list(stdout(0, "x")), false)
	must(t, err)
	if h.Refused != "" {
		t.Fatal(h.Refused)
	}
	mu.Lock()
	free = 1
	mu.Unlock()
	// It looks now and then: until it has, it keeps what comes.
	kept := uint64(0)
	for deadline := time.Now().Add(10 * time.Second); ; kept++ {
		h, err = s.Append(t.Context(), key(2), list(stdout(kept, "x")), false)
		must(t, err)
		if h.Refused != "" {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("held %+v, though the disk is full", h)
		}
	}
	if h.Refused != ReasonDiskFull {
		t.Fatalf("held %+v", h)
	}
	h, err = s.Append(t.Context(), key(2), list(gap(stdout(kept, ""), 1, ReasonDiskFull)), true)
	must(t, err)
	if h.Totals == nil {
		t.Fatal("the end was not kept")
	}
}

// A flipped bit costs what is behind it, and is said.
func TestDamageIsCutAndFilledAgain(t *testing.T) {
	dir := t.TempDir()
	s, stop := open(t, StoreOptions{Dir: dir})
	for n := range 3 {
		_, err := s.Append(t.Context(), key(1), list(stdout(uint64(6*n), fmt.Sprintf("line %d", n))), n == 2)
		must(t, err)
	}
	stop()
	s, stop = open(t, StoreOptions{Dir: dir}) // the wal is gone now
	stop()
	b, err := os.ReadFile(s.path(key(1)))
	must(t, err)
	b[40] ^= 1 // in the second frame
	must(t, os.WriteFile(s.path(key(1)), b, 0o600))
	s, _ = open(t, StoreOptions{Dir: dir})
	h, _, err := s.Held(t.Context(), key(1))
	must(t, err)
	if h.Ends != (Ends{6, 0}) || h.Totals != nil {
		t.Fatalf("held %+v", h)
	}
	_, err = s.Append(t.Context(), key(1), list(stdout(6, "line 1line 2")), true)
	must(t, err)
	if got := readAll(t, s, key(1), Ends{}); got.text[0] != "line 0line 1line 2" {
		t.Errorf("read %q", got.text[0])
	}
}

// Many streams at once share fsyncs; each reader gets its bytes once, in order, while
// they are written.
func TestManyStreamsAtOnce(t *testing.T) {
	s, _ := open(t, StoreOptions{Dir: t.TempDir(), WalBytes: 20_000})
	const streams, lines = 20, 50
	var group sync.WaitGroup
	for n := range streams {
		group.Go(func() {
			at := uint64(0)
			for i := range lines {
				line := fmt.Sprintf("%d of %d\n", i, n)
				if _, err := s.Append(t.Context(), key(n), list(stdout(at, line)), i == lines-1); err != nil {
					t.Error(err)
					return
				}
				at += uint64(len(line))
			}
		})
	}
	sub := s.subscribe()
	defer sub.close()
	got := map[Key]*said{}
	for n := range streams {
		got[key(n)] = &said{}
		sub.add(key(n), Ends{})
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for ended := 0; ended < streams; {
		b, err := sub.next(ctx)
		must(t, err)
		got[b.Key].take(t, b)
		if b.Totals != nil {
			ended++
		}
	}
	group.Wait()
	for n := range streams {
		want := ""
		for i := range lines {
			want += fmt.Sprintf("%d of %d\n", i, n)
		}
		if got[key(n)].text[0] != want {
			t.Errorf("stream %d read %q", n, got[key(n)].text[0])
		}
	}
}

func FuzzRecord(f *testing.F) {
	var frames []byte
	for _, c := range list(stdout(0, "hello"), gap(stderr(0, ""), 5, "quota")) {
		frames = appendChunk(frames, c)
	}
	f.Add(byte(frameData), frames[12:])
	f.Add(byte(frameAppend), walAppend{key: key(1), at: 7, frames: frames}.append(nil)[12:])
	f.Add(byte(frameRemove), []byte(key(1).String()))
	f.Fuzz(func(t *testing.T, typ byte, b []byte) {
		if c, end, err := parseChunk(typ, b); err == nil && !end {
			st := newState()
			st.ends = Ends{c.GetOffset(), c.GetOffset()}
			if err := st.frame(typ, b); err == nil {
				again := appendChunk(nil, c)
				typ2, payload, _, err := frame.Parse(again)
				must(t, err)
				if typ2 != typ || !bytes.Equal(payload, b) {
					t.Fatalf("%x was written again as %x", b, payload)
				}
			}
		}
		if r, removed, err := parseRecord(typ, b); err == nil {
			if err := r.key.valid(); err != nil {
				t.Fatal(err)
			}
			again := appendRemove(nil, r.key)
			if !removed {
				again = r.append(nil)
			}
			if _, payload, _, err := frame.Parse(again); err != nil || !bytes.Equal(payload, b) {
				t.Fatalf("%x was written again as %x, %v", b, payload, err)
			}
		}
	})
}

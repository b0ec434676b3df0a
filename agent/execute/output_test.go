package execute

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func itoa(n int) string { return strconv.Itoa(n) }

// TestSummaryAgreesWithItsTwin compares with the slow way: keep everything.
func TestSummaryAgreesWithItsTwin(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var s summary
		var all [3][]byte // by stream
		var merged []byte
		for range rapid.IntRange(0, 60).Draw(t, "writes") {
			stream := uint8(rapid.IntRange(1, 2).Draw(t, "stream"))
			b := bytes.Repeat([]byte{byte(rapid.IntRange('a', 'z').Draw(t, "byte"))}, rapid.IntRange(0, 3000).Draw(t, "size"))
			s.add(stream, b)
			all[stream] = append(all[stream], b...)
			merged = append(merged, b...)
			clear(b) // the caller uses its buffer again
		}
		join := func(chunks []Chunk) (b []byte, cost int) {
			for _, c := range chunks {
				if len(c.Data) == 0 {
					t.Fatal("an empty chunk")
				}
				b, cost = append(b, c.Data...), cost+len(c.Data)+chunkCost
			}
			return b, cost
		}
		head, headCost := join(s.head)
		tail, tailCost := join(s.tail)
		if !bytes.HasPrefix(merged, head) || !bytes.HasSuffix(merged, tail) || len(head)+len(tail) > len(merged) {
			t.Fatal("head and tail are not begin and end")
		}
		if headCost > summaryBytes || tailCost > summaryBytes {
			t.Fatalf("head costs %d, tail %d, at most %d are allowed", headCost, tailCost, summaryBytes)
		}
		for stream := Stdout; stream <= Stderr; stream++ {
			if !strings.HasPrefix(string(all[stream]), text(s.head, stream)) || !strings.HasSuffix(string(all[stream]), text(s.tail, stream)) {
				t.Fatalf("stream %d is mixed up", stream)
			}
		}
		if len(merged) <= summaryBytes-60*chunkCost && len(head) != len(merged) {
			t.Fatalf("of %d bytes only %d are in the head", len(merged), len(head))
		}
	})
}

func record(t testing.TB, outputBytes int64) (*recorder, directory) {
	t.Helper()
	d := directory(t.TempDir())
	r, err := newRecorder(d, outputBytes)
	must(t, err)
	return r, d
}

func TestRecorderKeepsHeadAndTail(t *testing.T) {
	const limit = minOutputBytes
	r, d := record(t, limit)
	line := func(n int) []byte { return fmt.Appendf(nil, "%09d\n", n) }
	const lines = 200_000 // 2 MB and more
	for n := 0; n < lines; n += 100 {
		var b []byte
		for i := range 100 {
			b = append(b, line(n+i)...)
		}
		r.add(uint8(n/100%2+1), b)
	}
	var res Result
	r.finish(&res)
	if res.StdoutBytes != 5*lines || res.StderrBytes != 5*lines || res.Unstored != 0 {
		t.Fatalf("counted %d and %d, unstored %d", res.StdoutBytes, res.StderrBytes, res.Unstored)
	}
	var onDisk int64
	files, err := filepath.Glob(d.path(fileOutput + "*"))
	must(t, err)
	for _, f := range files {
		st, err := os.Stat(f)
		must(t, err)
		onDisk += st.Size()
	}
	if onDisk > limit || onDisk < limit/2 {
		t.Fatalf("%d bytes on disk, the limit is %d", onDisk, limit)
	}
	next, gaps, first := uint64(0), 0, true
	for c, err := range d.stored() {
		must(t, err)
		if first && c.Offset != 0 {
			t.Fatalf("the head begins at %d", c.Offset)
		}
		first = false
		if c.Offset != next {
			gaps++
		}
		if !bytes.HasPrefix(c.Data, line(int(c.Offset/10))) {
			t.Fatalf("at %d stands %.10q", c.Offset, c.Data)
		}
		if want := uint8(c.Offset/1000%2 + 1); c.Stream != want {
			t.Fatalf("at %d is stream %d, want %d", c.Offset, c.Stream, want)
		}
		next = c.Offset + uint64(len(c.Data))
	}
	if next != 10*lines || gaps != 1 {
		t.Fatalf("ends at %d with %d gaps", next, gaps)
	}
}

func TestFullDiskStopsTheStoringAlone(t *testing.T) {
	r, d := record(t, minOutputBytes)
	r.add(Stdout, []byte("kept"))
	must(t, r.f.Close()) // every write fails from here
	r.add(Stderr, []byte("lost"))
	r.add(Stdout, []byte("lost too"))
	var res Result
	r.finish(&res)
	if res.Unstored != 12 || res.StdoutBytes != 12 || res.StderrBytes != 4 || !strings.Contains(res.Detail, "could not be stored") {
		t.Fatalf("%+v", res)
	}
	if text(res.Head, Stdout) != "keptlost too" {
		t.Fatalf("the summary is %q", text(res.Head, Stdout))
	}
	var stored int
	for c, err := range d.stored() {
		must(t, err)
		stored += len(c.Data)
	}
	if stored != 4 {
		t.Fatalf("%d bytes stored", stored)
	}
}

func TestSalvageTellsWhatADeadSupervisorStored(t *testing.T) {
	r, d := record(t, minOutputBytes)
	r.add(Stdout, []byte("hello "))
	r.add(Stderr, []byte("world"))
	var res Result
	d.salvage(&res)
	if text(res.Head, Stdout) != "hello " || text(res.Head, Stderr) != "world" || res.StdoutBytes != 6 || res.Detail != "" {
		t.Fatalf("%+v", res)
	}
	must(t, os.Truncate(d.output(0), 60)) // in the middle of the second frame
	res = Result{}
	d.salvage(&res)
	if text(res.Head, Stdout) != "hello " || res.StderrBytes != 0 {
		t.Fatalf("%+v", res)
	}
}

func FuzzStored(f *testing.F) {
	r, d := record(f, minOutputBytes)
	r.add(Stdout, []byte("hello"))
	r.add(Stderr, []byte("world"))
	b, err := os.ReadFile(d.output(0))
	must(f, err)
	f.Add(b)
	f.Add(b[:20])
	f.Fuzz(func(t *testing.T, b []byte) {
		d := directory(t.TempDir())
		must(t, os.WriteFile(d.output(0), b, 0o600))
		n := 0
		for c, err := range d.stored() {
			if err == nil {
				n += len(c.Data) + outputHeader
			}
		}
		if n > len(b) {
			t.Fatalf("%d bytes out of %d", n, len(b))
		}
		var res Result
		d.salvage(&res)
	})
}

// TestFloodStaysSmall compares the supervisor's peak memory with and without a flood.
func TestFloodStaysSmall(t *testing.T) {
	const flood = 300_000_000
	peak := func(output string) (kib int, res Result, d directory) {
		r, _ := newRunner(t)
		ready, let := filepath.Join(t.TempDir(), "ready"), filepath.Join(t.TempDir(), "let")
		run := start(t, r, shell(output+"; touch "+ready+"; while [ ! -e "+let+" ]; do sleep 0.01; done; echo end"))
		eventually(t, "the flood's end", func() bool { return exists(ready) })
		b, err := os.ReadFile("/proc/" + itoa(supervisorOf(t, run.d).Session) + "/status")
		must(t, err)
		_, rest, _ := strings.Cut(string(b), "VmHWM:")
		if _, err := fmt.Sscan(rest, &kib); err != nil {
			t.Fatalf("no peak memory in %q: %v", b, err)
		}
		must(t, os.WriteFile(let, nil, 0o600))
		return kib, wait(t, run), run.d
	}
	quiet, _, _ := peak("true")
	loud, res, d := peak("head -c " + itoa(flood) + " /dev/zero; head -c 1000000 /dev/zero >&2")
	t.Logf("peak memory %d KiB quiet, %d KiB after the flood", quiet, loud)
	if loud > quiet+16<<10 {
		t.Errorf("peak memory grew from %d to %d KiB", quiet, loud)
	}
	wantResult(t, res, Succeeded, ReasonExit)
	if res.StdoutBytes != flood+4 || res.StderrBytes != 1_000_000 || !strings.HasSuffix(text(res.Tail, Stdout), "end\n") {
		t.Errorf("counted %d and %d", res.StdoutBytes, res.StderrBytes)
	}
	var stored int64
	var last uint64
	for c, err := range d.stored() {
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		stored += int64(len(c.Data))
		last = c.Offset + uint64(len(c.Data))
	}
	if stored > defaultOutputBytes || stored < defaultOutputBytes*3/4 || last != flood+1_000_004 {
		t.Errorf("%d bytes stored, to offset %d", stored, last)
	}
}

package execute

import (
	"bytes"
	"fmt"
	"os"
	"testing"

	"pgregory.net/rapid"
)

// A tail that keeps up gets every byte in order; one that is overtaken by the rotation
// passes over bytes, and the offsets say which.
func TestTailFollowsTheRecorder(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		dir, err := os.MkdirTemp(t.TempDir(), "tail")
		must(t, err)
		d := directory(dir)
		r, err := newRecorder(d, minOutputBytes)
		must(t, err)
		tail := &Tail{d: d, step: 1, last: 1}
		defer tail.Close()
		var written [3][]byte
		var at [3]uint64
		var total, gaps uint64
		unread := 0
		check := func() {
			for {
				chunks, err := tail.Next(64 << 10)
				must(t, err)
				if len(chunks) == 0 {
					unread = 0
					return
				}
				for _, c := range chunks {
					if c.StreamOffset < at[c.Stream] || c.Offset < total {
						rt.Fatalf("stream %d goes back from %d to %d", c.Stream, at[c.Stream], c.StreamOffset)
					}
					gaps += c.StreamOffset - at[c.Stream]
					at[c.Stream], total = c.StreamOffset+uint64(len(c.Data)), c.Offset+uint64(len(c.Data))
					if !bytes.Equal(c.Data, written[c.Stream][c.StreamOffset:at[c.Stream]]) {
						rt.Fatalf("stream %d has other bytes at %d", c.Stream, c.StreamOffset)
					}
				}
			}
		}
		most := 0
		for n := range rapid.IntRange(0, 80).Draw(rt, "steps") {
			if rapid.IntRange(0, 3).Draw(rt, "reads") == 0 {
				check()
				continue
			}
			stream := uint8(rapid.IntRange(1, 2).Draw(rt, "stream"))
			b := bytes.Repeat([]byte{byte('a' + n%26)}, rapid.IntRange(1, readBytes).Draw(rt, "size"))
			r.add(stream, b)
			written[stream] = append(written[stream], b...)
			unread += len(b)
			most = max(most, unread)
		}
		check()
		var res Result
		r.finish(&res)
		if chunks, err := tail.Next(1); len(chunks) != 0 || err != nil {
			rt.Fatalf("after everything %d chunks came, %v", len(chunks), err)
		}
		// What is kept of the tail is at least three files of the four.
		if tailBytes := (minOutputBytes - headBytes) / tailSegments; most < 2*tailBytes && gaps > 0 {
			rt.Fatalf("%d bytes were passed over although at most %d were unread", gaps, most)
		}
		if end := at[1] + at[2]; gaps == 0 && end != uint64(len(written[1])+len(written[2])) {
			rt.Fatalf("%d bytes came of %d", end, len(written[1])+len(written[2]))
		}
	})
}

// While a program runs its output is there within moments.
func TestTailIsLive(t *testing.T) {
	r, _ := newRunner(t)
	run := start(t, r, shell("echo one; exec sleep 30"))
	tail, err := r.Tail(run.Attempt())
	must(t, err)
	defer tail.Close()
	var got []byte
	eventually(t, "the first line", func() bool {
		chunks, err := tail.Next(1 << 20)
		must(t, err)
		for _, c := range chunks {
			got = append(got, c.Data...)
		}
		return string(got) == "one\n"
	})
	if _, ok := r.Result(run.Attempt()); ok {
		t.Error("an attempt that runs has a result")
	}
	must(t, run.Cancel())
	res := wait(t, run)
	stored, ok := r.Result(run.Attempt())
	if !ok || stored.State != res.State || stored.StdoutBytes != 4 {
		t.Errorf("stored is %+v, %v", stored, ok)
	}
	if r.Kept(run.Attempt()) {
		t.Error("nobody has kept it")
	}
	must(t, r.Keep(run.Attempt()))
	if !r.Kept(run.Attempt()) {
		t.Error("it is not kept")
	}
}

// A file that is damaged in the middle is said to be, and is not read past.
func TestTailRefusesDamage(t *testing.T) {
	r, d := record(t, minOutputBytes)
	for n := range 3 {
		r.add(Stdout, fmt.Appendf(nil, "line %d\n", n))
	}
	b, err := os.ReadFile(d.output(0))
	must(t, err)
	b[len(b)/2] ^= 1
	must(t, os.WriteFile(d.output(0), b, 0o600))
	tail := &Tail{d: d}
	defer tail.Close()
	chunks, err := tail.Next(1 << 20)
	if len(chunks) != 1 || err == nil {
		t.Errorf("%d chunks, %v", len(chunks), err)
	}
}

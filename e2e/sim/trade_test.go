package sim

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/agentplane/agentplane/agent/execute"
	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

// judged is a world that only notes what must not be.
func judged() *World {
	return &World{trace: &Trace{began: time.Now()}, accepted: make(map[string]int)}
}

func complaints(w *World, want string) string {
	switch {
	case want == "" && len(w.red) == 0, want != "" && len(w.red) == 1 && strings.Contains(w.red[0], want):
		return ""
	case len(w.red) == 0:
		return "nothing"
	}
	return strings.Join(w.red, "; ")
}

func TestAtMostCountsThoseWhoHoldAtOnce(t *testing.T) {
	now := time.Now()
	held := func(who string, from, until int) holding {
		return holding{who, now.Add(time.Duration(from) * time.Second), now.Add(time.Duration(until) * time.Second)}
	}
	for name, test := range map[string]struct {
		all  []holding
		want string
	}{
		"one after the other": {[]holding{held("a", 0, 1), held("b", 1, 2), held("c", 2, 3)}, ""},
		"two of two":          {[]holding{held("a", 0, 9), held("b", 1, 3), held("c", 3, 4)}, ""},
		"three of two":        {[]holding{held("a", 0, 9), held("b", 1, 3), held("c", 2, 4)}, "[a b c]"},
		"one that never ends": {[]holding{held("a", 0, 1<<30), held("b", 1, 1<<30), held("c", 99, 100)}, "[a b c]"},
	} {
		t.Run(name, func(t *testing.T) {
			w := judged()
			if w.atMost("l", 2, test.all); complaints(w, test.want) != "" {
				t.Errorf("the judge says %q, want one complaint of %q", w.red, test.want)
			}
		})
	}
}

func TestAHistoryThatWasNotJudgedProvesNothing(t *testing.T) {
	for name, test := range map[string]struct {
		result   porcupine.CheckResult
		err      error
		want     string
		unjudged int
	}{
		"good":       {porcupine.Ok, nil, "", 0},
		"wrong":      {porcupine.Illegal, nil, "I7: the history of locks is not linearizable", 0},
		"no end":     {porcupine.Unknown, nil, "", 1},
		"no history": {porcupine.Ok, errors.New("two calls at once"), "porcupine: two calls at once", 0},
	} {
		w := judged()
		if w.judgeHistory("locks", test.result, test.err, nil); complaints(w, test.want) != "" || w.accepted[unjudged] != test.unjudged {
			t.Errorf("%s: the judge says %q and leaves %d unjudged, want %q and %d", name, w.red, w.accepted[unjudged], test.want, test.unjudged)
		}
	}
}

func TestCommandsThatShareALockAreApart(t *testing.T) {
	plain, apt, other := &raftlogv1.Command{}, &raftlogv1.Command{Locks: []string{"apt", "x"}}, &raftlogv1.Command{Locks: []string{"apt"}}
	alone := &raftlogv1.Command{Exclusive: true}
	if apart(plain, apt) != "" || apart(plain, plain) != "" {
		t.Error("commands without a lock are kept apart")
	}
	if apart(apt, other) == "" || apart(plain, alone) == "" || apart(alone, plain) == "" {
		t.Error("commands may run at once that may not")
	}
}

func TestHostKeepsBeginAndEndOfWhatIsPrinted(t *testing.T) {
	at := execute.Attempt{InvocationID: "c.1", Number: 1}
	small := &printing{at: at}
	small.add(execute.Stdout, 5000)
	small.add(execute.Stderr, 100)
	var r execute.Result
	small.summarize(&r)
	var held [2][]byte
	for _, c := range append(r.Head, r.Tail...) {
		held[c.Stream-1] = append(held[c.Stream-1], c.Data...)
	}
	for n, size := range []uint64{5000, 100} {
		if want := printedText(at, uint8(n+1), 0, size); !bytes.Equal(held[n], want) {
			t.Errorf("the result holds %d bytes of stream %d, want the %d that were printed", len(held[n]), n+1, size)
		}
	}
	large := &printing{at: at}
	for range 20 {
		large.add(execute.Stdout, 5000)
	}
	reader, at2, gaps := &tail{p: large}, uint64(0), 0
	for {
		chunks, err := reader.Next(64 << 10)
		if err != nil || len(chunks) == 0 {
			break
		}
		for _, c := range chunks {
			if c.Offset != at2 {
				gaps++
				if c.Offset < at2 || !large.rotated(execute.Stdout, at2, c.Offset-at2) {
					t.Errorf("chunk at %d after %d, and nothing was thrown away there", c.Offset, at2)
				}
			}
			if !bytes.Equal(c.Data, printedText(at, execute.Stdout, c.Offset, uint64(len(c.Data)))) {
				t.Errorf("chunk at %d is not what was printed there", c.Offset)
			}
			at2 = c.Offset + uint64(len(c.Data))
		}
	}
	if at2 != 100_000 || gaps != 1 || large.rotated(execute.Stdout, 0, headOf) {
		t.Errorf("of 100000 bytes with one gap behind the begin came %d with %d", at2, gaps)
	}
}

func TestWhatIsSeenIsJudged(t *testing.T) {
	at := execute.Attempt{InvocationID: "c.1", Number: 1}
	data := func(offset uint64, b []byte) *agentplanev1.OutputChunk {
		return &agentplanev1.OutputChunk{Stream: agentplanev1.OutputStream_OUTPUT_STREAM_STDOUT, Offset: offset, Data: b}
	}
	gap := func(offset, size uint64, reason string) *agentplanev1.OutputChunk {
		return &agentplanev1.OutputChunk{Stream: agentplanev1.OutputStream_OUTPUT_STREAM_STDOUT, Offset: offset, GapBytes: size, GapReason: reason}
	}
	text := printedText(at, 1, 0, 1000)
	ended := &agentplanev1.FollowEnd{Totals: &agentplanev1.OutputTotals{Stdout: &agentplanev1.OutputTotal{Bytes: 1000}}}
	for name, test := range map[string]struct {
		chunks []*agentplanev1.OutputChunk
		end    *agentplanev1.FollowEnd
		want   string
	}{
		"all of it":                        {[]*agentplanev1.OutputChunk{data(0, text[:600]), data(600, text[600:])}, ended, ""},
		"a part":                           {[]*agentplanev1.OutputChunk{data(0, text[:600])}, nil, ""},
		"a part that is all":               {[]*agentplanev1.OutputChunk{data(0, text[:600])}, ended, "it ended as whole with 600 bytes"},
		"a byte twice":                     {[]*agentplanev1.OutputChunk{data(0, text[:600]), data(599, text[599:])}, nil, "byte 600 of stream 1 was expected"},
		"a hole":                           {[]*agentplanev1.OutputChunk{data(0, text[:600]), data(700, text[700:])}, nil, "byte 600 of stream 1 was expected"},
		"bytes of another place":           {[]*agentplanev1.OutputChunk{data(0, text[64:164])}, nil, "was not printed there"},
		"more than there is":               {[]*agentplanev1.OutputChunk{data(0, text), data(1000, []byte("x"))}, nil, "the program has printed 1000"},
		"a gap without a reason":           {[]*agentplanev1.OutputChunk{gap(0, 10, "lost"), data(10, text[10:])}, nil, "which nothing explains"},
		"a gap that the host did not make": {[]*agentplanev1.OutputChunk{gap(0, 10, "agent_limit"), data(10, text[10:])}, nil, "which nothing explains"},
	} {
		t.Run(name, func(t *testing.T) {
			w := judged()
			p := &printing{at: at}
			p.add(execute.Stdout, 1000)
			s := &seen{w: w, who: "a follow", p: p}
			s.take(&agentplanev1.FollowItem{InvocationId: "c.1", Attempt: 1, Chunks: test.chunks, End: test.end})
			if complaints(w, test.want) != "" {
				t.Errorf("the judge says %q, want one complaint of %q", w.red, test.want)
			}
		})
	}
}

// A loss of power takes what was written since the files were opened last, and no more.
func TestLossOfPowerTakesWhatIsNotDurable(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, size int) {
		t.Helper()
		path := filepath.Join(dir, "output", name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, make([]byte, size), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	size := func(name string) int64 {
		st, err := os.Stat(filepath.Join(dir, "output", "attempts", name))
		if err != nil {
			return -1
		}
		return st.Size()
	}
	s := storedOutput{known: true}
	end := func(how death) {
		t.Helper()
		if err := s.end(dir, how); err != nil {
			t.Fatal(err)
		}
	}
	write("wal-1", 0)
	write("attempts/a", 10)
	if end(byKill); size("a") != 10 {
		t.Errorf("a kill leaves %d bytes, want 10", size("a"))
	}
	next := func(wal string) { // a start replays and makes durable
		t.Helper()
		if err := os.Remove(filepath.Join(dir, "output", wal)); err != nil {
			t.Fatal(err)
		}
	}
	next("wal-1")
	write("wal-2", 0)
	write("attempts/a", 30)
	write("attempts/b", 5)
	if end(byPower); size("a") != 10 || size("b") != -1 {
		t.Errorf("a loss of power leaves %d bytes of a and %d of b, want 10 and no file", size("a"), size("b"))
	}
	if end(byPower); size("a") != 10 { // it died before it opened them
		t.Errorf("a second one leaves %d bytes of a, want 10", size("a"))
	}
	next("wal-2")
	write("wal-3", 0)
	write("attempts/a", 40)
	write("attempts/b", 5)
	if end(byPower); size("a") != 30 || size("b") != 5 {
		t.Errorf("after a start a loss of power leaves %d bytes of a and %d of b, want 30 and 5", size("a"), size("b"))
	}
	next("wal-3")
	write("wal-4", 0)
	end(byItself)
	next("wal-4")
	write("wal-5", 0)
	write("attempts/a", 50)
	if end(byPower); size("a") != 50 {
		t.Errorf("a loss of power leaves %d bytes though it is not known what was durable", size("a"))
	}
}

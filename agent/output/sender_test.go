package output

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"go.uber.org/goleak"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// host has the output of attempts in memory, and notes which are done.
type host struct {
	mu   sync.Mutex
	text map[Key][]Chunk
	done map[Key]bool
	open int
	bad  error
}

func newHost() *host { return &host{text: map[Key][]Chunk{}, done: map[Key]bool{}} }

// print adds to an attempt's stream; skip bytes before it were rotated away.
func (h *host) print(k Key, stream agentplanev1.OutputStream, text string, skip uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	at, total := skip, skip
	for _, c := range h.text[k] {
		if c.Stream == stream {
			at = c.Offset + uint64(len(c.Data)) + skip
		}
		total = c.Total + uint64(len(c.Data)) + skip
	}
	h.text[k] = append(h.text[k], Chunk{Stream: stream, Offset: at, Total: total, Data: []byte(text)})
}

func (h *host) isDone(k Key) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.done[k]
}

type reader struct {
	h *host
	k Key
	n int
}

func (r *reader) Next(most int) (chunks []Chunk, err error) {
	r.h.mu.Lock()
	defer r.h.mu.Unlock()
	for size := 0; size < most && r.n < len(r.h.text[r.k]); r.n++ {
		chunks = append(chunks, r.h.text[r.k][r.n])
		size += len(r.h.text[r.k][r.n].Data)
	}
	if len(chunks) == 0 {
		return nil, r.h.bad
	}
	return chunks, nil
}

func (r *reader) Close() {
	r.h.mu.Lock()
	defer r.h.mu.Unlock()
	r.h.open--
}

func (h *host) sender() *Sender {
	return New(Options{
		Read: func(k Key) (Reader, error) {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.open++
			return &reader{h: h, k: k}, nil
		},
		Done: func(k Key) error {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.done[k] = true
			return nil
		},
		Logger: hclog.NewNullLogger(),
	})
}

// node takes output over one stream after the other. It keeps what it was sent.
type node struct {
	mu       sync.Mutex
	have     map[Key]ends
	text     map[Key]*[2]string
	finished map[Key]*agentplanev1.OutputFinish
	offers   int
	acks     bool // it acknowledges and says done
	skip     bool
	tail     uint64
	stream   *wire
}

func newNode() *node {
	return &node{have: map[Key]ends{}, text: map[Key]*[2]string{}, finished: map[Key]*agentplanev1.OutputFinish{}, acks: true}
}

// wire is one stream; it breaks with its context, or when the node breaks it.
type wire struct {
	n   *node
	ctx context.Context //nolint:containedctx // a stream has one
	cut context.CancelCauseFunc
	out chan *agentplanev1.OutputResponse
}

func (n *node) open(ctx context.Context) (Stream, func(), error) {
	ctx, cut := context.WithCancelCause(ctx)
	w := &wire{n: n, ctx: ctx, cut: cut, out: make(chan *agentplanev1.OutputResponse, 1000)}
	n.mu.Lock()
	n.stream = w
	n.mu.Unlock()
	return w, func() { cut(nil) }, nil
}

func (w *wire) Recv() (*agentplanev1.OutputResponse, error) {
	select {
	case m := <-w.out:
		return m, nil
	case <-w.ctx.Done():
		return nil, context.Cause(w.ctx)
	}
}

func (w *wire) Send(m *agentplanev1.OutputRequest) error {
	if w.ctx.Err() != nil {
		return io.EOF
	}
	n := w.n
	n.mu.Lock()
	defer n.mu.Unlock()
	switch m := m.GetMessage().(type) {
	case *agentplanev1.OutputRequest_Offer:
		k := Key{m.Offer.GetInvocationId(), m.Offer.GetAttempt()}
		n.offers++
		if n.text[k] == nil {
			n.text[k] = &[2]string{}
		}
		w.out <- &agentplanev1.OutputResponse{Message: &agentplanev1.OutputResponse_Wanted{Wanted: &agentplanev1.OutputWanted{
			InvocationId: k.Invocation, Attempt: k.Attempt, From: n.have[k].proto(),
		}}}
	case *agentplanev1.OutputRequest_Data:
		k := Key{m.Data.GetInvocationId(), m.Data.GetAttempt()}
		have := n.have[k]
		for _, c := range m.Data.GetChunks() {
			i := int(c.GetStream()) - 1
			if c.GetOffset() != have[i] {
				return fmt.Errorf("chunk at %d, the node has %d", c.GetOffset(), have[i])
			}
			if c.GetGapBytes() > 0 {
				n.text[k][i] += fmt.Sprintf("(%d %s)", c.GetGapBytes(), c.GetGapReason())
			}
			n.text[k][i] += string(c.GetData())
			have[i] += c.GetGapBytes() + uint64(len(c.GetData()))
		}
		n.have[k] = have
		if n.acks {
			w.out <- &agentplanev1.OutputResponse{Message: &agentplanev1.OutputResponse_Ack{Ack: &agentplanev1.OutputAck{InvocationId: k.Invocation, Attempt: k.Attempt, Held: have.proto()}}}
		}
		if n.skip && !m.Data.GetTail() {
			w.out <- &agentplanev1.OutputResponse{Message: &agentplanev1.OutputResponse_Skip{Skip: &agentplanev1.OutputSkip{
				InvocationId: k.Invocation, Attempt: k.Attempt, Reason: "quota", Held: have.proto(), TailBytes: n.tail,
			}}}
		}
	case *agentplanev1.OutputRequest_Finish:
		k := Key{m.Finish.GetInvocationId(), m.Finish.GetAttempt()}
		n.finished[k] = m.Finish
		if n.acks {
			w.out <- &agentplanev1.OutputResponse{Message: &agentplanev1.OutputResponse_Done{Done: &agentplanev1.OutputDone{InvocationId: k.Invocation, Attempt: k.Attempt, Reason: "kept"}}}
		}
	}
	return nil
}

func (n *node) finish(k Key) *agentplanev1.OutputFinish {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.finished[k]
}

// counts gives how many attempts were offered, and how many finished.
func (n *node) counts() (offers, finished int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.offers, len(n.finished)
}

func (h *host) readers() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.open
}

func (n *node) shown(k Key) [2]string {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.text[k] == nil {
		return [2]string{}
	}
	return *n.text[k]
}

// beside runs the sender beside a session with the node.
func beside(t *testing.T, s *Sender, n *node) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		s.Beside(ctx, 1, n.open)
	}()
	return func() {
		cancel()
		<-ended
	}
}

const (
	stdout = agentplanev1.OutputStream_OUTPUT_STREAM_STDOUT
	stderr = agentplanev1.OutputStream_OUTPUT_STREAM_STDERR
)

func TestOutputIsSentWhileItIsPrinted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, n, k := newHost(), newNode(), Key{"c.1", 1}
		s := h.sender()
		stop := beside(t, s, n)
		defer stop()
		s.Started(k, false)
		time.Sleep(time.Hour)
		if offers, _ := n.counts(); offers != 0 {
			t.Error("output was offered before there was any")
		}
		h.print(k, stdout, "hello ", 0)
		time.Sleep(2 * pollEvery)
		synctest.Wait()
		if got := n.shown(k); got[0] != "hello " {
			t.Fatalf("within %v the node has %q", 2*pollEvery, got)
		}
		h.print(k, stderr, "warning", 0)
		h.print(k, stdout, "world", 7) // 7 bytes were rotated away
		time.Sleep(2 * pollEvery)
		synctest.Wait()
		if got := n.shown(k); got != [2]string{"hello (7 agent_limit)world", "warning"} {
			t.Fatalf("the node has %q", got)
		}
		s.Ended(k, End{Stdout: 20, Stderr: 7, GapReason: ReasonDisk}, false)
		time.Sleep(time.Second)
		synctest.Wait()
		f := n.finish(k)
		if f.GetTotals().GetStdout() != 20 || f.GetGapReason() != ReasonDisk || f.GetWhole() || !h.isDone(k) || s.Waits(k) {
			t.Errorf("finished with %v, done %v, waits %v", f, h.isDone(k), s.Waits(k))
		}
		if h.readers() != 0 {
			t.Errorf("%d readers are open", h.readers())
		}
	})
}

func TestOutputGoesOnWhereTheNextNodeIs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, first, second, k := newHost(), newNode(), newNode(), Key{"c.1", 1}
		s := h.sender()
		stop := beside(t, s, first)
		s.Started(k, false)
		for i := range 100 {
			h.print(k, stdout, fmt.Sprintf("line %d\n", i), 0)
		}
		time.Sleep(time.Second)
		first.mu.Lock()
		first.stream.cut(errors.New("reset")) // a stream may break by itself
		first.mu.Unlock()
		h.print(k, stdout, "after the break\n", 0)
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if got := first.shown(k); !strings.HasSuffix(got[0], "line 99\nafter the break\n") || strings.Count(got[0], "line 7\n") != 1 {
			t.Fatalf("the first node has %q", got)
		}
		stop()
		// The second one has a part of it.
		second.have[k], second.text[k] = ends{14, 0}, &[2]string{"line 0\nline 1\n"}
		stop = beside(t, s, second)
		defer stop()
		h.print(k, stdout, "the end\n", 0)
		s.Ended(k, End{Stdout: 1}, false)
		time.Sleep(time.Second)
		synctest.Wait()
		if got := second.shown(k); got[0] != first.shown(k)[0]+"the end\n" {
			t.Errorf("the second node has %q", got)
		}
		if !h.isDone(k) {
			t.Error("it is not done")
		}
	})
}

func TestWhatTheResultHoldsIsNotSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, n := newHost(), newNode()
		s := h.sender()
		stop := beside(t, s, n)
		defer stop()
		k := Key{"c.1", 1}
		h.print(k, stdout, "quick", 0)
		s.Ended(k, End{Stdout: 5, Whole: true}, false)
		time.Sleep(time.Minute)
		if offers, _ := n.counts(); offers != 0 || s.Waits(k) {
			t.Errorf("%d offers, waits %v", offers, s.Waits(k))
		}
		// One that was watched is finished, so that whoever watches sees its end.
		s.Started(k, false)
		time.Sleep(time.Second)
		s.Ended(k, End{Stdout: 5, Whole: true}, false)
		time.Sleep(time.Second)
		synctest.Wait()
		if !n.finish(k).GetWhole() {
			t.Errorf("finished with %v", n.finish(k))
		}
	})
}

// Without acknowledgements little is on its way, and without a node nothing is read.
func TestBackPressure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, n, k := newHost(), newNode(), Key{"c.1", 1}
		n.acks = false
		s := h.sender()
		stop := beside(t, s, n)
		s.Started(k, false)
		for range 100 {
			h.print(k, stdout, strings.Repeat("x", 64<<10), 0)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if got := len(n.shown(k)[0]); got < aheadBytes || got > aheadBytes+2*sendBytes {
			t.Errorf("%d bytes are on their way", got)
		}
		n.mu.Lock()
		n.acks = true
		have := n.have[k]
		n.stream.out <- &agentplanev1.OutputResponse{Message: &agentplanev1.OutputResponse_Ack{Ack: &agentplanev1.OutputAck{InvocationId: k.Invocation, Attempt: k.Attempt, Held: have.proto()}}}
		n.mu.Unlock()
		time.Sleep(time.Minute)
		synctest.Wait()
		if got := len(n.shown(k)[0]); got != 100*64<<10 {
			t.Errorf("%d bytes came", got)
		}
		stop()
		if h.readers() != 0 {
			t.Errorf("%d readers are open", h.readers())
		}
	})
}

func TestSkippedOutputIsOnlyFinished(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, n, k := newHost(), newNode(), Key{"c.1", 1}
		n.skip = true
		s := h.sender()
		stop := beside(t, s, n)
		defer stop()
		s.Started(k, false)
		h.print(k, stdout, "first", 0)
		time.Sleep(time.Second)
		h.print(k, stdout, "second", 0)
		time.Sleep(time.Second)
		s.Ended(k, End{Stdout: 11}, false)
		time.Sleep(time.Second)
		synctest.Wait()
		if got := n.shown(k); got[0] != "first" || n.finish(k).GetTotals().GetStdout() != 11 || !h.isDone(k) {
			t.Errorf("the node has %q, finished %v", got, n.finish(k))
		}
	})
}

// Of output above the quota the end is sent all the same.
func TestTheTailOfSkippedOutputIsSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, n, k := newHost(), newNode(), Key{"c.1", 1}
		n.skip, n.tail = true, 12
		s := h.sender()
		stop := beside(t, s, n)
		defer stop()
		s.Started(k, false)
		h.print(k, stdout, "first ", 0)
		time.Sleep(time.Second)
		h.print(k, stdout, "middle ", 0)
		h.print(k, stderr, "err", 0)
		h.print(k, stdout, "the ", 0)
		h.print(k, stderr, "ERR", 0)
		h.print(k, stdout, "end", 0)
		s.Ended(k, End{Stdout: 20, Stderr: 6}, false)
		time.Sleep(time.Second)
		synctest.Wait()
		// What begins before the tail and ends in it comes whole.
		if got, want := n.shown(k), [2]string{"first (7 quota)the end", "errERR"}; got != want || !h.isDone(k) {
			t.Errorf("the node has %q, want %q; finished %v", got, want, n.finish(k))
		}
	})
}

// What cannot be read ends where that begins, and is said to be lost.
func TestDamagedOutputEndsWhereItIsDamaged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, n, k := newHost(), newNode(), Key{"c.1", 1}
		h.bad = errors.New("damaged")
		s := h.sender()
		stop := beside(t, s, n)
		defer stop()
		h.print(k, stdout, "good", 0)
		s.Ended(k, End{Stdout: 100, GapReason: ReasonLimit}, true)
		time.Sleep(time.Second)
		synctest.Wait()
		if got := n.shown(k); got[0] != "good" || n.finish(k).GetGapReason() != ReasonLost || n.finish(k).GetTotals().GetStdout() != 100 {
			t.Errorf("the node has %q, finished %v", got, n.finish(k))
		}
	})
}

// Many that have ended wait for their turn; those that nodes cannot record hold up nobody
// for long.
func TestABacklogIsSentInTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, n := newHost(), newNode()
		n.acks = false
		s := h.sender()
		for i := range 40 {
			k := Key{fmt.Sprintf("c.%d", i), 1}
			h.print(k, stdout, "text", 0)
			s.Ended(k, End{Stdout: 10_000}, true)
		}
		stop := beside(t, s, n)
		defer stop()
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if _, got := n.counts(); got != endedAtOnce {
			t.Errorf("%d attempts were sent at once, want %d", got, endedAtOnce)
		}
		time.Sleep(3 * waitFor)
		synctest.Wait()
		if _, got := n.counts(); got != 40 {
			t.Errorf("%d attempts were sent, want all", got)
		}
	})
}

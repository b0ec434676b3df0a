package sim

import (
	"fmt"
	"slices"
	"strconv"
	"sync"

	"github.com/agentplane/agentplane/agent/execute"
	"github.com/agentplane/agentplane/agent/output"
	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
)

// printing is what the program of an attempt has printed, and what its host keeps of it:
// the begin, and the last part. What is printed is a function of the attempt, the stream
// and the place in it, so that every byte that is shown anywhere can be judged.
type printing struct {
	at execute.Attempt

	mu     sync.Mutex // guards what follows; never held while waiting
	chunks []printed
	ends   [2]uint64
	kept   int  // bytes of the chunks that are not gone
	done   bool // the cluster wants no more of it
}

// printed is a piece of one stream.
type printed struct {
	stream       uint8
	offset, size uint64 // in its stream
	total        uint64 // where it begins in both streams together
	gone         bool   // rotated away
}

const (
	// pieces is in how many parts a program prints, each half stdout and half stderr.
	pieces = 5
	// hostKeeps is how much of an attempt's output a host keeps, of which the first headOf
	// bytes are its begin.
	hostKeeps = 48 << 10
	headOf    = 8 << 10
	// lineBytes is the length of each line.
	lineBytes = 64
)

// printedText is what the attempt prints on the stream at an offset.
func printedText(at execute.Attempt, stream uint8, offset, size uint64) []byte {
	var b []byte
	first := offset / lineBytes
	for line := first; line*lineBytes < offset+size; line++ {
		b = fmt.Appendf(b, "%-*s\n", lineBytes-1, fmt.Sprintf("%s@%d %d: line %d", at.InvocationID, at.Number, stream, line))
	}
	return b[offset-first*lineBytes:][:size]
}

// prints is how much the program prints on each stream; most print nothing.
func prints(argv []string) (size [2]uint64) {
	for i := range size {
		if len(argv) > 3+i {
			size[i], _ = strconv.ParseUint(argv[3+i], 10, 64)
		}
	}
	return size
}

// add prints more on a stream. Of what is then too much the oldest goes that is not the
// begin.
func (p *printing) add(stream uint8, size uint64) {
	const chunk = 4 << 10 // what is read of a pipe at a time
	p.mu.Lock()
	defer p.mu.Unlock()
	for size > 0 {
		n := min(size, chunk)
		p.chunks = append(p.chunks, printed{stream: stream, offset: p.ends[stream-1], size: n, total: p.ends[0] + p.ends[1]})
		p.ends[stream-1] += n
		p.kept += int(n)
		size -= n
	}
	for i := 0; p.kept > hostKeeps; i++ {
		if c := &p.chunks[i]; c.total >= headOf && !c.gone {
			c.gone = true
			p.kept -= int(c.size)
		}
	}
}

// rotated says that the host has thrown away some of a part of the stream.
func (p *printing) rotated(stream uint8, offset, size uint64) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.ContainsFunc(p.chunks, func(c printed) bool {
		return c.stream == stream && c.gone && c.offset < offset+size && offset < c.offset+c.size
	})
}

// state is how much was printed, and whether the cluster has it.
func (p *printing) state() (ends [2]uint64, done bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.ends, p.done
}

// summarize fills in what a result says of the output.
func (p *printing) summarize(r *execute.Result) {
	const most, cost = 4 << 10, 8
	p.mu.Lock()
	defer p.mu.Unlock()
	r.StdoutBytes, r.StderrBytes = p.ends[0], p.ends[1]
	type part struct {
		stream       uint8
		offset, size uint64
	}
	var all []part
	for _, c := range p.chunks {
		if n := len(all); n > 0 && all[n-1].stream == c.stream {
			all[n-1].size += c.size
			continue
		}
		all = append(all, part{c.stream, c.offset, c.size})
	}
	chunk := func(c part) execute.Chunk {
		return execute.Chunk{Stream: c.stream, Data: printedText(p.at, c.stream, c.offset, c.size)}
	}
	for left := uint64(most); len(all) > 0 && left > cost; {
		c := all[0]
		c.size = min(c.size, left-cost)
		left -= cost + c.size
		r.Head = append(r.Head, chunk(c))
		if all[0].offset, all[0].size = all[0].offset+c.size, all[0].size-c.size; all[0].size == 0 {
			all = all[1:]
		}
	}
	for left := uint64(most); len(all) > 0 && left > cost; {
		last := &all[len(all)-1]
		n := min(last.size, left-cost)
		left -= cost + n
		r.Tail = slices.Insert(r.Tail, 0, chunk(part{last.stream, last.offset + last.size - n, n}))
		if last.size -= n; last.size == 0 {
			all = all[:len(all)-1]
		}
	}
}

// keeper is a runner on a host that keeps output.
type keeper struct{ *runner }

// Tail begins to read an attempt's output.
func (k keeper) Tail(a execute.Attempt) (output.Reader, error) {
	return &tail{p: k.h.printing(a)}, nil
}

// Result is what the supervisor has written down of an attempt that has ended.
func (k keeper) Result(a execute.Attempt) (execute.Result, bool) {
	k.h.mu.Lock()
	d := k.h.attempts[a]
	k.h.mu.Unlock()
	if d == nil {
		return execute.Result{}, false
	}
	select {
	case <-d.over:
		return d.result, true
	default:
		return execute.Result{}, false
	}
}

// Keep notes that the cluster wants no more of the output.
func (k keeper) Keep(a execute.Attempt) error {
	if k.dead() {
		return errDead
	}
	p := k.h.printing(a)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.done = true
	return nil
}

// Kept says whether Keep was called.
func (k keeper) Kept(a execute.Attempt) bool {
	_, done := k.h.printing(a).state()
	return done
}

// printing is what an attempt prints on the host.
func (h *Host) printing(a execute.Attempt) *printing {
	h.mu.Lock()
	defer h.mu.Unlock()
	p := h.printings[a]
	if p == nil {
		p = &printing{at: a}
		h.printings[a] = p
	}
	return p
}

// tail reads a printing while it grows.
type tail struct {
	p  *printing
	at int // the next chunk
}

// Next gives the chunks that are next and not gone.
func (t *tail) Next(most int) (all []output.Chunk, err error) {
	t.p.mu.Lock()
	defer t.p.mu.Unlock()
	for size := 0; size < most && t.at < len(t.p.chunks); t.at++ {
		c := t.p.chunks[t.at]
		if c.gone {
			continue
		}
		all = append(all, output.Chunk{
			Stream: agentplanev1.OutputStream(c.stream), Offset: c.offset, Total: c.total, Data: printedText(t.p.at, c.stream, c.offset, c.size),
		})
		size += int(c.size)
	}
	return all, nil
}

// Close does nothing: nothing is held open.
func (*tail) Close() {}

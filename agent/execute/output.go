package execute

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/agentplane/agentplane/proto/frame"
)

const (
	headBytes    = 64 << 10
	readBytes    = 32 << 10 // taken from a pipe at a time
	tailSegments = 4

	// outputHeader is what stands in a frame before the data: where the data begins in
	// all output of the attempt, when it was read (wall clock, nanoseconds), and where it
	// begins in its own stream.
	outputHeader = 24
)

// StoredChunk is output as it lies on disk.
type StoredChunk struct {
	Chunk
	Offset       uint64    // in the output of both streams together
	StreamOffset uint64    // in the chunk's own stream
	At           time.Time // when it was read
}

// recorder stores output in output.0 (the head) and the last few of output.1, output.2
// and so on, and counts all of it. A failing disk stops the storing and nothing else.
type recorder struct {
	d      directory
	limit  int64 // of one tail file
	mu     sync.Mutex
	f      *os.File
	size   int64
	number int
	err    error // why storing ended

	payload, framed []byte // reused: a flood makes no garbage

	total, stdout, stderr, unstored uint64
	sum                             summary
}

func newRecorder(d directory, outputBytes int64) (*recorder, error) {
	r := &recorder{d: d, limit: (outputBytes - headBytes) / tailSegments}
	return r, r.open(0)
}

func (d directory) output(number int) string { return d.path(fileOutput + strconv.Itoa(number)) }

func (r *recorder) open(number int) error {
	f, err := os.OpenFile(r.d.output(number), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	r.f, r.number, r.size = f, number, 0
	return nil
}

// rotate ends the current file and drops the oldest of the tail. A file that is complete
// is fsynced now, so that the end of the program does not wait for all of it.
func (r *recorder) rotate() error {
	if err := errors.Join(r.f.Sync(), r.f.Close()); err != nil {
		return err
	}
	if oldest := r.number + 1 - tailSegments; oldest > 0 {
		if err := os.Remove(r.d.output(oldest)); err != nil {
			return err
		}
	}
	return r.open(r.number + 1)
}

// add counts and, if it can, stores what was read from a stream.
func (r *recorder) add(stream uint8, b []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sum.add(stream, b)
	if r.err == nil {
		r.err = r.store(stream, b)
	}
	if r.err != nil {
		r.unstored += uint64(len(b))
	}
	r.total += uint64(len(b))
	if stream == Stdout {
		r.stdout += uint64(len(b))
	} else {
		r.stderr += uint64(len(b))
	}
}

func (r *recorder) store(stream uint8, b []byte) error {
	limit := r.limit
	if r.number == 0 {
		limit = headBytes
	}
	if r.size+int64(frame.HeaderBytes+outputHeader+len(b)) > limit {
		if err := r.rotate(); err != nil {
			return err
		}
	}
	r.payload = binary.LittleEndian.AppendUint64(r.payload[:0], r.total)
	r.payload = binary.LittleEndian.AppendUint64(r.payload, uint64(time.Now().UnixNano()))
	r.payload = binary.LittleEndian.AppendUint64(r.payload, r.written(stream))
	r.payload = append(r.payload, b...)
	r.framed = frame.Append(r.framed[:0], stream, r.payload)
	n, err := r.f.Write(r.framed)
	r.size += int64(n)
	return err
}

// written is how many bytes of the stream there were before.
func (r *recorder) written(stream uint8) uint64 {
	if stream == Stdout {
		return r.stdout
	}
	return r.stderr
}

// sync makes durable what is stored so far.
func (r *recorder) sync() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err == nil {
		r.err = r.f.Sync()
	}
}

// finish makes durable what is stored and fills in res.
func (r *recorder) finish(res *Result) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := errors.Join(r.f.Sync(), r.f.Close()); err != nil && r.err == nil {
		r.err = err
	}
	res.StdoutBytes, res.StderrBytes, res.Unstored = r.stdout, r.stderr, r.unstored
	res.Head, res.Tail = r.sum.head, r.sum.tail
	if r.err != nil {
		res.say("output could not be stored: %v", r.err)
	}
}

// stored gives what is on disk, in order; offsets show gaps. It ends at the first frame
// that is not whole, which is where a supervisor that is alive may be writing.
func (d directory) stored() iter.Seq2[StoredChunk, error] {
	return func(yield func(StoredChunk, error) bool) {
		numbers, err := d.outputs()
		if err != nil {
			yield(StoredChunk{}, err)
			return
		}
		for _, n := range numbers {
			f, err := os.Open(d.output(n))
			if errors.Is(err, fs.ErrNotExist) {
				continue // rotated away meanwhile
			}
			if err != nil {
				yield(StoredChunk{}, err)
				return
			}
			more := storedIn(f, yield)
			_ = f.Close()
			if !more {
				return
			}
		}
	}
}

func storedIn(f *os.File, yield func(StoredChunk, error) bool) (more bool) {
	r := frame.NewReader(f, outputHeader+readBytes)
	for {
		stream, payload, err := r.Next()
		switch {
		case errors.Is(err, io.EOF) || errors.Is(err, frame.ErrTorn):
			return true
		case err == nil:
			var c StoredChunk
			if c, err = storedChunk(stream, payload); err == nil {
				if !yield(c, nil) {
					return false
				}
				continue
			}
		}
		yield(StoredChunk{}, fmt.Errorf("read %q: %w", f.Name(), err))
		return false
	}
}

// storedChunk is what a frame holds; the data is its own.
func storedChunk(stream uint8, payload []byte) (StoredChunk, error) {
	if len(payload) < outputHeader {
		return StoredChunk{}, fmt.Errorf("frame has %d bytes, at least %d are needed", len(payload), outputHeader)
	}
	return StoredChunk{
		Chunk:        Chunk{Stream: stream, Data: slices.Clone(payload[outputHeader:])},
		Offset:       binary.LittleEndian.Uint64(payload),
		At:           time.Unix(0, int64(binary.LittleEndian.Uint64(payload[8:]))),
		StreamOffset: binary.LittleEndian.Uint64(payload[16:]),
	}, nil
}

// outputs gives the numbers of the output files, ascending.
func (d directory) outputs() ([]int, error) {
	entries, err := os.ReadDir(string(d))
	if err != nil {
		return nil, err
	}
	var numbers []int
	for _, e := range entries {
		if digits, ok := strings.CutPrefix(e.Name(), fileOutput); ok {
			if n, err := strconv.Atoi(digits); err == nil {
				numbers = append(numbers, n)
			}
		}
	}
	slices.Sort(numbers)
	return numbers, nil
}

// salvage fills res with what a dead supervisor has stored.
func (d directory) salvage(res *Result) {
	var sum summary
	var end printed
	var kept uint64
	for c, err := range d.stored() {
		if err != nil {
			res.say("output is incomplete: %v", err)
			break
		}
		if c.Offset > end.total() {
			sum.gap()
		}
		sum.add(c.Stream, c.Data)
		end, kept = c.printed(), kept+uint64(len(c.Data))
	}
	res.StdoutBytes, res.StderrBytes = end.stdout, end.stderr
	if end.total() > kept {
		res.say("%d bytes of output are missing in the middle", end.total()-kept)
	}
	res.Head, res.Tail = sum.head, sum.tail
}

// printed counts the bytes of both streams.
type printed struct{ stdout, stderr uint64 }

func (p printed) total() uint64 { return p.stdout + p.stderr }

func (p printed) plus(q printed) printed { return printed{p.stdout + q.stdout, p.stderr + q.stderr} }

// printed is what there was up to the end of the chunk: what its own stream had not, the
// other one had.
func (c StoredChunk) printed() printed {
	own, other := c.StreamOffset+uint64(len(c.Data)), c.Offset-c.StreamOffset
	if c.Stream == Stdout {
		return printed{own, other}
	}
	return printed{other, own}
}

// behind is the chunk as it stands behind what earlier steps have printed.
func (c StoredChunk) behind(earlier printed) StoredChunk {
	c.Offset += earlier.total()
	if c.Stream == Stdout {
		c.StreamOffset += earlier.stdout
	} else {
		c.StreamOffset += earlier.stderr
	}
	return c
}

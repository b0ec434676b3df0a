package execute

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/agentplane/agentplane/proto/frame"
)

// A Tail reads what is stored of an attempt's output while it grows. It belongs to one
// goroutine, which closes it. A program that writes faster than it is read does not wait:
// what was rotated away meanwhile is passed over, as offsets show. The output of steps
// follows that of the steps before.
type Tail struct {
	r       *Runner
	a       Attempt
	d       directory // of the step that is read
	step    uint32    // its number
	last    uint32    // the highest number that a step may have; 0 before it is known
	earlier printed   // by the steps before
	seen    printed   // of the step, up to where it was read
	number  int       // of the file that is read, or the least that may come next
	f       *os.File  // nil between two
	at      int64     // up to which it was read
	buf     []byte
}

// Tail begins to read an attempt's output. It opens nothing yet.
func (r *Runner) Tail(a Attempt) (*Tail, error) {
	if err := a.Validate(); err != nil {
		return nil, err
	}
	return &Tail{r: r, a: a, d: r.directory(a), step: 1}, nil
}

// Close frees what the tail holds open.
func (t *Tail) Close() {
	if t.f != nil {
		_ = t.f.Close()
		t.f = nil
	}
}

// Next gives the chunks that follow the last ones, of about most bytes, or none when
// there is nothing new yet. When the attempt had ended before the call, none means that
// there is nothing more.
func (t *Tail) Next(most int) ([]StoredChunk, error) {
	var all []StoredChunk
	for size := 0; size < most; {
		c, found, err := t.next()
		if err != nil {
			return all, err
		}
		if !found {
			return all, nil
		}
		all = append(all, c)
		size += len(c.Data)
	}
	return all, nil
}

func (t *Tail) next() (StoredChunk, bool, error) {
	for {
		c, found, err := t.inStep()
		if !found && err == nil {
			step := t.following()
			if step == 0 {
				return StoredChunk{}, false, nil
			}
			// The step is over, but perhaps only since it was read.
			if c, found, err = t.inStep(); !found && err == nil {
				t.enter(step)
				continue
			}
		}
		if !found || err != nil {
			return StoredChunk{}, false, err
		}
		t.seen = c.printed()
		return c.behind(t.earlier), true, nil
	}
}

// following gives the number of the step that has begun after the one that is read; 0 is
// none.
func (t *Tail) following() uint32 {
	if t.last == 0 {
		switch first := t.r.directory(t.a); {
		case first.has(filePlan):
			t.last = maxStepNumber
		case first.has(fileSpec): // which is written after a plan
			t.last = t.step
		default:
			return 0
		}
	}
	return t.r.following(t.a, t.step, t.last)
}

func (t *Tail) enter(step uint32) {
	t.Close()
	t.earlier, t.seen = t.earlier.plus(t.d.printed(t.seen)), printed{}
	t.d, t.step, t.number = t.r.stepDirectory(t.a, step), step, 0
}

// inStep gives the next chunk of the step.
func (t *Tail) inStep() (StoredChunk, bool, error) {
	for {
		if t.f == nil {
			if ok, err := t.open(); !ok {
				return StoredChunk{}, false, err
			}
		}
		c, found, err := t.read()
		if found || err != nil {
			return c, found, err
		}
		if _, more, err := t.from(t.number + 1); !more {
			return StoredChunk{}, false, err
		}
		// A file is complete before the next one is made, but perhaps only since it was
		// read.
		if c, found, err := t.read(); found || err != nil {
			return c, found, err
		}
		t.Close()
		t.number++
	}
}

// from gives the lowest number of a file that is not below number.
func (t *Tail) from(number int) (int, bool, error) {
	numbers, err := t.d.outputs()
	if errors.Is(err, fs.ErrNotExist) {
		return 0, false, nil
	}
	for _, n := range numbers {
		if n >= number {
			return n, true, err
		}
	}
	return 0, false, err
}

// open opens the next file that there is; false says that there is none.
func (t *Tail) open() (bool, error) {
	for {
		n, found, err := t.from(t.number)
		if !found {
			return false, err
		}
		f, err := os.Open(t.d.output(n))
		if errors.Is(err, fs.ErrNotExist) {
			continue // rotated away meanwhile
		}
		if err != nil {
			return false, err
		}
		t.f, t.number, t.at = f, n, 0
		return true, nil
	}
}

// read gives the next whole frame of the file.
func (t *Tail) read() (StoredChunk, bool, error) {
	if t.buf == nil {
		t.buf = make([]byte, frame.HeaderBytes+outputHeader+readBytes)
	}
	n, err := t.f.ReadAt(t.buf, t.at)
	if err != nil && !errors.Is(err, io.EOF) {
		return StoredChunk{}, false, err
	}
	stream, payload, rest, err := frame.Parse(t.buf[:n])
	if errors.Is(err, frame.ErrTorn) || n == 0 {
		return StoredChunk{}, false, nil
	}
	var c StoredChunk
	if err == nil {
		c, err = storedChunk(stream, payload)
	}
	if err != nil {
		return StoredChunk{}, false, fmt.Errorf("read %q at %d: %w", t.f.Name(), t.at, err)
	}
	t.at += int64(n - len(rest))
	return c, true, nil
}

// Result gives what the supervisor has written down of an attempt that has ended, of one
// with steps that of the last; false when there is nothing, or it cannot be read. Unstored
// counts what all of them could not store.
func (r *Runner) Result(a Attempt) (Result, bool) {
	if a.Validate() != nil {
		return Result{}, false
	}
	var last Result
	unstored, found := uint64(0), false
	for _, d := range r.directories(a) {
		var res Result
		if found = d.read(fileExit, typeExit, &res) == nil; found {
			last, unstored = res, unstored+res.Unstored
		}
	}
	last.Unstored = unstored
	return last, found
}

// Keep notes that the cluster has taken all output of an attempt, or wants none of it.
// When the note is lost, the output is offered again.
func (r *Runner) Keep(a Attempt) error {
	if err := a.Validate(); err != nil {
		return err
	}
	f, err := os.OpenFile(r.directory(a).path(fileKept), os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("note that the output of %s is kept: %w", a, err)
	}
	return f.Close()
}

// Kept says whether Keep was called.
func (r *Runner) Kept(a Attempt) bool {
	return a.Validate() == nil && r.directory(a).has(fileKept)
}

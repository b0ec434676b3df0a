package output

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/frame"
)

// state is what the frames of an attempt's file say up to some place.
type state struct {
	ends    Ends
	missing Ends
	sums    [2]hash.Hash
	sealed  bool
}

func newState() state { return state{sums: [2]hash.Hash{sha256.New(), sha256.New()}} }

// count notes a chunk that take has let through.
func (st *state) count(c *agentplanev1.OutputChunk) {
	s, _ := indexOf(c.GetStream())
	st.missing[s] += c.GetGapBytes()
	_, _ = st.sums[s].Write(c.GetData())
}

func (st *state) totals() *agentplanev1.OutputTotals {
	of := func(s int) *agentplanev1.OutputTotal {
		return &agentplanev1.OutputTotal{Bytes: st.ends[s], Missing: st.missing[s], Sha256: st.sums[s].Sum(nil)}
	}
	return &agentplanev1.OutputTotals{Stdout: of(0), Stderr: of(1)}
}

// scan reads an attempt's file up to size, or to where it is damaged: then good is less
// than size, and damage says why.
func scan(path string, size int64) (st state, good int64, damage, err error) {
	st = newState()
	f, err := os.Open(path)
	if err != nil {
		return st, 0, nil, err
	}
	defer f.Close()
	r := frame.NewReader(io.LimitReader(f, size), maxFrameBytes)
	for {
		typ, payload, err := r.Next()
		if errors.Is(err, io.EOF) {
			return st, good, nil, nil
		}
		var corrupt *frame.CorruptError
		if err != nil && !errors.Is(err, frame.ErrTorn) && !errors.As(err, &corrupt) {
			return st, good, nil, err
		}
		if err == nil {
			err = st.frame(typ, payload)
		}
		if err != nil {
			return st, good, fmt.Errorf("at %d: %w", good, err), nil
		}
		good = r.Offset()
	}
}

// frame takes the next frame of a file.
func (st *state) frame(typ byte, payload []byte) error {
	c, end, err := parseChunk(typ, payload)
	switch {
	case err != nil:
		return err
	case st.sealed:
		return errors.New("something follows the end")
	case end:
		st.sealed = true
		return nil
	}
	ends := st.ends
	whole, err := ends.take(c)
	if err != nil {
		return err
	}
	if whole != c {
		return fmt.Errorf("a chunk at %d overlaps what was before", c.GetOffset())
	}
	st.ends = ends
	st.count(c)
	return nil
}

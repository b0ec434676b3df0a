package output

import (
	"fmt"
	"strconv"
	"strings"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
)

// A Key names an attempt of an invocation.
type Key struct {
	Invocation string
	Attempt    uint32
}

func (k Key) String() string { return k.Invocation + "@" + strconv.FormatUint(uint64(k.Attempt), 10) }

const maxIDBytes = 128

// valid says whether the key may become a file name.
func (k Key) valid() error {
	if k.Attempt == 0 || k.Invocation == "" || len(k.Invocation) > maxIDBytes || k.Invocation[0] == '.' {
		return fmt.Errorf("%q attempt %d is no attempt", k.Invocation, k.Attempt)
	}
	for i := range len(k.Invocation) {
		switch c := k.Invocation[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '.', c == '_', c == '-':
		default:
			return fmt.Errorf("invocation id %q has %q", k.Invocation, c)
		}
	}
	return nil
}

func parseKey(name string) (Key, bool) {
	id, number, ok := strings.Cut(name, "@")
	n, err := strconv.ParseUint(number, 10, 32)
	k := Key{Invocation: id, Attempt: uint32(n)}
	return k, ok && err == nil && k.valid() == nil && k.String() == name
}

// Ends is a place in the output of an attempt: so many bytes of stdout and of stderr.
type Ends [2]uint64

func endsOf(p *agentplanev1.OutputEnds) Ends { return Ends{p.GetStdout(), p.GetStderr()} }

// endsIn is how long output is that comes to the totals.
func endsIn(t *agentplanev1.OutputTotals) Ends {
	return Ends{t.GetStdout().GetBytes(), t.GetStderr().GetBytes()}
}

func (e Ends) proto() *agentplanev1.OutputEnds {
	return &agentplanev1.OutputEnds{Stdout: e[0], Stderr: e[1]}
}

// covers says that nothing up to f is beyond e.
func (e Ends) covers(f Ends) bool { return e[0] >= f[0] && e[1] >= f[1] }

func (e Ends) total() uint64 { return e[0] + e[1] }

// take moves e over the chunk, and gives what of it was not there yet. A chunk that
// begins beyond e leaves a hole, and is refused.
func (e *Ends) take(c *agentplanev1.OutputChunk) (*agentplanev1.OutputChunk, error) {
	s, ok := indexOf(c.GetStream())
	if !ok {
		return nil, fmt.Errorf("stream %d is neither stdout nor stderr", c.GetStream())
	}
	n := uint64(len(c.GetData()))
	if n > 0 && c.GetGapBytes() > 0 {
		return nil, fmt.Errorf("a chunk of %s has data and a gap", streamName(s))
	}
	n += c.GetGapBytes()
	end := c.GetOffset() + n
	switch {
	case end < n:
		return nil, fmt.Errorf("a chunk of %s ends beyond all offsets", streamName(s))
	case c.GetOffset() > e[s]:
		return nil, &HoleError{Stream: streamName(s), Want: e[s], Got: c.GetOffset()}
	case end <= e[s]:
		return nil, nil
	}
	if have := e[s] - c.GetOffset(); have > 0 {
		c = &agentplanev1.OutputChunk{Stream: c.GetStream(), Offset: e[s], Data: c.GetData(), GapBytes: c.GetGapBytes(), GapReason: c.GetGapReason()}
		if c.GetGapBytes() > 0 {
			c.GapBytes -= have
		} else {
			c.Data = c.GetData()[have:]
		}
	}
	e[s] = end
	return c, nil
}

// HoleError says that bytes are missing before a chunk.
type HoleError struct {
	Stream    string
	Want, Got uint64
}

func (e *HoleError) Error() string {
	return fmt.Sprintf("%s goes on at %d, its next byte is %d", e.Stream, e.Got, e.Want)
}

func indexOf(s agentplanev1.OutputStream) (int, bool) {
	return int(s) - 1, s == agentplanev1.OutputStream_OUTPUT_STREAM_STDOUT || s == agentplanev1.OutputStream_OUTPUT_STREAM_STDERR
}

func streamOf(i int) agentplanev1.OutputStream { return agentplanev1.OutputStream(i + 1) }

func streamName(i int) string { return [2]string{"stdout", "stderr"}[i] }

// Why output is not kept.
const (
	ReasonQuota    = "quota"
	ReasonDiskFull = "disk_full"
	ReasonLost     = "lost"
)

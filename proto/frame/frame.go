// Package frame is the one binary codec for what agentplane writes to disk:
// log entries, snapshots, boot.state, the agent's journal, and later the spool.
//
// A frame is
//
//	magic 0xA9 | version 1 | type | crc8 | length uint32 LE | crc32c uint32 LE | payload
//
// where crc32c (Castagnoli) covers the first eight bytes and the payload, and
// crc8 the seven others of those eight. A frame that ends early is torn
// ([ErrTorn]): the crash of a writer explains it when it is the last one of a
// file. Anything else that does not fit is corrupt ([CorruptError]) and is not
// what an interrupted append leaves.
//
// The length has a checksum of its own because it is trusted before the payload
// is there: without one, a flipped bit in the length of a frame in the middle of
// a file reads as "torn", and a reader that cuts torn tails throws away
// everything behind it.
//
// Nothing here touches a disk; durability is the caller's.
package frame

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
)

const (
	magic   = 0xA9
	version = 1

	// HeaderBytes is the size of what stands before each payload.
	HeaderBytes = 12
	// MaxPayloadBytes is the largest payload that any frame may have.
	MaxPayloadBytes = 64 << 20
)

// ErrTorn says that the input ends inside a frame.
var ErrTorn = errors.New("frame is torn: the input ends inside it")

// CorruptError says that bytes are not what was written.
type CorruptError struct {
	Offset int64  // of the frame's first byte, from where reading began
	Reason string // a lower-case clause
}

func (e *CorruptError) Error() string {
	return fmt.Sprintf("frame at offset %d is corrupt: %s", e.Offset, e.Reason)
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Append appends one frame to dst and returns the result. It panics when the
// payload is larger than MaxPayloadBytes: callers bound what they write.
func Append(dst []byte, typ byte, payload []byte) []byte {
	if len(payload) > MaxPayloadBytes {
		panic(fmt.Sprintf("frame: payload of %d bytes is above the maximum %d", len(payload), MaxPayloadBytes))
	}
	var h [HeaderBytes]byte
	h[0], h[1], h[2] = magic, version, typ
	binary.LittleEndian.PutUint32(h[4:], uint32(len(payload)))
	h[3] = headerSum(h[:])
	binary.LittleEndian.PutUint32(h[8:], sum(h[:8], payload))
	return append(append(dst, h[:]...), payload...)
}

// Parse takes the first frame off b. The payload aliases b. It returns ErrTorn
// when b ends early (also when b is empty) and a *CorruptError otherwise.
func Parse(b []byte) (typ byte, payload, rest []byte, err error) {
	typ, n, crc, err := parseHeader(b, MaxPayloadBytes)
	if err != nil {
		return 0, nil, nil, err
	}
	if len(b)-HeaderBytes < n {
		return 0, nil, nil, ErrTorn
	}
	payload = b[HeaderBytes : HeaderBytes+n : HeaderBytes+n]
	if sum(b[:8], payload) != crc {
		return 0, nil, nil, &CorruptError{Reason: "checksum differs"}
	}
	return typ, payload, b[HeaderBytes+n:], nil
}

// A Reader reads frames one after another. It is not safe for concurrent use.
type Reader struct {
	r      io.Reader
	limit  int
	offset int64
	buf    []byte
	err    error // the first one, which every later call repeats
}

// NewReader returns a Reader that refuses payloads above limit bytes (which is
// held between 0 and MaxPayloadBytes), so that no length allocates without bound.
func NewReader(r io.Reader, limit int) *Reader {
	return &Reader{r: r, limit: min(max(limit, 0), MaxPayloadBytes)}
}

// Offset is where the next frame begins, counted from where reading began. After
// an error it is where the bad frame begins, which is where a torn file is cut.
func (r *Reader) Offset() int64 { return r.offset }

// Next returns the next frame. The payload is valid until the following call.
// It returns io.EOF at a clean end, ErrTorn when the input ends inside a frame,
// a *CorruptError when the bytes are not a frame, and else the reader's error.
// After an error the place of the next frame is not known, so each later call
// answers the same error.
func (r *Reader) Next() (typ byte, payload []byte, err error) {
	if r.err == nil {
		typ, payload, r.err = r.next()
	}
	if r.err != nil {
		return 0, nil, r.err
	}
	return typ, payload, nil
}

func (r *Reader) next() (typ byte, payload []byte, err error) {
	var h [HeaderBytes]byte
	if _, err := io.ReadFull(r.r, h[:]); err != nil {
		if errors.Is(err, io.ErrUnexpectedEOF) {
			return 0, nil, ErrTorn
		}
		return 0, nil, err
	}
	typ, n, crc, err := parseHeader(h[:], r.limit)
	if err != nil {
		return 0, nil, r.at(err)
	}
	if cap(r.buf) < n {
		r.buf = make([]byte, n)
	}
	payload = r.buf[:n]
	if _, err := io.ReadFull(r.r, payload); err != nil {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return 0, nil, ErrTorn
		}
		return 0, nil, err
	}
	if sum(h[:8], payload) != crc {
		return 0, nil, r.at(&CorruptError{Reason: "checksum differs"})
	}
	r.offset += int64(HeaderBytes + n)
	return typ, payload, nil
}

func (r *Reader) at(err error) error {
	var c *CorruptError
	if errors.As(err, &c) {
		c.Offset = r.offset
	}
	return err
}

func parseHeader(h []byte, limit int) (typ byte, n int, crc uint32, err error) {
	if len(h) < HeaderBytes {
		return 0, 0, 0, ErrTorn
	}
	switch length := binary.LittleEndian.Uint32(h[4:]); {
	case h[0] != magic:
		return 0, 0, 0, &CorruptError{Reason: fmt.Sprintf("magic is %#x, want %#x", h[0], magic)}
	case h[1] != version:
		return 0, 0, 0, &CorruptError{Reason: fmt.Sprintf("version is %d, want %d", h[1], version)}
	case h[3] != headerSum(h):
		return 0, 0, 0, &CorruptError{Reason: "checksum of the header differs"}
	case length > uint32(limit):
		return 0, 0, 0, &CorruptError{Reason: fmt.Sprintf("length is %d, at most %d is allowed", length, limit)}
	default:
		return h[2], int(length), binary.LittleEndian.Uint32(h[8:]), nil
	}
}

func sum(header, payload []byte) uint32 {
	return crc32.Update(crc32.Checksum(header, castagnoli), castagnoli, payload)
}

// headerSum is the CRC-8 (polynomial 0x07) of the first eight bytes of h but the
// fourth, where it is kept itself.
func headerSum(h []byte) byte {
	var c byte
	for i, b := range h[:8] {
		if i == 3 {
			continue
		}
		c = crc8[c^b]
	}
	return c
}

var crc8 = func() (t [256]byte) {
	for i := range t {
		c := byte(i)
		for range 8 {
			if c&0x80 != 0 {
				c = c<<1 ^ 0x07
			} else {
				c <<= 1
			}
		}
		t[i] = c
	}
	return t
}()

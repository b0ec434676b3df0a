package journal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/agentplane/agentplane/proto/frame"
)

// load reads a journal file of size bytes. cut is how many bytes at its end are an
// append that a crash interrupted. The error is a *DamageError, a *FormatError, or
// what reading gave; then nothing is known.
func load(name string, r io.ReaderAt, size int64) (s *state, cut int64, err error) {
	l := &loader{name: name, r: frame.NewReader(io.NewSectionReader(r, 0, size), maxPayloadBytes)}
	count, err := l.header()
	if err != nil {
		return nil, 0, err
	}
	for range count {
		if err := l.attempt(); err != nil {
			return nil, 0, err
		}
	}
	for {
		at := l.r.Offset()
		typ, payload, err := l.r.Next()
		switch {
		case errors.Is(err, io.EOF):
			return &l.s, 0, nil
		case isBadFrame(err):
			torn, rerr := interrupted(r, at, size, l.s.id)
			if rerr != nil {
				return nil, 0, rerr
			}
			if !torn {
				return nil, 0, l.damage(at, err.Error())
			}
			return &l.s, size - at, nil
		case err != nil:
			return nil, 0, err
		}
		if typ != frameAppend {
			return nil, 0, l.damage(at, fmt.Sprintf("frame type %d where an append must be", typ))
		}
		if err := l.append(at, payload); err != nil {
			return nil, 0, err
		}
	}
}

type loader struct {
	name   string
	r      *frame.Reader
	format uint64
	s      state
}

func (l *loader) damage(at int64, reason string) error {
	return &DamageError{File: l.name, Offset: at, Reason: reason}
}

func isBadFrame(err error) bool {
	var c *frame.CorruptError
	return errors.Is(err, frame.ErrTorn) || errors.As(err, &c)
}

// must reads a frame that was fsynced before the file had its name: nothing about it
// can be explained by a crash.
func (l *loader) must(want byte) (at int64, payload []byte, err error) {
	at = l.r.Offset()
	typ, payload, err := l.r.Next()
	switch {
	case errors.Is(err, io.EOF) || isBadFrame(err):
		return at, nil, l.damage(at, err.Error())
	case err != nil:
		return at, nil, err
	case typ != want:
		return at, nil, l.damage(at, fmt.Sprintf("frame type is %d, want %d", typ, want))
	}
	return at, payload, nil
}

func (l *loader) header() (count uint64, err error) {
	at, payload, err := l.must(frameHeader)
	if err != nil {
		return 0, err
	}
	h, err := decodeHeader(payload)
	switch {
	case err != nil:
		return 0, l.damage(at, err.Error())
	case h.Format > format:
		return 0, &FormatError{File: l.name, Format: h.Format}
	}
	l.format = h.Format
	l.s = state{id: h.ID, seq: h.Seq, hasFloor: h.HasFloor, floor: h.Floor, epoch: h.Epoch, records: make(map[Key]*entry)}
	return h.Count, nil
}

func (l *loader) attempt() error {
	at, payload, err := l.must(frameAttempt)
	if err != nil {
		return err
	}
	id, r, outAt, err := decodeAttempt(l.format, payload)
	switch {
	case err != nil:
		return l.damage(at, err.Error())
	case id != l.s.id:
		return l.damage(at, fmt.Sprintf("attempt of journal %s in journal %s", id, l.s.id))
	case l.s.records[r.Key] != nil:
		return l.damage(at, "the same attempt twice")
	}
	l.s.records[r.Key] = &entry{Record: r, out: locate(at+frame.HeaderBytes+int64(outAt), payload[outAt:])}
	return nil
}

func (l *loader) append(at int64, payload []byte) error {
	id, first, muts, err := decodeAppend(payload)
	switch {
	case err != nil:
		return l.damage(at, err.Error())
	case id != l.s.id:
		return l.damage(at, fmt.Sprintf("append of journal %s in journal %s", id, l.s.id))
	case first != l.s.seq+1:
		return l.damage(at, fmt.Sprintf("append begins with seq %d, want %d", first, l.s.seq+1))
	}
	for i := range muts {
		if err := l.s.check(&muts[i]); err != nil {
			return l.damage(at, err.Error())
		}
		l.s.apply(&muts[i], at+frame.HeaderBytes)
	}
	return nil
}

// interrupted says whether the bytes from a bad frame at offset to the end of the
// file may be the append that a crash interrupted. They may not be when they are more
// than one append, when the frame itself says that it ended earlier, or when a whole
// frame of this journal follows: then bytes have changed that were once fsynced.
func interrupted(r io.ReaderAt, offset, size int64, id ID) (bool, error) {
	n := size - offset
	if n > frame.HeaderBytes+maxPayloadBytes {
		return false, nil
	}
	rest := make([]byte, n)
	if _, err := r.ReadAt(rest, offset); err != nil && !errors.Is(err, io.EOF) {
		return false, err
	}
	return mayBeTorn(rest, id), nil
}

func mayBeTorn(rest []byte, id ID) bool {
	if endsEarly(rest) {
		return false
	}
	for i := 1; i < len(rest); i++ {
		next := bytes.IndexByte(rest[i:], frameStart[0])
		if next < 0 {
			break
		}
		i += next
		if _, payload, _, err := frame.Parse(rest[i:]); err == nil && bytes.HasPrefix(payload, id[:]) {
			return false
		}
	}
	return true
}

// frameStart is how every frame begins: magic and version.
var frameStart = frame.Append(nil, 0, nil)[:2]

// endsEarly says that b begins with a sound frame header whose frame ends before b does.
func endsEarly(b []byte) bool {
	if len(b) < frame.HeaderBytes {
		return false
	}
	var c *frame.CorruptError
	if _, _, _, err := frame.Parse(b[:frame.HeaderBytes]); errors.As(err, &c) {
		return false
	}
	return frame.HeaderBytes+int64(binary.LittleEndian.Uint32(b[4:])) < int64(len(b))
}

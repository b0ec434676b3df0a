package output

import (
	"encoding/binary"
	"fmt"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/frame"
)

// Frame types of an attempt's file and of the wal.
const (
	frameData   = 1 // stream, offset, data
	frameGap    = 2 // stream, offset, bytes, reason
	frameEnd    = 3 // nothing: the output has ended
	frameAppend = 4 // place in the file, length of the key, key, frames for the file
	frameRemove = 5 // key
)

const (
	// maxChunkBytes bounds the data of one chunk, and maxAppendBytes of one append.
	maxChunkBytes  = 256 << 10
	maxAppendBytes = 512 << 10
	maxReasonBytes = 64
	maxFrameBytes  = maxAppendBytes + 64<<10
)

// appendChunk adds the chunk's frame to b.
func appendChunk(b []byte, c *agentplanev1.OutputChunk) []byte {
	payload := binary.LittleEndian.AppendUint64([]byte{byte(c.GetStream())}, c.GetOffset())
	if c.GetGapBytes() == 0 {
		return frame.Append(b, frameData, append(payload, c.GetData()...))
	}
	payload = binary.LittleEndian.AppendUint64(payload, c.GetGapBytes())
	return frame.Append(b, frameGap, append(payload, c.GetGapReason()...))
}

func appendEnd(b []byte) []byte { return frame.Append(b, frameEnd, nil) }

// parseChunk reads a frame of an attempt's file. end says that it is the last one. Data
// is not copied.
func parseChunk(typ byte, payload []byte) (c *agentplanev1.OutputChunk, end bool, err error) {
	if typ == frameEnd && len(payload) == 0 {
		return nil, true, nil
	}
	if len(payload) < 9 {
		return nil, false, fmt.Errorf("a frame of type %d has %d bytes, which is too short", typ, len(payload))
	}
	c = &agentplanev1.OutputChunk{Stream: agentplanev1.OutputStream(payload[0]), Offset: binary.LittleEndian.Uint64(payload[1:])}
	payload = payload[9:]
	switch {
	case typ == frameData && len(payload) > 0:
		c.Data = payload
	case typ == frameGap && len(payload) >= 8:
		c.GapBytes, c.GapReason = binary.LittleEndian.Uint64(payload), string(payload[8:])
	default:
		return nil, false, fmt.Errorf("a frame of type %d has %d bytes behind its offset", typ, len(payload))
	}
	return c, false, nil
}

// walAppend is a record of the wal: these bytes belong at this place of the key's file.
type walAppend struct {
	key    Key
	at     int64
	frames []byte
}

func (r walAppend) append(b []byte) []byte {
	name := r.key.String()
	payload := binary.LittleEndian.AppendUint64(nil, uint64(r.at))
	payload = binary.LittleEndian.AppendUint16(payload, uint16(len(name)))
	return frame.Append(b, frameAppend, append(append(payload, name...), r.frames...))
}

func appendRemove(b []byte, k Key) []byte { return frame.Append(b, frameRemove, []byte(k.String())) }

// parseRecord reads a frame of the wal. removed says that the key's file was removed.
func parseRecord(typ byte, payload []byte) (r walAppend, removed bool, err error) {
	ok := false
	switch typ {
	case frameRemove:
		r.key, ok = parseKey(string(payload))
		removed = true
	case frameAppend:
		if len(payload) < 10 {
			break
		}
		r.at = int64(binary.LittleEndian.Uint64(payload))
		n := int(binary.LittleEndian.Uint16(payload[8:]))
		if payload = payload[10:]; n > len(payload) || r.at < 0 || r.at > maxFileBytes {
			break
		}
		r.key, ok = parseKey(string(payload[:n]))
		r.frames = payload[n:]
	}
	if !ok {
		return walAppend{}, false, fmt.Errorf("a record of type %d with %d bytes is none", typ, len(payload))
	}
	return r, removed, nil
}

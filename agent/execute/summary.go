package execute

import "slices"

const (
	summaryBytes = 4 << 10 // of head, and of tail
	chunkCost    = 8       // that each chunk counts besides its data
)

// summary keeps how output begins and ends, in bounded memory.
type summary struct {
	head, tail         []Chunk
	headCost, tailCost int
	headFull           bool
}

// add takes the next output; b may be used again afterwards.
func (s *summary) add(stream uint8, b []byte) {
	if !s.headFull {
		n := min(len(b), summaryBytes-s.headCost-chunkCost)
		s.head, s.headCost = push(s.head, s.headCost, stream, b[:max(n, 0)])
		b = b[max(n, 0):]
		s.headFull = len(b) > 0
	}
	s.tail, s.tailCost = push(s.tail, s.tailCost, stream, b[max(0, len(b)-summaryBytes):])
	for s.tailCost > summaryBytes {
		first := &s.tail[0]
		over := s.tailCost - summaryBytes
		if over < len(first.Data) {
			first.Data = slices.Delete(first.Data, 0, over) // in place: a flood makes no garbage
			s.tailCost -= over
			return
		}
		s.tailCost -= len(first.Data) + chunkCost
		s.tail = s.tail[1:]
	}
}

// gap says that what comes next does not follow what came last.
func (s *summary) gap() {
	s.headFull, s.tail, s.tailCost = true, nil, 0
}

// join takes the head and the tail of output that had total bytes.
func (s *summary) join(head, tail []Chunk, total uint64) {
	kept := uint64(0)
	for _, c := range head {
		s.add(c.Stream, c.Data)
		kept += uint64(len(c.Data))
	}
	for _, c := range tail {
		kept += uint64(len(c.Data))
	}
	if kept < total {
		s.gap()
	}
	for _, c := range tail {
		s.add(c.Stream, c.Data)
	}
}

// push appends b to the last chunk, if that is of the same stream, or as a new one.
func push(chunks []Chunk, cost int, stream uint8, b []byte) ([]Chunk, int) {
	switch last := len(chunks) - 1; {
	case len(b) == 0:
		return chunks, cost
	case last >= 0 && chunks[last].Stream == stream:
		chunks[last].Data = append(chunks[last].Data, b...)
		return chunks, cost + len(b)
	default:
		return append(chunks, Chunk{Stream: stream, Data: slices.Clone(b)}), cost + len(b) + chunkCost
	}
}

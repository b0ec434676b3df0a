// Package raftlogv1 is what lies on disk: entries of the replicated log and rows of
// the state. It is generated from the .proto files beside it, but for the seal of
// entries and the numbers of mutations.
package raftlogv1

import (
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/agentplane/agentplane/proto/frame"
)

const (
	// EntryFormat is the format of the entries that this build writes.
	EntryFormat = 1
	// MaxMutations bounds the mutations of one entry: the ordinal is eight bits.
	MaxMutations = 256
	// MaxMutationBytes bounds one mutation.
	MaxMutationBytes = 256 << 10

	frameEntry = 'E'
)

// Seal returns the bytes of e as they lie in the log: one frame with a checksum.
func Seal(e *Entry) ([]byte, error) {
	if n := len(e.GetMutations()); n > MaxMutations {
		return nil, fmt.Errorf("seal entry: %d mutations are above the maximum %d", n, MaxMutations)
	}
	b, err := proto.Marshal(e)
	if err != nil {
		return nil, fmt.Errorf("seal entry: %w", err)
	}
	return frame.Append(make([]byte, 0, frame.HeaderBytes+len(b)), frameEntry, b), nil
}

// Check verifies the checksum of a sealed entry without decoding it.
func Check(sealed []byte) error {
	_, err := payload(sealed)
	return err
}

// Unseal returns the entry that Seal wrote, or why the bytes are not one.
func Unseal(sealed []byte) (*Entry, error) {
	b, err := payload(sealed)
	if err != nil {
		return nil, err
	}
	e := new(Entry)
	if err := proto.Unmarshal(b, e); err != nil {
		return nil, fmt.Errorf("unseal entry: %w", err)
	}
	return e, nil
}

func payload(sealed []byte) ([]byte, error) {
	typ, b, rest, err := frame.Parse(sealed)
	switch {
	case err != nil:
		return nil, fmt.Errorf("unseal entry: %w", err)
	case typ != frameEntry:
		return nil, fmt.Errorf("unseal entry: frame has type %q, want %q", typ, byte(frameEntry))
	case len(rest) != 0:
		return nil, fmt.Errorf("unseal entry: %d bytes follow it", len(rest))
	}
	return b, nil
}

// Number is the number of the mutation with the given ordinal in the entry at
// index: what epochs and fences are. Numbers of one cluster are ordered as
// (incarnation, index, ordinal), and no two mutations share one.
func Number(incarnation uint32, index uint64, ordinal int) uint64 {
	return uint64(incarnation)<<52 | index<<8 | uint64(ordinal)
}

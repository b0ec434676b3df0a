package blob

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
)

// Check compares a content, as it comes, with its name.
type Check struct {
	ref Ref
	sum hash.Hash
	n   int64
}

// NewCheck returns a Check for a content of the name.
func NewCheck(r Ref) *Check { return &Check{ref: r, sum: sha256.New()} }

// Add takes the next bytes. More than there may be are refused at once; the error wraps
// ErrMismatch.
func (c *Check) Add(b []byte) error {
	if c.n += int64(len(b)); c.n > c.ref.Size {
		return fmt.Errorf("%w: %s has more than that", ErrMismatch, c.ref)
	}
	c.sum.Write(b)
	return nil
}

// Done says whether all that came is what the name says; the error wraps ErrMismatch.
func (c *Check) Done() error {
	switch sum := hex.EncodeToString(c.sum.Sum(nil)); {
	case c.n != c.ref.Size:
		return fmt.Errorf("%w: of %s %d bytes came", ErrMismatch, c.ref, c.n)
	case sum != c.ref.Sum:
		return fmt.Errorf("%w: %s came as %.12s", ErrMismatch, c.ref, sum)
	}
	return nil
}

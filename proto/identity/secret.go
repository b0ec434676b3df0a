package identity

import (
	"bytes"
	"crypto/subtle"
	"errors"
	"fmt"
	"log/slog"
)

const redacted = "[redacted]"

// Secret holds bytes that must not be printed, logged or encoded by accident.
// The zero value is empty.
type Secret struct {
	// A function, because fmt prints what stands in unexported fields without
	// asking any method, and follows a pointer when the verb does not fit it.
	// Of a function it knows but the address.
	bytes func() []byte
}

// NewSecret returns a Secret with a copy of b.
func NewSecret(b []byte) Secret {
	if len(b) == 0 {
		return Secret{}
	}
	c := bytes.Clone(b)
	return Secret{bytes: func() []byte { return c }}
}

// Reveal returns a copy of the bytes.
func (s Secret) Reveal() []byte {
	if s.bytes == nil {
		return nil
	}
	return bytes.Clone(s.bytes())
}

// Len returns the number of bytes.
func (s Secret) Len() int {
	if s.bytes == nil {
		return 0
	}
	return len(s.bytes())
}

// Equal compares in constant time (but for the lengths).
func (s Secret) Equal(other Secret) bool {
	return subtle.ConstantTimeCompare(s.Reveal(), other.Reveal()) == 1
}

// String returns a constant.
func (s Secret) String() string { return redacted }

// Format prints a constant, whatever the verb.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(redacted)) }

// LogValue gives logs a constant.
func (s Secret) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText fails: an encoder that wrote a constant would lose the secret, and
// one that wrote the bytes would leak it.
func (s Secret) MarshalText() ([]byte, error) {
	return nil, errors.New("a secret is not marshalled by accident; use Reveal")
}

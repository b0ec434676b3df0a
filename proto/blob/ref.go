package blob

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
)

// Bounds of what a command brings along.
const (
	// MaxBytes bounds one blob.
	MaxBytes = 16 << 20
	// MaxFiles bounds the files of a command.
	MaxFiles = 16
	// MaxPathBytes bounds the path of a file on the host.
	MaxPathBytes = 1024
	// MaxMode is what the permission bits of a file may be: no program gets another user's
	// rights by being sent.
	MaxMode = 0o777
	// DefaultMode is that of a file that says none.
	DefaultMode = 0o644
	// ChunkBytes is how much of a blob goes in one message.
	ChunkBytes = 256 << 10
)

var (
	// ErrInvalid says that a name is none, or that a file cannot be put where it shall be.
	ErrInvalid = errors.New("it cannot be sent")
	// ErrMismatch says that a content is another one than its name says.
	ErrMismatch = errors.New("the content is another one than its name says")
)

// Ref names a blob. The zero value is none.
type Ref struct {
	// Sum is its SHA-256, in 64 hexadecimal digits.
	Sum  string
	Size int64
}

func (r Ref) String() string { return fmt.Sprintf("%.12s (%d bytes)", r.Sum, r.Size) }

// Proto is the name as it travels.
func (r Ref) Proto() *agentplanev1.Blob {
	return &agentplanev1.Blob{Sha256: r.Sum, Size: uint64(r.Size)}
}

// FromProto reads a name that has travelled; the error wraps ErrInvalid.
func FromProto(b *agentplanev1.Blob) (Ref, error) {
	if !isSum(b.GetSha256()) {
		return Ref{}, fmt.Errorf("%w: SHA-256 %.80q has not 64 hexadecimal digits, small ones", ErrInvalid, b.GetSha256())
	}
	if b.GetSize() > MaxBytes {
		return Ref{}, fmt.Errorf("%w: %.12s has %d bytes, at most %d are allowed", ErrInvalid, b.GetSha256(), b.GetSize(), MaxBytes)
	}
	return Ref{Sum: b.GetSha256(), Size: int64(b.GetSize())}, nil
}

func isSum(s string) bool {
	return len(s) == hex.EncodedLen(sha256.Size) && strings.Trim(s, "0123456789abcdef") == ""
}

// Of reads a content to its end and names it. One above MaxBytes is an error, whose text
// says so.
func Of(content io.Reader) (Ref, error) {
	h := sha256.New()
	n, err := io.Copy(h, io.LimitReader(content, MaxBytes+1))
	switch {
	case err != nil:
		return Ref{}, err
	case n > MaxBytes:
		return Ref{}, fmt.Errorf("it has more than the %d bytes that are allowed", MaxBytes)
	}
	return Ref{Sum: hex.EncodeToString(h.Sum(nil)), Size: n}, nil
}

// CheckFile says why a file of a command cannot be put in place anywhere; the error wraps
// ErrInvalid.
func CheckFile(f *agentplanev1.File) error {
	switch p := f.GetPath(); {
	case !strings.HasPrefix(p, "/"):
		return fmt.Errorf("%w: file %.100q: the path on the host is not absolute", ErrInvalid, p)
	case len(p) > MaxPathBytes:
		return fmt.Errorf("%w: file %.40q…: the path has %d bytes, at most %d are allowed", ErrInvalid, p, len(p), MaxPathBytes)
	case strings.IndexByte(p, 0) >= 0:
		return fmt.Errorf("%w: file %.100q: the path has a zero byte", ErrInvalid, p)
	case path.Clean(p) != p || p == "/":
		return fmt.Errorf("%w: file %.100q: the path has .., . or / too many in it; write it as %q", ErrInvalid, p, path.Clean(p))
	case f.GetMode() > MaxMode:
		return fmt.Errorf("%w: file %.100q: mode %#o is above %#o", ErrInvalid, p, f.GetMode(), MaxMode)
	}
	_, err := FromProto(f.GetContent())
	if err != nil {
		return fmt.Errorf("file %.100q: %w", f.GetPath(), err)
	}
	return nil
}

// CheckBrought says what is wrong with what a command brings along, and gives the blobs
// that it names, each once and ascending.
func CheckBrought(s *agentplanev1.CommandSpec) ([]Ref, error) {
	if n := len(s.GetFiles()); n > MaxFiles {
		return nil, fmt.Errorf("%w: %d files are above the maximum %d", ErrInvalid, n, MaxFiles)
	}
	var refs set
	places := map[string]bool{}
	for _, f := range s.GetFiles() {
		if err := CheckFile(f); err != nil {
			return nil, err
		}
		if places[f.GetPath()] {
			return nil, fmt.Errorf("%w: two files shall be %.100q", ErrInvalid, f.GetPath())
		}
		places[f.GetPath()] = true
		if err := refs.add(f.GetContent()); err != nil {
			return nil, err
		}
	}
	if s.GetStdin() != nil {
		if err := refs.add(s.GetStdin()); err != nil {
			return nil, fmt.Errorf("standard input: %w", err)
		}
	}
	return refs.sorted(), nil
}

package execute

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

var (
	// ErrInvalid says that a spec or an id cannot be used; the text says why.
	ErrInvalid = errors.New("invalid attempt")
	// ErrExists says that the attempt's directory is already there, so nothing was
	// started; Adopt tells what became of the attempt.
	ErrExists = errors.New("the attempt has a directory already")
	// ErrRunning says that the attempt's supervisor is alive.
	ErrRunning = errors.New("the attempt is running")
)

// maxIDBytes bounds ids that become file names.
const maxIDBytes = 128

// An Attempt names one attempt of an invocation.
type Attempt struct {
	InvocationID string
	Number       uint32
}

func (a Attempt) String() string {
	return strconv.Quote(a.InvocationID) + " attempt " + strconv.FormatUint(uint64(a.Number), 10)
}

// Validate says whether the invocation id, which comes from outside, may become part of
// a file name: letters, digits, '.', '_' and '-', at most 128 bytes, no '.' in front.
func (a Attempt) Validate() error {
	id := a.InvocationID
	switch {
	case id == "" || len(id) > maxIDBytes:
		return fmt.Errorf("%w: invocation id %.40q has %d bytes, 1 to %d are allowed", ErrInvalid, id, len(id), maxIDBytes)
	case id[0] == '.':
		return fmt.Errorf("%w: invocation id %q begins with a dot", ErrInvalid, id)
	}
	for i := range len(id) {
		switch c := id[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '.', c == '_', c == '-':
		default:
			return fmt.Errorf("%w: invocation id %q has %q; letters, digits, '.', '_' and '-' are allowed", ErrInvalid, id, c)
		}
	}
	return nil
}

// dirName is unique: '@' is in no id.
func (a Attempt) dirName() string {
	return a.InvocationID + "@" + strconv.FormatUint(uint64(a.Number), 10)
}

// stepName is the name of the directory of a step. That of the first is the attempt's.
func (a Attempt) stepName(step uint32) string { return a.dirName() + stepSuffix(step) }

func stepSuffix(step uint32) string {
	if step <= 1 {
		return ""
	}
	return "." + strconv.FormatUint(uint64(step), 10)
}

// parseDirName says whose directory it is, and of which step.
func parseDirName(name string) (a Attempt, step uint32, ok bool) {
	id, numbers, ok := strings.Cut(name, "@")
	number, suffix, stepped := strings.Cut(numbers, ".")
	n, err := strconv.ParseUint(number, 10, 32)
	s := uint64(1)
	if stepped && err == nil {
		s, err = strconv.ParseUint(suffix, 10, 32)
	}
	a, step = Attempt{InvocationID: id, Number: uint32(n)}, uint32(s)
	return a, step, ok && err == nil && a.Validate() == nil && a.stepName(step) == name
}

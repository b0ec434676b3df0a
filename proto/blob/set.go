package blob

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
)

// set is a set of names. One hash has one size.
type set map[string]Ref

func (s *set) add(b *agentplanev1.Blob) error {
	r, err := FromProto(b)
	if err != nil {
		return err
	}
	if *s == nil {
		*s = set{}
	}
	if have, found := (*s)[r.Sum]; found && have != r {
		return fmt.Errorf("%w: %s is also said to have %d bytes", ErrInvalid, r, have.Size)
	}
	(*s)[r.Sum] = r
	return nil
}

func (s *set) sorted() []Ref {
	return slices.SortedFunc(maps.Values(*s), func(a, b Ref) int { return strings.Compare(a.Sum, b.Sum) })
}

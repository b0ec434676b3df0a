// Package agentplanev1 is the API of agentplane: what agents, operators and nodes
// say to a node. It is generated from the .proto files beside it, but for refusals
// and short names.
package agentplanev1

import (
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Refusal returns the gRPC error with which a call is refused: code and detail for
// programs, the sentence for people.
func Refusal(code codes.Code, detail *ErrorDetail, format string, args ...any) error {
	s := status.Newf(code, format, args...)
	with, err := s.WithDetails(detail)
	if err != nil {
		return s.Err() // only for OK or a detail that cannot be marshalled
	}
	return with.Err()
}

// DetailOf returns the detail of a refusal, or nil.
func DetailOf(err error) *ErrorDetail {
	s, ok := status.FromError(err)
	if !ok {
		return nil
	}
	for _, d := range s.Details() {
		if detail, ok := d.(*ErrorDetail); ok {
			return detail
		}
	}
	return nil
}

// ShortName is the name of a state without the prefix of its type, as in
// "SUCCEEDED".
func (s AttemptState) ShortName() string { return short("ATTEMPT_STATE_", s.String()) }

// ShortName is the name of a state without the prefix of its type.
func (s CommandState) ShortName() string { return short("COMMAND_STATE_", s.String()) }

func short(prefix, name string) string {
	if len(name) > len(prefix) && name[:len(prefix)] == prefix {
		return name[len(prefix):]
	}
	return fmt.Sprintf("STATE(%s)", name)
}

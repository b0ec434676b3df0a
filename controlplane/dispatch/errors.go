package dispatch

import (
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
)

// endError says why a stream ends; it is the status that the agent gets.
type endError struct {
	code   codes.Code
	reason string
	text   string
	retry  time.Duration
}

func (e *endError) Error() string { return fmt.Sprintf("session ended (%s): %s", e.reason, e.text) }

// GRPCStatus makes grpc answer it with details.
func (e *endError) GRPCStatus() *status.Status {
	s := status.New(e.code, e.text)
	if with, err := s.WithDetails(&agentplanev1.ErrorDetail{Reason: e.reason, RetryAfterMs: milliseconds(e.retry)}); err == nil {
		return with
	}
	return s
}

// refusal is said to the agent as Refused before the stream ends, or, with again,
// before it tries once more on the same stream.
type refusal struct {
	reason string
	detail string
	retry  time.Duration
	epoch  uint64
	again  bool
}

func (r *refusal) Error() string { return fmt.Sprintf("session refused (%s): %s", r.reason, r.detail) }

func (r *refusal) message(now int64) *agentplanev1.SessionResponse {
	return &agentplanev1.SessionResponse{Message: &agentplanev1.SessionResponse_Refused{Refused: &agentplanev1.Refused{
		Reason: r.reason, Detail: r.detail, RetryAfterMs: milliseconds(r.retry), SessionEpoch: r.epoch, Again: r.again, Now: now,
	}}}
}

// end is the status that follows a refusal that ends the stream.
func (r *refusal) end() *endError {
	e := &endError{code: codes.FailedPrecondition, reason: r.reason, text: r.detail, retry: r.retry}
	switch r.reason {
	case "rate":
		e.code = codes.ResourceExhausted
	case "not_ready":
		e.code = codes.Unavailable
	case "removed", "blocked", "clone":
		e.code = codes.PermissionDenied
	}
	return e
}

func milliseconds(d time.Duration) uint32 {
	if d <= 0 {
		return 0
	}
	return uint32(min(int64(d/time.Millisecond)+1, 1<<31))
}

// reasonOf is the word of an end, for the session's row.
func reasonOf(err error) string {
	if e := (*endError)(nil); errors.As(err, &e) {
		return e.reason
	}
	return "stream_broken"
}

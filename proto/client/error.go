package client

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/identity"
)

// Error is what a call came to. Callers look at Code, Reason and OutcomeUnknown,
// people at Message and Hint.
type Error struct {
	Code codes.Code
	// Reason is a stable word from the node, like "no_leader"; empty when no node
	// gave one.
	Reason  string
	Message string
	// Hint is what to type next; may be empty.
	Hint string
	// OutcomeUnknown says that a write may or may not have taken effect. Sending
	// the same content again is safe.
	OutcomeUnknown bool
	LeaderID       string
	LeaderAddress  string
	// RetryAfter is how long the node asks to wait; zero when it does not.
	RetryAfter time.Duration
	// Address is the node that the last try went to; empty when there was none.
	Address string

	appliedIndex uint64
	again        bool // another node may be tried
	answered     bool // a node said this
	hopeless     bool // trying this address again soon will not help
	cause        error
}

// Error returns the message.
func (e *Error) Error() string { return e.Message }

// Unwrap returns what broke the connection, where something did.
func (e *Error) Unwrap() error { return e.cause }

// GRPCStatus lets status.FromError and status.Code see the code.
func (e *Error) GRPCStatus() *status.Status { return status.New(e.Code, e.Message) }

var (
	errFrozen    = errors.New("the node does not answer")
	errClosed    = errors.New("the client is closed")
	errReadTry   = errors.New("the read took too long")
	errConnEnded = errors.New("the connection has ended")
)

// refusals are the codes that, even without details, a node gives before it does
// anything. After any other one a write may have taken effect.
var refusals = []codes.Code{
	codes.InvalidArgument, codes.NotFound, codes.AlreadyExists, codes.PermissionDenied,
	codes.Unauthenticated, codes.FailedPrecondition, codes.Unimplemented,
	codes.ResourceExhausted, codes.OutOfRange, codes.Aborted,
}

// tryError says what one try on an open connection came to. For a write, sent
// says whether the request was handed to the connection.
func tryError(err error, address string, write, sent bool) *Error {
	st := status.Convert(err)
	e := &Error{Code: st.Code(), Message: st.Message(), Address: address, cause: err}
	for _, d := range st.Details() {
		if d, ok := d.(*agentplanev1.ErrorDetail); ok {
			e.Reason, e.Hint = d.Reason, d.Hint
			e.LeaderID, e.LeaderAddress = d.LeaderId, d.LeaderAddress
			e.RetryAfter = time.Duration(d.RetryAfterMs) * time.Millisecond
			e.OutcomeUnknown = d.OutcomeUnknown && write
			e.appliedIndex = d.AppliedIndex
			e.answered = true
			e.cause = nil
		}
	}
	if !e.answered {
		e.OutcomeUnknown = write && sent && !slices.Contains(refusals, e.Code)
		e.answered = slices.Contains(refusals, e.Code)
	}
	e.again = e.Code == codes.Unavailable
	return e
}

// saysNoLeader reports whether a node that was up to date enough to judge, or held the
// call as long as it does, answered that nobody leads: nothing has happened.
func (e *Error) saysNoLeader() bool {
	return e.answered && (e.Reason == "no_leader" || e.Reason == "no_quorum" || e.Reason == "catching_up")
}

// connectError says why there was no connection: nothing was sent.
func connectError(err error, address string) *Error {
	return &Error{
		Code: codes.Unavailable, Message: err.Error(), Address: address,
		again: true, hopeless: distrusted(err), cause: err,
	}
}

// distrusted reports whether one side refused the certificate of the other.
func distrusted(err error) bool {
	for _, verdict := range []error{
		identity.ErrBadCertificate, identity.ErrWrongCluster, identity.ErrWrongKind, identity.ErrWrongNode,
		identity.ErrKeyNotRegistered, identity.ErrUnknownCA, identity.ErrExpired, identity.ErrNoCertificate,
	} {
		if errors.Is(err, verdict) {
			return true
		}
	}
	var op *net.OpError
	if !errors.As(err, &op) || op.Op != "remote error" { // a TLS alert
		return false
	}
	// A node that has just been started serves no gRPC for a moment: that is no
	// verdict. The type of the alert is hidden, its text is all there is.
	return op.Err.Error() != alertNoProtocol
}

const alertNoProtocol = "tls: no application protocol"

// failures collects what the tries of one call came to.
type failures struct {
	order   []string // addresses, as first tried
	last    map[string]*Error
	best    *Error // the last that a node said
	newest  *Error
	unknown bool
	read    bool // the call changes nothing
}

func (f *failures) add(e *Error) {
	if f.last == nil {
		f.last = map[string]*Error{}
	}
	if _, known := f.last[e.Address]; !known {
		f.order = append(f.order, e.Address)
	}
	f.last[e.Address] = e
	f.newest = e
	if e.answered {
		f.best = e
	}
	f.unknown = f.unknown || e.OutcomeUnknown
}

// final returns the error of the whole call. stop is the error of the call's
// context, nil when the call ended by itself.
func (f *failures) final(stop error, waited time.Duration) *Error {
	var e Error
	switch {
	case f.newest == nil:
		e = Error{Code: codes.Unavailable, Message: "no node was asked"}
	case stop == nil && !f.newest.again:
		e = *f.newest // a refusal
	case f.best != nil:
		e = *f.best
	default:
		e = *f.newest
		e.Message = "no node answered: " + f.summary()
	}
	switch {
	case errors.Is(stop, context.Canceled):
		e.Code, e.cause = codes.Canceled, stop
		e.Message = "interrupted"
		if f.newest != nil {
			e.Message += " (" + f.newest.Message + ")"
		}
	case stop != nil:
		e.Code, e.cause = codes.DeadlineExceeded, stop
		round := time.Millisecond
		switch {
		case waited >= time.Second:
			round *= 100
		case waited >= 100*time.Millisecond:
			round *= 10
		case waited < round:
			round, waited = 1, waited.Truncate(time.Microsecond)
		}
		what := "not done" // and it will not be
		switch {
		case f.unknown:
			what = "no outcome"
		case f.read:
			what = "no answer"
		}
		e.Message = fmt.Sprintf("%s within %v: %s", what, waited.Round(round), e.Message)
	}
	e.OutcomeUnknown = f.unknown
	for _, a := range f.order {
		e.hopeless = e.hopeless && f.last[a].hopeless
	}
	return &e
}

func (f *failures) summary() string {
	parts := make([]string, len(f.order))
	for i, a := range f.order {
		parts[i] = a + ": " + f.last[a].Message
	}
	return strings.Join(parts, "; ")
}

// AsError returns the Error in err, or one made from it.
func AsError(err error) *Error {
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	return tryError(err, "", true, true)
}

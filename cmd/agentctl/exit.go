package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"

	"github.com/agentplane/agentplane/proto/client"
	"github.com/agentplane/agentplane/proto/identity"
)

// Exit codes.
const (
	exitOK          = 0
	exitError       = 1
	exitUsage       = 2
	exitNotFound    = 3
	exitDenied      = 4
	exitUnavailable = 5 // or timed out; known not to be done
	exitUnknown     = 6 // the outcome is not known
	exitInvocations = 7 // some invocations did not succeed
	exitConflict    = 8
)

// failure is an error with its exit code and what to type next.
type failure struct {
	code int
	hint string
	err  error
}

func (f *failure) Error() string { return f.err.Error() }
func (f *failure) Unwrap() error { return f.err }

// usagef returns a mistake in what was typed.
func usagef(format string, args ...any) error {
	return &failure{code: exitUsage, err: fmt.Errorf(format, args...)}
}

// unreadable is a file that was named and cannot be read.
func unreadable(what string, err error) error {
	return &failure{
		code: exitUsage, err: fmt.Errorf("%s: %w", what, err),
		hint: "give the path of a file that is there and that you may read; - is stdin",
	}
}

// hinted gives an error a hint, and keeps its code.
func hinted(err error, hint string) error {
	if err == nil {
		return nil
	}
	code, _ := classify(err)
	return &failure{code: code, hint: hint, err: err}
}

// report prints the error as two lines and returns the exit code.
func (a *app) report(err error) int {
	code, hint := classify(err)
	if hint == "" {
		hint = defaultHint(code, a.command)
	}
	if a.subject != "" { // the cluster's hints are of every command
		hint = strings.ReplaceAll(hint, `"agentctl commands get"`, fmt.Sprintf("%q", "agentctl commands get "+a.subject))
	}
	prefix := "agentctl: error:"
	if a.color {
		prefix = "\x1b[31m" + prefix + "\x1b[0m"
	}
	fmt.Fprintf(a.stderr, "%s %s\n", prefix, oneLine(err.Error()))
	fmt.Fprintf(a.stderr, "agentctl: hint: %s\n", oneLine(hint))
	return code
}

func oneLine(s string) string {
	return printable(strings.Join(strings.FieldsFunc(s, func(r rune) bool { return r == '\n' || r == '\r' }), "; "))
}

func classify(err error) (code int, hint string) {
	if f, ok := errors.AsType[*failure](err); ok {
		return f.code, f.hint
	}
	e, ok := errors.AsType[*client.Error](err)
	if !ok {
		switch others, some := errors.AsType[*client.NoContextError](err); {
		case some && others.Name != "":
			return exitNotFound, `choose one with --context NAME, or for good with "agentctl context use NAME"`
		case some:
			return exitError, `choose one with --context NAME, or for good with "agentctl context use NAME"`
		case errors.Is(err, client.ErrNoContext):
			return exitError, noContextHint
		case errors.Is(err, client.ErrContexts):
			return exitError, `mend what the error names; or move the file away, and make a context anew with "agentctl login TOKEN@ADDR" or "agentctl cluster init"`
		}
		if errors.Is(err, identity.ErrBadProof) {
			return exitDenied, "compare the address with that of the cluster which made the token, or make a new token"
		}
		return exitError, ""
	}
	return codeOf(e), hintOf(e)
}

// conflicts are the reasons of refusals of which there is something in the way: what is
// asked can be done once that is changed.
var conflicts = []string{"last_admin", "last_voter", "lock_held", "quorum_would_be_lost", "cancel_asked"}

func codeOf(e *client.Error) int {
	switch {
	case e.OutcomeUnknown:
		return exitUnknown
	case e.Code == codes.InvalidArgument, e.Code == codes.OutOfRange:
		return exitUsage
	case e.Code == codes.NotFound:
		return exitNotFound
	case e.Code == codes.PermissionDenied, e.Code == codes.Unauthenticated:
		return exitDenied
	case e.Code == codes.Unavailable, e.Code == codes.DeadlineExceeded, e.RetryAfter > 0:
		return exitUnavailable
	case e.Code == codes.AlreadyExists, e.Code == codes.Aborted, slices.Contains(conflicts, e.Reason):
		return exitConflict
	default:
		return exitError
	}
}

func hintOf(e *client.Error) string {
	switch {
	case e.Hint != "":
		return e.Hint
	case errors.Is(e, identity.ErrWrongCluster):
		return "this address belongs to another cluster; choose its context with --context NAME"
	case errors.Is(e, identity.ErrExpired):
		return "compare the clock of this machine with that of the node"
	case errors.Is(e, identity.ErrKeyNotRegistered), errors.Is(e, identity.ErrUnknownCA):
		return `this context does not know the node; log in again with "agentctl login TOKEN@ADDR"`
	default:
		return ""
	}
}

const noContextHint = `make a cluster with "agentctl cluster init", or log in with "agentctl login TOKEN@ADDR"`

func defaultHint(code int, command string) string {
	switch code {
	case exitUsage:
		return fmt.Sprintf("see %q", strings.TrimSpace(command+" --help"))
	case exitDenied:
		return `ask an admin for a role that may do this, or choose another context with --context NAME`
	case exitUnavailable:
		return `most nodes must be up, at the addresses that they had; see "agentctl cluster status --why", on a node's own machine with --data-dir DIR; or give another address with --addr HOST:PORT`
	case exitUnknown:
		return "it may have happened; look before repeating it"
	case exitConflict:
		return "look at what stands, then decide"
	default:
		return fmt.Sprintf("see %q", "agentctl help")
	}
}

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"syscall"

	"github.com/agentplane/agentplane/agent"
	"github.com/agentplane/agentplane/configs"
	"github.com/agentplane/agentplane/proto/client"
	"github.com/agentplane/agentplane/proto/identity"
)

// Exit codes.
const (
	exitOK    = 0
	exitError = 1
	exitUsage = 2
)

// usageError is a mistake of the caller: flags, environment or file.
type usageError struct{ error }

func (e *usageError) Unwrap() error { return e.error }

func usagef(format string, args ...any) error { return &usageError{fmt.Errorf(format, args...)} }

// report prints the two lines and gives the exit code.
func (p *program) report(err error) int {
	var usage *usageError
	if problems := configs.Problems(err); len(problems) > 0 {
		for _, one := range problems {
			fmt.Fprintf(p.stderr, "agentd: error: %v\n", one)
		}
	} else {
		fmt.Fprintf(p.stderr, "agentd: error: %v\n", err)
	}
	fmt.Fprintf(p.stderr, "agentd: hint: %s\n", hint(err))
	if errors.As(err, &usage) {
		return exitUsage
	}
	return exitError
}

func hint(err error) string {
	var usage *usageError
	if e := client.AsError(err); errors.Is(err, agent.ErrEnrolment) && e != nil && e.Hint != "" {
		return e.Hint
	}
	switch {
	case errors.As(err, &usage):
		return `see "agentd run --help"`
	case errors.Is(err, identity.ErrNotDirectory):
		return "give a directory with --data-dir; it is made when it is missing"
	case errors.Is(err, agent.ErrOfNode):
		return "give agentd a directory of its own with --data-dir"
	case errors.Is(err, agent.ErrDamaged):
		return "put that file back from a backup; or move the data directory away, remove the agent with \"agentctl agents remove\", and enrol anew with a new token"
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return "free space on the disk of the data directory, or move it to another one with --data-dir"
	case errors.Is(err, fs.ErrPermission):
		return "run agentd as the owner of the data directory, or give another one with --data-dir"
	case errors.Is(err, agent.ErrInUse):
		return "one agentd per data directory; stop the other one, or give --data-dir"
	case errors.Is(err, agent.ErrNotEnrolled):
		return `make a token with "agentctl tokens create --kind agent" and give it with --token or --token-file`
	case errors.Is(err, agent.ErrToken):
		return `a token reads apt1.ID.SECRET, and may be followed by @HOST:PORT; nodes are given with --servers`
	case errors.Is(err, agent.ErrEnrolment):
		return `make another token with "agentctl tokens create --kind agent"`
	default:
		return "mend what the error names; with --log-level debug the log says more"
	}
}

package main

import (
	"github.com/spf13/cobra"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
)

// maxLocks bounds the locks of one command.
const maxLocks = 8

// lockFlags say beside what a command may run.
type lockFlags struct {
	locks     []string
	exclusive bool
}

func (f *lockFlags) add(c *cobra.Command) {
	c.Flags().StringArrayVar(&f.locks, "lock", nil, "hold lock `NAME` of the host: of those who name it, one runs at a time (may be repeated)")
	c.Flags().BoolVar(&f.exclusive, "exclusive", false, "run nothing else on the host at the same time")
}

// into puts the locks into the spec; the cluster looks at their names.
func (f *lockFlags) into(spec *agentplanev1.CommandSpec) error {
	if len(f.locks) > maxLocks {
		return usagef("%d times --lock: a command has at most %d locks", len(f.locks), maxLocks)
	}
	for _, name := range f.locks {
		if name == "" {
			return usagef("--lock names no lock")
		}
	}
	spec.Locks, spec.Exclusive = f.locks, f.exclusive
	return nil
}

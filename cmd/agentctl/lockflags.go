package main

import (
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
)

// maxLocks bounds the locks of one command.
const maxLocks = 8

// priorities are the words for some of the numbers from 0 to 100.
var priorities = map[string]uint32{"low": 25, "normal": 50, "high": 75}

const maxPriority = 100

// lockFlags say before, after, beside and instead of what a command may run.
type lockFlags struct {
	locks     []string
	exclusive bool
	priority  string
	supersede string
}

func (f *lockFlags) add(c *cobra.Command) {
	c.Flags().StringArrayVar(&f.locks, "lock", nil, "hold lock `NAME` of the host: of those who name it, one runs at a time; or fleet:NAME, a lock of \"agentctl lock\" (may be repeated)")
	c.Flags().BoolVar(&f.exclusive, "exclusive", false, "run nothing else on the host at the same time")
	c.Flags().StringVar(&f.priority, "priority", "normal", "`P`: high, normal, low or 0 to 100; of what waits for an agent, the highest starts first")
	c.Flags().StringVar(&f.supersede, "supersede", "", "on the same agents, what earlier commands with this `KEY` have not started never starts")
	_ = c.RegisterFlagCompletionFunc("priority", cobra.FixedCompletions([]string{"high", "normal", "low"}, cobra.ShellCompDirectiveNoFileComp))
}

// fleetPrefix stands before the name of a lock of the fleet.
const fleetPrefix = "fleet:"

// into puts the locks into the spec; the cluster looks at their names.
func (f *lockFlags) into(spec *agentplanev1.CommandSpec) error {
	spec.Locks, spec.FleetLocks = nil, nil
	for _, lock := range f.locks {
		list, name := &spec.Locks, lock
		if rest, fleet := strings.CutPrefix(lock, fleetPrefix); fleet {
			list, name = &spec.FleetLocks, rest
		}
		if name == "" {
			return usagef("--lock %q names no lock", lock)
		}
		if *list = append(*list, name); len(*list) > maxLocks {
			return usagef("--lock is given too often: a command has at most %d locks of the host, and as many of the fleet", maxLocks)
		}
	}
	spec.Exclusive, spec.Supersede = f.exclusive, f.supersede
	if f.priority == "" || f.priority == "normal" {
		return nil
	}
	n, known := priorities[f.priority]
	if !known {
		v, err := strconv.ParseUint(f.priority, 10, 32)
		if err != nil || v > maxPriority {
			return usagef("--priority %q is none of high, normal, low, and no number from 0 to %d", f.priority, maxPriority)
		}
		n = uint32(v)
	}
	spec.Priority = &n
	return nil
}

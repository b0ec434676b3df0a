//go:build agentplane_mutants

package rollout

import (
	"os"
)

// mutates says that the mutant with the name is asked for (see e2e/doc.go).
func mutates(name string) bool { return os.Getenv("MUTANT") == name }

// The mutants: nothing expires; what runs is LOST as soon as its agent has no session.
var (
	expires = !mutates("expiry")
	waits   = !mutates("hasty")
)

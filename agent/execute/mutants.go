//go:build agentplane_mutants

package execute

import (
	"os"
)

// mutates says that the mutant with the name is asked for (see e2e/doc.go).
func mutates(name string) bool { return os.Getenv("MUTANT") == name }

// The mutant: a directory that is there is no reason not to start.
var startsOnce = !mutates("startagain")

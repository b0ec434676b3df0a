//go:build agentplane_mutants

package health

import (
	"os"
)

// mutates says that the mutant with the name is asked for (see e2e/doc.go).
func mutates(name string) bool { return os.Getenv("MUTANT") == name }

// The mutant: an agent dies with its node.
var givesGrace = !mutates("falsedeath")

//go:build agentplane_mutants

package operator

import (
	"os"
)

// mutates says that the mutant with the name is asked for (see e2e/doc.go).
func mutates(name string) bool { return os.Getenv("MUTANT") == name }

// The mutant: of a row's changes that come together a watch of a command shows the first one,
// and never the others.
var keepsLast = !mutates("watchgap")

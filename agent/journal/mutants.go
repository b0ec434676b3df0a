//go:build agentplane_mutants

package journal

import (
	"os"
)

// mutates says that the mutant with the name is asked for (see e2e/doc.go).
func mutates(name string) bool { return os.Getenv("MUTANT") == name }

// The mutant: an append is not fsynced.
var syncsAppends = !mutates("nofsync")

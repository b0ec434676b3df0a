//go:build agentplane_mutants

package journal

import (
	"os"
	"slices"
	"strings"
)

// mutates says that the mutant with the name is asked for (see e2e/doc.go).
func mutates(name string) bool {
	return slices.Contains(strings.Split(os.Getenv("MUTANT"), ","), name)
}

var (
	// The mutant: an append is not fsynced.
	syncsAppends = !mutates("nofsync")
	// The mutant: the intent of an undo is taken although the attempt is confirmed.
	refusesKept = !mutates("undokept")
)

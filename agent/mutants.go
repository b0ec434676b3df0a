//go:build agentplane_mutants

package agent

import (
	"os"
	"slices"
	"strings"
)

// mutates says that the mutant with the name is asked for (see e2e/doc.go), alone or, with a
// comma between, with another one.
func mutates(name string) bool { return slices.Contains(strings.Split(os.Getenv("MUTANT"), ","), name) }

// The mutant: the work takes what the session lets through.
var comparesGrants = !mutates("grant")

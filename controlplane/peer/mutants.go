//go:build agentplane_mutants

package peer

import (
	"os"
	"slices"
	"strings"
)

// mutates says that the mutant with the name is asked for (see e2e/doc.go), alone or, with a
// comma between, with another one.
func mutates(name string) bool { return slices.Contains(strings.Split(os.Getenv("MUTANT"), ","), name) }

// The mutant: incarnations are not compared.
var comparesIncarnations = !mutates("incarnation")

// The mutant: whoever has a node's key may speak raft.
var judgesPrefaces = !mutates("preface")

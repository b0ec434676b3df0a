//go:build agentplane_mutants

package controlplane

import (
	"os"
	"slices"
	"strings"
)

// mutates says that the mutant with the name is asked for (see e2e/doc.go), alone or, with a
// comma between, with another one.
func mutates(name string) bool { return slices.Contains(strings.Split(os.Getenv("MUTANT"), ","), name) }

// The mutant: a disk image that was put back is let in.
var comparesMemory = !mutates("putback")

var leaks = mutates("leak")

// The mutant: of each call a goroutine stays behind.
func callEnds() {
	if leaks {
		go func() { select {} }()
	}
}
